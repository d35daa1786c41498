# SPDX-License-Identifier: Apache-2.0
"""Which points of which camera fall into which cell of the grid: the tables that the pooling works by.

After Huang and Huang, "BEVPoolv2", arXiv 2211.17111: all points that lie in the grid, sorted by cell. They depend on
the calibration alone, so a rig that does not change has them built once; one that does (poses from tf, a data set of
several vehicles) has them built in milliseconds, by projecting every point and a counting sort.

A point is numbered by camera, depth bin, row and column; points of a cell stay in that order, so that sums do too. A
cell is numbered y * X + x, or z * Y * X + y * X + x where z is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError
from bev_ros.calibration import Rig
from bev_ros.geometry import Frustum, Lift, lifts
from bev_ros.grid import BevGrid

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int32]
Shape = tuple[int, ...]
MIN_POINTS = 2
"""Points of a table for a compiled graph: sizes 0 and 1 are special to a compiler, so tables are filled up."""


class TableTensors(NamedTuple):
    """Tables as the pooling takes them: int32, with one bag more than cells.

    The bag beyond the last cell is nobody's; it takes what fills the tables up, and its sum is dropped.

    Attributes:
        ranks_feat: (P,) pixel of each point, n * h * w + row * w + column.
        ranks_depth: (P,) the point, n * D * h * w + bin * h * w + row * w + column.
        offsets: (cells + 2,) where each bag's points begin, and where the last one's end.
    """

    ranks_feat: torch.Tensor
    ranks_depth: torch.Tensor
    offsets: torch.Tensor


@dataclass(frozen=True, eq=False)
class PoolingTables:
    """Points by cell.

    Attributes:
        ranks_feat, ranks_depth: (P,) int32, see `TableTensors`.
        offsets: (cells + 1,) int32: the points of cell i are those from offsets[i] to offsets[i + 1].
        shape: (N, D, h, w) of the depth that they index.
        map_shape: (Y, X), or (Z, Y, X): the cells.
        cameras: names of the cameras whose points are in.
    """

    ranks_feat: Ints
    ranks_depth: Ints
    offsets: Ints
    shape: tuple[int, int, int, int]
    map_shape: Shape
    cameras: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """Points in the grid."""
        return len(self.ranks_depth)

    @property
    def cells(self) -> int:
        """Cells of a map."""
        return int(np.prod(self.map_shape))

    @property
    def lengths(self) -> Ints:
        """(cells,): points in each cell."""
        return np.diff(self.offsets)

    @property
    def coverage(self) -> float:
        """The share of cells that have points."""
        return float(np.count_nonzero(self.lengths)) / self.cells

    @property
    def ranks_bev(self) -> Ints:
        """(P,): the cell of each point."""
        return np.repeat(np.arange(self.cells, dtype=np.int32), self.lengths)

    @property
    def interval_starts(self) -> Ints:
        """Where the points of each cell that has some begin, as BEVPoolv2 has it."""
        return self.offsets[:-1][self.lengths > 0]

    @property
    def interval_lengths(self) -> Ints:
        """How many points each cell that has some has."""
        return self.lengths[self.lengths > 0]

    def planes(self) -> npt.NDArray[np.int64]:
        """(D, N * h * w): the cell of each point by depth bin, `cells` outside the grid; for `pooling.PlanePooling`."""
        n, d, h, w = self.shape
        flat = np.full(n * d * h * w, self.cells, np.int64)
        flat[self.ranks_depth] = self.ranks_bev
        return np.ascontiguousarray(flat.reshape(n, d, h * w).transpose(1, 0, 2).reshape(d, n * h * w))

    def tensors(self, device: torch.device | str = "cpu", points: int | None = None) -> TableTensors:
        """For the pooling.

        Args:
            points: fill the tables up to so many, for a graph of fixed sizes; by default to `MIN_POINTS`.

        Raises:
            InputError: there are more points than that.
        """
        import torch

        size = max(self.points, MIN_POINTS) if points is None else points
        if size < self.points:
            raise InputError(f"expected tables of {size} points at most, found {self.points}")
        fill = (0, size - self.points)
        arrays = np.pad(self.ranks_feat, fill), np.pad(self.ranks_depth, fill), np.append(self.offsets, np.int32(size))
        return TableTensors(*(torch.from_numpy(array).to(device) for array in arrays))


def build_tables(
    rig: Rig,
    frustum: Frustum,
    grid: BevGrid,
    *,
    cameras: Sequence[str] | None = None,
    keep_z: bool = False,
    bda: npt.ArrayLike | None = None,
) -> PoolingTables:
    """The tables of a rig.

    Args:
        cameras: names of those whose points count, default all; the others keep their place in the features, so that a
            network for N cameras goes on while one of them is silent.
        keep_z: cells of each height apart, else they are summed up.
        bda: (4, 4) augmentation of the vehicle's frame, for training.

    Raises:
        InputError: an unknown camera, or matrices that fit no camera.
    """
    used = used_cameras(rig, cameras)
    cells = {
        name: camera_cells(lift, frustum, grid, keep_z=keep_z)
        for name, lift in zip(rig.names, lifts(rig, frustum, bda))
        if name in used
    }
    return merge_cells([cells.get(name) for name in rig.names], frustum, grid, keep_z=keep_z, cameras=used)


def used_cameras(rig: Rig, cameras: Sequence[str] | None) -> tuple[str, ...]:
    """These cameras, or all, in the rig's order.

    Raises:
        InputError: a name that the rig does not have.
    """
    if cameras is None:
        return rig.names
    for name in cameras:
        rig.camera(name)
    return tuple(name for name in rig.names if name in cameras)


def camera_cells(lift: Lift, frustum: Frustum, grid: BevGrid, *, keep_z: bool = False) -> Ints:
    """(D * h * w,): the cell of each point of one camera, -1 outside the grid. Computed in float64."""
    v, u = np.meshgrid(frustum.rows, frustum.columns, indexing="ij")
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], -1) @ lift.turn.T
    # In cells rather than metres.
    scaled = np.ascontiguousarray(rays.T / grid.step[:, None])
    origin = (lift.origin - grid.low) / grid.step
    out = np.empty(frustum.bins * u.size, np.int32)
    _project(scaled, origin, frustum.depths, grid.counts, grid.rule == "trunc", keep_z, out)
    return out


def merge_cells(
    cells: Sequence[Ints | None],
    frustum: Frustum,
    grid: BevGrid,
    *,
    keep_z: bool = False,
    cameras: tuple[str, ...] = (),
) -> PoolingTables:
    """The tables of cameras whose `camera_cells` are given; None for a camera whose points are left out."""
    height, width = frustum.size
    shape = (len(cells), frustum.bins, height, width)
    table = np.full((len(cells), frustum.bins * height * width), -1, np.int32)
    for row, one in zip(table, cells):
        if one is not None:
            row[:] = one
    return sort_points(table, shape, (grid.nz, *grid.shape) if keep_z else grid.shape, cameras)


def sort_points(
    cells: Ints, shape: tuple[int, int, int, int], map_shape: Shape, cameras: tuple[str, ...] = ()
) -> PoolingTables:
    """Tables from the cell of every point, -1 for those outside.

    Args:
        cells: int32 of N * D * h * w numbers in that order.
        shape: (N, D, h, w). map_shape: (Y, X) or (Z, Y, X).

    Raises:
        InputError: another count of numbers, or cells that the map does not have.
    """
    count = int(np.prod(shape))
    if cells.size != count or count >= 1 << 31:
        raise InputError(f"expected the cells of {shape} points, at most 2^31, found {cells.size}")
    bags = int(np.prod(map_shape))
    flat = np.ascontiguousarray(cells, np.int32).reshape(shape[0], -1)
    offsets = np.zeros(bags + 1, np.int32)
    kept = _count(flat, offsets)
    if kept < 0:
        raise InputError(f"expected cells from 0 to {bags - 1}, found {int(flat.max())}")
    ranks_feat, ranks_depth = np.empty(kept, np.int32), np.empty(kept, np.int32)
    _fill(flat, offsets[:-1].copy(), shape[2] * shape[3], ranks_feat, ranks_depth)
    return PoolingTables(ranks_feat, ranks_depth, offsets, shape, tuple(map_shape), cameras)


def join_tables(tables: Sequence[PoolingTables]) -> PoolingTables:
    """One table for a batch whose elements differ in calibration: of (B * N) cameras and of B maps below each other.

    Its map has shape (B, Y, X) or (B, Z, Y, X); see `pooling.pool`.

    Raises:
        InputError: no tables, or such as differ in size.
    """
    if not tables or any(t.shape != tables[0].shape or t.map_shape != tables[0].map_shape for t in tables):
        raise InputError(f"expected tables of one size, found {[(t.shape, t.map_shape) for t in tables]}")
    n, d, h, w = tables[0].shape
    starts = np.cumsum([0] + [t.points for t in tables])
    if len(tables) * n * d * h * w >= 1 << 31:
        raise InputError(f"expected less than 2^31 points in a batch, found {len(tables)} x {tables[0].shape}")
    return PoolingTables(
        np.concatenate([t.ranks_feat + np.int32(i * n * h * w) for i, t in enumerate(tables)]),
        np.concatenate([t.ranks_depth + np.int32(i * n * d * h * w) for i, t in enumerate(tables)]),
        np.concatenate([t.offsets[:-1] + np.int32(s) for t, s in zip(tables, starts)] + [starts[-1:]]).astype(np.int32),
        (len(tables) * n, d, h, w),
        (len(tables), *tables[0].map_shape),
        tables[0].cameras,
    )


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _project(rays, origin, depths, counts, trunc, keep_z, out):  # type: ignore[no-untyped-def]
    """Cells of depth * ray + origin, all in cells."""
    lowest = -1.0 if trunc else 0.0
    nx, ny, nz = counts[0], counts[1], counts[2]
    pixels = rays.shape[1]
    for i in range(len(depths)):
        d = depths[i]
        for p in range(pixels):
            x = rays[0, p] * d + origin[0]
            y = rays[1, p] * d + origin[1]
            z = rays[2, p] * d + origin[2]
            inside = x < nx and y < ny and z < nz
            # Truncation takes what lies strictly above -1; floor takes 0 itself.
            if trunc:
                inside = inside and x > lowest and y > lowest and z > lowest
            else:
                inside = inside and x >= lowest and y >= lowest and z >= lowest
            cell = -1
            if inside:
                cell = int(y) * nx + int(x)
                if keep_z:
                    cell += int(z) * ny * nx
            out[i * pixels + p] = cell


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _count(cells, offsets):  # type: ignore[no-untyped-def]
    """Turns zeros into where each bag begins; returns the points in all, or -1 for a cell beyond the last."""
    bags = len(offsets) - 1
    for n in range(cells.shape[0]):
        for i in range(cells.shape[1]):
            cell = cells[n, i]
            if cell >= bags:
                return -1
            if cell >= 0:
                offsets[cell + 1] += 1
    for bag in range(bags):
        offsets[bag + 1] += offsets[bag]
    return offsets[bags]


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _fill(cells, places, pixels, ranks_feat, ranks_depth):  # type: ignore[no-untyped-def]
    """Puts each point at its bag's next place."""
    per_camera = cells.shape[1]
    for n in range(cells.shape[0]):
        base = n * pixels
        pixel = 0
        for i in range(per_camera):
            cell = cells[n, i]
            if cell >= 0:
                place = places[cell]
                places[cell] = place + 1
                ranks_feat[place] = base + pixel
                ranks_depth[place] = n * per_camera + i
            pixel += 1
            if pixel == pixels:
                pixel = 0
