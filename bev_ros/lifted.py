# SPDX-License-Identifier: Apache-2.0
"""What an image stage gives, summed up on the grid: depth and context, or the whole volume after depth refinement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bev_ros.pooling import SCATTERS, PlanePooling, as_map, pool
from bev_ros.tables import TableTensors

Lifted = tuple[Tensor, ...]
"""(depth (N, D, h, w), context (N, C, h, w)), or with depth refinement (volume (N, D, h, w, C),); float32."""


def pool_lifted(
    lifted: Sequence[Tensor], tables: TableTensors, map_shape: Sequence[int], *, kernel: bool = False
) -> Tensor:
    """The map (C, *map_shape) of what an image stage gave; `kernel` as of `bev_ros.pooling.pool`."""
    if len(lifted) == 2:
        return pool(lifted[0], lifted[1], tables, map_shape, kernel=kernel)
    volume = lifted[0]
    rows = F.embedding_bag(
        tables.ranks_depth,
        volume.reshape(-1, volume.shape[-1]),
        tables.offsets,
        mode="sum",
        include_last_offset=True,
    )
    return as_map(rows[:-1], map_shape)


def join_layers(rows: Tensor) -> Tensor:
    """(C, L, Y, X) -> (L * C, Y, X); (C, Y, X) stays.

    Layers come one after the other, each with all channels, as BEVDet joins heights and BEVDepth joins sweeps.
    """
    return rows if rows.dim() == 3 else rows.transpose(0, 1).reshape(-1, *rows.shape[2:])


class LiftedPlanes(nn.Module):
    """The same by scatters of a few depth bins each, see `bev_ros.pooling.PlanePooling`.

    Args:
        map_shape: (Y, X) or (Z, Y, X).
    """

    def __init__(self, map_shape: Sequence[int]) -> None:
        super().__init__()
        self.planes = PlanePooling(map_shape)

    def forward(self, lifted: Sequence[Tensor], planes: Tensor) -> Tensor:
        """`planes` (D, N * h * w) int64 as of `PoolingTables.planes`."""
        if len(lifted) == 2:
            found: Tensor = self.planes(lifted[0], lifted[1], planes)
            return found
        volume = lifted[0]
        cells = math.prod(self.planes.map_shape)
        total = volume.new_zeros(cells + 1, volume.shape[-1])
        step = -(-volume.shape[1] // SCATTERS)
        for first in range(0, volume.shape[1], step):
            values = volume[:, first : first + step].transpose(0, 1).reshape(-1, volume.shape[-1])
            total.index_add_(0, planes[first : first + step].reshape(-1), values)
        return as_map(total[:cells], self.planes.map_shape)
