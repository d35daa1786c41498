# SPDX-License-Identifier: Apache-2.0
"""Which keypoints of two images show the same place: mutual nearest neighbours of their descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError

MIN_SIMILARITY = 0.75
"""Official: what is less similar is no match."""


@dataclass(frozen=True)
class Matches:
    """Pairs of keypoints, in the order of the first image's.

    Attributes:
        first, second: (M,) int64 indices of keypoints in the two images.
        similarity: (M,) float32, dot product of the descriptors, at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def match(
    first: np.ndarray, second: np.ndarray, *, min_similarity: float = MIN_SIMILARITY, ratio: float | None = None
) -> Matches:
    """Pairs of which each is the other's nearest.

    Args:
        first, second: unit descriptors (N, D) and (M, D).
        min_similarity: smallest dot product of a pair.
        ratio: largest distance to the nearest over that to the second nearest, seen from both sides (Lowe 2004); None
            asks for none.

    Raises:
        InputError: the descriptors have different lengths, or are not two-dimensional.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(
            f"expected descriptors (N, D) and (M, D), found {first.shape} and {second.shape}",
            "match keypoints of one artifact",
        )
    if not len(first) or not len(second):
        none = np.zeros(0, np.int64)
        return Matches(none, none, np.zeros(0, np.float32))
    similarity = first.astype(np.float32) @ second.astype(np.float32).T
    there, back = similarity.argmax(1), similarity.argmax(0)
    index = np.arange(len(first))
    best = similarity[index, there]
    # NaN descriptors are nobody's neighbours: comparisons with them are false.
    kept = (back[there] == index) & (best >= min_similarity)
    if ratio is not None:
        kept &= _distinct(similarity, ratio) & _distinct(similarity.T, ratio)[there]
    return Matches(index[kept], there[kept], best[kept])


def _distinct(similarity: np.ndarray, ratio: float) -> np.ndarray:
    """Rows whose largest similarity stands out: distance of unit vectors is sqrt(2 - 2 similarity)."""
    if similarity.shape[1] < 2:
        return np.ones(len(similarity), bool)
    top = np.partition(similarity, -2, axis=1)[:, -2:]
    distance = np.sqrt(np.maximum(0, 2 - 2 * top.astype(np.float64)))
    distinct: np.ndarray = distance[:, 1] <= ratio * distance[:, 0]
    return distinct
