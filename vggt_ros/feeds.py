# SPDX-License-Identifier: Apache-2.0
"""Images of several cameras, instant by instant, from folders, videos or webcams. A camera that fails is left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.frames import Frame, open_frames
from aot_runtime.video import VIDEO_SUFFIXES, Video

SOURCES = ("images", "videos", "webcams")


@dataclass(frozen=True)
class Batch:
    """One instant.

    Attributes:
        frame: number of the instant in the source, from 0, before any step.
        images: camera -> (H, W, 3) uint8 RGB.
        names: camera -> name of the image.
        problems: camera -> why it has no image now.
    """

    frame: int
    images: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    problems: Mapping[str, str]


def image_folders(root: Path, *, growing: bool = False) -> dict[str, Path]:
    """Camera -> folder of its images: the subfolders of `root`, or, if it holds images itself, the camera "cam0".

    Args:
        growing: whether there may be nothing in it yet.

    Raises:
        InputError: there is no such folder, or it is empty.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder of images, found nothing at {root}", "check --images")
    if not growing and not any(root.iterdir()):
        raise InputError(f"expected images, or a folder of them for each camera, found nothing in {root}")
    folders = {child.name: child for child in sorted(root.iterdir()) if child.is_dir()}
    return folders or {"cam0": root}


def video_files(root: Path) -> dict[str, Path]:
    """Camera -> its video: the first one in each subfolder of `root`, else each video in `root` by its stem.

    Raises:
        InputError: there is none.
    """

    def videos(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)

    if not root.is_dir():
        raise InputError(f"expected a folder of videos, found nothing at {root}", "check --videos")
    nested = {child.name: videos(child) for child in sorted(root.iterdir()) if child.is_dir()}
    found = {name: paths[0] for name, paths in nested.items() if paths} or {path.stem: path for path in videos(root)}
    if not found:
        raise InputError(f"expected videos ({', '.join(VIDEO_SUFFIXES)}), found none in {root}")
    return found


def chosen(cameras: Sequence[str], views: Sequence[str], count: int, sample: int, seed: int) -> list[str]:
    """Which cameras to use, in their order.

    Args:
        views: by name; empty: all.
        count: at most so many, the first ones; 0: all.
        sample: so many of the others at random; 0: no sampling.

    Raises:
        InputError: a name is unknown.
    """
    unknown = [name for name in views if name not in cameras]
    if unknown:
        raise InputError(f"expected cameras among {sorted(cameras)}, found {unknown[0]!r}", "check --views")
    found = list(views) or list(cameras)
    if sample:
        picked = np.random.default_rng(seed).permutation(len(found))[:sample]
        found = [found[index] for index in sorted(picked)]
    return found[:count] if count else found


def file_batches(feeds: Mapping[str, Iterator[Frame]], step: int = 1) -> Iterator[Batch]:
    """Every `step`-th instant until all feeds have ended; a feed that ends sooner is missing from then on."""
    open_feeds = dict(feeds)
    number = 0
    while open_feeds:
        images, names, problems = {}, {}, {}
        for camera, feed in list(open_feeds.items()):
            frame = next(feed, None)
            if frame is None:
                del open_feeds[camera]
                continue
            if number % step:
                continue
            try:
                images[camera] = frame.load()
                names[camera] = frame.name
            except InputError as error:
                problems[camera] = str(error)
        if (images or problems) and number % step == 0:
            yield Batch(number, images, names, problems)
        number += 1


def image_batches(folders: Mapping[str, Path], step: int = 1) -> Iterator[Batch]:
    """Images of folders; the n-th of each, by name, belong together."""
    return file_batches({camera: open_frames([folder]) for camera, folder in folders.items()}, step)


def video_batches(files: Mapping[str, Path], step: int = 1) -> Iterator[Batch]:
    """Frames of videos; the n-th of each belong together."""
    return file_batches({camera: Video(path).frames() for camera, path in files.items()}, step)


def webcam_devices(told: Sequence[str]) -> dict[str, str]:
    """Camera -> device, from "0", "front=2", "rear=/dev/video4" or "side=rtsp://..."."""
    found = {}
    for text in told:
        name, equals, device = text.partition("=")
        found[name if equals else f"cam{name}"] = device if equals else name
    return found


def webcam_batches(devices: Mapping[str, str], step: int = 1) -> Iterator[Batch]:
    """Images of webcams until all of them fail.

    All are told to take a picture before the first is decoded, so they are as close in time as OpenCV allows.

    Raises:
        InputError: a camera does not open.
    """
    import cv2

    with contextlib.ExitStack() as stack:
        captures: dict[str, Any] = {}
        for camera, device in devices.items():
            capture = cv2.VideoCapture(int(device) if device.isdigit() else device)
            stack.callback(capture.release)
            if not capture.isOpened():
                raise InputError(f"expected a camera at {device}, found none for '{camera}'", "check --webcams")
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            captures[camera] = capture
        number = 0
        while True:
            ready = [camera for camera, capture in captures.items() if capture.grab()]
            if not ready:
                return
            if number % step == 0:
                taken = {camera: captures[camera].retrieve() for camera in ready}
                images = {
                    camera: np.ascontiguousarray(bgr[:, :, ::-1]) for camera, (good, bgr) in taken.items() if good
                }
                problems = {camera: "the camera gave no image" for camera in captures if camera not in images}
                yield Batch(number, images, dict.fromkeys(images, f"{number:06d}"), problems)
            number += 1
