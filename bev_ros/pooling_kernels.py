# SPDX-License-Identifier: Apache-2.0
"""The pooling as a Triton kernel for CUDA, float16 or float32; sums are float32.

An embedding bag walks through the points of a bag one after the other. Here a program has a few cells and some
channels, and takes several points of each cell at a time, each with its own sums, which are added up at the end: fixed
order, no atomics, the same bits every time. While the features of some points are on their way, the tables and the
depth of the next ones are fetched.

Imported only where a CUDA device compiles the artifact; the compiled kernel travels inside the `.pt2`. What it computes
is defined by `bev_ros.pooling`, with which the export compares it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

CELLS, POINTS, LANES, WARPS = 2, 16, 64, 1
"""Of a program: its cells, points of each at a time, channels at most, warps. Powers of two."""


@triton.jit
def _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, place, end):
    """Pixel and depth of points; depth is zero beyond the end."""
    used = place < end
    pixel = tl.load(ranks_feat_ptr + place, mask=used, other=0)
    rank = tl.load(ranks_depth_ptr + place, mask=used, other=0)
    return pixel, tl.load(depth_ptr + rank, mask=used, other=0.0).to(tl.float32)


@triton.jit
def _pool(
    depth_ptr, rows_ptr, ranks_feat_ptr, ranks_depth_ptr, offsets_ptr, out_ptr, count,
    CHANNELS: tl.constexpr, CELLS: tl.constexpr, POINTS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """CELLS of `count` cells, LANES channels; slot s has every POINTS-th point of cell s // POINTS."""
    first_cell = tl.program_id(0) * CELLS
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)
    real = lanes < CHANNELS
    slots = tl.arange(0, CELLS * POINTS)
    cell = first_cell + slots // POINTS
    begin = tl.load(offsets_ptr + cell, mask=cell < count, other=0)
    end = tl.load(offsets_ptr + cell + 1, mask=cell < count, other=0)
    longest = tl.max(end - begin, 0)
    place = begin + slots % POINTS
    total = tl.zeros((CELLS * POINTS, LANES), tl.float32)
    pixel, weight = _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, place, end)
    for _ in range(0, longest, POINTS):
        mask = (place < end)[:, None] & real[None, :]
        tile = tl.load(rows_ptr + pixel[:, None] * CHANNELS + lanes[None, :], mask=mask, other=0.0)
        place += POINTS
        pixel, later = _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, place, end)
        total += weight[:, None] * tile.to(tl.float32)
        weight = later
    sums = tl.sum(tl.reshape(total, (CELLS, POINTS, LANES)), 1)
    cells = first_cell + tl.arange(0, CELLS)
    where = out_ptr + cells[:, None] * CHANNELS + lanes[None, :]
    tl.store(where, sums.to(out_ptr.dtype.element_ty), mask=(cells < count)[:, None] & real[None, :])


def launch(
    kernel: Any, depth: Tensor, rows: Tensor, ranks_feat: Tensor, ranks_depth: Tensor, offsets: Tensor, out: Tensor,
    *, cells: int = CELLS, points: int = POINTS, lanes: int = LANES, warps: int = WARPS,
) -> None:  # fmt: skip
    """Run the kernel on (cells, C) `out`; see `pool_rows` for the rest."""
    count, channels = out.shape
    block = min(lanes, triton.next_power_of_2(channels))
    kernel[(triton.cdiv(count, cells), triton.cdiv(channels, block))](
        depth, rows, ranks_feat, ranks_depth, offsets, out, count,
        CHANNELS=channels, CELLS=cells, POINTS=points, LANES=block, num_warps=warps,
    )  # fmt: skip


@triton_op("aot_perception::bev_pool", mutates_args={})
def pool_rows(depth: Tensor, rows: Tensor, ranks_feat: Tensor, ranks_depth: Tensor, offsets: Tensor) -> Tensor:
    """Sums of depth times features over the points of each cell.

    Args:
        depth: contiguous, of any shape.
        rows: (pixels, C), contiguous, of depth's dtype; less than 2^31 numbers.
        ranks_feat, ranks_depth, offsets: int32, `bev_ros.tables.TableTensors`; the last bag is not summed.

    Returns:
        (cells, C) in that dtype.
    """
    out = rows.new_empty((offsets.shape[0] - 2, rows.shape[1]))
    launch(wrap_triton(_pool), depth, rows, ranks_feat, ranks_depth, offsets, out)
    return out
