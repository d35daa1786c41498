# SPDX-License-Identifier: Apache-2.0
"""Cameras' images -> a fused map, without ROS: command `reconstruct`.

The first instant is the bootstrap's; each later one is aligned to the map and fused into it. Results are the same in
every run, but for the times in metrics.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from aot_runtime.camera import PixelMap
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.progress import Steps
from vggt_ros.feeds import (
    SOURCES,
    Batch,
    chosen,
    image_batches,
    image_folders,
    video_batches,
    video_files,
    webcam_batches,
    webcam_devices,
)
from vggt_ros.rig import Rig, read_intrinsics, read_poses

if TYPE_CHECKING:
    from vggt_ros.depth_sources import DisparitySource
    from vggt_ros.fusion.bootstrap import BootstrapSource
    from vggt_ros.fusion.streaming import FrameResult
    from vggt_ros.pipeline import StepResult, View

_LOG = logging.getLogger("reconstruct")
_Place = TypeVar("_Place", Path, str)
_FUSIONS = ("surfel", "tsdf")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reconstruct", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--source", choices=SOURCES, default="images", help="kind of input")
    add("--images", type=Path, help="folder with a subfolder of images for each camera")
    add("--videos", type=Path, help="folder with a video for each camera, or a subfolder with one")
    add("--webcams", nargs="+", default=[], help="devices: 0, name=1, name=/dev/video2 or name=URL")
    add("--num_cams", type=int, default=0, help="use at most so many cameras; 0: all")
    add("--views", default="", help="comma-separated cameras to use, in this order")
    add("--random_views", type=int, default=0, help="use so many cameras at random")
    add("--frame_step", type=int, default=1, help="use every so many frames")
    add("--max_batches", type=int, default=0, help="stop after so many instants; 0: at the end")
    add("--intrinsics", type=Path, help="JSON or NPZ: {camera: 3x3} of the images; default: the bootstrap's")
    add("--poses", type=Path, help="JSON or NPZ: camera-to-world 4x4 in metres, {camera: 4x4} or by camera and frame")
    add("--initial_map", type=Path, help="go on with a map of an earlier run (NPZ) instead of a bootstrap")
    add("--vggt_engine", type=Path, help="VGGT artifact (.pt2, .onnx or .engine) that makes the bootstrap")
    add("--bootstrap", type=Path, help="instead of a network: NPZ of the first instant's poses, intrinsics and depth")
    add("--metric_depth", type=Path, help="NPZ {camera: depth in metres} on the bootstrap's grid, to find the scale")
    add("--arbitrary_scale", action="store_true", help="go on without metres if nothing metric is known")
    add("--depth_engine", type=Path, help="Depth Anything artifact (.pt2, .onnx or .engine)")
    add("--depth_folder", type=Path, help="disparities computed before: FOLDER/CAMERA/IMAGE.npy")
    add("--device", default="cpu", help="of the network and the map: cpu, cuda or cuda:N")
    add("--fusion", choices=_FUSIONS, default="surfel", help="kind of map")
    add("--voxel_size", type=float, default=0.02, help="in metres, or in the map's unit")
    add("--trunc_margin", type=float, help="truncation distance of the field; default: 4 voxels")
    add("--smooth_scale", type=float, default=0.0, help="share of a new scale in an average; 0: by its covariance")
    add("--per_camera_calib", type=Path, help="JSON of scale and shift: read at the start if there, written at the end")
    add("--save_per_frame_depth", type=int, choices=(0, 1), default=0, help="1: write the depth of every frame")
    add("--gaussians", action="store_true", help="write gaussians.ply, a start for 3D Gaussian splatting")
    add("--out_dir", type=Path, required=True, help="folder of the results")
    add("--seed", type=int, default=1234, help="of --random_views")
    add("--log_level", choices=_LEVELS, default="INFO", help="on the terminal; the file in logs/ has everything")
    add("--quiet", action="store_true", help="no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command `reconstruct`: exit status 0, 1 if no frame could be fused, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


def _run(told: argparse.Namespace) -> int:
    handlers = _start_log(told.out_dir, told.log_level)
    try:
        return Session(told).run()
    finally:
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()


def _start_log(folder: Path, level: str) -> list[logging.Handler]:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    terminal = logging.StreamHandler()
    terminal.setLevel(level)
    file = logging.FileHandler(folder / "logs" / "reconstruct.log", mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOG.setLevel(logging.DEBUG)
    _LOG.propagate = False
    for handler in (terminal, file):
        _LOG.addHandler(handler)
    return [terminal, file]


def _batches(told: argparse.Namespace) -> tuple[list[str], Iterator[Batch]]:
    """The cameras in use, and their images."""
    views = [name for name in told.views.split(",") if name]
    given = {"images": told.images, "videos": told.videos, "webcams": told.webcams}[told.source]
    if not given:
        raise InputError(f"expected --{told.source} for --source {told.source}, found none")
    if told.frame_step < 1 or min(told.num_cams, told.random_views, told.max_batches) < 0:
        raise InputError("expected counts of at least 0 and a --frame_step of at least 1, found others")

    def picked(cameras: Mapping[str, _Place]) -> dict[str, _Place]:
        names = chosen(list(cameras), views, told.num_cams, told.random_views, told.seed)
        return {name: cameras[name] for name in names}

    if told.source == "images":
        folders = picked(image_folders(told.images))
        return list(folders), image_batches(folders, told.frame_step)
    if told.source == "videos":
        files = picked(video_files(told.videos))
        return list(files), video_batches(files, told.frame_step)
    devices = picked(webcam_devices(told.webcams))
    return list(devices), webcam_batches(devices, told.frame_step)


def _disparities(told: argparse.Namespace) -> DisparitySource | None:
    from vggt_ros.depth_sources import ArtifactDisparity, FolderDisparity

    if told.depth_engine and told.depth_folder:
        raise InputError("expected --depth_engine or --depth_folder, found both")
    if told.depth_folder:
        return FolderDisparity(told.depth_folder)
    if told.depth_engine:
        from aot_runtime.offline import warn_of_random_weights
        from depth_ros.pipeline import ImageDepthPipeline

        pipeline = ImageDepthPipeline(told.depth_engine, told.device)
        warn_of_random_weights(pipeline.model.manifest, "the streamed depth means")
        return ArtifactDisparity(pipeline)
    return None


def _bootstrap_source(told: argparse.Namespace, cameras: Sequence[str]) -> BootstrapSource:
    from vggt_ros.fusion.bootstrap import NpzSource

    if told.bootstrap:
        return NpzSource(told.bootstrap, tuple(cameras))
    from aot_runtime.compiled_model import load_model
    from aot_runtime.offline import warn_of_random_weights
    from vggt_ros.network_source import NetworkSource

    model = load_model(told.vggt_engine, told.device)
    warn_of_random_weights(model.manifest, "the map means")
    return NetworkSource(model)


class Session:
    """One run of the command."""

    def __init__(self, told: argparse.Namespace) -> None:
        from vggt_ros.fusion.npz import read_npz
        from vggt_ros.pipeline import PipelineConfig, ReconstructionPipeline

        if not 0 <= told.smooth_scale <= 1:
            raise InputError(f"expected --smooth_scale from 0 to 1, found {told.smooth_scale}")
        starts = [name for name in ("vggt_engine", "bootstrap", "initial_map") if getattr(told, name)]
        if len(starts) != 1:
            found = " and ".join(f"--{name}" for name in starts) or "none"
            raise InputError(f"expected one of --vggt_engine, --bootstrap and --initial_map, found {found}")
        if told.initial_map and not (told.depth_engine or told.depth_folder):
            raise InputError("expected --depth_engine or --depth_folder to go on with a map, found neither")
        self._told = told
        self._rig = Rig(
            read_intrinsics(told.intrinsics) if told.intrinsics else {},
            read_poses(told.poses) if told.poses else {},
        )
        self._cameras, self._batches = _batches(told)
        config = PipelineConfig(
            fusion=told.fusion,
            voxel_size=told.voxel_size,
            trunc_margin=told.trunc_margin,
            smooth_scale=told.smooth_scale,
            # A file holds one instant; taken again, it would be another one's.
            rebootstrap=bool(told.vggt_engine),
            metric_depth=read_npz(told.metric_depth, "metric depth") if told.metric_depth else {},
            arbitrary_scale=told.arbitrary_scale,
        )
        source = None if told.initial_map else _bootstrap_source(told, self._cameras)
        self._pipeline = ReconstructionPipeline(source, _disparities(told), config, told.device)
        if told.initial_map:
            self._pipeline.load_map(told.initial_map)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._records: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._streamed = 0

    def run(self) -> int:
        """All of it; the exit status."""
        told = self._told
        steps = Steps("reconstruct", 2 if told.initial_map else 3, enabled=not told.quiet)
        batches = enumerate(self._batches)
        if not told.initial_map:
            with steps.step("bootstrap"):
                first = next(batches, None)
                if first is None:
                    raise InputError(f"expected images of {self._cameras}, found none")
                self._bootstrap(first[1])
        if told.per_camera_calib and told.per_camera_calib.exists():
            self._pipeline.load_calibration(told.per_camera_calib)
        with steps.step("frames"):
            for number, batch in batches:
                if not self._streams or (told.max_batches and number >= told.max_batches):
                    break
                self._stream(number, batch)
                steps.detail(f"instant {number}, map {self._pipeline.map.size}")
        with steps.step("files"):
            self._write()
        fused = sum(record["fused"] for record in self._records)
        unit, size = self._pipeline.scale.unit, self._pipeline.map.size
        print(f"{fused} of {len(self._records)} frames fused, map of {size} surfels or blocks, in {unit}")
        return 1 if self._streamed and not fused else 0

    @property
    def _streams(self) -> bool:
        return bool(self._told.depth_engine or self._told.depth_folder)

    def _bootstrap(self, batch: Batch) -> None:
        from vggt_ros.fusion.ply import write_cloud

        result = self._step(0, batch)
        if not result.bootstrapped:
            raise InputError(result.reason)
        count = write_cloud(self._told.out_dir / "bootstrap_map.ply", self._pipeline.map.surface())
        _LOG.info(
            "bootstrap of %s: %d points, scale %s (%g)", ", ".join(result.bootstrapped), count, result.scale.source,
            result.scale.factor,
        )  # fmt: skip

    def _stream(self, number: int, batch: Batch) -> None:
        self._streamed += 1
        result = self._step(number, batch)
        for frame in result.frames:
            self._record(number, batch.frame, frame, result)
        if result.bootstrapped:
            _LOG.info("instant %d: bootstrap of %s: %s", number, ", ".join(result.bootstrapped), result.reason)
            self._events.append({"batch": number, "camera": "", "problem": f"bootstrapped again: {result.reason}"})
        elif result.reason:
            self._event(number, "", result.reason)

    def _step(self, number: int, batch: Batch) -> StepResult:
        for name in self._cameras:
            if name not in batch.images:
                self._event(number, name, batch.problems.get(name, "there is no image of it"))
        result = self._pipeline.step(self._views(number, batch), float(number))
        for problem in result.problems:
            self._event(number, problem.camera, problem.text)
        return result

    def _views(self, number: int, batch: Batch) -> list[View]:
        from vggt_ros.pipeline import View

        views = []
        for name, image in batch.images.items():
            pose = self._rig.pose(name, batch.frame)
            if pose is None and self._rig.poses.get(name):
                self._event(
                    number,
                    name,
                    f"expected a pose of '{name}' at frame {batch.frame}, found only others; check --poses",
                )
                continue
            views.append(View(name, image, self._matrix(number, name, image), pose, batch.names[name]))
        return views

    def _matrix(self, number: int, name: str, image: np.ndarray) -> np.ndarray | None:
        """The intrinsics of --intrinsics, which are of the first image, for this one."""
        matrix = self._rig.intrinsics.get(name)
        height, width = image.shape[:2]
        first = self._sizes.setdefault(name, (width, height))
        if matrix is None or first == (width, height):
            return matrix
        self._event(number, name, f"its images were {first[0]}x{first[1]} and are {width}x{height}; taken for resized")
        return PixelMap.half_pixel(first, (width, height)).applied_to(matrix)

    def _event(self, number: int, camera: str, problem: str) -> None:
        _LOG.warning("instant %d %s: %s", number, camera, problem)
        self._events.append({"batch": number, "camera": camera, "problem": problem})

    def _record(self, number: int, frame: int, result: FrameResult, step: StepResult) -> None:
        scale, shift = (None, None) if result.parameters is None else map(float, result.parameters)
        numbers = {"scale": scale, "shift": shift, "residual": result.residual, "inliers": result.inliers}
        self._records.append(
            {
                "batch": number,
                "camera": result.name,
                "frame": frame,
                "model": "disparity",
                **{key: value if value is None or np.isfinite(value) else None for key, value in numbers.items()},
                "coverage": result.coverage,
                "fused": result.fused,
                "problem": result.problem,
                "depth_ms": step.timings_ms[f"depth/{result.name}"],
                "total_ms": step.timings_ms["total"],
            }
        )
        if not result.fused:
            _LOG.warning("instant %d %s: not fused: %s", number, result.name, result.problem)
        if self._told.save_per_frame_depth:
            from vggt_ros.fusion.npz import write_npz

            # Depth of an arbitrary unit never lies in a folder that says metric.
            folder = self._told.out_dir / ("depth_metric" if step.scale.metric else "depth_unscaled")
            write_npz(folder / f"camera_{result.name}_batch_{number:05d}.npz", {"depth": result.depth})

    def _write(self) -> None:
        from vggt_ros.fusion.maps import TsdfFusion
        from vggt_ros.fusion.ply import to_gaussians, write_cloud, write_mesh
        from vggt_ros.pipeline import gaussian_radius

        out, pipeline = self._told.out_dir, self._pipeline
        fused, scale = pipeline.map, pipeline.scale
        surface = fused.surface()
        write_cloud(out / "map_updated.ply", surface)
        pipeline.save_map(out / ("tsdf_volume.npz" if isinstance(fused, TsdfFusion) else "surfel_map.npz"))
        if isinstance(fused, TsdfFusion):
            write_mesh(out / "mesh.ply", fused.volume.mesh())
        if self._told.gaussians:
            to_gaussians(out / "gaussians.ply", surface, gaussian_radius(fused))
        if self._told.per_camera_calib:
            pipeline.save_calibration(self._told.per_camera_calib)
        metrics = {
            "unit": scale.unit,
            "scale": vars(scale),
            "fusion": "tsdf" if isinstance(fused, TsdfFusion) else "surfel",
            "map_size": fused.size,
            "evicted": fused.evicted,
            "points": len(surface.positions),
            "records": self._records,
            "events": self._events,
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
