# SPDX-License-Identifier: Apache-2.0
"""Which parts of a large image the network sees, and how the answers are put together again.

A tile is one more approximation: the network's global attention sees only that tile. So as few tiles as possible are
made, only where there is something unknown, and neighbours overlap and fade into each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError
from vitmatte_ros.trimap import UNKNOWN


@dataclass(frozen=True)
class Window:
    """A rectangle of an image: first row and column, height and width, pixels."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def unknown_window(trimap: np.ndarray, margin: int) -> Window | None:
    """The smallest rectangle around all unknown pixels with a margin, within the image; None if there are none."""
    unknown = trimap == UNKNOWN
    rows, columns = np.flatnonzero(unknown.any(axis=1)), np.flatnonzero(unknown.any(axis=0))
    if not len(rows):
        return None
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    bottom = min(trimap.shape[0], int(rows[-1]) + 1 + margin)
    right = min(trimap.shape[1], int(columns[-1]) + 1 + margin)
    return Window(top, left, bottom - top, right - left)


def grown(window: Window, image: tuple[int, int], size: tuple[int, int]) -> Window:
    """The window made at least as large as `size` where the image allows it: real pixels are worth more than padding.

    Args:
        image, size: (height, width).
    """
    y, height = _grown(window.y, window.height, image[0], size[0])
    x, width = _grown(window.x, window.width, image[1], size[1])
    return Window(y, x, height, width)


def _grown(start: int, length: int, limit: int, wanted: int) -> tuple[int, int]:
    if length >= wanted:
        return start, length
    wanted = min(wanted, limit)
    return min(max(0, start - (wanted - length) // 2), limit - wanted), wanted


def plan_tiles(trimap: np.ndarray, size: tuple[int, int], *, overlap: int = 64, margin: int = 64) -> list[Window]:
    """Windows of at most `size` that together hold every unknown pixel of the trimap; none if there is none.

    One window if the image fits, or else if the unknown region does with its margin, or at least half the overlap,
    around it; otherwise a grid over that region, evenly spread, without the tiles that hold nothing unknown.

    Args:
        trimap: (H, W) uint8.
        size: (height, width) of a tile.
        overlap: pixels that neighbours share at least.
        margin: pixels around the unknown region.

    Raises:
        InputError: the overlap is not smaller than the tile.
    """
    image = (trimap.shape[0], trimap.shape[1])
    if not 0 <= overlap < min(size):
        raise InputError(f"expected a tile overlap of 0 to {min(size) - 1} pixels, found {overlap}")
    wide = unknown_window(trimap, margin)
    # Half the overlap is the least that a tile knows around an unknown pixel anyway; giving up the rest of the margin
    # is better than another tile.
    tight = unknown_window(trimap, min(margin, overlap // 2))
    if wide is None or tight is None:
        return []
    for region in (Window(0, 0, *image), wide, tight):
        if region.height <= size[0] and region.width <= size[1]:
            return [grown(region, image, size)]
    region = grown(wide, image, size)
    tiles = [
        Window(y, x, height, width)
        for y, height in _spread(region.y, region.height, size[0], overlap)
        for x, width in _spread(region.x, region.width, size[1], overlap)
    ]
    return [tile for tile in tiles if (trimap[tile.slices] == UNKNOWN).any()]


def _spread(start: int, length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """(first, length) of the fewest tiles along one axis."""
    if length <= tile:
        return [(start, length)]
    count = -(-(length - overlap) // (tile - overlap))
    return [(start + round(i * (length - tile) / (count - 1)), tile) for i in range(count)]


class Blend:
    """Puts tiles together: a raised cosine over the overlap where a tile ends inside the image, full weight elsewhere.

    Args:
        shape: (height, width) of the image.
        overlap: width of the ramps, pixels.
    """

    def __init__(self, shape: tuple[int, int], overlap: int) -> None:
        self._shape = shape
        self._overlap = overlap
        self._sum = np.zeros(shape, np.float32)
        self._weight = np.zeros(shape, np.float32)

    def add(self, window: Window, values: np.ndarray) -> None:
        """One tile; `values` (h, w) float32 of the window's size."""
        down = self._ramp(window.y, window.height, self._shape[0])
        along = self._ramp(window.x, window.width, self._shape[1])
        weight = down[:, None] * along[None, :]
        self._sum[window.slices] += weight * values
        self._weight[window.slices] += weight

    def _ramp(self, start: int, length: int, limit: int) -> np.ndarray:
        ramp = np.ones(length, np.float32)
        n = min(self._overlap, length // 2)
        if n:
            rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)).astype(np.float32)
            if start > 0:
                ramp[:n] = rise
            if start + length < limit:
                ramp[-n:] = rise[::-1]
        return ramp

    def result(self, elsewhere: np.ndarray) -> np.ndarray:
        """The blended image (H, W) float32; `elsewhere` (H, W) is for pixels that no tile covers."""
        covered = self._weight > 0
        return np.where(covered, self._sum / np.where(covered, self._weight, np.float32(1)), elsewhere)
