# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution (Dai et al., arXiv 1703.06211; modulated: Zhu et al., arXiv 1811.11168) in plain operations.

What every compiler and runtime takes: floor, clamp, gather of rows, multiply, matrix product. No library operator, no
mask of positions outside the map: the map gets a border of zeros, and positions are clamped onto it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (*index.shape, C) of a table (N, C). Exports to ONNX as a plain Gather, unlike indexing."""
    return F.embedding(index, table)


def bilinear_rows(table: Tensor, index: Tensor, step: tuple[int, int], down: Tensor, right: Tensor) -> Tensor:
    """The blend (..., C) float32 of four neighbours in a map whose pixels are the rows of a table (N, C).

    Four gathers of one neighbour each: the compiler fuses them with the blend, one gather of four it does not.

    Args:
        index: (...) row of the upper left neighbour.
        step: from there to the one below, and to the one on the right.
        down, right: (...) fractions of a pixel.
    """
    down, right = down[..., None], right[..., None]
    first, second = (gather_rows(table, index + add).float() for add in (0, step[1]))
    upper = first + (second - first) * right
    first, second = (gather_rows(table, index + add).float() for add in (step[0], step[0] + step[1]))
    lower = first + (second - first) * right
    return upper + (lower - upper) * down


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Every tap of the kernel reads bilinearly at its place plus an offset; what lies outside the map is zero.

    Positions and interpolation are float32 whatever the dtype of `x`; the product runs in the dtype of `weight`.

    Args:
        x: (B, C, H, W).
        offset: (B, G * kh * kw * 2, h, w) float32 in pixels, per tap (row-major) dy, then dx; G groups of channels.
        weight: (O, C / groups, kh, kw).
        bias: (O,).
        mask: (B, G * kh * kw, h, w), a factor for each sample.

    Returns:
        (B, O, h, w).
    """
    batch, channels, height, width = x.shape
    out, per_group, rows, columns = weight.shape
    taps = rows * columns
    high, wide = offset.shape[2:]
    groups, offset_groups = channels // per_group, offset.shape[1] // (2 * taps)

    def places(count: int, kernel: int, axis: int) -> tuple[Tensor, Tensor]:
        """Where the kernel sits on each output pixel (count,), and its taps relative to that (kernel,)."""
        at = torch.arange(count, device=x.device, dtype=torch.float32) * stride[axis] - padding[axis]
        return at, torch.arange(kernel, device=x.device, dtype=torch.float32) * dilation[axis]

    # (B * G, h, w, kh, kw): taps last, so that samples come out as rows of a matrix product.
    moves = offset.float().view(batch * offset_groups, rows, columns, 2, high, wide).permute(0, 4, 5, 1, 2, 3)
    at_y, tap_y = places(high, rows, 0)
    at_x, tap_x = places(wide, columns, 1)
    y = moves[..., 0] + (at_y[:, None, None, None] + tap_y[:, None])
    x_ = moves[..., 1] + (at_x[:, None, None] + tap_x)

    samples = _sample(x.reshape(batch * offset_groups, -1, height, width), y, x_)
    if mask is not None:
        factors = mask.view(batch * offset_groups, rows, columns, high, wide).permute(0, 3, 4, 1, 2)
        samples = samples * factors[..., None]
    samples = samples.to(weight.dtype)
    if groups == 1 and offset_groups == 1:
        matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, out)
        result = samples.reshape(batch, high * wide, taps * channels) @ matrix
    else:
        samples = samples.view(batch, offset_groups, high * wide, taps, -1).permute(0, 2, 3, 1, 4)
        samples = samples.reshape(batch, high * wide, taps, groups, per_group)
        kernels = weight.view(groups, out // groups, per_group, taps)
        result = torch.einsum("bptgc,goct->bpgo", samples, kernels).flatten(2)
    if bias is not None:
        result = result + bias
    return result.transpose(1, 2).reshape(batch, out, high, wide)


def _sample(x: Tensor, y: Tensor, x_: Tensor) -> Tensor:
    """Bilinear samples (N, ..., C) float32 of maps (N, C, H, W) at pixels y, x_ (N, ...); zero outside."""
    count, channels, height, width = x.shape
    # One row of zeros before and two after: a clamped position reads zeros as its far corners lie on the border.
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 1, 2))
    table = padded.reshape(count * (height + 3) * (width + 3), channels)
    y = y.clamp(-1, height) + 1
    x_ = x_.clamp(-1, width) + 1
    top, left = y.floor(), x_.floor()
    index = top.to(torch.int32) * (width + 3) + left.to(torch.int32)
    if count > 1:
        first = torch.arange(count, device=x.device, dtype=torch.int32) * ((height + 3) * (width + 3))
        index = index + first.view(count, *[1] * (index.dim() - 1))
    return bilinear_rows(table, index, (width + 3, 1), y - top, x_ - left)
