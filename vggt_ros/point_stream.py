# SPDX-License-Identifier: Apache-2.0
"""The points of a map as they go out: all of them, or only those in places that held none before. No ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vggt_ros.fusion.surface import SurfacePoints

FIELDS = ("x", "y", "z", "rgb", "confidence")
_BITS = 21
_HALF = 1 << (_BITS - 1)


@dataclass
class PointStream:
    """Chooses points of a map that changes.

    Attributes:
        cell: edge of the cubes that tell what is new, in the map's unit.
        min_confidence: of the points.
        max_points: most of them in one go, evenly chosen; 0: no limit. What is left out is not taken for sent.
        left_out: points of the last call that `max_points` cost.
    """

    cell: float
    min_confidence: float = 0.0
    max_points: int = 0
    left_out: int = 0

    def __post_init__(self) -> None:
        self._sent = np.zeros(0, np.int64)

    def whole(self, surface: SurfacePoints) -> np.ndarray:
        """(N, 5) float32 of `FIELDS`; rgb has the bits 0x00RRGGBB."""
        points = self._taken(surface)
        self._sent = np.unique(self._cells(points))
        return points

    def new(self, surface: SurfacePoints) -> np.ndarray:
        """As `whole`, without the points in cells where the last call of either had one too."""
        points = self._sure(surface)
        cells = self._cells(points)
        fresh = ~np.isin(cells, self._sent)
        taken = self._limited(points[fresh])
        # A cell that has emptied since counts as new when it is filled again.
        self._sent = np.union1d(np.intersect1d(self._sent, cells), self._cells(taken))
        return taken

    def _taken(self, surface: SurfacePoints) -> np.ndarray:
        return self._limited(self._sure(surface))

    def _sure(self, surface: SurfacePoints) -> np.ndarray:
        sure = surface.weights >= self.min_confidence
        points = np.empty((int(sure.sum()), len(FIELDS)), np.float32)
        points[:, :3] = surface.positions[sure].cpu().numpy()
        red, green, blue = surface.colours[sure].round().clamp(0, 255).cpu().numpy().astype(np.uint32).T
        points[:, 3] = ((red << 16) | (green << 8) | blue).view(np.float32)
        points[:, 4] = surface.weights[sure].cpu().numpy()
        return points

    def _limited(self, points: np.ndarray) -> np.ndarray:
        count = len(points)
        self.left_out = max(0, count - self.max_points) if self.max_points else 0
        if not self.left_out:
            return points
        return points[np.linspace(0, count - 1, self.max_points).round().astype(np.int64)]

    def _cells(self, points: np.ndarray) -> np.ndarray:
        """One number for each cube; those further than 2^20 cubes from the origin share the outermost."""
        x, y, z = np.clip(np.floor(points[:, :3] / self.cell), -_HALF, _HALF - 1).astype(np.int64).T + _HALF
        return np.asarray((x << 2 * _BITS) | (y << _BITS) | z)
