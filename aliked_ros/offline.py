# SPDX-License-Identifier: Apache-2.0
"""Keypoints of images, folders of them, or a rosbag2, without ROS: command `aliked_offline`.

Images go through the same `AlikedPipeline` and `Tracker` as in `aliked_node`, and rows have the layout of its clouds,
so the numbers are the same, byte by byte.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aliked_ros.clouds import keypoint_rows, track_rows
from aliked_ros.matching import MIN_SIMILARITY
from aliked_ros.pictures import keypoints_picture, tracks_picture
from aliked_ros.tracking import Tracker
from aot_runtime.command import exit_status
from aot_runtime.frames import Frame, open_frames, write_image
from aot_runtime.offline import ResultFolder, add_common_arguments, run_frames, tell_warnings, warn_of_random_weights
from aot_runtime.ros.clock import StampGuard

if TYPE_CHECKING:
    from aliked_ros.pipeline import AlikedPipeline, AlikedResult
    from aliked_ros.tracking import Tracks

FORMATS = ("npy", "picture")


class KeypointWriter(ResultFolder):
    """Writes results into a folder: NAME_keypoints.npy and .png, NAME_tracks.npy and .png, frames.json.

    The .npy files hold rows with named fields: `numpy.load(f)["descriptor"]`.

    Args:
        folder: made if it does not exist.
        formats: some of `FORMATS`.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        super().__init__(folder, formats, FORMATS)

    def add(self, frame: Frame, image: np.ndarray, result: AlikedResult, tracks: Tracks | None) -> None:
        """One frame; `tracks` if they are wanted."""
        if self.wants("npy"):
            np.save(self.path(frame, "keypoints.npy"), keypoint_rows(result))
            if tracks is not None:
                np.save(self.path(frame, "tracks.npy"), track_rows(tracks))
        if self.wants("picture"):
            bgr = image[:, :, ::-1]
            write_image(self.path(frame, "keypoints.png"), keypoints_picture(bgr, result.keypoints, result.scores))
            if tracks is not None:
                write_image(self.path(frame, "tracks.png"), tracks_picture(bgr, tracks.previous, tracks.keypoints))
        self.add_row(frame, image, keypoints=len(result), tracks=None if tracks is None else len(tracks))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aliked_offline", description="Keypoints of images or of a rosbag2, the same as the live node's."
    )
    add_common_arguments(parser, "export_aliked")
    add = parser.add_argument
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="npy: rows x, y, score, descriptor")
    add("--threshold", type=float, default=0.0, help="leave out keypoints with a peak score up to this")
    add("--max-keypoints", type=int, default=0, help="only so many, the strongest; 0: the artifact's top_k")
    add("--no-resize", action="store_true", help="refuse images of another size than the artifact's")
    add("--track", action="store_true", help="match the keypoints of each image with those of the image before")
    add("--min-similarity", type=float, default=MIN_SIMILARITY, help="smallest dot product of a match (default 0.75)")
    add("--ratio", type=float, default=1.0, help="largest distance to the nearest over that to the second; 1: any")
    add("--max-step", type=float, default=0.0, help="longest way of a keypoint between images [px]; 0: no limit")
    return parser


def _run_frame(
    pipeline: AlikedPipeline, tracker: Tracker | None, guard: StampGuard, writer: KeypointWriter, frame: Frame
) -> None:
    if frame.stamp_ns is not None and guard.jumped_back(frame.stamp_ns) and tracker is not None:
        tracker.reset()  # as in the node
    image = frame.load()
    result = pipeline.process(image)
    tell_warnings(frame, result.warnings)
    tracks = None if tracker is None else tracker.update(result, image.shape[:2])
    writer.add(frame, image, result, tracks)


def _run(told: argparse.Namespace) -> int:
    from aliked_ros.pipeline import AlikedPipeline

    tracker = None
    if told.track:
        ratio = told.ratio if told.ratio != 1 else None
        tracker = Tracker(min_similarity=told.min_similarity, ratio=ratio, max_step=told.max_step)
    pipeline = AlikedPipeline(
        told.artifact,
        told.device,
        threshold=told.threshold,
        max_keypoints=told.max_keypoints,
        resize=not told.no_resize,
        cuda_graph=not told.no_cuda_graph,
        allow_list=told.allow_list,
    )
    warn_of_random_weights(pipeline.model.manifest, "its keypoints mean")
    writer = KeypointWriter(told.output, told.formats)
    guard = StampGuard()
    frames = open_frames(told.inputs, told.topic, with_info=False)
    return run_frames(frames, lambda frame: _run_frame(pipeline, tracker, guard, writer, frame), writer, "keypoints")


def main(argv: Sequence[str] | None = None) -> int:
    """Command `aliked_offline`: exit status 0, 1 if single images failed, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
