# SPDX-License-Identifier: Apache-2.0
"""What a camera sees of points or discs: a z-buffer, exact and deterministic.

Depth and index are packed into one integer and reduced by minimum, so that the nearest point wins, and of equally near
ones the first, whatever the order in which threads write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vggt_ros.fusion.cameras import PosedCamera

_NOTHING = torch.iinfo(torch.int64).max
_NEAREST = 1e-3


@dataclass(frozen=True)
class Rendered:
    """A picture of points.

    Attributes:
        depth: (H, W) float32, z; NaN where there is nothing.
        index: (H, W) int64 of the point seen; -1 where there is nothing.
    """

    depth: Tensor
    index: Tensor

    @property
    def coverage(self) -> float:
        """Share of the pixels that show something."""
        return float((self.index >= 0).float().mean())


def render(
    camera: PosedCamera,
    points: Tensor,
    normals: Tensor | None = None,
    radius: Tensor | None = None,
    *,
    max_pixels: int = 4,
) -> Rendered:
    """The nearest point at each pixel.

    Args:
        points: (N, 3) float32 in the world. Those that are not finite, or not in front, are left out.
        normals: (N, 3) float32; points that face away are left out.
        radius: (N,) float32 of discs perpendicular to the normals, whose own depth at each pixel is used; without
            (and without `normals`), a point covers the pixel that it falls into.
        max_pixels: a disc reaches at most so far from its centre's pixel, along each axis.
    """
    own = camera.to_camera(points)
    ahead = torch.isfinite(own).all(-1) & (own[:, 2] > _NEAREST)
    turned = None
    if normals is not None:
        turned = torch.stack([(normals * normals.new_tensor(axis)).sum(-1) for axis in camera.rotation.T], -1)
        ahead &= (turned * own).sum(-1) < 0
    index = torch.nonzero(ahead)[:, 0]
    own = own[index]
    place = camera.pixels(own)
    # A point close to the camera's plane may fall outside the range of integers.
    near = (place > -1e6).all(-1) & (place < 1e6).all(-1)
    index, own, place = index[near], own[near], place[near]
    centre = torch.round(place).to(torch.int64)
    buffer = torch.full((camera.height * camera.width,), _NOTHING, dtype=torch.int64, device=points.device)
    if turned is None or radius is None:
        _splat(buffer, camera, centre, own[:, 2], index)
    else:
        _splat_discs(buffer, camera, centre, own, turned[index], radius[index], index, max_pixels)
    hit = buffer != _NOTHING
    depth = (buffer >> 32).to(torch.int32).view(torch.float32)
    shape = (camera.height, camera.width)
    return Rendered(
        torch.where(hit, depth, torch.nan).view(shape), torch.where(hit, buffer & 0xFFFFFFFF, -1).view(shape)
    )


def _splat(buffer: Tensor, camera: PosedCamera, pixel: Tensor, z: Tensor, index: Tensor) -> None:
    """Write points into the buffer. The bits of positive floats are ordered as the floats are."""
    u, v = pixel.unbind(-1)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    bits = z[inside].contiguous().view(torch.int32).to(torch.int64)
    buffer.scatter_reduce_(0, (v * camera.width + u)[inside], (bits << 32) | index[inside], "amin")


def _splat_discs(
    buffer: Tensor,
    camera: PosedCamera,
    centre: Tensor,
    own: Tensor,
    normals: Tensor,
    radius: Tensor,
    index: Tensor,
    max_pixels: int,
) -> None:
    reach = radius * float(max(camera.matrix[0, 0], camera.matrix[1, 1])) / own[:, 2]
    flat_rays = camera.rays(own.device).view(-1, 3)
    plane = (normals * own).sum(-1)
    furthest = min(max_pixels, int(torch.ceil(reach.max()).item())) if len(reach) else 0
    for dv in range(-furthest, furthest + 1):
        for du in range(-furthest, furthest + 1):
            # Half a pixel more: the centre lies up to so far from its pixel's middle.
            some = torch.nonzero(reach + 0.5 >= max(abs(du), abs(dv)))[:, 0]
            pixel = centre[some] + torch.tensor([du, dv], device=own.device)
            u, v = pixel.unbind(-1)
            inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
            some, pixel = some[inside], pixel[inside]
            ray = flat_rays[pixel[:, 1] * camera.width + pixel[:, 0]]
            slant = (normals[some] * ray).sum(-1)
            z = plane[some] / torch.where(slant < 0, slant, -1.0)
            away = (ray * z[:, None] - own[some]).norm(dim=-1)
            # The centre's own pixel always shows the disc, however small it is.
            hit = (slant < 0) & (z > _NEAREST) & ((away <= radius[some]) | ((du == 0) & (dv == 0) & (away < 0.1 * z)))
            _splat(buffer, camera, pixel[hit], z[hit], index[some][hit])
