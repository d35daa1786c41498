# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: keypoints in an image, matches between two, all numpy.

Images are uint8 BGR `(H, W, 3)` or grey `(H, W)`; pictures are uint8 BGR, as OpenCV and ROS's bgr8 take them.
"""

from __future__ import annotations

import numpy as np

from aot_runtime.errors import InputError

GREEN = (0, 255, 0)
RED = (0, 0, 255)


def keypoints_picture(image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray | None = None) -> np.ndarray:
    """A dot on each keypoint (N, 2) in pixels; green for score 1 to red for score 0, green without `scores` (N,)."""
    picture = _canvas(image)
    colours = np.tile(np.array(GREEN, np.float64), (len(keypoints), 1))
    if scores is not None:
        share = np.clip(np.nan_to_num(scores.astype(np.float64)), 0, 1)[:, None]
        colours = share * np.array(GREEN) + (1 - share) * np.array(RED)
    # Backwards, so that the strongest, which come first, lie on top.
    _dots(picture, keypoints[::-1], colours[::-1].astype(np.uint8))
    return picture


def matches_picture(
    first_image: np.ndarray,
    second_image: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    inliers: np.ndarray | None = None,
) -> np.ndarray:
    """The two images side by side with a line from each keypoint of `first` (M, 2) to its match in `second` (M, 2).

    Args:
        inliers: (M,) bool; the others' lines are red and lie below.
    """
    if first.shape != second.shape:
        raise InputError(f"expected matched keypoints (M, 2) twice, found {first.shape} and {second.shape}")
    left, right = _canvas(first_image), _canvas(second_image)
    picture = np.zeros((max(len(left), len(right)), left.shape[1] + right.shape[1], 3), np.uint8)
    picture[: len(left), : left.shape[1]] = left
    picture[: len(right), left.shape[1] :] = right
    agreed = np.ones(len(first), bool) if inliers is None else np.asarray(inliers, bool)
    moved = second + np.array([left.shape[1], 0])
    for kind, colour in ((~agreed, RED), (agreed, GREEN)):
        _lines(picture, first[kind], moved[kind], colour)
    return picture


def tracks_picture(image: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The image with a line from where each keypoint was (M, 2) to where it is (M, 2), and a dot there."""
    picture = _canvas(image)
    _lines(picture, before, now, GREEN)
    _dots(picture, now, np.tile(np.array(RED, np.uint8), (len(now), 1)))
    return picture


def _canvas(image: np.ndarray) -> np.ndarray:
    """A copy to draw on, (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(f"expected a uint8 image (H, W, 3), (H, W, 1) or (H, W), found {image.dtype} {image.shape}")
    grey = image[..., None] if image.ndim == 2 else image
    return np.array(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _paint(picture: np.ndarray, x: np.ndarray, y: np.ndarray, colours: np.ndarray) -> None:
    """Set pixels; those outside the picture are left out."""
    inside = (x >= 0) & (x < picture.shape[1]) & (y >= 0) & (y < picture.shape[0])
    picture[y[inside], x[inside]] = colours[inside]


def _dots(picture: np.ndarray, points: np.ndarray, colours: np.ndarray) -> None:
    """A plus of five pixels on each point (N, 2)."""
    centre = np.rint(points).astype(np.int64)
    for right, down in ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)):
        _paint(picture, centre[:, 0] + right, centre[:, 1] + down, colours)


def _lines(picture: np.ndarray, starts: np.ndarray, ends: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A thin line from each start (N, 2) to its end (N, 2)."""
    for start, end in zip(starts.astype(np.float64), ends.astype(np.float64)):
        count = int(np.abs(end - start).max()) + 2
        places = np.rint(np.linspace(start, end, count)).astype(np.int64)
        _paint(picture, places[:, 0], places[:, 1], np.tile(np.array(colour, np.uint8), (count, 1)))
