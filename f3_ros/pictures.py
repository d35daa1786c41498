# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: events, norms of features, predictions (reference f3.md section 9); `aot_runtime.pca` has more.

Everything is numpy: uint8 BGR images `(H, W, 3)` or grey `(H, W)`, as OpenCV and ROS's bgr8 and mono8 take them.
"""

from __future__ import annotations

import numpy as np


def event_picture(x: np.ndarray, y: np.ndarray, p: np.ndarray, width: int, height: int) -> np.ndarray:
    """Where events fell: blue for positive, red for negative; of several in a pixel the last one shows.

    (Reference f3.md speaks of magenta where both fell; the official picture, golden `f3_viz`, shows the last.)

    Args:
        x, y: pixels (N,), integers in order of time; those outside the picture are left out.
        p: polarity (N,), 1 is positive.

    Returns:
        uint8 BGR (height, width, 3).
    """
    x, y = np.asarray(x).astype(np.int64), np.asarray(y).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    kind = np.zeros(width * height, np.uint8)
    kind[(y * width + x)[inside]] = np.where(np.asarray(p)[inside] > 0, 1, 2)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    return colours[kind].reshape(height, width, 3)


def feature_norm_picture(features: np.ndarray) -> np.ndarray:
    """The length of every pixel's feature vector, min-max scaled: uint8 grey (H, W) of features (C, H, W)."""
    return grey_picture(np.linalg.norm(features.astype(np.float32), axis=0))


def grey_picture(values: np.ndarray) -> np.ndarray:
    """Any (H, W) field min-max scaled to uint8 grey; non-finite values become black."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = values[finite].min(), values[finite].max()
    scaled = (np.where(finite, values, low) - low) / (high - low if high > low else 1.0) * 255.0
    picture: np.ndarray = scaled.astype(np.uint8)
    return picture


def prediction_picture(occupancy: np.ndarray) -> np.ndarray:
    """A predicted event volume (H, W, T) in 0..1 as uint8 BGR: soon is blue, late is red."""
    late = np.linspace(0, 1, occupancy.shape[-1]) ** 2
    volume = occupancy.astype(np.float64)
    picture = np.zeros((*occupancy.shape[:2], 3), np.uint8)
    for channel, weight in ((0, 1 - late), (2, late)):
        total = (volume * weight).sum(-1)
        picture[..., channel] = (total / (total.max(initial=0) + 1e-5) * 255).astype(np.uint8)
    return picture
