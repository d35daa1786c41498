# SPDX-License-Identifier: Apache-2.0
"""Keypoints from frame to frame: each is matched with the frame before and keeps its number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aliked_ros.matching import MIN_SIMILARITY, match
from aliked_ros.pipeline import AlikedResult
from aot_runtime.errors import InputError

_UNTRACKED = -1


@dataclass(frozen=True)
class Tracks:
    """Keypoints of a frame that the frame before has too, in the order of this frame's.

    Attributes:
        index: (M,) int64, which keypoints of this frame.
        keypoints: (M, 2) float32, where they are, pixels.
        previous: (M, 2) float32, where they were in the frame before, pixels.
        similarity: (M,) float32, dot product of the descriptors.
        ids: (M,) int64, number of the track; never used again until `Tracker.reset`.
        lengths: (M,) int64, frames of the track so far, this one included: at least 2.
    """

    index: np.ndarray
    keypoints: np.ndarray
    previous: np.ndarray
    similarity: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


class Tracker:
    """Follows keypoints by mutual nearest neighbours of consecutive frames. A point lost for one frame is a new one.

    Args:
        min_similarity, ratio: see `aliked_ros.matching.match`.
        max_step: longest way of a keypoint from frame to frame, pixels; 0: no limit.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, *, min_similarity: float = MIN_SIMILARITY, ratio: float | None = None, max_step: float = 0.0
    ) -> None:
        if not -1 <= min_similarity <= 1:
            raise InputError(f"expected min_similarity from -1 to 1, found {min_similarity}")
        if ratio is not None and not 0 < ratio <= 1:
            raise InputError(f"expected a ratio above 0 and up to 1, found {ratio}")
        if not max_step >= 0:
            raise InputError(f"expected max_step from 0, found {max_step}")
        self._min_similarity = min_similarity
        self._ratio = ratio
        self._max_step = max_step
        self.reset()

    def reset(self) -> None:
        """Forgets the frame before: the next one has no tracks (after a jump in time)."""
        self._before: AlikedResult | None = None
        self._size: tuple[int, ...] = ()
        self._ids = np.zeros(0, np.int64)
        self._lengths = np.zeros(0, np.int64)
        self._next_id = 0

    def update(self, result: AlikedResult, size: tuple[int, ...] = ()) -> Tracks:
        """Tracks of the next frame.

        Args:
            size: of its image; another one than before breaks all tracks, since pixels then mean something else.
        """
        if size != self._size:
            self._before, self._size = None, size
        before = self._before
        ids, lengths = np.full(len(result), _UNTRACKED, np.int64), np.ones(len(result), np.int64)
        was, index = np.zeros(0, np.int64), np.zeros(0, np.int64)
        similarity, previous = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
        if before is not None:
            pairs = match(
                before.descriptors, result.descriptors, min_similarity=self._min_similarity, ratio=self._ratio
            )
            order = np.argsort(pairs.second, kind="stable")
            was, index, similarity = pairs.first[order], pairs.second[order], pairs.similarity[order]
            if self._max_step:
                way = np.linalg.norm(result.keypoints[index].astype(np.float64) - before.keypoints[was], axis=1)
                near = way <= self._max_step
                was, index, similarity = was[near], index[near], similarity[near]
            previous = before.keypoints[was]
            ids[index] = self._ids[was]
            lengths[index] = self._lengths[was] + 1
            fresh = index[ids[index] == _UNTRACKED]
            ids[fresh] = np.arange(self._next_id, self._next_id + len(fresh))
            self._next_id += len(fresh)
        self._before, self._ids, self._lengths = result, ids, lengths
        return Tracks(index, result.keypoints[index], previous, similarity, ids[index], lengths[index])
