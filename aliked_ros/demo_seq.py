# SPDX-License-Identifier: Apache-2.0
"""Command `demo_seq INPUT`: keypoints followed through a folder of images, a video or a rosbag2, drawn into a video."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aliked_ros.network_options import (
    Networks,
    add_matching_arguments,
    add_network_arguments,
    open_networks,
    ratio_of,
    write_json,
)
from aliked_ros.tracking import Tracker
from aliked_ros.trails import TrackCounter, TrackStatistics, Trails
from aot_runtime.bags import is_bag
from aot_runtime.benchmark import percentile
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import IMAGE_SUFFIXES, Frame, open_frames
from aot_runtime.ros.clock import StampGuard
from aot_runtime.video import PictureSink, Video, is_video, open_sink

_DEFAULT_FPS = 10.0


@dataclass
class Footage:
    """Frames to follow keypoints through.

    Attributes:
        frames: in order.
        fps: of a video, else 0.
        count: of a video's frames or a folder's images, None if it is not known.
    """

    frames: Iterator[Frame]
    fps: float = 0.0
    count: int | None = None


@dataclass
class Times:
    """Milliseconds of each frame: keypoints and tracks (`track_ms`), and everything, reading and drawing included."""

    track_ms: list[float] = field(default_factory=list)
    all_ms: list[float] = field(default_factory=list)


class SequenceTracker:
    """Follows keypoints and draws them, frame by frame."""

    def __init__(self, networks: Networks, tracker: Tracker, trails: Trails, sink: PictureSink) -> None:
        self._networks = networks
        self._tracker = tracker
        self._trails = trails
        self._sink = sink
        self._guard = StampGuard()
        self.counter = TrackCounter()
        self.times = Times()

    def add(self, frame: Frame) -> tuple[str, ...]:
        """One frame; returns what should be told of it.

        Raises:
            InputError: the frame has no image.
        """
        start = time.perf_counter()
        if frame.stamp_ns is not None and self._guard.jumped_back(frame.stamp_ns):
            self._tracker.reset()
            self.counter.reset()
        image = frame.load()
        began = time.perf_counter()
        result = self._networks.pipeline_for(image).process(image)
        tracks = self._tracker.update(result, image.shape[:2])
        tracked = time.perf_counter()
        self._trails.update(tracks)
        self.counter.add(len(result), tracks)
        self._sink.add(frame.name, self._trails.draw(image[:, :, ::-1]))
        self.times.track_ms.append(1e3 * (tracked - began))
        self.times.all_ms.append(1e3 * (time.perf_counter() - start))
        return result.warnings


def open_sequence(paths: Sequence[Path], topic: str | None) -> Footage:
    """A video, or what `open_frames` takes.

    Raises:
        InputError: several inputs of which one is a video; or see `open_frames`.
    """
    videos = [path for path in paths if is_video(path)]
    if videos and len(paths) > 1:
        raise InputError(f"expected one video and nothing else, found {len(paths)} inputs with {videos[0]}")
    if videos:
        video = Video(videos[0])
        return Footage(video.frames(), video.fps, video.count or None)
    return Footage(open_frames(paths, topic), count=_count(paths))


def _count(paths: Sequence[Path]) -> int | None:
    """How many images these are; a bag would have to be read for that."""
    if any(is_bag(path) for path in paths):
        return None
    folders = [path for path in paths if path.is_dir()]
    inside = (file for folder in folders for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    return len(paths) - len(folders) + sum(1 for _ in inside)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo_seq",
        description="Keypoints followed through a folder of images, a video or a rosbag2, drawn into a video.",
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="a folder, images in order, a video, or a rosbag2")
    add_network_arguments(parser)
    add_matching_arguments(parser)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("tracks.mp4"), help="video (.mp4, .avi, .mkv) or folder of pictures")
    add("--fps", type=float, help="of the written video (default: the read video's, else 10)")
    add("--max-step", type=float, default=0.0, help="longest way of a keypoint between frames [px]; 0: no limit")
    add("--trail", type=int, default=10, help="frames that a drawn trail goes back (default 10)")
    add("--topic", help="image topic of a bag with several")
    add("--json", metavar="FILE", help="write the numbers here ('-' for standard output, and nothing else there)")
    return parser


@contextmanager
def _progress(count: int | None) -> Iterator[Any]:
    """A function to call after each frame with the number of tracks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} FPS, {task.fields[tracks]} tracks"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=count, rate=0.0, tracks=0)
        done = 0

        def advance(tracks: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, tracks=tracks, rate=done / max(1e-9, time.monotonic() - start))

        yield advance


def _run(told: argparse.Namespace) -> int:
    tracker = Tracker(min_similarity=told.min_similarity, ratio=ratio_of(told), max_step=told.max_step)
    trails = Trails(told.trail)
    sequence = open_sequence(told.inputs, told.topic)
    fps = told.fps if told.fps is not None else sequence.fps or _DEFAULT_FPS
    networks = open_networks(told)
    try:
        if networks.has_random_weights:
            print("the artifact has random weights: its tracks mean nothing", file=sys.stderr)
        sink = open_sink(told.output, fps)
        follow = SequenceTracker(networks, tracker, trails, sink)
        try:
            failed = _follow(sequence, follow, trails)
        finally:
            sink.close()
    finally:
        networks.close()
    if not follow.times.all_ms:
        raise InputError(f"expected frames to follow, found none of {failed} readable in {told.inputs[0]}")
    document = _document(networks.name, told.output, failed, follow)
    if told.json != "-":
        _print(document, follow.counter.result())
    if told.json is not None:
        write_json(told.json, document)
    return 1 if failed else 0


def _follow(sequence: Footage, follow: SequenceTracker, trails: Trails) -> int:
    """All frames; returns how many failed."""
    failed = 0
    with _progress(sequence.count) as advance:
        for frame in sequence.frames:
            try:
                for warning in follow.add(frame):
                    print(f"{frame.name}: {warning}", file=sys.stderr)
            except InputError as error:
                failed += 1
                print(f"{frame.name}: {error}", file=sys.stderr)
            advance(len(trails))
    return failed


def _document(name: str, output: Path, failed: int, follow: SequenceTracker) -> dict[str, Any]:
    times = [sorted(values) for values in (follow.times.track_ms, follow.times.all_ms)]
    return {
        "network": name,
        "output": str(output),
        "failed": failed,
        **asdict(follow.counter.result()),
        "track_ms_p50": percentile(times[0], 0.5),
        "track_ms_p99": percentile(times[0], 0.99),
        "fps_of_tracking": 1e3 * len(times[0]) / sum(times[0]),
        "fps_of_all": 1e3 * len(times[1]) / sum(times[1]),
    }


def _print(document: dict[str, Any], numbers: TrackStatistics) -> None:
    failed = f", {document['failed']} failed" if document["failed"] else ""
    print(f"network: {document['network']}")
    print(f"{document['output']}: {numbers.frames} frames{failed}")
    print(
        f"keypoints and tracks: {document['fps_of_tracking']:.1f} FPS (p50 {document['track_ms_p50']:.1f} ms, "
        f"p99 {document['track_ms_p99']:.1f} ms); with reading and drawing {document['fps_of_all']:.1f} FPS"
    )
    print(f"per frame: {numbers.keypoints:.0f} keypoints, {numbers.tracked:.0f} of them tracked")
    print(
        f"tracks: {numbers.tracks}, mean {numbers.mean_length:.1f}, median {numbers.median_length:.0f}, longest "
        f"{numbers.longest} frames; {numbers.mean_step:.1f} px from frame to frame"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command `demo_seq`: exit status 0, 1 if single frames failed, 2 if nothing could be done."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
