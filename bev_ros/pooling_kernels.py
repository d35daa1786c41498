# SPDX-License-Identifier: Apache-2.0
"""The pooling as a Triton kernel for CUDA, float16 or float32; sums are float32.

An embedding bag runs one block of threads for each few channels of a bag and walks through its points one after the
other. Here a program has one cell and up to `LANES` channels, and takes many of the cell's points at a time, each lane
with its own sum, which are added up at the end: fixed order, no atomics, the same bits every time. While the features
of some points are on their way, the tables and the depth of the next ones are fetched.

Imported only where a CUDA device compiles the artifact; the compiled kernel travels inside the `.pt2`. What it computes
is defined by `bev_ros.pooling`, with which the export compares it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

LANES = 128
"""Channels of a program, at most."""
POINTS, WARPS = 32, 4
"""Points that a program takes at a time, and its warps."""


@triton.jit
def _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, place, end):
    """Pixel and depth of points; depth is zero beyond the end."""
    used = place < end
    pixel = tl.load(ranks_feat_ptr + place, mask=used, other=0)
    rank = tl.load(ranks_depth_ptr + place, mask=used, other=0)
    return pixel, tl.load(depth_ptr + rank, mask=used, other=0.0).to(tl.float32)


@triton.jit
def _pool(
    depth_ptr, rows_ptr, ranks_feat_ptr, ranks_depth_ptr, offsets_ptr, out_ptr,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """One cell, LANES channels."""
    cell = tl.program_id(0)
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)
    real = lanes < CHANNELS
    begin, end = tl.load(offsets_ptr + cell), tl.load(offsets_ptr + cell + 1)
    slots = tl.arange(0, POINTS)
    total = tl.zeros((POINTS, LANES), tl.float32)
    pixel, weight = _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, begin + slots, end)
    for first in range(begin, end, POINTS):
        mask = ((first + slots) < end)[:, None] & real[None, :]
        tile = tl.load(rows_ptr + pixel[:, None] * CHANNELS + lanes[None, :], mask=mask, other=0.0)
        pixel, later = _points(depth_ptr, ranks_feat_ptr, ranks_depth_ptr, first + POINTS + slots, end)
        total += weight[:, None] * tile.to(tl.float32)
        weight = later
    where = out_ptr + cell * CHANNELS + lanes
    tl.store(where, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=real)


def launch(
    kernel: Any, depth: Tensor, rows: Tensor, ranks_feat: Tensor, ranks_depth: Tensor, offsets: Tensor, out: Tensor,
    *, lanes: int = LANES, points: int = POINTS, warps: int = WARPS,
) -> None:  # fmt: skip
    """Run the kernel on (cells, C) `out`; see `pool_rows` for the rest."""
    cells, channels = out.shape
    block = min(lanes, triton.next_power_of_2(channels))
    kernel[(cells, triton.cdiv(channels, block))](
        depth, rows, ranks_feat, ranks_depth, offsets, out,
        CHANNELS=channels, LANES=block, POINTS=points, num_warps=warps,
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
