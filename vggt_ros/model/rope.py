# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in two dimensions (arXiv 2104.09864 once per axis), as VGGT's aggregator uses it.

The first half of a head's channels turns by the row, the second by the column. Within a half of 2 q channels, channel
k < q and channel k + q are a pair, turned by position * base^(-k / q).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Cosines and sines (2, P, 2, head_dim / 4) float32 of integer positions (P, 2), row and column."""
    count = head_dim // 4
    exponents = torch.arange(count, dtype=torch.float32, device=positions.device) / count
    angles = positions[:, :, None].float() * (1.0 / base**exponents)
    return torch.stack([angles.cos(), angles.sin()])


def frame_positions(rows: int, columns: int, special: int) -> Tensor:
    """Positions (special + rows * columns, 2) of a frame's tokens.

    Patches count from 1; tokens that belong to no patch have (0, 0), which turns nothing. Every frame has the same:
    apart from the first, which has tokens of its own, frames can be exchanged.
    """
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1) + 1
    return torch.cat([torch.zeros(special, 2, dtype=grid.dtype), grid.reshape(rows * columns, 2)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys (B, heads, frames * P, head_dim) by the table (2, P, 2, head_dim / 4) of one frame."""
    cos, sin = table.unbind(0)
    # frames * P, axis, half of the pairs, pair
    parts = x.unflatten(2, (-1, cos.shape[0])).unflatten(-1, (2, 2, cos.shape[-1]))
    a, b = parts.unbind(-2)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2)
    return turned.reshape(x.shape)
