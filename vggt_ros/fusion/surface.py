# SPDX-License-Identifier: Apache-2.0
"""The zero surface of a signed distance field: points on the grid's edges, and triangles.

Triangles come from marching tetrahedra: each cell is cut along its diagonal into six tetrahedra (Kuhn 1960), which fit
those of the neighbours without gaps, and a tetrahedron has no ambiguous case. Corners are sorted by the field's sign,
so there is no table of cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from vggt_ros.fusion.blocks import pack

_EDGE_CODES = 8
"""An edge goes from a voxel to one whose coordinates are greater by 0 or 1 along each axis."""


@dataclass(frozen=True)
class Lattice:
    """Cubes of a field's samples, each sharing its last layer with the next one's first.

    Attributes:
        origins: (B, 3) int64 voxel coordinates of each cube's first sample.
        values: (B, n, n, n) float32, positive in front of surfaces; NaN where unobserved.
        weights: (B, n, n, n) float32.
        colours: (B, n, n, n, 3) float32.
        voxel: edge of a voxel; voxel 0's centre lies at half of it.
        steepest: greatest difference between neighbours that may have a surface in between.
    """

    origins: Tensor
    values: Tensor
    weights: Tensor
    colours: Tensor
    voxel: float
    steepest: float


@dataclass(frozen=True)
class SurfacePoints:
    """Oriented points: positions and normals (N, 3) float32 in the world, colours (N, 3) 0..255, weights (N,)."""

    positions: Tensor
    normals: Tensor
    colours: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Mesh:
    """Vertices (V, 3) float32 in the world, their colours 0..255, triangles (T, 3) int64 counter-clockwise in front."""

    vertices: Tensor
    colours: Tensor
    triangles: Tensor


def crossings(lattice: Lattice) -> SurfacePoints:
    """Where the field changes sign between neighbours along x, y and z; linear in between.

    A sample of exactly +-1 was cut off, so its true distance is unknown and its edge gives no point.
    """
    parts = []
    last = lattice.values.shape[1] - 1
    for axis in range(3):
        first = [slice(None), slice(0, last), slice(0, last), slice(0, last)]
        second = list(first)
        second[axis + 1] = slice(1, last + 1)
        a, b = lattice.values[tuple(first)], lattice.values[tuple(second)]
        known = (a.abs() < 1) & (b.abs() < 1) & ((a - b).abs() <= lattice.steepest)
        where = torch.nonzero(known & ((a < 0) != (b < 0)))
        cube, cell = where[:, 0], where[:, 1:]
        step = torch.zeros(3, dtype=torch.int64, device=cell.device)
        step[axis] = 1
        parts.append(_edge_points(lattice, cube, cell, cell + step))
    columns = zip(*((part.positions, part.normals, part.colours, part.weights) for part in parts))
    return SurfacePoints(*(torch.cat(column) for column in columns))


def _at(array: Tensor, cube: Tensor, cell: Tensor) -> Tensor:
    return array[cube, cell[:, 0], cell[:, 1], cell[:, 2]]


def _edge_points(lattice: Lattice, cube: Tensor, first: Tensor, second: Tensor) -> SurfacePoints:
    a, b = _at(lattice.values, cube, first), _at(lattice.values, cube, second)
    share = (a / (a - b))[:, None]
    start = (lattice.origins[cube] + first).to(torch.float32) + 0.5
    positions = (start + share * (second - first)) * lattice.voxel
    normals = torch.lerp(_gradient(lattice, cube, first), _gradient(lattice, cube, second), share)
    length = normals.norm(dim=-1, keepdim=True)
    weights = torch.minimum(_at(lattice.weights, cube, first), _at(lattice.weights, cube, second))
    colours = torch.lerp(_at(lattice.colours, cube, first), _at(lattice.colours, cube, second), share)
    # Where the neighbours that a gradient needs are missing, the edge itself tells the side.
    side = (second - first) * torch.sign(b - a)[:, None]
    known = torch.isfinite(length) & (length > 1e-6)
    normals = torch.where(known, normals / torch.where(known, length, 1.0), side.to(torch.float32))
    return SurfacePoints(positions, normals, colours, weights)


def _gradient(lattice: Lattice, cube: Tensor, cell: Tensor) -> Tensor:
    """Central differences, one-sided at a cube's faces; NaN where a sample is unobserved."""
    last = lattice.values.shape[1] - 1
    parts = []
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.int64, device=cell.device)
        step[axis] = 1
        up, down = (cell + step).clamp(max=last), (cell - step).clamp(min=0)
        apart = (up - down).sum(-1)
        parts.append((_at(lattice.values, cube, up) - _at(lattice.values, cube, down)) / apart)
    return torch.stack(parts, -1)


def tetrahedra(lattice: Lattice) -> Mesh:
    """Triangles where the field is zero, in cells whose eight corners were observed and not cut off."""
    last = lattice.values.shape[1] - 1
    values = lattice.values
    corners = [values[:, x : last + x, y : last + y, z : last + z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    stacked = torch.stack(corners, -1)
    usable = (stacked.abs() < 1).all(-1) & (stacked.amax(-1) - stacked.amin(-1) <= 3**0.5 * lattice.steepest)
    where = torch.nonzero(usable & (stacked < 0).any(-1) & (stacked >= 0).any(-1))
    cube, cell = where[:, 0], where[:, 1:]
    edges = []
    for order in permutations(range(3)):
        steps = torch.zeros(4, 3, dtype=torch.int64, device=cell.device)
        for corner, axis in enumerate(order):
            steps[corner + 1 :, axis] = 1
        edges.append(_tetrahedron(lattice, cube, cell, steps))
    sides = torch.cat(edges)
    return _joined(lattice, sides)


def _tetrahedron(lattice: Lattice, cube: Tensor, cell: Tensor, steps: Tensor) -> Tensor:
    """(T, 3, 3) int64: for each triangle three edges as (cube, corner behind, corner in front), flattened."""
    side = lattice.values.shape[1]
    places = cell[:, None] + steps
    flat = (places[..., 0] * side + places[..., 1]) * side + places[..., 2]
    values = lattice.values.flatten(1)[cube[:, None], flat]
    # Corners behind the surface first; a stable sort keeps the order of the steps among equals.
    order = torch.argsort((values >= 0).to(torch.int8), dim=1, stable=True)
    flat = torch.gather(flat, 1, order)
    behind = (values < 0).sum(1)
    one = [(0, 1), (0, 2), (0, 3)]
    three = [(0, 3), (1, 3), (2, 3)]
    found = []
    for count, triangles in ((1, [one]), (3, [three]), (2, [[(0, 2), (0, 3), (1, 3)], [(0, 2), (1, 3), (1, 2)]])):
        some = torch.nonzero(behind == count)[:, 0]
        for triangle in triangles:
            found.append(
                torch.stack([torch.stack([cube[some], flat[some, a], flat[some, b]], -1) for a, b in triangle], 1)
            )
    return torch.cat(found)


def _joined(lattice: Lattice, sides: Tensor) -> Mesh:
    """One vertex for each edge of the grid, whichever tetrahedra share it, and triangles that face the free side."""
    side = lattice.values.shape[1]
    cube, ends = sides[..., 0].reshape(-1), sides[..., 1:].reshape(-1, 2)
    cells = torch.stack([ends // (side * side), ends // side % side, ends % side], -1)
    # An edge from behind to in front goes along the field's gradient in its tetrahedron, so three of them do.
    outward = (cells[:, 1] - cells[:, 0]).view(-1, 3, 3).sum(1)
    ends, order = torch.sort(ends, 1)
    cells = torch.gather(cells, 1, order[..., None].expand(-1, -1, 3))
    code = ((cells[:, 1] - cells[:, 0]) * torch.tensor([4, 2, 1], device=cells.device)).sum(-1)
    keys = pack(lattice.origins[cube] + cells[:, 0]) * _EDGE_CODES + code
    unique, inverse = torch.unique(keys, return_inverse=True)
    # Any of the edges with a key serves, since shared samples are equal; the first, to be the same in every run.
    number = torch.arange(len(keys), device=keys.device)
    chosen = torch.full((len(unique),), len(keys), dtype=torch.int64, device=keys.device)
    chosen.scatter_reduce_(0, inverse, number, "amin")
    points = _edge_points(lattice, cube[chosen], cells[chosen, 0], cells[chosen, 1])
    triangles = inverse.view(-1, 3)
    a, b, c = (points.positions[triangles[:, i]] for i in range(3))
    facing = torch.linalg.cross(b - a, c - a)
    turned = (facing * outward).sum(-1) < 0
    triangles = torch.where(turned[:, None], triangles.flip(1), triangles)
    distinct = (triangles != triangles.roll(1, 1)).all(1)
    return Mesh(points.positions, points.colours, triangles[distinct])
