# SPDX-License-Identifier: Apache-2.0
"""The principal components of a field of features as a picture for people (reference f3.md section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError


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


def _pixels(features: np.ndarray) -> np.ndarray:
    """(C, H, W) as (H*W, C) float64, non-finite values as 0."""
    if features.ndim != 3:
        raise InputError(f"expected features of shape (C, H, W), found {features.shape}")
    flat = features.reshape(features.shape[0], -1).T.astype(np.float64)
    return np.where(np.isfinite(flat), flat, 0.0)
