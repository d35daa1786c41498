# SPDX-License-Identifier: Apache-2.0
"""Maps and the world: what a map says at a point, and a map seen from another pose of the vehicle.

A value of a map belongs to its cell's centre: column i is at x = low + (i + 1/2) * step. Between centres values are
interpolated bilinearly; in the outer half of a border cell they are the cell's own. Outside the grid they are 0 and
`inside` is False. Everything is differentiable in the features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional

from aot_runtime.errors import InputError
from bev_ros.grid import BevGrid


class Sampled(NamedTuple):
    """What maps say at points.

    Attributes:
        values: (..., N, C), of the features' dtype; 0 outside.
        inside: (..., N) bool: the point is on the grid.
    """

    values: torch.Tensor
    inside: torch.Tensor


class Warped(NamedTuple):
    """A map seen from another pose.

    Attributes:
        features: (..., C, Y, X), of the features' dtype; 0 where nothing was seen.
        inside: (..., Y, X) bool: the cell's centre was on the grid.
    """

    features: torch.Tensor
    inside: torch.Tensor


def cells_of(grid: BevGrid, points: Any) -> torch.Tensor:
    """(..., 2 or 3) points of the vehicle's frame in metres -> (..., 2) continuous (column, row), whole at centres."""
    xy = _double(points)[..., :2]
    return (xy - xy.new_tensor(grid.low[:2])) / xy.new_tensor(grid.step[:2]) - 0.5


def world_to_ego(points: Any, ego_pose: Any) -> torch.Tensor:
    """Points of the world in the vehicle's frame, in metres, float64: the world may be far away.

    Args:
        points: (..., N, 3), or (..., N, 2) for z = 0.
        ego_pose: (..., 4, 4) world <- vehicle.

    Raises:
        InputError: a pose that is not finite: the sample has none.
    """
    points, pose = _double(points), _double(ego_pose)
    if not bool(torch.isfinite(pose).all()):
        raise InputError(
            "expected the vehicle's pose, found none", "features of this source can only be used in the vehicle's frame"
        )
    if points.shape[-1] == 2:
        points = functional.pad(points, (0, 1))
    moved = points - pose[..., None, :3, 3]
    return moved @ pose[..., :3, :3]


def sample_at(features: torch.Tensor, grid: BevGrid, points: Any) -> Sampled:
    """What maps say at points of the vehicle's frame.

    Args:
        features: (C, Y, X), or (B, C, Y, X).
        grid: of the maps.
        points: (N, 2 or 3), or (B, N, 2 or 3), metres; z is ignored.

    Raises:
        InputError: shapes that do not fit.
    """
    single = features.dim() == 3
    maps = features[None] if single else features
    places = cells_of(grid, points)
    places = places[None] if single else places
    if maps.dim() != 4 or tuple(maps.shape[-2:]) != grid.shape or places.dim() != 3 or len(places) != len(maps):
        raise InputError(
            f"expected maps ([B,] C, {grid.ny}, {grid.nx}) and points ([B,] N, 2), found {tuple(features.shape)} and "
            f"{tuple(places[0].shape if single else places.shape)}"
        )
    size = places.new_tensor([grid.nx, grid.ny])
    inside = ((places >= -0.5) & (places <= size - 0.5)).all(-1)
    # align_corners=False: -1 is the outer edge of the first cell, 1 that of the last one.
    normal = torch.nan_to_num((places + 0.5) / size * 2 - 1).to(maps.device, maps.dtype)
    values = functional.grid_sample(
        maps, normal[:, :, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    values = values[..., 0].transpose(1, 2)
    inside = inside.to(maps.device)
    values = torch.where(inside[..., None], values, values.new_zeros(()))
    return Sampled(values[0], inside[0]) if single else Sampled(values, inside)


def sample_world(features: torch.Tensor, grid: BevGrid, ego_pose: Any, points: Any) -> Sampled:
    """What maps say at points of the world; see `world_to_ego` and `sample_at` for the shapes."""
    return sample_at(features, grid, world_to_ego(points, ego_pose))


def warp_map(
    features: torch.Tensor, grid: BevGrid, from_pose: Any, to_pose: Any, to_grid: BevGrid | None = None
) -> Warped:
    """Maps as they would lie on the grid of the vehicle at another pose; the ground is the plane z = 0 there.

    Args:
        features: (C, Y, X) or (B, C, Y, X), made at `from_pose`.
        grid: of the maps.
        from_pose, to_pose: (4, 4) or (B, 4, 4), world <- vehicle.
        to_grid: of the result; None: the same.
    """
    wanted = to_grid or grid
    x, y, _ = wanted.centres()
    centres = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 0.0, 1.0), axis=-1).reshape(-1, 4)
    world = _double(centres) @ _double(to_pose).transpose(-1, -2)
    batched = world[..., :3] if features.dim() == 3 else world[..., :3].expand(len(features), -1, 3)
    values, inside = sample_world(features, grid, from_pose, batched)
    shape = (*inside.shape[:-1], *wanted.shape)
    return Warped(values.transpose(-1, -2).reshape(*inside.shape[:-1], -1, *wanted.shape), inside.reshape(shape))


def _double(values: Any) -> torch.Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.float64)
