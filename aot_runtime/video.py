# SPDX-License-Identifier: Apache-2.0
"""Videos read as frames, and pictures written as a video or a folder (OpenCV)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.frames import Frame

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# What OpenCV's own encoder writes everywhere, by the container's suffix.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


def is_video(path: Path) -> bool:
    """Whether it is a file with a video's suffix."""
    return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


class Video:
    """A video file.

    Attributes:
        fps: frames per second; 0 if the file does not say.
        count: frames, as the file says; 0 if it does not.

    Raises:
        InputError: OpenCV reads no frames from it.
    """

    def __init__(self, path: Path) -> None:
        import cv2

        self._path = path
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"expected a video that OpenCV reads, found something else in {path}")
        fps, frames = (self._capture.get(what) for what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = float(fps) if np.isfinite(fps) and fps > 0 else 0.0
        self.count = max(0, int(frames)) if np.isfinite(frames) else 0

    def frames(self) -> Iterator[Frame]:
        """All frames, RGB, in order; once.

        Raises:
            InputError: there is none.
        """
        index = 0
        try:
            while True:
                good, bgr = self._capture.read()
                if not good:
                    break
                rgb = np.ascontiguousarray(bgr[:, :, ::-1])
                yield Frame(f"{index:06d}", lambda rgb=rgb: rgb)  # type: ignore[misc]
                index += 1
        finally:
            self._capture.release()
        if not index:
            raise InputError(f"expected a video with frames, found none in {self._path}")


def write_picture(path: Path, picture: np.ndarray) -> None:
    """An image (H, W, 3) uint8 BGR as the file that the suffix asks for.

    Raises:
        InputError: OpenCV does not write such files, or the picture does not fit into one.
    """
    import cv2

    try:
        good, data = cv2.imencode(path.suffix or ".", picture)
    except cv2.error as error:
        raise InputError(
            f"expected a name of a picture, found {path} ({picture.shape[1]}x{picture.shape[0]} pixels)",
            "end it in .png or .jpg",
        ) from error
    if not good:
        raise InputError(f"expected a picture that {path.suffix} can hold, found {picture.shape} for {path}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


class PictureSink(ABC):
    """Takes the pictures of a sequence."""

    @abstractmethod
    def add(self, name: str, picture: np.ndarray) -> None:
        """One picture (H, W, 3) uint8 BGR; `name` is unique."""

    def close(self) -> None:
        """Finish the file."""


class FolderSink(PictureSink):
    """NAME.png in a folder, which is made."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"expected a folder or a name that ends in {', '.join(_CODECS)}, found the file {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def add(self, name: str, picture: np.ndarray) -> None:
        write_picture(self._folder / f"{name}.png", picture)


class VideoSink(PictureSink):
    """A video of the first picture's size; others are cut or padded with black to it.

    A video whose program is killed is cut short, so it is written under a name of its own and renamed when complete.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if not fps > 0:
            raise InputError(f"expected frames per second above 0, found {fps}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._writer: Any = None

    def add(self, name: str, picture: np.ndarray) -> None:
        import cv2

        if self._writer is None:
            self._size = (picture.shape[0], picture.shape[1])
            code = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._part), code, self._fps, (self._size[1], self._size[0]))
            if not self._writer.isOpened():
                raise InputError(
                    f"expected that OpenCV can write {self._path}, found it refuses {self._size[1]}x{self._size[0]}",
                    "write a folder of pictures",
                )
        assert self._size is not None
        if picture.shape[:2] != self._size:
            canvas = np.zeros((*self._size, 3), np.uint8)
            height, width = (min(a, b) for a, b in zip(self._size, picture.shape))
            canvas[:height, :width] = picture[:height, :width]
            picture = canvas
        self._writer.write(np.ascontiguousarray(picture))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._part.replace(self._path)
            self._writer = None


def open_sink(path: Path, fps: float) -> PictureSink:
    """A video if the name has a video's suffix, else a folder.

    Raises:
        InputError: a video that OpenCV does not write, or the folder is a file.
    """
    suffix = path.suffix.lower()
    if suffix in _CODECS:
        return VideoSink(path, fps)
    if suffix in VIDEO_SUFFIXES:
        raise InputError(f"expected a video {', '.join(_CODECS)} or a folder, found {path}", "name an .mp4")
    return FolderSink(path)
