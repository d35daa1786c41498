# SPDX-License-Identifier: Apache-2.0
"""The grid around the vehicle that features are summed on.

Axes are those of the vehicle's frame (REP-103): x forward, y left, z up, in metres. A map is an array (C, Y, X): its
rows are cells of y and its columns cells of x, both growing with the coordinate. So row 0 is the strip furthest to the
right of the vehicle and column 0 the one furthest behind it. Drawn as it is, forward is to the right and left is down;
`plane[::-1, ::-1].T` of one channel's plane has forward up and left on the left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError

Bounds = tuple[float, float, float]
"""(low, high, step) of an axis, in metres."""
RULES = ("trunc", "floor")
# How far from a whole number of steps bounds may be: 0.8 is no binary fraction.
_WHOLE = 1e-6


@dataclass(frozen=True)
class BevGrid:
    """A box of cells.

    Attributes:
        x, y, z: bounds (low, high, step) of the axes, in metres.
        rule: how a coordinate becomes a number of a cell: "floor" is the geometrically right one; "trunc" rounds
            towards zero, as LSS, BEVDet and BEVDepth do and their checkpoints expect, so that the strip of one cell
            below the low bound also counts as cell 0.

    Raises:
        InputError: bounds that are not finite, empty, or no multiple of the step; an unknown rule.
    """

    x: Bounds
    y: Bounds
    z: Bounds
    rule: str = "trunc"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"expected an index rule {' or '.join(RULES)}, found {self.rule!r}")
        for name in "xyz":
            # Lists, as they come from files, become tuples that can be hashed.
            object.__setattr__(self, name, checked_bounds(getattr(self, name), f"the grid's {name}"))

    @property
    def nx(self) -> int:
        """Cells along x, the columns of a map."""
        return steps(self.x)

    @property
    def ny(self) -> int:
        """Cells along y, the rows of a map."""
        return steps(self.y)

    @property
    def nz(self) -> int:
        """Cells along z; a map sums over them, or keeps them in front of its rows."""
        return steps(self.z)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of a map: (ny, nx)."""
        return self.ny, self.nx

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """(3,): the lower bounds of x, y, z."""
        return np.array([self.x[0], self.y[0], self.z[0]])

    @property
    def step(self) -> npt.NDArray[np.float64]:
        """(3,): the sizes of a cell along x, y, z."""
        return np.array([self.x[2], self.y[2], self.z[2]])

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(3,): nx, ny, nz."""
        return np.array([self.nx, self.ny, self.nz], np.int64)

    def cell_of(self, points: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(..., 3) points x, y, z in metres -> (..., 3) indices along x, y, z by the rule; -1 where a point is outside.

        All three are -1 as soon as one coordinate lies outside, or is not finite. Computed in float64.
        """
        given = np.asarray(points, np.float64)
        with np.errstate(invalid="ignore"):
            place = (given - self.low) / self.step
            above = place > -1 if self.rule == "trunc" else place >= 0
            inside = (above & (place < self.counts)).all(-1, keepdims=True)
        return np.where(inside, np.where(inside, place, 0.0).astype(np.int64), -1)

    def flat_cell_of(self, points: npt.ArrayLike, *, keep_z: bool = False) -> npt.NDArray[np.int64]:
        """(..., 3) points -> (...) places in a map laid out (Y, X), or (Z, Y, X) with `keep_z`; -1 outside."""
        index = self.cell_of(points)
        x, y, z = index[..., 0], index[..., 1], index[..., 2]
        flat = y * self.nx + x
        if keep_z:
            flat = flat + z * self.ny * self.nx
        return np.where(x < 0, np.int64(-1), flat)

    def centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The coordinates of the cells' centres along x (nx,), y (ny,) and z (nz,), in metres."""
        x, y, z = (np.asarray(b[0] + (np.arange(steps(b)) + 0.5) * b[2], np.float64) for b in (self.x, self.y, self.z))
        return x, y, z

    def position_of(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(..., 2) points x, y in metres -> (..., 2) continuous (column, row), whole numbers at the cells' centres.

        What bilinear sampling needs (torch's grid_sample with align_corners=False, after normalising).
        """
        return (np.asarray(points, np.float64) - self.low[:2]) / self.step[:2] - 0.5

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {"x": list(self.x), "y": list(self.y), "z": list(self.z), "rule": self.rule}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> BevGrid:
        """The grid that `to_json` wrote.

        Raises:
            InputError: something is missing, unknown or malformed.
        """
        names = {"x", "y", "z", "rule"}
        if not isinstance(told, Mapping) or not {"x", "y", "z"} <= set(told) <= names:
            raise InputError(f"expected a grid with x, y, z and rule, found {told!r:.200}")
        return cls(told["x"], told["y"], told["z"], told.get("rule", "trunc"))


def checked_bounds(bounds: Any, what: str) -> Bounds:
    """Bounds as a tuple of floats.

    Raises:
        InputError: not three finite numbers, a step that is not above 0, an empty range, or one that is no multiple of
            the step.
    """
    try:
        low, high, step = (float(value) for value in bounds)
    except (TypeError, ValueError):
        raise InputError(f"expected (low, high, step) for {what}, found {bounds!r:.100}") from None
    if not all(math.isfinite(value) for value in (low, high, step)):
        raise InputError(f"expected finite bounds for {what}, found {(low, high, step)}")
    if step <= 0 or high <= low:
        raise InputError(f"expected low < high and a step above 0 for {what}, found {(low, high, step)}")
    count = (high - low) / step
    if round(count) < 1 or abs(count - round(count)) > _WHOLE * max(1.0, count):
        raise InputError(
            f"expected bounds of {what} that are a multiple of the step, found {(low, high, step)}, {count:.4g} steps",
            f"for example {(low, round(low + max(1, round(count)) * step, 9), step)}",
        )
    return low, high, step


def steps(bounds: Bounds) -> int:
    """How many steps bounds hold."""
    return round((bounds[1] - bounds[0]) / bounds[2])
