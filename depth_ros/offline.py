# SPDX-License-Identifier: Apache-2.0
"""Depth of images, folders of them, or a rosbag2, without ROS: command `depth_offline`.

Images go through the same `ImageDepthPipeline` as in `depth_node`, so the numbers are the same, byte by byte.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.camera import Camera, camera_from_info
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import Frame, open_frames, write_image
from aot_runtime.offline import ResultFolder, add_common_arguments, run_frames, tell_warnings, warn_of_random_weights
from depth_ros.files import depth_to_png16, write_ply
from depth_ros.pipeline import RESOLUTIONS
from depth_ros.points import PointMaker

if TYPE_CHECKING:
    from depth_ros.pipeline import DepthResult, ImageDepthPipeline

FORMATS = ("npy", "png16", "colour", "ply")


class DepthWriter(ResultFolder):
    """Writes results into a folder: NAME_depth.npy, NAME_depth16.png, NAME_depth.png, NAME_points.ply, and frames.json.

    Args:
        folder: made if it does not exist.
        formats: some of `FORMATS`.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        super().__init__(folder, formats, FORMATS)
        self._points = PointMaker()

    def add(self, frame: Frame, image: np.ndarray, result: DepthResult, camera: Camera | None) -> None:
        """One frame; `camera` is that of the depth's grid.

        Raises:
            InputError: points cannot be made of this camera.
        """
        if self.wants("npy"):
            np.save(self.path(frame, "depth.npy"), result.depth)
        if self.wants("png16"):
            write_image(self.path(frame, "depth16.png"), depth_to_png16(result.depth, result.kind))
        if self.wants("colour"):
            from depth_ros.pictures import colour_depth

            write_image(self.path(frame, "depth.png"), colour_depth(result.depth, result.valid, result.kind))
        if self.wants("ply") and camera is not None and result.kind == "metric":
            write_ply(self.path(frame, "points.ply"), self._points.points(result.depth, camera, image))
        self.add_row(
            frame,
            image,
            kind=result.kind,
            depth_size=[result.depth.shape[1], result.depth.shape[0]],
            valid=float(result.valid.mean()),
            camera_matrix=None if camera is None else camera.intrinsics.tolist(),
        )


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
    add_common_arguments(parser, "export_dav2_to_pt2")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=["npy", "colour"],
        help="npy: float32, NaN = invalid; png16: millimetres if metric; colour: a picture; "
        "ply: points (metric depth and a known camera only)",
    )
    parser.add_argument("--output-resolution", choices=RESOLUTIONS, default="image", help="size of the depth")
    parser.add_argument(
        "--focal-baseline", type=float, default=0.0, help="pixels * metres, for disparity; 0: the artifact's"
    )
    parser.add_argument(
        "--max-range", type=float, default=0.0, help="metric depth beyond this [m] is invalid; 0: no limit"
    )
    parser.add_argument(
        "--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="of the images [px]"
    )
    parser.add_argument("--camera-info-topic", help="default: the one beside the image topic")
    parser.add_argument("--raw-images", action="store_true", help="images are not rectified: use K and D, not P")
    return parser


def _run_frame(pipeline: ImageDepthPipeline, writer: DepthWriter, frame: Frame, told: argparse.Namespace) -> None:
    image = frame.load()
    result = pipeline.process(image)
    tell_warnings(frame, result.warnings)
    camera = None
    try:
        camera = frame_camera(frame, image, told.intrinsics, not told.raw_images)
    except InputError as error:  # as in the node: depth without a camera is still depth
        tell_warnings(frame, [str(error)])
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
    warn_of_random_weights(pipeline.model.manifest, "its depth means")
    if "ply" in told.formats and pipeline.kind != "metric":
        raise InputError(
            f"expected metric depth for points, found {pipeline.kind} depth from {told.artifact}",
            "leave ply out, or use a metric artifact",
        )
    writer = DepthWriter(told.output, told.formats)
    # Nothing asks for the CameraInfos of a bag if the command line says what they would.
    with_info = told.intrinsics is None or told.camera_info_topic is not None
    frames = open_frames(told.inputs, told.topic, told.camera_info_topic, with_info=with_info)
    return run_frames(
        frames, lambda frame: _run_frame(pipeline, writer, frame, told), writer, "depth", f"{pipeline.kind} depth"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command `depth_offline`: exit status 0, 1 if single images failed, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
