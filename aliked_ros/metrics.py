# SPDX-License-Identifier: Apache-2.0
"""How good keypoints and matches are where the truth is known: the measures of HPatches-style evaluations.

Repeatability and matching score as in SuperPoint (arXiv 1712.07629), mean matching accuracy (MMA) as in D2-Net
(arXiv 1905.03561), the area under the curve of corner errors as in SuperGlue (arXiv 1911.11763).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aliked_ros.warps import corners_of

THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels within which a keypoint, a match or a corner is right."""
MARGIN = 4.0
"""Keypoints nearer than this to the edge of the common view, in pixels, are left out: the edge makes some itself."""


@dataclass(frozen=True)
class ViewScore:
    """Of two views that a homography relates; tuples are by `THRESHOLDS`.

    Attributes:
        covisible: keypoints of each view that lie where both see.
        repeatability: share of the covisible keypoints that have one of the other view within the threshold.
        accuracy: MMA, share of the matches that the truth puts within the threshold.
        matching: right matches over the mean number of covisible keypoints.
        corner_error: mean distance of the four corners under the estimated and the true homography, pixels; infinite
            if none was estimated.
    """

    covisible: tuple[int, int]
    matches: int
    repeatability: tuple[float, ...]
    accuracy: tuple[float, ...]
    matching: tuple[float, ...]
    corner_error: float


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) under a homography (3, 3), float64; not finite where they go to infinity."""
    mapped = np.column_stack([points.astype(np.float64), np.ones(len(points))]) @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mapped[:, :2] / mapped[:, 2:])


def score_views(
    first: np.ndarray,
    second: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    matrix: np.ndarray,
    corners: float,
    size: tuple[int, int],
) -> ViewScore:
    """Compare keypoints and matches with the true homography.

    Args:
        first, second: keypoints (N, 2) and (M, 2) in pixels.
        pairs: indices of matched keypoints in each.
        matrix: (3, 3) truth, first to second.
        corners: `corner_error` of the homography that the matches gave; infinite if they gave none.
        size: (height, width) of both views.
    """
    there = project(matrix, first)
    back = project(np.linalg.inv(matrix), second)
    seen = (
        _inside(there, size) & _inside(first, size),
        _inside(back, size) & _inside(second, size),
    )
    covisible = int(seen[0].sum()), int(seen[1].sum())
    distance = np.linalg.norm(there[seen[0]][:, None] - second[seen[1]].astype(np.float64)[None], axis=2)
    nearest = distance.min(axis=1, initial=np.inf), distance.min(axis=0, initial=np.inf)
    found = [sum(int((side <= limit).sum()) for side in nearest) for limit in THRESHOLDS]
    error = np.linalg.norm(there[pairs[0]] - second[pairs[1]], axis=1)
    right = [int((error <= limit).sum()) for limit in THRESHOLDS]
    # A match of what only one view shows is wrong, and is in `error` like any other.
    return ViewScore(
        covisible,
        len(error),
        tuple(_share(number, sum(covisible)) for number in found),
        tuple(_share(number, len(error)) for number in right),
        tuple(_share(number, sum(covisible) / 2) for number in right),
        corners,
    )


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    low, high = MARGIN, np.array([size[1], size[0]]) - 1 - MARGIN
    return np.asarray(((points >= low) & (points <= high)).all(axis=1))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def corner_error(estimate: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> float:
    """Mean distance of the image's corners under two homographies, pixels of the second view."""
    corners = corners_of(size)
    error = np.linalg.norm(project(estimate, corners) - project(truth, corners), axis=1).mean()
    return float(error) if np.isfinite(error) else float("inf")


def recall_area(errors: Sequence[float], limit: float) -> float:
    """Area under the curve "share of errors up to x", x from 0 to `limit`, over `limit`: 1 if all errors are 0."""
    order = np.sort(np.asarray(errors, np.float64))
    order = order[order <= limit]
    if not len(order):
        return 0.0
    share = np.arange(len(order) + 1) / len(errors)
    # The curve is taken to rise linearly from error to error, and is level after the last.
    places, heights = np.r_[0.0, order, limit], np.r_[share, share[-1]]
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(places)).sum() / limit)


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two directions (3,)."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.degrees(np.arccos(np.clip(first @ second / norms, -1, 1))))


def rotation_angle(matrix: np.ndarray) -> float:
    """Degrees that a rotation (3, 3) turns; exact for small ones, where the arc cosine of the trace is not."""
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(matrix) - 1)))
