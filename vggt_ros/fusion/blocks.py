# SPDX-License-Identifier: Apache-2.0
"""Blocks of 8 x 8 x 8 voxels that exist only where needed, found by sorted keys; no hash table, no pointers.

A key packs three 20-bit coordinates, so sorting keys sorts places, and a lookup is a binary search: the same on every
device and in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIDE = 8
"""Voxels along a block's edge."""
VOXELS = SIDE**3
_BITS = 20
_HALF = 1 << (_BITS - 1)
_MASK = (1 << _BITS) - 1
REACH = _HALF - 2
"""Greatest coordinate that a key can hold."""


def pack(coordinates: Tensor) -> Tensor:
    """(..., 3) int64 coordinates within +-`REACH` -> (...) int64 keys, ordered by x, then y, then z."""
    x, y, z = (coordinates + _HALF).unbind(-1)
    return (x << (2 * _BITS)) | (y << _BITS) | z


def unpack(keys: Tensor) -> Tensor:
    """(...) int64 keys -> (..., 3) int64 coordinates."""
    return torch.stack([(keys >> (2 * _BITS)) & _MASK, (keys >> _BITS) & _MASK, keys & _MASK], -1) - _HALF


def offsets(side: int, device: torch.device) -> Tensor:
    """(side^3, 3) int64: coordinates of the voxels of a cube, z fastest."""
    line = torch.arange(side, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)


class BlockIndex:
    """Which blocks exist and in which row of the arrays each one lies; freed rows are used again."""

    def __init__(self, device: torch.device, limit: int) -> None:
        """`limit`: no more rows than this are made ahead of need."""
        self._limit = limit
        self.keys = torch.zeros(0, dtype=torch.int64, device=device)
        self.rows = torch.zeros(0, dtype=torch.int64, device=device)
        self._free = torch.zeros(0, dtype=torch.int64, device=device)
        self.capacity = 0

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Tensor) -> Tensor:
        """The row of each key; -1 where there is no such block."""
        if not len(self.keys):
            return torch.full_like(keys, -1)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.rows[place], -1)

    def add(self, keys: Tensor) -> Tensor:
        """Make blocks.

        Args:
            keys: unique; some may exist.

        Returns:
            rows of the new blocks. If they pass `capacity`, it has grown and the arrays must follow.
        """
        new = keys[self.find(keys) < 0]
        if len(new) > len(self._free):
            needed = self.capacity + len(new) - len(self._free)
            grown = max(needed, min(max(2 * self.capacity, 256), self._limit))
            fresh = torch.arange(self.capacity, grown, device=new.device)
            self._free = torch.cat([self._free, fresh])
            self.capacity = grown
        rows, self._free = self._free[: len(new)], self._free[len(new) :]
        self.keys, order = torch.sort(torch.cat([self.keys, new]))
        self.rows = torch.cat([self.rows, rows])[order]
        return rows

    def keep(self, kept: Tensor) -> None:
        """Only the blocks where `kept` (of the order of `keys`) holds."""
        self._free = torch.cat([self._free, torch.sort(self.rows[~kept])[0]])
        self.keys, self.rows = self.keys[kept], self.rows[kept]
