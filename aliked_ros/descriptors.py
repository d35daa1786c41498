# SPDX-License-Identifier: Apache-2.0
"""Sparse deformable descriptors (SDDH, arXiv 2304.03608 section III-C): a point looks at M places of its choice.

Features are asked for at integer pixels only, so that a map of D channels at full resolution need not exist:
`Pyramid` assembles them from the four branches where they are wanted, `DenseMap` reads them from a map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.deform_conv import bilinear_rows, gather_rows

NORM_FLOOR = 1e-12


class Features(ABC):
    """What the descriptor head reads.

    Attributes:
        height, width: pixels of the image.
    """

    height: int
    width: int

    @abstractmethod
    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        """Unit features (..., D) float32 at integer pixels y, x (...) inside the image, given as float32."""

    def around(self, centres: Tensor) -> Tensor:
        """Features (K, 3, 3, D) of the pixels around centres (K, 2), x and y; zero outside the image."""
        return patches(centres, self)

    def between(self, places: Tensor) -> Tensor:
        """Features (..., D) at places (..., 2) between pixels; pixels outside the image count as zero."""
        return _sample(places, self)


class DenseMap(Features):
    """Features read from a map (D, H, W)."""

    def __init__(self, features: Tensor) -> None:
        self.height, self.width = features.shape[1:]
        self._rows = features.flatten(1).t()

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        return gather_rows(self._rows, y.to(torch.int32) * self.width + x.to(torch.int32)).float()


class Pyramid(Features):
    """Features assembled from the branches, as upsampling, concatenating and normalising whole maps would give them.

    Args:
        branches: (1, D/4, h_i, w_i), the first one at padded full resolution.
        size: (H, W) of the image. origin: (top, left) of the image in the padded one.
    """

    def __init__(self, branches: Sequence[Tensor], size: tuple[int, int], origin: tuple[int, int]) -> None:
        self.height, self.width = size
        self._origin = origin
        self._sizes = [(branch.shape[2], branch.shape[3]) for branch in branches]
        # Channels last, so that a pixel is one row of memory.
        self._rows = [branch[0].permute(1, 2, 0).reshape(-1, branch.shape[1]) for branch in branches]

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        padded_y, padded_x = y + self._origin[0], x + self._origin[1]
        index = padded_y.to(torch.int32) * self._sizes[0][1] + padded_x.to(torch.int32)
        parts = [gather_rows(self._rows[0], index).float()]
        parts += [self._interpolate(level, padded_y, padded_x) for level in range(1, len(self._rows))]
        return F.normalize(torch.cat(parts, dim=-1), dim=-1, eps=NORM_FLOOR)

    def _interpolate(self, level: int, y: Tensor, x: Tensor) -> Tensor:
        """Branch `level` at pixels of the padded image, bilinear, corners on corners."""
        (high, wide), (height, width) = self._sizes[level], self._sizes[0]
        y, x = y * ((high - 1) / (height - 1)), x * ((wide - 1) / (width - 1))
        top, left = y.floor().clamp(max=max(high - 2, 0)), x.floor().clamp(max=max(wide - 2, 0))
        index = top.to(torch.int32) * wide + left.to(torch.int32)
        # A map of one row or column has no neighbours there, and their weight is zero.
        step = (wide if high > 1 else 0, 1 if wide > 1 else 0)
        return bilinear_rows(self._rows[level], index, step, y - top, x - left)


class DescriptorHead(nn.Module):
    """Descriptors of points; parameter names equal the official checkpoint's."""

    def __init__(self, dim: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.agg_weights = nn.Parameter(torch.zeros(samples, dim, dim))
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * samples, 3), nn.SELU(), nn.Conv2d(2 * samples, 2 * samples, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)

    def offsets(self, points: Tensor, features: Features) -> Tensor:
        """Where each point looks, relative to itself: (K, M, 2) float32, x and y in pixels, of points (K, 2)."""
        first, last = self.offset_conv[0], self.offset_conv[2]
        patch = features.around(points.floor()).to(first.weight.dtype).flatten(1)  # type: ignore[arg-type]
        # A 3x3 convolution of a 3x3 patch is one product.
        kernel = first.weight.permute(0, 2, 3, 1).flatten(1)  # type: ignore[operator]
        hidden = F.selu(F.linear(patch, kernel, first.bias))  # type: ignore[arg-type]
        moves = F.linear(hidden, last.weight.flatten(1), last.bias).float()  # type: ignore[arg-type, operator]
        limit = max(features.height, features.width) / 4
        return moves.clamp(-limit, limit).view(-1, 2, self.samples).transpose(1, 2)

    def forward(self, points: Tensor, features: Features) -> Tensor:
        """Unit descriptors (K, D) float32 of points (K, 2) float32, x and y in pixels of the image."""
        places = points[:, None] + self.offsets(points, features)
        samples = features.between(places).to(self.sf_conv.weight.dtype)
        values = F.selu(F.linear(samples, self.sf_conv.weight.flatten(1)))
        descriptors = values.flatten(1) @ self.agg_weights.flatten(0, 1)
        return F.normalize(descriptors.float(), dim=-1, eps=NORM_FLOOR)


def patches(centres: Tensor, features: Features) -> Tensor:
    """Features (K, 3, 3, D) of the pixels around centres (K, 2), x and y; zero outside the image."""
    steps = torch.arange(-1, 2, device=centres.device, dtype=torch.float32)
    x, in_x = _inside(centres[:, 0, None] + steps, features.width)
    y, in_y = _inside(centres[:, 1, None] + steps, features.height)
    found = features(y[:, :, None].expand(-1, 3, 3), x[:, None].expand(-1, 3, 3))
    return found * (in_y[:, :, None] * in_x[:, None])[..., None]


def _sample(places: Tensor, features: Features) -> Tensor:
    """Features (..., D) at places (..., 2) between pixels; pixels outside the image count as zero."""
    corner = places.floor()
    right, down = (places - corner).unbind(-1)
    left, top = corner.unbind(-1)
    rows = _weighted(top, down, features.height)
    columns = _weighted(left, right, features.width)
    parts = [features(y, x) * (high * wide)[..., None] for y, high in rows for x, wide in columns]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _weighted(first: Tensor, fraction: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around a place on an axis, each with its weight, which is zero off the axis."""
    (near, in_near), (far, in_far) = _inside(first, size), _inside(first + 1, size)
    return [(near, (1 - fraction) * in_near), (far, fraction * in_far)]


def _inside(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Indices clamped onto an axis, and 1 where they were on it, else 0."""
    near = index.clamp(0, size - 1)
    return near, (near == index).float()
