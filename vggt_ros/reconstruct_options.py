# SPDX-License-Identifier: Apache-2.0
"""The options of command `reconstruct`, and what they open: images, depth, bootstraps.

Names and meanings are those of the published multi-camera toolkit where it has them; what it has and is not done here
is refused with the reason.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aot_runtime.errors import InputError
from vggt_ros.depth_engines import PREFERRED, choose_depth_engine
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
from vggt_ros.live_folder import live_batches

if TYPE_CHECKING:
    from vggt_ros.depth_sources import DisparitySource
    from vggt_ros.fusion.bootstrap import BootstrapSource

LOG = logging.getLogger("reconstruct")
_Place = TypeVar("_Place", Path, str)
_FUSIONS = ("surfel", "tsdf")
_BACKENDS = ("torch", "open3d")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ALIGN_MODELS = ("auto", "disparity", "scale", "scale_shift", "invdepth_scale_shift")
_STARTS = ("vggt_engine", "bootstrap", "initial_map")
_DEPTHS = ("depth_engine", "depth_engine_dir", "depth_folder")


def make_parser(description: str) -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="reconstruct", description=description)
    add = parser.add_argument
    add("--source", choices=SOURCES, default="images", help="kind of input")
    add("--images", type=Path, help="folder with a subfolder of images for each camera")
    add("--images_live", type=Path, help="such a folder that is being filled; if it is not there, --images")
    add("--live_patience", type=float, default=10.0, help="of --images_live: seconds without a new image that end it")
    add("--videos", type=Path, help="folder with a video for each camera, or a subfolder with one")
    add("--webcams", nargs="+", default=[], help="devices: 0, name=1, name=/dev/video2 or name=URL")
    add("--num_cams", type=int, default=0, help="use at most so many cameras; 0: all")
    add("--views", default="", help="comma-separated cameras to use, in this order")
    add("--random_views", type=int, default=0, help="use so many cameras at random")
    add("--frame_step", type=int, default=1, help="use every so many frames")
    add("--max_batches", type=int, default=0, help="stop after so many instants; 0: at the end")
    add("--intrinsics", type=Path, help="JSON, YAML or NPZ: {camera: 3x3} of the images; default: the bootstrap's")
    add(
        "--poses",
        type=Path,
        help="JSON, YAML or NPZ: camera-to-world 4x4 in metres, {camera: 4x4} or by camera and frame",
    )
    add("--initial_map", type=Path, help="go on with a map of an earlier run (NPZ) instead of a bootstrap")
    add("--vggt_engine", type=Path, help="VGGT artifact (.pt2, .onnx or .engine) that makes the bootstraps")
    add(
        "--bootstrap",
        type=Path,
        help="instead of a network: NPZ of the first instant's poses, intrinsics and depth; or a folder, FRAME.npz",
    )
    add("--no_rebootstrap", action="store_true", help="only say when the map wants a new bootstrap")
    add("--rebootstrap_period", type=int, default=0, help="bootstrap every so many instants in any case; 0: never")
    add("--metric_depth", type=Path, help="NPZ {camera: depth in metres} on the bootstrap's grid, to find the scale")
    add("--arbitrary_scale", action="store_true", help="go on without metres if nothing metric is known")
    add("--depth_engine", type=Path, help="Depth Anything artifact (.pt2, .onnx or .engine)")
    add("--depth_engine_dir", type=Path, help="folder in which, or below, to look for one")
    add("--trt_precision", choices=("auto", *PREFERRED), help="of --depth_engine_dir; auto (the default): the fastest")
    add("--depth_workers", type=int, default=0, help="threads for depth; 0: all cameras in one call of a batch")
    add("--depth_folder", type=Path, help="disparities computed before: FOLDER/CAMERA/IMAGE.npy")
    add(
        "--align_model",
        choices=ALIGN_MODELS,
        default="auto",
        help="only what the depth's kind allows; see docs/vggt.md",
    )
    add("--device", default="cpu", help="of the network and the map: cpu, cuda or cuda:N")
    add("--fusion", choices=_FUSIONS, default="surfel", help="kind of map")
    add("--tsdf_backend", choices=_BACKENDS, default="torch", help="of --fusion tsdf: our own, or Open3D if installed")
    add("--voxel_size", type=float, default=0.02, help="in metres, or in the map's unit")
    add("--trunc_margin", type=float, help="truncation distance of the field; default: 4 voxels")
    add("--smooth_scale", type=float, default=0.0, help="share of a new scale in an average; 0: by its covariance")
    add("--per_camera_calib", type=Path, help="JSON of scale and shift: read at the start if there, written at the end")
    add("--save_per_frame_depth", type=int, choices=(0, 1), default=0, help="1: write the depth of every frame")
    add("--gaussians", action="store_true", help="write gaussians.ply, a start for 3D Gaussian splatting")
    add("--out_dir", type=Path, required=True, help="folder of the results")
    add("--seed", type=int, default=1234, help="of --random_views")
    add("--log_level", choices=_LEVELS, default="INFO", help="on the terminal; the file in logs/ has everything")
    add("--test_mode", type=int, help=argparse.SUPPRESS)
    add("--quiet", action="store_true", help="no progress")
    return parser


def check_options(told: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens.

    Raises:
        InputError: naming the options.
    """
    if told.test_mode is not None:
        raise InputError(
            "expected no --test_mode, which switches the bootstrap on elsewhere, found it",
            "leave it out: --vggt_engine or --bootstrap makes a bootstrap, --initial_map makes none",
        )
    if not 0 <= told.smooth_scale <= 1:
        raise InputError(f"expected --smooth_scale from 0 to 1, found {told.smooth_scale}")
    starts = [name for name in _STARTS if getattr(told, name)]
    if len(starts) != 1:
        found = " and ".join(f"--{name}" for name in starts) or "none"
        raise InputError(f"expected one of --vggt_engine, --bootstrap and --initial_map, found {found}")
    depths = [name for name in _DEPTHS if getattr(told, name)]
    if len(depths) > 1:
        raise InputError(
            "expected one of --depth_engine, --depth_engine_dir and --depth_folder, found both "
            + " and ".join(f"--{name}" for name in depths)
        )
    if told.initial_map:
        if not depths:
            raise InputError("expected --depth_engine or --depth_folder to go on with a map, found neither")
        if told.initial_map.suffix.lower() == ".ply":
            raise InputError(
                f"expected a map with normals, weights and its unit, found only points in {told.initial_map}",
                "give the .npz that is written beside it",
            )
    if told.trt_precision and not told.depth_engine_dir:
        raise InputError("expected --trt_precision with --depth_engine_dir, found it without")
    if told.depth_workers < 0 or (told.depth_workers and told.depth_folder):
        raise InputError(f"expected --depth_workers of a depth network, found {told.depth_workers}")
    if told.tsdf_backend != "torch" and told.fusion != "tsdf":
        raise InputError(f"expected --fusion tsdf for --tsdf_backend {told.tsdf_backend}, found {told.fusion}")
    if told.depth_folder:
        _check_align_model(told.align_model, "disparity", str(told.depth_folder))


def streams(told: argparse.Namespace) -> bool:
    """Whether there is depth to stream."""
    return any(getattr(told, name) for name in _DEPTHS)


def open_batches(told: argparse.Namespace) -> tuple[list[str], Iterator[Batch]]:
    """The cameras in use, and their images.

    Raises:
        InputError: there are none, or a name or number makes no sense.
    """
    live = told.images_live if told.source == "images" else None
    if live and not live.is_dir() and told.images:
        LOG.warning("no folder %s to follow, so the images of %s are taken", live, told.images)
        live = None
    views = [name for name in told.views.split(",") if name]
    given = {"images": live or told.images, "videos": told.videos, "webcams": told.webcams}[told.source]
    if not given:
        raise InputError(f"expected --{told.source} for --source {told.source}, found none")
    if told.frame_step < 1 or min(told.num_cams, told.random_views, told.max_batches, told.rebootstrap_period) < 0:
        raise InputError("expected counts of at least 0 and a --frame_step of at least 1, found others")

    def picked(cameras: Mapping[str, _Place]) -> dict[str, _Place]:
        names = chosen(list(cameras), views, told.num_cams, told.random_views, told.seed)
        return {name: cameras[name] for name in names}

    if live:
        folders = picked(image_folders(live, growing=True))
        return list(folders), live_batches(folders, told.frame_step, patience_s=told.live_patience)
    if told.source == "images":
        folders = picked(image_folders(told.images))
        return list(folders), image_batches(folders, told.frame_step)
    if told.source == "videos":
        files = picked(video_files(told.videos))
        return list(files), video_batches(files, told.frame_step)
    devices = picked(webcam_devices(told.webcams))
    return list(devices), webcam_batches(devices, told.frame_step)


def open_disparities(told: argparse.Namespace) -> DisparitySource | None:
    """Where streaming depth comes from; None without.

    Raises:
        AotError: it cannot be opened, or --align_model does not fit what it gives.
    """
    from vggt_ros.depth_sources import ArtifactDisparity, FolderDisparity, PoolDisparity

    if told.depth_folder:
        return FolderDisparity(told.depth_folder)
    path = told.depth_engine
    if told.depth_engine_dir:
        path, precision = choose_depth_engine(told.depth_engine_dir, told.trt_precision or "auto", told.device)
        LOG.info("depth by %s, %s", path, precision)
    if not path:
        return None
    from aot_runtime.offline import warn_of_random_weights
    from depth_ros.pipeline import ImageDepthPipeline
    from depth_ros.pool import DepthAnythingPool

    runner: ImageDepthPipeline | DepthAnythingPool
    if told.depth_workers:
        runner = DepthAnythingPool(path, told.device, workers=told.depth_workers)
    else:
        runner = ImageDepthPipeline(path, told.device)
    warn_of_random_weights(runner.model.manifest, "the streamed depth means")
    try:
        _check_align_model(told.align_model, runner.kind, str(path))
    except InputError:
        runner.close()
        raise
    return PoolDisparity(runner) if isinstance(runner, DepthAnythingPool) else ArtifactDisparity(runner)


def _check_align_model(model: str, kind: str, where: str) -> None:
    """Refuse models of another domain than the depth's.

    What is fitted is always 1 / z = scale * disparity + shift; for a metric network's depth d that is
    1 / z = scale / d + shift, which the toolkit calls invdepth_scale_shift.
    """
    if model in ("auto", "disparity") or (model == "invdepth_scale_shift" and kind == "metric"):
        return
    if kind == "metric":
        why = "its scale and shift in depth let far pixels decide, whose errors grow with the square of the depth"
        raise InputError(
            f"expected --align_model auto, disparity or invdepth_scale_shift, found {model}: {why}",
            "use auto: the fit in disparity holds a pure scale too",
        )
    raise InputError(
        f"expected --align_model auto or disparity for the {kind} output of {where}, found {model}, which takes it for "
        "depth",
        "use auto",
    )


def open_bootstraps(told: argparse.Namespace, cameras: Sequence[str]) -> BootstrapSource | None:
    """Where bootstraps come from; None to go on with a map.

    Raises:
        AotError: the network cannot be loaded.
    """
    from vggt_ros.fusion.bootstrap import NpzFolderSource, NpzSource

    if told.initial_map:
        return None
    if told.bootstrap:
        if told.bootstrap.is_dir():
            return NpzFolderSource(told.bootstrap, tuple(cameras))
        return NpzSource(told.bootstrap, tuple(cameras))
    from aot_runtime.compiled_model import load_model
    from aot_runtime.offline import warn_of_random_weights
    from vggt_ros.network_source import NetworkSource

    model = load_model(told.vggt_engine, told.device)
    warn_of_random_weights(model.manifest, "the map means")
    return NetworkSource(model)
