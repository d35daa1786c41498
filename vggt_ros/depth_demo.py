# SPDX-License-Identifier: Apache-2.0
"""Depth of two or more cameras as pictures side by side, without ROS: command `depth_demo`.

Each instant is one batch of the depth network. A camera that fails or ends is black in the picture from then on, and
the others go on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import Frame, open_frames
from aot_runtime.video import Video, is_video, open_sink
from vggt_ros.feeds import Batch, file_batches, webcam_batches, webcam_devices

if TYPE_CHECKING:
    from depth_ros.pipeline import DepthResult

_DEFAULT_FPS = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="depth_demo", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("sources", nargs="+", help="a folder of images, a video, or a webcam (0, /dev/video0 or a URL) for each camera")
    add("--artifact", type=Path, required=True, help="Depth Anything artifact; best made with --batch 1..8")
    add("--output", type=Path, required=True, help="a video (.mp4, .avi) or a folder of pictures")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--max_frames", type=int, default=0, help="stop after so many instants; 0: at the end")
    add("--frame_step", type=int, default=1, help="use every so many frames")
    add("--fps", type=float, default=0.0, help="of a written video; 0: the first source's, else 10")
    add("--height", type=int, default=240, help="of a picture in the grid")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command `depth_demo`: exit status 0, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


def _run(told: argparse.Namespace) -> int:
    from aot_runtime.offline import warn_of_random_weights
    from depth_ros.pipeline import ImageDepthPipeline

    if told.max_frames < 0 or told.frame_step < 1 or told.height < 1:
        raise InputError("expected counts of at least 0, a --frame_step and a --height of at least 1, found others")
    cameras, batches, fps = open_cameras(told.sources, told.frame_step)
    pipeline = ImageDepthPipeline(told.artifact, told.device)
    warn_of_random_weights(pipeline.model.manifest, "the pictures mean")
    sink = open_sink(told.output, told.fps or fps or _DEFAULT_FPS)
    count, depth_s, failed = 0, 0.0, 0
    begun = time.perf_counter()
    try:
        for batch in batches:
            for camera, problem in batch.problems.items():
                failed += 1
                print(f"{batch.frame:06d} {camera}: {problem}", file=sys.stderr)
            started = time.perf_counter()
            results = pipeline.process_batch(list(batch.images.values()))
            depth_s += time.perf_counter() - started
            found = {name: (batch.images[name], result) for name, result in zip(batch.images, results)}
            sink.add(f"{batch.frame:06d}", side_by_side(cameras, found, told.height))
            count += 1
            if count == told.max_frames:
                break
    finally:
        sink.close()
        pipeline.close()
    if not count:
        raise InputError(f"expected images of {cameras}, found none")
    whole = time.perf_counter() - begun
    print(
        f"{told.output}: {count} instants of {len(cameras)} cameras, {count / whole:.1f} fps with reading and writing, "
        f"depth alone {count / depth_s:.1f} fps ({1000 * depth_s / count:.1f} ms)"
        + (f", {failed} images failed" if failed else "")
    )
    return 0


def open_cameras(sources: Sequence[str], step: int = 1) -> tuple[list[str], Iterator[Batch], float]:
    """Names of the cameras, their images, and the frames per second of the first video (0 if there is none).

    Raises:
        InputError: a source is nothing that can be read, or webcams and files are mixed.
    """
    files = {source: Path(source) for source in sources if Path(source).is_dir() or is_video(Path(source))}
    names = [f"cam{index}" for index in range(len(sources))]
    if not files:
        devices = webcam_devices([f"{name}={source}" for name, source in zip(names, sources)])
        return names, webcam_batches(devices, step), 0.0
    others = [source for source in sources if source not in files]
    if others:
        raise InputError(f"expected folders of images and videos only, found {others[0]}", "give only webcams, or none")
    fps = 0.0
    feeds: dict[str, Iterator[Frame]] = {}
    for name, source in zip(names, sources):
        if files[source].is_dir():
            feeds[name] = open_frames([files[source]])
            continue
        video = Video(files[source])
        fps = fps or video.fps
        feeds[name] = video.frames()
    return names, file_batches(feeds, step), fps


def side_by_side(
    cameras: Sequence[str], found: Mapping[str, tuple[np.ndarray, DepthResult]], height: int
) -> np.ndarray:
    """(2 * height, W, 3) uint8 BGR: a column for each camera, its image above its coloured depth.

    A camera that is not there has a black column as wide as the first one that is.
    """
    import cv2

    from depth_ros.pictures import colour_depth

    columns: dict[str, np.ndarray] = {}
    for name, (image, result) in found.items():
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        depth = colour_depth(result.depth, result.valid, result.kind)
        rows = [np.ascontiguousarray(image[:, :, ::-1]), np.ascontiguousarray(depth)]
        columns[name] = np.vstack([cv2.resize(row, (width, height), interpolation=cv2.INTER_AREA) for row in rows])
    width = next((column.shape[1] for column in columns.values()), height)
    black = np.zeros((2 * height, width, 3), np.uint8)
    return np.hstack([columns.get(name, black) for name in cameras])


if __name__ == "__main__":
    sys.exit(main())
