# SPDX-License-Identifier: Apache-2.0
"""Triton kernels for VitMatte in float16: tokens and maps are (B, h, w, C), a token or a pixel is one row of memory.

Libraries need many small steps here: windows are cut and filled up, relative positions picked, and laid beside queries
and keys before attention starts; the decoder's maps are enlarged in float32, rounded and put beside the details. Each
is one kernel here. Products accumulate in float32; scores, softmax and interpolation are float32. Measured on an H200
in benchmarks/results.

Imported only where a CUDA device compiles the artifact; the compiled kernels travel inside the `.pt2`. What each
computes is defined by the plain modules (`model.attention`, `model.decoder`), with which the export compares them.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

LANES = 16
"""Tensor cores multiply matrices of this many rows and columns at least."""
# Queries, keys, warps and stages of a program of attention; elements and warps of one that enlarges; pixels, warps and
# stages of a convolution. Measured on an H200.
ATTENTION = (64, 64, 4, 3)
ENLARGE = (2048, 4)
CONV = (64, 4, 3)


@triton.jit
def _attention(
    x_ptr, bias_ptr, out_ptr, height, width, down, across,
    HEADS: tl.constexpr, DIM: tl.constexpr, ROW: tl.constexpr, TERMS: tl.constexpr, GRID_H: tl.constexpr,
    GRID_W: tl.constexpr, KEY_H: tl.constexpr, KEY_W: tl.constexpr, WINDOWED: tl.constexpr, SCALE: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """BLOCK queries of one head in one window; KEY_H and KEY_W are powers of two that hold the grid."""
    start, head, cell = tl.program_id(0) * BLOCK, tl.program_id(1), tl.program_id(2)
    batch, place = cell // (down * across), cell % (down * across)
    top, left = place // across * GRID_H, place % across * GRID_W
    # Beyond the grid there are keys, and no queries that anybody asks for.
    if top + start // GRID_W >= height:
        return
    i = start + tl.arange(0, BLOCK)
    row, column = i // GRID_W, i % GRID_W
    used = (i < GRID_H * GRID_W) & (top + row < height) & (left + column < width)
    token = (batch * height + top + row) * width + left + column
    lanes = tl.arange(0, DIM)
    q = tl.load(x_ptr + token[:, None] * ROW + (head * DIM + lanes)[None, :], mask=used[:, None], other=0.0)
    # Products of the query with every offset of rows, then of columns.
    terms = x_ptr + token * ROW + (3 * HEADS * DIM + head * TERMS)
    # Rows of keys are KEY_W long, a power of two, so that the columns of a block are those of every block.
    j = tl.arange(0, KEYS)
    key_row, key_column = j // KEY_W, j % KEY_W
    within = key_column < GRID_W
    offset = column[:, None] - key_column[None, :] + (GRID_W - 1 + 2 * GRID_H - 1)
    by_column = tl.load(terms[:, None] + offset, mask=used[:, None] & within[None, :], other=0.0).to(tl.float32)
    # To pick from the rows' terms inside the loop is a product with zeros and ones, which is exact.
    rows = tl.arange(0, KEY_H)
    offset = row[:, None] - rows[None, :] + (GRID_H - 1)
    by_rows = tl.load(terms[:, None] + offset, mask=used[:, None] & (rows < GRID_H)[None, :], other=0.0)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, DIM), tl.float32)
    for first in range(0, GRID_H, KEYS // KEY_W):
        r = first + key_row
        real = within & (r < GRID_H)
        inside = real & (top + r < height) & (left + key_column < width)
        where = ((batch * height + top + r) * width + left + key_column)[:, None] * ROW + (head * DIM + lanes)[None, :]
        k = tl.load(x_ptr + where + HEADS * DIM, mask=inside[:, None], other=0.0)
        v = tl.load(x_ptr + where + 2 * HEADS * DIM, mask=inside[:, None], other=0.0)
        if WINDOWED:
            # A token of padding is zero: its key and its value are the bias.
            k_bias = tl.load(bias_ptr + (HEADS + head) * DIM + lanes)
            v_bias = tl.load(bias_ptr + (2 * HEADS + head) * DIM + lanes)
            k = tl.where(inside[:, None], k, k_bias[None, :])
            v = tl.where(inside[:, None], v, v_bias[None, :])
        by_row = tl.dot(by_rows, (rows[:, None] == r[None, :]).to(by_rows.dtype))
        # Times log2(e), for exp2.
        scores = (tl.dot(q, tl.trans(k)) * SCALE + by_row + by_column) * 1.4426950408889634
        scores = tl.where(real[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(highest - higher)
        total = total * fade + tl.sum(shares, 1)
        mixed = tl.dot(shares.to(v.dtype), v, mixed * fade[:, None])
        highest = higher
    mixed = mixed / total[:, None]
    where = token[:, None] * (HEADS * DIM) + (head * DIM + lanes)[None, :]
    tl.store(out_ptr + where, mixed.to(out_ptr.dtype.element_ty), mask=used[:, None])


@triton.jit
def _corner(x_ptr, where, channels, used, CHANNELS: tl.constexpr):
    """Pixels of a map as float32."""
    value = tl.load(x_ptr + where[:, None] * CHANNELS + channels[None, :], mask=used[:, None], other=0.0)
    return value.to(tl.float32)


@triton.jit
def _enlarge(
    x_ptr, detail_ptr, out_ptr, height, width, count,
    CHANNELS: tl.constexpr, DETAIL: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels of twice the size, LANES channels: of the details, which come first, or of the enlarged map."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.program_id(1) * LANES
    lanes = tl.arange(0, LANES)
    used = place < count
    store = out_ptr + place[:, None] * (DETAIL + CHANNELS) + (part + lanes)[None, :]
    dtype = out_ptr.dtype.element_ty
    if part < DETAIL:
        copied = tl.load(detail_ptr + place[:, None] * DETAIL + (part + lanes)[None, :], mask=used[:, None], other=0.0)
        tl.store(store, copied.to(dtype), mask=used[:, None])
    else:
        channels = part - DETAIL + lanes
        line, x = place // (2 * width), place % (2 * width)
        image, y = line // (2 * height), line % (2 * height)
        # Twice the size without aligned corners: pixel y lies at y / 2 - 1/4.
        at_y, at_x = tl.maximum(y * 0.5 - 0.25, 0.0), tl.maximum(x * 0.5 - 0.25, 0.0)
        top, left = at_y.to(tl.int32), at_x.to(tl.int32)
        down, right = (at_y - top)[:, None], (at_x - left)[:, None]
        bottom, beside = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
        upper_row, lower_row = (image * height + top) * width, (image * height + bottom) * width
        upper = _corner(x_ptr, upper_row + left, channels, used, CHANNELS) * (1 - right)
        upper += _corner(x_ptr, upper_row + beside, channels, used, CHANNELS) * right
        lower = _corner(x_ptr, lower_row + left, channels, used, CHANNELS) * (1 - right)
        lower += _corner(x_ptr, lower_row + beside, channels, used, CHANNELS) * right
        tl.store(store, (upper * (1 - down) + lower * down).to(dtype), mask=used[:, None])


@triton.jit
def _conv(
    x_ptr, weight_ptr, bias_ptr, side_ptr, side_weight_ptr, last_ptr, out_ptr, height, width, count,
    CHANNELS: tl.constexpr, SIDE: tl.constexpr, SIDE_ROW: tl.constexpr, OUT: tl.constexpr, LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels, all channels; with LAST one number of each pixel instead."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = place < count
    y, x = place // width % height, place % width
    channels, out = tl.arange(0, CHANNELS), tl.arange(0, OUT)
    total = tl.zeros((BLOCK, OUT), tl.float32)
    for tap in range(9):
        row, column = y + (tap // 3 - 1), x + (tap % 3 - 1)
        inside = used & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        where = place + (tap // 3 - 1) * width + (tap % 3 - 1)
        tile = tl.load(x_ptr + where[:, None] * CHANNELS + channels[None, :], mask=inside[:, None], other=0.0)
        weight = tl.load(weight_ptr + (tap * CHANNELS + channels)[:, None] * OUT + out[None, :])
        total = tl.dot(tile, weight, total)
    if SIDE > 0:
        # Few channels: three neighbours on a row are one run of memory, and one product.
        lanes = tl.arange(0, SIDE_ROW)
        column = x[:, None] + (lanes // SIDE - 1)[None, :]
        across = used[:, None] & (column >= 0) & (column < width) & (lanes < 3 * SIDE)[None, :]
        for tap in tl.static_range(3):
            inside = across & ((y + (tap - 1) >= 0) & (y + (tap - 1) < height))[:, None]
            where = ((place + (tap - 1) * width - 1) * SIDE)[:, None] + lanes[None, :]
            tile = tl.load(side_ptr + where, mask=inside, other=0.0)
            weight = tl.load(side_weight_ptr + (tap * SIDE_ROW + lanes)[:, None] * OUT + out[None, :])
            total = tl.dot(tile, weight, total)
    total = tl.maximum(total + tl.load(bias_ptr + out)[None, :], 0.0)
    if LAST:
        logit = tl.sum(total * tl.load(last_ptr + out)[None, :], 1) + tl.load(last_ptr + OUT)
        tl.store(out_ptr + place, 1 / (1 + tl.exp(-logit)), mask=used)
    else:
        where = place[:, None] * OUT + out[None, :]
        tl.store(out_ptr + where, total.to(out_ptr.dtype.element_ty), mask=used[:, None])


@triton_op("aot_perception::vitmatte_attention", mutates_args={})
def attention(x: Tensor, bias: Tensor, heads: int, head_dim: int, window: int) -> Tensor:
    """Attention with decomposed relative positions, over all tokens or within windows that zeros fill up.

    Args:
        x: (B, h, w, 3 * heads * head_dim + heads * T): queries, keys, values, and what each query of each head makes of
            the table of relative positions: 2 g_h - 1 offsets of rows, then 2 g_w - 1 of columns, then anything up to
            T, where g is the grid that attends, a window or all tokens.
        bias: (3 * heads * head_dim or more,) that queries, keys and values have of a token that is zero.
        head_dim: a power of two from 16.
        window: tokens on a side; 0 for all tokens.

    Returns:
        (B, h, w, heads * head_dim) in x's dtype.
    """
    batch, height, width, row = x.shape
    dim = heads * head_dim
    out = x.new_empty((batch, height, width, dim))
    high, wide = (window, window) if window else (height, width)
    down, across = -(-height // high), -(-width // wide)
    key_width = 1 << (wide - 1).bit_length()
    queries, keys, warps, stages = ATTENTION
    wrap_triton(_attention)[(triton.cdiv(high * wide, queries), heads, batch * down * across)](
        x, bias, out, height, width, down, across,
        HEADS=heads, DIM=head_dim, ROW=row, TERMS=(row - 3 * dim) // heads, GRID_H=high, GRID_W=wide,
        KEY_H=max(1 << (high - 1).bit_length(), LANES), KEY_W=key_width, WINDOWED=window > 0, SCALE=head_dim**-0.5,
        BLOCK=queries, KEYS=max(keys, key_width), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@triton_op("aot_perception::vitmatte_enlarge", mutates_args={})
def enlarge(x: Tensor, detail: Tensor, dtype: torch.dtype) -> Tensor:
    """A map at twice its size (bilinear, no aligned corners), behind the details of that size.

    Args:
        x: (B, h, w, C).
        detail: (B, 2h, 2w, D), or (0,) for none.

    Returns:
        (B, 2h, 2w, D + C) of `dtype`.
    """
    batch, height, width, channels = x.shape
    details = detail.shape[-1]
    out = x.new_empty((batch, 2 * height, 2 * width, details + channels), dtype=dtype)
    # The largest power of two that divides both, so that a program has one kind of channels.
    lanes = min(math.gcd(details, channels) & -math.gcd(details, channels), 64)
    elements, warps = ENLARGE
    block, count = elements // lanes, batch * 4 * height * width
    wrap_triton(_enlarge)[(triton.cdiv(count, block), (details + channels) // lanes)](
        x, detail, out, height, width, count,
        CHANNELS=channels, DETAIL=details, LANES=lanes, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


@triton_op("aot_perception::vitmatte_conv", mutates_args={})
def conv(x: Tensor, weight: Tensor, bias: Tensor, side: Tensor, side_weight: Tensor, last: Tensor) -> Tensor:
    """ReLU of a 3x3 convolution with padding 1 of two maps.

    Args:
        x: (B, H, W, C), C a power of two from 16.
        weight: (9, C, O), taps row-major, O a power of two from 16. bias: (O,) float32.
        side: (B, H, W, S), the other map; or (0,) for none.
        side_weight: (3, R, O): for each row of the kernel a matrix, its rows by column of the kernel, then channel,
            zeros up to R, a power of two.
        last: (O + 1,) float32: of a 1x1 convolution to one channel that follows, and its bias; or (0,) for none.

    Returns:
        (B, H, W, O) in x's dtype; with `last` the sigmoid of that channel, (B, H, W, 1) float32.
    """
    batch, height, width, channels = x.shape
    out_channels, count, ends = weight.shape[2], batch * height * width, last.shape[0] > 0
    pixels, warps, stages = CONV
    shape = (batch, height, width, 1 if ends else out_channels)
    out = x.new_empty(shape, dtype=torch.float32 if ends else x.dtype)
    wrap_triton(_conv)[(triton.cdiv(count, pixels),)](
        x, weight, bias, side, side_weight, last, out, height, width, count,
        CHANNELS=channels, SIDE=side.shape[-1], SIDE_ROW=side_weight.shape[1] if side.shape[-1] else LANES,
        OUT=out_channels, LAST=ends, BLOCK=pixels, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out
