# SPDX-License-Identifier: Apache-2.0
"""A Triton kernel for what libraries do badly: a large depthwise convolution followed by LayerNorm, channels last.

Measured on an H200 at 320 x 240 x 32 in float16 (benchmarks/results): cuDNN's grouped kernel and the framework's own
depthwise kernel spend most of F3's time, reading each input element once for every tap. Here one program computes
several neighbouring output columns and uses each loaded tile for all of them.

Imported only where a CUDA device compiles the artifact; the compiled kernel travels inside the `.pt2`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

COLUMNS = 4
"""Output columns per program; the kernel names its accumulators one by one, so this is not a free choice."""
ROWS = 16
WARPS = 4


@triton.jit
def _depthwise_layer_norm(
    x_ptr, taps_ptr, bias_ptr, gamma_ptr, beta_ptr, out_ptr, width, height, eps,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: COLUMNS (4) x ROWS output pixels, all channels."""
    first = tl.program_id(0) * 4
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, PADDED)
    used = channels < CHANNELS
    sample = tl.program_id(2).to(tl.int64) * width * height
    pad: tl.constexpr = (SIZE - 1) // 2
    bias = tl.load(bias_ptr + channels, mask=used, other=0.0)
    a0 = tl.zeros((ROWS, PADDED), tl.float32) + bias[None, :]
    a1, a2, a3 = a0, a0, a0
    for u in tl.static_range(SIZE + 3):
        column = first + u - pad
        for j in tl.static_range(SIZE):
            row = rows + (j - pad)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            where = (sample + column * height + row)[:, None] * CHANNELS + channels[None, :]
            tile = tl.load(x_ptr + where, mask=inside[:, None] & used[None, :], other=0.0).to(tl.float32)
            # Input column u is tap u - r of output column r.
            if u < SIZE:
                a0 += tile * tl.load(taps_ptr + (u * SIZE + j) * CHANNELS + channels, mask=used, other=0.0)[None, :]
            if (u >= 1) & (u < SIZE + 1):
                a1 += (
                    tile * tl.load(taps_ptr + ((u - 1) * SIZE + j) * CHANNELS + channels, mask=used, other=0.0)[None, :]
                )
            if (u >= 2) & (u < SIZE + 2):
                a2 += (
                    tile * tl.load(taps_ptr + ((u - 2) * SIZE + j) * CHANNELS + channels, mask=used, other=0.0)[None, :]
                )
            if u >= 3:
                a3 += (
                    tile * tl.load(taps_ptr + ((u - 3) * SIZE + j) * CHANNELS + channels, mask=used, other=0.0)[None, :]
                )
    gamma = tl.load(gamma_ptr + channels, mask=used, other=0.0)
    beta = tl.load(beta_ptr + channels, mask=used, other=0.0)
    for r in tl.static_range(4):
        if r == 0:
            value = a0
        elif r == 1:
            value = a1
        elif r == 2:
            value = a2
        else:
            value = a3
        mean = tl.sum(value, 1) / CHANNELS
        centred = tl.where(used[None, :], value - mean[:, None], 0.0)
        variance = tl.sum(centred * centred, 1) / CHANNELS
        normed = centred * tl.rsqrt(variance + eps)[:, None] * gamma[None, :] + beta[None, :]
        column = first + r
        where = (sample + column * height + rows)[:, None] * CHANNELS + channels[None, :]
        keep = (column < width) & (rows < height)
        tl.store(out_ptr + where, normed.to(out_ptr.dtype.element_ty), mask=keep[:, None] & used[None, :])


@triton_op("aot_perception::depthwise_layer_norm", mutates_args={})
def depthwise_layer_norm(
    x: Tensor, taps: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, size: int, eps: float
) -> Tensor:
    """LayerNorm over channels of a depthwise convolution, stride 1, zero padding that keeps the size.

    Args:
        x: (B, W, H, C) contiguous, any float dtype; products accumulate in float32.
        taps: (size * size, C) float32, tap along W outermost. bias: (C,) float32, of the convolution.
        gamma, beta: (C,) float32, of the LayerNorm.
        size: odd kernel size.
        eps: of the LayerNorm.

    Returns:
        (B, W, H, C) in x's dtype.
    """
    out = torch.empty_like(x)
    batch, width, height, channels = x.shape
    grid = (triton.cdiv(width, COLUMNS), triton.cdiv(height, ROWS), batch)
    wrap_triton(_depthwise_layer_norm)[grid](
        x, taps, bias, gamma, beta, out, width, height, eps,
        CHANNELS=channels, PADDED=triton.next_power_of_2(channels), SIZE=size, ROWS=ROWS, num_warps=WARPS,
    )  # fmt: skip
    return out
