# SPDX-License-Identifier: Apache-2.0
"""Keypoints of images, folders of them, or a rosbag2, without ROS: command `aliked_offline`.

Images go through the same `AlikedPipeline` and `Tracker` as in `aliked_node`, and rows have the layout of its clouds,
so the numbers are the same, byte by byte.
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

from aliked_ros.clouds import keypoint_rows, track_rows
from aliked_ros.matching import MIN_SIMILARITY
from aliked_ros.pictures import keypoints_picture, tracks_picture
from aliked_ros.tracking import Tracker
from aot_runtime.errors import AotError, InputError
from aot_runtime.frames import Frame, open_frames
from aot_runtime.ros.clock import StampGuard

if TYPE_CHECKING:
    from aliked_ros.pipeline import AlikedPipeline, AlikedResult
    from aliked_ros.tracking import Tracks

FORMATS = ("npy", "picture")


class KeypointWriter:
    """Writes results into a folder: NAME_keypoints.npy and .png, NAME_tracks.npy and .png, frames.json.

    The .npy files hold rows with named fields: `numpy.load(f)["descriptor"]`.

    Args:
        folder: made if it does not exist.
        formats: some of `FORMATS`.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._formats = formats
        self._rows: list[dict[str, Any]] = []

    def add(self, frame: Frame, image: np.ndarray, result: AlikedResult, tracks: Tracks | None) -> None:
        """One frame; `tracks` if they are wanted."""
        path = self._folder / frame.name
        if "npy" in self._formats:
            np.save(f"{path}_keypoints.npy", keypoint_rows(result))
            if tracks is not None:
                np.save(f"{path}_tracks.npy", track_rows(tracks))
        if "picture" in self._formats:
            bgr = image[:, :, ::-1]
            _write_picture(f"{path}_keypoints.png", keypoints_picture(bgr, result.keypoints, result.scores))
            if tracks is not None:
                _write_picture(f"{path}_tracks.png", tracks_picture(bgr, tracks.previous, tracks.keypoints))
        self._rows.append(
            {
                "name": frame.name,
                "stamp_ns": frame.stamp_ns,
                "frame_id": frame.frame_id,
                "image_size": [image.shape[1], image.shape[0]],
                "keypoints": len(result),
                "tracks": None if tracks is None else len(tracks),
            }
        )

    def close(self) -> None:
        """Writes frames.json."""
        text = json.dumps(self._rows, indent=1)
        (self._folder / "frames.json").write_text(text + "\n", encoding="utf-8")


def _write_picture(path: str, picture: np.ndarray) -> None:
    import cv2

    good, data = cv2.imencode(".png", picture)
    if not good:
        raise InputError(f"expected a picture that PNG can hold, found {picture.shape} for {path}")
    Path(path).write_bytes(data.tobytes())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aliked_offline", description="Keypoints of images or of a rosbag2, the same as the live node's."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, help="images, folders of images, or rosbag2 recordings")
    add("--artifact", type=Path, required=True, help="model made by export_aliked (.pt2, .onnx or .engine)")
    add("--output", type=Path, required=True, help="folder for the results")
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="npy: rows x, y, score, descriptor")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--threshold", type=float, default=0.0, help="leave out keypoints with a peak score up to this")
    add("--max-keypoints", type=int, default=0, help="only so many, the strongest; 0: the artifact's top_k")
    add("--no-resize", action="store_true", help="refuse images of another size than the artifact's")
    add("--no-cuda-graph", action="store_true", help="run the network kernel by kernel")
    add("--track", action="store_true", help="match the keypoints of each image with those of the image before")
    add("--min-similarity", type=float, default=MIN_SIMILARITY, help="smallest dot product of a match (default 0.75)")
    add("--ratio", type=float, default=1.0, help="largest distance to the nearest over that to the second; 1: any")
    add("--max-step", type=float, default=0.0, help="longest way of a keypoint between images [px]; 0: no limit")
    add("--topic", help="image topic of a bag with several")
    return parser


@contextmanager
def _progress() -> Iterator[Any]:
    """A function to call after each frame."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    with Progress(
        SpinnerColumn(), TextColumn("keypoints of {task.completed:.0f} images"),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("keypoints", total=None)
        yield lambda: bar.advance(task)


def _run_frame(
    pipeline: AlikedPipeline, tracker: Tracker | None, guard: StampGuard, writer: KeypointWriter, frame: Frame
) -> None:
    if frame.stamp_ns is not None and guard.jumped_back(frame.stamp_ns) and tracker is not None:
        tracker.reset()  # as in the node
    image = frame.load()
    result = pipeline.process(image)
    for warning in result.warnings:
        print(f"{frame.name}: {warning}", file=sys.stderr)
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
    if pipeline.model.manifest.checkpoint.is_random:
        print("the artifact has random weights: its keypoints mean nothing", file=sys.stderr)
    writer = KeypointWriter(told.output, told.formats)
    guard = StampGuard()
    done = failed = 0
    with _progress() as advance:
        try:
            for frame in open_frames(told.inputs, told.topic):
                try:
                    _run_frame(pipeline, tracker, guard, writer, frame)
                    done += 1
                except InputError as error:
                    failed += 1
                    print(f"{frame.name}: {error}", file=sys.stderr)
                advance()
        finally:
            writer.close()
    print(f"{told.output}: {done} images{f', {failed} failed' if failed else ''}")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command `aliked_offline`: exit status 0, 1 if single images failed, 2 if nothing could be done."""
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
