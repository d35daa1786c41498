# SPDX-License-Identifier: Apache-2.0
"""A map as people look at it: which cells cameras reach, and the features' principal components as colours."""

from __future__ import annotations

import numpy as np

from aot_runtime.pca import PcaBasis
from bev_ros.calibration import Rig
from bev_ros.config import BevConfig
from bev_ros.geometry import lifts
from bev_ros.tables import camera_cells

UNSEEN = 40
"""Grey of cells that no camera reaches."""


class Coverage:
    """How many cameras of a rig have points in a cell. That of the last rig is kept.

    Args:
        config: whose frustum and grid count.
    """

    def __init__(self, config: BevConfig) -> None:
        self._config = config
        self._last: tuple[str, np.ndarray] | None = None

    def of(self, rig: Rig) -> np.ndarray:
        """(Y, X) uint8, read-only, of ideal cameras."""
        if self._last is None or self._last[0] != rig.hash:
            frustum, grid = self._config.frustum, self._config.grid
            counts = np.zeros(grid.ny * grid.nx, np.uint8)
            for lift in lifts(rig, frustum):
                cells = camera_cells(lift, frustum, grid)
                counts[np.unique(cells[cells >= 0])] += 1
            counts.setflags(write=False)
            self._last = (rig.hash, counts.reshape(grid.shape))
        return self._last[1]


class Painter:
    """Colours of maps; those of one map after the other belong together."""

    def __init__(self) -> None:
        self._basis: PcaBasis | None = None

    def paint(self, features: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """The first three principal components over the cells that are seen, the others grey.

        Args:
            features: (C, Y, X).
            seen: (Y, X) bool.

        Returns:
            uint8 BGR (X, Y, 3): forward is up, the vehicle's left is on the left.
        """
        picture = np.full((*seen.shape, 3), UNSEEN, np.uint8)
        if seen.any():
            field = features[:, seen][:, None]
            self._basis = PcaBasis.fit(field, self._basis)
            picture[seen] = self._basis.paint(field)[0]
        return np.ascontiguousarray(upright(picture))


def upright(plane: np.ndarray) -> np.ndarray:
    """(Y, X, ...) of a map -> (X, Y, ...) with forward up and left on the left, a view."""
    return plane[::-1, ::-1].swapaxes(0, 1)
