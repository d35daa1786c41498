# SPDX-License-Identifier: Apache-2.0
"""Cameras' images -> a fused map, without ROS: command `reconstruct`.

The first instant is the bootstrap's; each later one is aligned to the map and fused into it. Results are the same in
every run, but for the times in metrics.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.camera import PixelMap
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.progress import Steps
from vggt_ros.feeds import Batch
from vggt_ros.reconstruct_options import (
    LOG,
    check_options,
    make_parser,
    open_batches,
    open_bootstraps,
    open_disparities,
    streams,
)
from vggt_ros.rig import Rig, read_intrinsics, read_poses

if TYPE_CHECKING:
    from vggt_ros.fusion.streaming import FrameResult
    from vggt_ros.steps import StepResult, View


def main(argv: Sequence[str] | None = None) -> int:
    """Command `reconstruct`: exit status 0, 1 if no frame could be fused, 2 if nothing could be done."""
    told = make_parser((__doc__ or "").split("\n\n")[0]).parse_args(argv)
    return exit_status(lambda: _run(told))


def _run(told: argparse.Namespace) -> int:
    handlers = _start_log(told.out_dir, told.log_level)
    try:
        with contextlib.closing(Session(told)) as session:
            return session.run()
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def _start_log(folder: Path, level: str) -> list[logging.Handler]:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    terminal = logging.StreamHandler()
    terminal.setLevel(level)
    file = logging.FileHandler(folder / "logs" / "reconstruct.log", mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    for handler in (terminal, file):
        LOG.addHandler(handler)
    return [terminal, file]


class Session:
    """One run of the command."""

    def __init__(self, told: argparse.Namespace) -> None:
        from vggt_ros.fusion.npz import read_npz
        from vggt_ros.pipeline import PipelineConfig, ReconstructionPipeline

        check_options(told)
        self._told = told
        self._rig = Rig(
            read_intrinsics(told.intrinsics) if told.intrinsics else {},
            read_poses(told.poses) if told.poses else {},
        )
        self._cameras, self._batches = open_batches(told)
        config = PipelineConfig(
            fusion=told.fusion,
            voxel_size=told.voxel_size,
            trunc_margin=told.trunc_margin,
            smooth_scale=told.smooth_scale,
            tsdf_backend=told.tsdf_backend,
            # A file holds one instant; taken again, it would be another one's.
            rebootstrap=not (told.no_rebootstrap or (told.bootstrap and told.bootstrap.is_file())),
            rebootstrap_period_s=float(told.rebootstrap_period) or None,
            metric_depth=read_npz(told.metric_depth, "metric depth") if told.metric_depth else {},
            arbitrary_scale=told.arbitrary_scale,
        )
        self._source = open_bootstraps(told, self._cameras)
        self._disparities = open_disparities(told)
        self._pipeline = ReconstructionPipeline(self._source, self._disparities, config, told.device)
        if told.initial_map:
            self._pipeline.load_map(told.initial_map)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._records: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._bootstraps: list[dict[str, Any]] = []
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
                if not streams(told) or (told.max_batches and number >= told.max_batches):
                    break
                self._stream(number, batch)
                steps.detail(f"instant {number}, map {self._pipeline.map.size}")
        with steps.step("files"):
            self._write()
        fused = sum(record["fused"] for record in self._records)
        unit, size = self._pipeline.scale.unit, self._pipeline.map.size
        print(f"{fused} of {len(self._records)} frames fused, map of {size} surfels or blocks, in {unit}")
        return 1 if self._streamed and not fused else 0

    def _bootstrap(self, batch: Batch) -> None:
        from vggt_ros.fusion.ply import write_cloud

        result = self._step(0, batch)
        if not result.bootstrapped:
            raise InputError(result.reason)
        self._count(0, result)
        count = write_cloud(self._told.out_dir / "bootstrap_map.ply", self._pipeline.map.surface())
        LOG.info(
            "bootstrap of %s: %d points, scale %s (%g)", ", ".join(result.bootstrapped), count, result.scale.name,
            result.scale.factor,
        )  # fmt: skip

    def _stream(self, number: int, batch: Batch) -> None:
        self._streamed += 1
        result = self._step(number, batch)
        for frame in result.frames:
            self._record(number, batch.frame, frame, result)
        if result.bootstrapped:
            self._count(number, result)
        elif result.reason:
            self._event(number, "", result.reason)

    def _count(self, number: int, result: StepResult) -> None:
        """A bootstrap that was taken into the map."""
        LOG.info("instant %d: bootstrap of %s: %s", number, ", ".join(result.bootstrapped), result.reason)
        self._bootstraps.append({"batch": number, "cameras": list(result.bootstrapped), "reason": result.reason})

    def close(self) -> None:
        """Free the depth network."""
        from vggt_ros.depth_sources import ArtifactDisparity, PoolDisparity

        if isinstance(self._disparities, (ArtifactDisparity, PoolDisparity)):
            self._disparities.close()

    def _step(self, number: int, batch: Batch) -> StepResult:
        from vggt_ros.fusion.bootstrap import NpzFolderSource

        for name in self._cameras:
            if name not in batch.images:
                self._event(number, name, batch.problems.get(name, "there is no image of it"))
        if isinstance(self._source, NpzFolderSource):
            self._source.frame = batch.frame
        result = self._pipeline.step(self._views(number, batch), float(number))
        for problem in result.problems:
            self._event(number, problem.camera, problem.text)
        return result

    def _views(self, number: int, batch: Batch) -> list[View]:
        from vggt_ros.steps import View

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
        LOG.warning("instant %d %s: %s", number, camera, problem)
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
            LOG.warning("instant %d %s: not fused: %s", number, result.name, result.problem)
        if self._told.save_per_frame_depth:
            from vggt_ros.fusion.npz import write_npz

            # Depth of an arbitrary unit never lies in a folder that says metric.
            folder = self._told.out_dir / ("depth_metric" if step.scale.metric else "depth_unscaled")
            write_npz(folder / f"camera_{result.name}_batch_{number:05d}.npz", {"depth": result.depth})

    def _write(self) -> None:
        from vggt_ros.fusion.maps import SurfelFusion, TsdfFusion
        from vggt_ros.fusion.ply import to_gaussians, write_cloud, write_mesh
        from vggt_ros.pipeline import gaussian_radius

        out, pipeline = self._told.out_dir, self._pipeline
        fused, scale = pipeline.map, pipeline.scale
        surface = fused.surface()
        write_cloud(out / "map_updated.ply", surface)
        surfels = isinstance(fused, SurfelFusion)
        field = "tsdf_volume.npz" if isinstance(fused, TsdfFusion) else "open3d_points.npz"
        pipeline.save_map(out / ("surfel_map.npz" if surfels else field))
        if isinstance(fused, TsdfFusion):
            write_mesh(out / "mesh.ply", fused.volume.mesh())
        if self._told.gaussians:
            to_gaussians(out / "gaussians.ply", surface, gaussian_radius(fused))
        if self._told.per_camera_calib:
            pipeline.save_calibration(self._told.per_camera_calib)
        metrics = {
            "unit": scale.unit,
            "scale": vars(scale),
            "fusion": "surfel" if surfels else "tsdf",
            "map_size": fused.size,
            "evicted": fused.evicted,
            "points": len(surface.positions),
            "bootstraps": self._bootstraps,
            "records": self._records,
            "events": self._events,
        }
        with atomic_write(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
