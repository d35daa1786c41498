# SPDX-License-Identifier: Apache-2.0
"""Where tracked keypoints were in the last frames, drawn as trails; and how long tracks live."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aliked_ros.pictures import RED
from aot_runtime.errors import InputError

if TYPE_CHECKING:
    from aliked_ros.tracking import Tracks

_HUES = 180


class Trails:
    """The last places of every track that is alive.

    Args:
        length: frames that a trail goes back.

    Raises:
        InputError: the length is not positive.
    """

    def __init__(self, length: int = 10) -> None:
        if length < 1:
            raise InputError(f"expected trails of one or more frames, found {length}")
        self._length = length
        self._places: dict[int, deque[np.ndarray]] = {}

    def update(self, tracks: Tracks) -> None:
        """The next frame: tracks that it does not have are dead."""
        places = {}
        for number, before, now in zip(tracks.ids.tolist(), tracks.previous, tracks.keypoints):
            trail = self._places.get(number) or deque([before], maxlen=self._length + 1)
            trail.append(now)
            places[number] = trail
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """A copy of an image (H, W, 3) uint8 BGR with a line along each trail, and a dot where it ends.

        A track keeps its colour.
        """
        import cv2

        picture = np.array(image)
        shift = 4  # OpenCV takes fixed-point pixels with so many bits
        for number, trail in self._places.items():
            line = np.rint(np.stack(trail) * (1 << shift)).astype(np.int32)
            # Numbers rise by one: steps of the golden angle keep neighbours apart.
            cv2.polylines(picture, [line], False, _colour(number * 111 % _HUES), 1, cv2.LINE_AA, shift)
            x, y = (int(value) for value in np.rint(trail[-1]))
            cv2.circle(picture, (x, y), 1, RED, -1)
        return picture


def _colour(hue: int) -> tuple[int, int, int]:
    import cv2

    blue, green, red = cv2.cvtColor(np.array([[[hue, 255, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


@dataclass(frozen=True)
class TrackStatistics:
    """Over a whole sequence.

    Attributes:
        frames: that were processed.
        keypoints: mean number in a frame.
        tracked: mean number in a frame that the frame before had too; frames without one before count as 0.
        tracks: different ones, of two frames or more.
        mean_length, median_length, longest: frames of a track.
        mean_step: pixels from frame to frame, mean of the medians.
    """

    frames: int
    keypoints: float
    tracked: float
    tracks: int
    mean_length: float
    median_length: float
    longest: int
    mean_step: float


class TrackCounter:
    """Collects `TrackStatistics`."""

    def __init__(self) -> None:
        self._keypoints: list[int] = []
        self._tracked: list[int] = []
        self._steps: list[float] = []
        self._lengths: dict[tuple[int, int], int] = {}
        self._run = 0

    def reset(self) -> None:
        """The tracker was reset: its numbers start again, and mean other tracks."""
        self._run += 1

    def add(self, keypoints: int, tracks: Tracks) -> None:
        """One frame."""
        self._keypoints.append(keypoints)
        self._tracked.append(len(tracks))
        if len(tracks):
            way = np.linalg.norm(tracks.keypoints.astype(np.float64) - tracks.previous, axis=1)
            self._steps.append(float(np.median(way)))
        self._lengths.update(
            ((self._run, number), n) for number, n in zip(tracks.ids.tolist(), tracks.lengths.tolist())
        )

    def result(self) -> TrackStatistics:
        """The numbers so far."""
        lengths = list(self._lengths.values())
        return TrackStatistics(
            frames=len(self._keypoints),
            keypoints=_mean(self._keypoints),
            tracked=_mean(self._tracked),
            tracks=len(lengths),
            mean_length=_mean(lengths),
            median_length=float(np.median(lengths)) if lengths else 0.0,
            longest=max(lengths, default=0),
            mean_step=_mean(self._steps),
        )


def _mean(values: list[int] | list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
