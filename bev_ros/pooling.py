# SPDX-License-Identifier: Apache-2.0
"""Sums of depth times context over the cells of the grid, exactly, without ever making the volume of both.

bev[c, y, x] = sum over the points (n, d, h, w) in cell (y, x) of depth[n, d, h, w] * context[n, c, h, w]. Cells are the
bags of an embedding bag, pixels its vocabulary, depth its weights: no volume, no atomics, the same sum in the same
order every time, zero where nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from bev_ros.tables import PoolingTables, TableTensors, join_tables

SCATTERS = 16
"""Of `PlanePooling`, at most. ONNX Runtime copies the map for each: pooling 6 x 112 x 16 x 44 points of 80 channels
takes 68 ms on one core with a scatter for each depth bin, 45 ms with 16, and 40 ms with one, of the whole volume."""


def pool(
    depth: Tensor,
    context: Tensor,
    tables: PoolingTables | TableTensors | Sequence[PoolingTables],
    map_shape: Sequence[int] = (),
    *,
    kernel: bool = False,
) -> Tensor:
    """Features on the grid.

    Args:
        depth: (N, D, h, w) or (B, N, D, h, w): each pixel's distribution over depth.
        context: (N, C, h, w) or (B, N, C, h, w): each pixel's features; of the same dtype.
        tables: of the rig, for all elements of a batch; or one for each of them; or `PoolingTables.tensors()`, with
            `map_shape`, without a batch.
        kernel: what is compiled contains the kernel of `bev_ros.pooling_kernels`, see `kernel_for`; eager, the plain
            operations run, so that an export's check of compiled against eager checks the kernel too.

    Returns:
        (C, Y, X), or (C, Z, Y, X) for tables that keep z; with a batch (B, ...) in front. Row = y, column = x.

    Raises:
        InputError: shapes that do not fit each other or the tables.
    """
    if isinstance(tables, TableTensors):
        return _bag(depth, context, tables, tuple(map_shape), kernel)
    if depth.ndim == 5:
        listed = [tables] * len(depth) if isinstance(tables, PoolingTables) else list(tables)
        if len(listed) != len(depth) or depth.shape[:2] != context.shape[:2]:
            raise InputError(
                f"expected depth, context and tables of one batch, found {tuple(depth.shape)}, {tuple(context.shape)} "
                f"and {len(listed)} tables"
            )
        joined = join_tables(listed)
        _check(depth.flatten(0, 1), context.flatten(0, 1), joined)
        maps = _bag(depth.flatten(0, 1), context.flatten(0, 1), joined.tensors(depth.device), joined.map_shape)
        return maps.transpose(0, 1)
    if not isinstance(tables, PoolingTables):
        raise InputError(f"expected one table for depth without batch, found {len(tables)}")
    _check(depth, context, tables)
    return _bag(depth, context, tables.tensors(depth.device), tables.map_shape)


class Pooling(nn.Module):
    """The pooling as an exported graph takes it: tables are inputs, so that one artifact serves every calibration.

    Args:
        map_shape: (Y, X), or (Z, Y, X) for tables that keep z.
        kernel: see `pool`.
    """

    def __init__(self, map_shape: Sequence[int], *, kernel: bool = False) -> None:
        super().__init__()
        self.map_shape = tuple(int(side) for side in map_shape)
        self.kernel = kernel

    def forward(
        self, depth: Tensor, context: Tensor, ranks_feat: Tensor, ranks_depth: Tensor, offsets: Tensor
    ) -> Tensor:
        """(N, D, h, w), (N, C, h, w) and `TableTensors` -> (C, [Z,] Y, X)."""
        return _bag(depth, context, TableTensors(ranks_feat, ranks_depth, offsets), self.map_shape, self.kernel)


class PlanePooling(nn.Module):
    """The same for ONNX, whose runtimes have no fast embedding bag: a scatter of additions for each few depth bins.

    Sums are of the same terms, in order of depth, camera, pixel. At most a `SCATTERS`th of the volume of depth times
    context is there at a time.

    Args:
        map_shape: as of `Pooling`.
    """

    def __init__(self, map_shape: Sequence[int]) -> None:
        super().__init__()
        self.map_shape = tuple(int(side) for side in map_shape)

    def forward(self, depth: Tensor, context: Tensor, planes: Tensor) -> Tensor:
        """(N, D, h, w), (N, C, h, w) and `PoolingTables.planes` (D, N * h * w) int64 -> (C, [Z,] Y, X)."""
        rows = pixel_rows(context)
        cells = 1
        for side in self.map_shape:
            cells *= side
        weights = depth.transpose(0, 1).reshape(depth.shape[1], -1, 1)
        # A cell beyond the last takes what lies outside the grid.
        total = rows.new_zeros(cells + 1, rows.shape[1])
        bins = depth.shape[1]
        step = -(-bins // SCATTERS)
        for first in range(0, bins, step):
            values = (weights[first : first + step] * rows).reshape(-1, rows.shape[1])
            total.index_add_(0, planes[first : first + step].reshape(-1), values)
        return as_map(total[:cells], self.map_shape)


def pixel_rows(context: Tensor) -> Tensor:
    """(N, C, h, w) -> (N * h * w, C), without a copy where it is channels-last."""
    return context.permute(0, 2, 3, 1).reshape(-1, context.shape[1])


def as_map(rows: Tensor, map_shape: Sequence[int]) -> Tensor:
    """(cells, C) -> (C, *map_shape), a view."""
    return rows.t().reshape(rows.shape[1], *map_shape)


def kernel_for(suffix: str, device: str) -> bool:
    """Whether an artifact (".pt2", ".onnx", ".engine") for a device should contain the kernel, see `pool`.

    On CUDA the embedding bag takes one point after the other: 0.11 ms on an H200 for 6 x 112 x 16 x 44 points of 80
    channels, and 0.25 ms for 256.
    """
    return suffix == ".pt2" and device.startswith("cuda") and find_spec("triton") is not None


def _bag(
    depth: Tensor, context: Tensor, tables: TableTensors, map_shape: Sequence[int], kernel: bool = False
) -> Tensor:
    if kernel and torch.compiler.is_compiling():
        from bev_ros.pooling_kernels import pool_rows

        rows = pool_rows(depth.contiguous(), pixel_rows(context).contiguous(), *tables)
        return as_map(rows, map_shape)
    weights = depth.reshape(-1).index_select(0, tables.ranks_depth)
    sums = F.embedding_bag(
        tables.ranks_feat,
        pixel_rows(context),
        tables.offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    return as_map(sums[:-1], map_shape)


def _check(depth: Tensor, context: Tensor, tables: PoolingTables) -> None:
    n, d, h, w = tables.shape
    if tuple(depth.shape) != (n, d, h, w) or context.ndim != 4 or (context.shape[0], *context.shape[2:]) != (n, h, w):
        raise InputError(
            f"expected depth {(n, d, h, w)} and context {(n, 'C', h, w)} by the tables, found {tuple(depth.shape)} and "
            f"{tuple(context.shape)}"
        )
    if depth.dtype != context.dtype:
        raise InputError(f"expected depth and context of one dtype, found {depth.dtype} and {context.dtype}")
