# SPDX-License-Identifier: Apache-2.0
"""Periodic log-intensity textures and their mip pyramids."""

from __future__ import annotations

import math

import numpy as np


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Separable Gaussian blur with periodic borders."""
    radius = max(1, int(3 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        margin = [(0, 0), (0, 0)]
        margin[axis] = (radius, radius)
        padded = np.pad(image, margin, mode="wrap")
        out = np.zeros_like(image)
        for i, weight in enumerate(kernel):
            window = [slice(None), slice(None)]
            window[axis] = slice(i, i + image.shape[axis])
            out += weight * padded[tuple(window)]
        image = out
    return image


def make_texture(seed: int, size: int = 512, leaves: int = 500, contrast: float = 1.0) -> np.ndarray:
    """A "dead leaves" texture: discs and boxes of many sizes over each other, so that edges exist at every scale.

    Args:
        seed: chooses the texture.
        size: side in texels, a power of two.
        leaves: number of shapes.
        contrast: factor on the deviation from the mean intensity.

    Returns:
        (size, size) float32 log intensity in log(0.08) .. log(1), periodic in both directions.
    """
    rng = np.random.default_rng(seed)
    image = np.full((size, size), 0.5)
    axis = np.arange(size)
    grain = 0.35 * (_blur(rng.random((size, size)), 2.0) - 0.5)
    for _ in range(leaves):
        radius = size * 0.17 * (0.04 + 0.96 * rng.random() ** 3)
        cx, cy, level = rng.random() * size, rng.random() * size, rng.random()
        dx = (axis - cx + size / 2) % size - size / 2
        dy = (axis - cy + size / 2) % size - size / 2
        # only the rows and columns that the shape can reach (a box's corner lies sqrt(2) radii away)
        columns, rows = np.flatnonzero(np.abs(dx) < 1.5 * radius), np.flatnonzero(np.abs(dy) < 1.5 * radius)
        dx, dy = dx[columns], dy[rows, None]
        if rng.random() < 0.5:
            inside = dx * dx + dy * dy < radius * radius
        else:
            angle = rng.random() * math.pi
            u = dx * math.cos(angle) + dy * math.sin(angle)
            w = -dx * math.sin(angle) + dy * math.cos(angle)
            inside = (np.abs(u) < radius) & (np.abs(w) < radius * (0.3 + 0.7 * rng.random()))
        block = np.ix_(rows, columns)
        image[block] = np.where(inside, level + grain[block], image[block])
    image = _blur(image, 0.8)
    image = (image - image.mean()) * contrast + 0.5
    log_intensity: np.ndarray = np.log(0.08 + 0.92 * np.clip(image, 0.0, 1.0)).astype(np.float32)
    return log_intensity


def make_mips(texture: np.ndarray, levels: int = 6) -> np.ndarray:
    """All mip levels one after the other in a flat float32 array; level l has side `size >> l`."""
    flat, level = [texture.ravel()], texture
    for _ in range(levels - 1):
        level = 0.25 * (level[0::2, 0::2] + level[1::2, 0::2] + level[0::2, 1::2] + level[1::2, 1::2])
        flat.append(level.ravel())
    return np.concatenate(flat).astype(np.float32)
