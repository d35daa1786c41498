# SPDX-License-Identifier: Apache-2.0
"""Depth of images, folders of them, or a rosbag2, without ROS: command `depth_offline`.

Images go through the same `ImageDepthPipeline` as in `depth_node`, so the numbers are the same, byte by byte.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import AotError, InputError
from aot_runtime.frames import Frame, open_frames
from depth_ros.camera import Camera, camera_from_info
from depth_ros.files import depth_to_png16, write_image, write_ply
from depth_ros.pipeline import RESOLUTIONS
from depth_ros.points import PointMaker

if TYPE_CHECKING:
    from depth_ros.pipeline import DepthResult, ImageDepthPipeline

FORMATS = ("npy", "png16", "colour", "ply")


class DepthWriter:
    """Writes results into a folder: NAME_depth.npy, NAME_depth16.png, NAME_depth.png, NAME_points.ply, and frames.json.

    Args:
        folder: made if it does not exist.
        formats: some of `FORMATS`.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        unknown = sorted(set(formats) - set(FORMATS))
        if unknown:
            raise InputError(f"expected formats of {', '.join(FORMATS)}, found {unknown[0]}")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._formats = formats
        self._points = PointMaker()
        self._rows: list[dict[str, Any]] = []

    def add(self, frame: Frame, image: np.ndarray, result: DepthResult, camera: Camera | None) -> None:
        """One frame; `camera` is that of the depth's grid.

        Raises:
            InputError: points cannot be made of this camera.
        """
        path = self._folder / frame.name
        if "npy" in self._formats:
            np.save(f"{path}_depth.npy", result.depth)
        if "png16" in self._formats:
            write_image(Path(f"{path}_depth16.png"), depth_to_png16(result.depth, result.kind))
        if "colour" in self._formats:
            from depth_ros.pictures import colour_depth

            write_image(Path(f"{path}_depth.png"), colour_depth(result.depth, result.valid, result.kind))
        if "ply" in self._formats and camera is not None and result.kind == "metric":
            write_ply(Path(f"{path}_points.ply"), self._points.points(result.depth, camera, image))
        self._rows.append(
            {
                "name": frame.name,
                "stamp_ns": frame.stamp_ns,
                "frame_id": frame.frame_id,
                "kind": result.kind,
                "image_size": [image.shape[1], image.shape[0]],
                "depth_size": [result.depth.shape[1], result.depth.shape[0]],
                "valid": float(result.valid.mean()),
                "camera_matrix": None if camera is None else camera.intrinsics.tolist(),
            }
        )

    def close(self) -> None:
        """Writes frames.json."""
        text = json.dumps(self._rows, indent=1)
        (self._folder / "frames.json").write_text(text + "\n", encoding="utf-8")


def frame_camera(frame: Frame, image: np.ndarray, intrinsics: Sequence[float] | None, rectified: bool) -> Camera | None:
    """The image's camera: from intrinsics (fx, fy, cx, cy) if given, else from the frame's CameraInfo, else None.

    Raises:
        InputError: either is of no use.
    """
    if intrinsics is not None:
        return Camera.pinhole(*intrinsics)
    if frame.info is None:
        return None
    return camera_from_info(frame.info, image.shape[1], image.shape[0], rectified=rectified)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="depth_offline", description="Depth of images or of a rosbag2, the same as the live node's."
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="images, folders of images, or rosbag2 recordings")
    parser.add_argument("--artifact", type=Path, required=True, help="model made by export_dav2_to_pt2")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=["npy", "colour"],
        help="npy: float32, NaN = invalid; png16: millimetres if metric; colour: a picture; "
        "ply: points (metric depth and a known camera only)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    parser.add_argument("--output-resolution", choices=RESOLUTIONS, default="image", help="size of the depth")
    parser.add_argument(
        "--focal-baseline", type=float, default=0.0, help="pixels * metres, for disparity; 0: the artifact's"
    )
    parser.add_argument(
        "--max-range", type=float, default=0.0, help="metric depth beyond this [m] is invalid; 0: no limit"
    )
    parser.add_argument("--no-cuda-graph", action="store_true", help="run the network kernel by kernel")
    parser.add_argument(
        "--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="of the images [px]"
    )
    parser.add_argument("--topic", help="image topic of a bag with several")
    parser.add_argument("--camera-info-topic", help="default: the one beside the image topic")
    parser.add_argument("--raw-images", action="store_true", help="images are not rectified: use K and D, not P")
    return parser


@contextmanager
def _progress() -> Iterator[Any]:
    """A function to call after each frame."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    with Progress(
        SpinnerColumn(), TextColumn("depth of {task.completed:.0f} images"),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("depth", total=None)
        yield lambda: bar.advance(task)


def _run_frame(pipeline: ImageDepthPipeline, writer: DepthWriter, frame: Frame, told: argparse.Namespace) -> None:
    image = frame.load()
    result = pipeline.process(image)
    for warning in result.warnings:
        print(f"{frame.name}: {warning}", file=sys.stderr)
    camera = None
    try:
        camera = frame_camera(frame, image, told.intrinsics, not told.raw_images)
    except InputError as error:  # as in the node: depth without a camera is still depth
        print(f"{frame.name}: {error}", file=sys.stderr)
    writer.add(frame, image, result, None if camera is None else camera.on(result.grid))


def _run(told: argparse.Namespace) -> int:
    from depth_ros.pipeline import ImageDepthPipeline

    pipeline = ImageDepthPipeline(
        told.artifact,
        told.device,
        output_resolution=told.output_resolution,
        focal_baseline=told.focal_baseline,
        max_range=told.max_range,
        cuda_graph=not told.no_cuda_graph,
        allow_list=told.allow_list,
    )
    if pipeline.model.manifest.checkpoint.is_random:
        print("the artifact has random weights: its depth means nothing", file=sys.stderr)
    if "ply" in told.formats and pipeline.kind != "metric":
        raise InputError(
            f"expected metric depth for points, found {pipeline.kind} depth from {told.artifact}",
            "leave ply out, or use a metric artifact",
        )
    writer = DepthWriter(told.output, told.formats)
    done = failed = 0
    with _progress() as advance:
        try:
            for frame in open_frames(told.inputs, told.topic, told.camera_info_topic):
                try:
                    _run_frame(pipeline, writer, frame, told)
                    done += 1
                except InputError as error:
                    failed += 1
                    print(f"{frame.name}: {error}", file=sys.stderr)
                advance()
        finally:
            writer.close()
    print(f"{told.output}: {done} images, {pipeline.kind} depth{f', {failed} failed' if failed else ''}")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command `depth_offline`: exit status 0, 1 if single images failed, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    try:
        return _run(told)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
