# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: events, the principal components of features, their norms (reference f3.md section 9).

Everything is numpy: uint8 BGR images `(H, W, 3)` or grey `(H, W)`, as OpenCV and ROS's bgr8 and mono8 take them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError


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


@dataclass(frozen=True)
class PcaBasis:
    """The directions that a PCA picture shows, and the range of values that its colours span.

    Attributes:
        mean: (C,) float64 subtracted from features.
        components: (3, C) float64, orthonormal rows, by falling variance; fewer rows where C < 3.
        deviation: (3,) standard deviation along each, beyond which values are clipped.
        low, high: values that become 0 and 255.
    """

    mean: np.ndarray
    components: np.ndarray
    deviation: np.ndarray
    low: float
    high: float

    @staticmethod
    def fit(features: np.ndarray, previous: PcaBasis | None = None) -> PcaBasis:
        """The basis of one field (C, H, W).

        The sign of each direction is such that its largest entry is positive, or, with the basis of the `previous`
        frame, such that it points the same way as there, which keeps the colours of a video from flipping.
        """
        pixels = _pixels(features)
        mean = pixels.mean(0)
        centred = pixels - mean
        _, vectors = np.linalg.eigh(centred.T @ centred / max(len(pixels), 1))
        components = vectors[:, ::-1].T[:3]
        if previous is not None and previous.components.shape == components.shape:
            reference = (components * previous.components).sum(1)
        else:
            reference = components[np.arange(len(components)), np.abs(components).argmax(1)]
        components = components * np.where(reference < 0, -1.0, 1.0)[:, None]
        projected = centred @ components.T
        deviation = projected.std(0)
        clipped = np.clip(projected, -deviation, deviation)
        return PcaBasis(mean, components, deviation, float(clipped.min(initial=0)), float(clipped.max(initial=0)))

    def paint(self, features: np.ndarray) -> np.ndarray:
        """The picture, uint8 BGR (H, W, 3), of features (C, H, W): the first component is blue."""
        if features.shape[0] != len(self.mean):
            raise InputError(f"expected features of {len(self.mean)} channels, found {features.shape[0]}")
        projected = (_pixels(features) - self.mean) @ self.components.T
        projected = np.clip(projected, -self.deviation, self.deviation)
        span = self.high - self.low
        # A pixel of another frame may lie outside the range that this basis was fitted to.
        scaled = np.clip((projected - self.low) / (span if span > 0 else 1.0), 0.0, 1.0) * 255.0
        picture = np.zeros((len(scaled), 3), np.uint8)
        picture[:, : scaled.shape[1]] = scaled.astype(np.uint8)
        return picture.reshape(*features.shape[1:], 3)


def pca_picture(features: np.ndarray, basis: PcaBasis | None = None) -> np.ndarray:
    """The first three principal components of features (C, H, W) as a uint8 BGR picture (H, W, 3).

    Each component is clipped to one standard deviation around its mean, all three share one min-max scaling.

    Args:
        basis: a basis fitted before, for colours that mean the same in every frame; fitted to this one if None.
    """
    return (basis or PcaBasis.fit(features)).paint(features)


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


def _pixels(features: np.ndarray) -> np.ndarray:
    """(C, H, W) as (H*W, C) float64, non-finite values as 0."""
    if features.ndim != 3:
        raise InputError(f"expected features of shape (C, H, W), found {features.shape}")
    flat = features.reshape(features.shape[0], -1).T.astype(np.float64)
    return np.where(np.isfinite(flat), flat, 0.0)
