# SPDX-License-Identifier: Apache-2.0
"""Triton kernels for ALIKED in float16, every map channels last: (H, W, C), a pixel is one row of memory.

Libraries are slow on this network: its large maps have 4 to 32 channels, for which cuDNN's kernels are not made, and
what follows a convolution (shortcut, activation, upsampling, a 1x1 convolution) goes through memory each time. Here
each is one kernel on tensor cores. Products accumulate in float32; positions and interpolation are float32. Measured on
an H200 in benchmarks/results.

Imported only where a CUDA device compiles the artifact; the compiled kernels travel inside the `.pt2`. What each
computes is defined by the plain modules (`model`, `deform_conv`, `descriptors`), with which the export compares them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from aliked_ros.packing import LANES

NONE, SELU, SIGMOID, CLAMP = 0, 1, 2, 3
"""What follows a convolution; CLAMP to +-`limit`. `_finish` names them by number."""
SCORE_CHANNELS = 8
# Pixels or places of a program and its warps, measured on an H200.
FIRST, BRANCH, FEATURES = (128, 2), (64, 4), (16, 4)


@triton.jit
def _selu(x):
    return 1.0507009873554805 * tl.where(x > 0, x, 1.6732632423543772 * (tl.exp(x) - 1))


@triton.jit
def _first_conv(
    image_ptr, taps_ptr, bias_ptr, out_ptr, height, width, high, wide, top, left, OUT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """BLOCK pixels of the padded image (high, wide), all channels."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, OUT)
    y, x = place // wide, place % wide
    total = tl.zeros((BLOCK, OUT), tl.float32) + tl.load(bias_ptr + channels)[None, :]
    for tap in tl.static_range(9):
        row, column = y + (tap // 3 - 1), x + (tap % 3 - 1)
        inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
        # Beyond the image its edge is repeated; beyond the padded image there are zeros.
        row = tl.minimum(tl.maximum(row - top, 0), height - 1)
        column = tl.minimum(tl.maximum(column - left, 0), width - 1)
        where = (row * width + column) * 3
        for colour in tl.static_range(3):
            pixel = tl.load(image_ptr + where + colour, mask=inside, other=0).to(tl.float32)
            total += pixel[:, None] * tl.load(taps_ptr + (tap * 3 + colour) * OUT + channels)[None, :]
    where = place[:, None] * OUT + channels[None, :]
    tl.store(out_ptr + where, _selu(total).to(out_ptr.dtype.element_ty), mask=(place < high * wide)[:, None])


@triton.jit
def _finish(
    total, place, out, count, bias_ptr, side_ptr, side_weight_ptr, out_ptr, limit,
    BIAS: tl.constexpr, SIDE: tl.constexpr, SIDE_PADDED: tl.constexpr, OUT: tl.constexpr, OUT_PADDED: tl.constexpr,
    AFTER: tl.constexpr,
):  # fmt: skip
    """Add the bias and the shortcut, if any, activate, store."""
    used = place < count
    if SIDE > 0:
        channels = tl.arange(0, SIDE_PADDED)
        mask = used[:, None] & (channels < SIDE)[None, :]
        rows = tl.load(side_ptr + place[:, None] * SIDE + channels[None, :], mask=mask, other=0.0)
        weight = tl.load(side_weight_ptr + channels[:, None] * OUT_PADDED + out[None, :])
        total = tl.dot(rows, weight, total)
    if BIAS:
        total += tl.load(bias_ptr + out)[None, :]
    if AFTER == 1:
        total = _selu(total)
    elif AFTER == 2:
        total = 1 / (1 + tl.exp(-total))
    elif AFTER == 3:
        total = tl.minimum(tl.maximum(total, -limit), limit)
    where = place[:, None] * OUT + out[None, :]
    tl.store(out_ptr + where, total.to(out_ptr.dtype.element_ty), mask=used[:, None] & (out < OUT)[None, :])


@triton.jit
def _conv(
    x_ptr, weight_ptr, bias_ptr, side_ptr, side_weight_ptr, out_ptr, height, width, limit,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, BIAS: tl.constexpr, SIDE: tl.constexpr, SIDE_PADDED: tl.constexpr,
    OUT: tl.constexpr, OUT_PADDED: tl.constexpr, AFTER: tl.constexpr, BLOCK: tl.constexpr, OUT_BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels, OUT_BLOCK channels. Three neighbours on a row are one run of memory: three products in all."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    out = tl.program_id(1) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    y, x = place // width, place % width
    lane = tl.arange(0, ROW)
    column = x[:, None] + (lane // CHANNELS - 1)[None, :]
    inside = (column >= 0) & (column < width) & (lane < 3 * CHANNELS)[None, :]
    total = tl.zeros((BLOCK, OUT_BLOCK), tl.float32)
    for tap in tl.static_range(3):
        row = y + (tap - 1)
        where = ((row * width + x - 1) * CHANNELS)[:, None] + lane[None, :]
        mask = inside & ((row >= 0) & (row < height))[:, None]
        tile = tl.load(x_ptr + where, mask=mask, other=0.0)
        weight = tl.load(weight_ptr + (tap * ROW + lane)[:, None] * OUT_PADDED + out[None, :])
        total = tl.dot(tile, weight, total)
    _finish(
        total, place, out, height * width, bias_ptr, side_ptr, side_weight_ptr, out_ptr, limit,
        BIAS, SIDE, SIDE_PADDED, OUT, OUT_PADDED, AFTER,
    )  # fmt: skip


@triton.jit
def _corner(x_ptr, row, column, channels, height, width, CHANNELS: tl.constexpr):
    """Pixels of a map as float32, zero outside."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    where = (row * width + column)[:, None] * CHANNELS + channels[None, :]
    return tl.load(x_ptr + where, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _deform_conv(
    x_ptr, offset_ptr, weight_ptr, bias_ptr, side_ptr, side_weight_ptr, out_ptr, height, width,
    CHANNELS: tl.constexpr, BIAS: tl.constexpr, SIDE: tl.constexpr, SIDE_PADDED: tl.constexpr,
    OUT: tl.constexpr, AFTER: tl.constexpr, BLOCK: tl.constexpr, OUT_BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels, OUT_BLOCK channels: samples go from registers into the product."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    out = tl.program_id(1) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    count = height * width
    channels = tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, OUT_BLOCK), tl.float32)
    for tap in tl.static_range(9):
        move_y = tl.load(offset_ptr + place * 18 + 2 * tap, mask=place < count, other=0.0)
        move_x = tl.load(offset_ptr + place * 18 + 2 * tap + 1, mask=place < count, other=0.0)
        y = (place // width + (tap // 3 - 1)).to(tl.float32) + move_y
        x = (place % width + (tap % 3 - 1)).to(tl.float32) + move_x
        top, left = tl.floor(y), tl.floor(x)
        down, right = (y - top)[:, None], (x - left)[:, None]
        row, column = top.to(tl.int32), left.to(tl.int32)
        first = _corner(x_ptr, row, column, channels, height, width, CHANNELS)
        second = _corner(x_ptr, row, column + 1, channels, height, width, CHANNELS)
        upper = first + (second - first) * right
        first = _corner(x_ptr, row + 1, column, channels, height, width, CHANNELS)
        second = _corner(x_ptr, row + 1, column + 1, channels, height, width, CHANNELS)
        lower = first + (second - first) * right
        samples = (upper + (lower - upper) * down).to(x_ptr.dtype.element_ty)
        weight = tl.load(weight_ptr + (tap * CHANNELS + channels)[:, None] * OUT + out[None, :])
        total = tl.dot(samples, weight, total)
    _finish(
        total, place, out, count, bias_ptr, side_ptr, side_weight_ptr, out_ptr, 0.0,
        BIAS, SIDE, SIDE_PADDED, OUT, OUT, AFTER,
    )  # fmt: skip


@triton.jit
def _blend(
    x_ptr, y, x, channels, CHANNELS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A map (HIGH, WIDE) at pixels y, x of a (HEIGHT, WIDTH) one, bilinear, corners on corners; float32."""
    SCALE_Y: tl.constexpr = (HIGH - 1) / (HEIGHT - 1)
    SCALE_X: tl.constexpr = (WIDE - 1) / (WIDTH - 1)
    LAST_Y: tl.constexpr = HIGH - 2 if HIGH > 1 else 0
    LAST_X: tl.constexpr = WIDE - 2 if WIDE > 1 else 0
    # A map of one row or column has no neighbours there, and their weight is zero.
    DOWN: tl.constexpr = WIDE if HIGH > 1 else 0
    RIGHT: tl.constexpr = 1 if WIDE > 1 else 0
    y, x = y * SCALE_Y, x * SCALE_X
    row, column = tl.minimum(y.to(tl.int32), LAST_Y), tl.minimum(x.to(tl.int32), LAST_X)
    down, right = (y - row)[:, None], (x - column)[:, None]
    start = x_ptr + (row * WIDE + column)[:, None] * CHANNELS + channels[None, :]
    mask = (channels < CHANNELS)[None, :]
    first = tl.load(start, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(start + RIGHT * CHANNELS, mask=mask, other=0.0).to(tl.float32)
    upper = first + (second - first) * right
    first = tl.load(start + DOWN * CHANNELS, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(start + (DOWN + RIGHT) * CHANNELS, mask=mask, other=0.0).to(tl.float32)
    lower = first + (second - first) * right
    return upper + (lower - upper) * down


@triton.jit
def _branch(
    x_ptr, weight_ptr, score_weight_ptr, part2_ptr, part3_ptr, part4_ptr, branch_ptr, part_ptr, count,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr, FULL: tl.constexpr, BLOCK: tl.constexpr,
    H1: tl.constexpr, W1: tl.constexpr, H2: tl.constexpr, W2: tl.constexpr, H3: tl.constexpr, W3: tl.constexpr,
    H4: tl.constexpr, W4: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels of a level: its branch and what the score head makes of it; on the first level, of all four."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = (place < count)[:, None]
    channels, dim, scores = tl.arange(0, PADDED), tl.arange(0, DIM), tl.arange(0, 16)
    mask = used & (channels < CHANNELS)[None, :]
    rows = tl.load(x_ptr + place[:, None] * CHANNELS + channels[None, :], mask=mask, other=0.0)
    weight = tl.load(weight_ptr + channels[:, None] * DIM + dim[None, :])
    branch = _selu(tl.dot(rows, weight)).to(branch_ptr.dtype.element_ty)
    tl.store(branch_ptr + place[:, None] * DIM + dim[None, :], branch, mask=used)
    part = tl.dot(branch, tl.load(score_weight_ptr + dim[:, None] * 16 + scores[None, :]))
    if FULL:
        inside = tl.minimum(place, count - 1)
        y, x = (inside // W1).to(tl.float32), (inside % W1).to(tl.float32)
        part += _blend(part2_ptr, y, x, scores, 8, H2, W2, H1, W1)
        part += _blend(part3_ptr, y, x, scores, 8, H3, W3, H1, W1)
        part += _blend(part4_ptr, y, x, scores, 8, H4, W4, H1, W1)
        part = _selu(part)
    where = place[:, None] * 8 + scores[None, :]
    tl.store(part_ptr + where, part.to(part_ptr.dtype.element_ty), mask=used & (scores < 8)[None, :])


@triton.jit
def _features(
    places_ptr, branch1_ptr, branch2_ptr, branch3_ptr, branch4_ptr, out_ptr, count, height, width, top, left,
    CORNERS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    H1: tl.constexpr, W1: tl.constexpr, H2: tl.constexpr, W2: tl.constexpr, H3: tl.constexpr, W3: tl.constexpr,
    H4: tl.constexpr, W4: tl.constexpr,
):  # fmt: skip
    """Unit features of BLOCK places: blended from CORNERS (4) pixels, or of one pixel each (1)."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = number < count
    channels = tl.arange(0, DIM)
    place_x = tl.load(places_ptr + 2 * number, mask=used, other=0.0)
    place_y = tl.load(places_ptr + 2 * number + 1, mask=used, other=0.0)
    first_x, first_y = tl.floor(place_x), tl.floor(place_y)
    right, down = place_x - first_x, place_y - first_y
    a1 = tl.zeros((BLOCK, DIM), tl.float32)
    a2, a3, a4 = a1, a1, a1
    for corner in tl.static_range(CORNERS):
        x, y = first_x + (corner % 2), first_y + (corner // 2)
        near_x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
        near_y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
        share_x = right if corner % 2 == 1 else 1 - right
        share_y = down if corner // 2 == 1 else 1 - down
        share = tl.where((near_x == x) & (near_y == y), share_x * share_y, 0.0)
        near_x, near_y = near_x + left, near_y + top
        index = near_y.to(tl.int32) * W1 + near_x.to(tl.int32)
        v1 = tl.load(branch1_ptr + index[:, None] * DIM + channels[None, :]).to(tl.float32)
        v2 = _blend(branch2_ptr, near_y, near_x, channels, DIM, H2, W2, H1, W1)
        v3 = _blend(branch3_ptr, near_y, near_x, channels, DIM, H3, W3, H1, W1)
        v4 = _blend(branch4_ptr, near_y, near_x, channels, DIM, H4, W4, H1, W1)
        length = tl.sqrt(tl.sum(v1 * v1 + v2 * v2 + v3 * v3 + v4 * v4, 1))
        factor = (share / tl.maximum(length, 1e-12))[:, None]
        a1 += v1 * factor
        a2 += v2 * factor
        a3 += v3 * factor
        a4 += v4 * factor
    start = out_ptr + number[:, None] * (4 * DIM) + channels[None, :]
    dtype = out_ptr.dtype.element_ty
    tl.store(start, a1.to(dtype), mask=used[:, None])
    tl.store(start + DIM, a2.to(dtype), mask=used[:, None])
    tl.store(start + 2 * DIM, a3.to(dtype), mask=used[:, None])
    tl.store(start + 3 * DIM, a4.to(dtype), mask=used[:, None])


@triton_op("aot_perception::aliked_first_conv", mutates_args={})
def first_conv(
    image: Tensor, taps: Tensor, bias: Tensor, high: int, wide: int, top: int, left: int, dtype: torch.dtype
) -> Tensor:
    """SELU of the first convolution of an image whose edge is repeated up to the padded size.

    Args:
        image: (H, W, 3) uint8.
        taps: (27, C) float32 on values 0 to 255, rows by tap (row-major), then colour. bias: (C,) float32.
        high, wide: padded size. top, left: where the image lies in it.

    Returns:
        (high, wide, C) of `dtype`.
    """
    out = image.new_empty((high, wide, taps.shape[1]), dtype=dtype)
    block, warps = FIRST
    wrap_triton(_first_conv)[(triton.cdiv(high * wide, block),)](
        image, taps, bias, out, image.shape[0], image.shape[1], high, wide, top, left,
        OUT=taps.shape[1], BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


@triton_op("aot_perception::aliked_conv", mutates_args={})
def conv(
    x: Tensor, weight: Tensor, bias: Tensor, side: Tensor, side_weight: Tensor, out_channels: int, after: int,
    limit: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """A 3x3 convolution with padding 1, a 1x1 convolution of another map added, and an activation.

    Args:
        x: (H, W, C), C a power of two.
        weight: (3, R, P), see `packing.pack_conv`; P >= out_channels. bias: (P,) float32, or (0,) for none.
        side: (H, W, S); without a shortcut, anything with `side_weight` empty (0, P).
        side_weight: (max(S, 16), P).
        after: NONE, SELU, SIGMOID or CLAMP to +-limit.

    Returns:
        (H, W, out_channels) of `dtype`.
    """
    height, width, channels = x.shape
    out = x.new_empty((height, width, out_channels), dtype=dtype)
    padded = weight.shape[2]
    count = height * width
    block, out_block, warps = conv_blocks(count, padded)
    with_side = side_weight.shape[0] > 0
    wrap_triton(_conv)[(triton.cdiv(count, block), padded // out_block)](
        x, weight, bias, side, side_weight, out, height, width, limit,
        CHANNELS=channels, ROW=weight.shape[1], BIAS=bias.shape[0] > 0, SIDE=side.shape[2] if with_side else 0,
        SIDE_PADDED=side_weight.shape[0] if with_side else LANES, OUT=out_channels, OUT_PADDED=padded, AFTER=after,
        BLOCK=block, OUT_BLOCK=out_block, num_warps=warps,
    )  # fmt: skip
    return out


@triton_op("aot_perception::aliked_deform_conv", mutates_args={})
def deform_conv(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, side: Tensor, side_weight: Tensor, after: int
) -> Tensor:
    """A 3x3 deformable convolution with padding 1, a 1x1 convolution of another map added, and an activation.

    Args:
        x: (H, W, C), C a power of two from 16.
        offset: (H, W, 18) float32 pixels, per tap (row-major) dy, then dx.
        weight: (9, C, O), taps row-major, O a power of two from 16. bias: (O,) float32, or (0,) for none.
        side, side_weight, after: see `conv`.

    Returns:
        (H, W, O) in x's dtype.
    """
    height, width, channels = x.shape
    out_channels = weight.shape[2]
    out = x.new_empty((height, width, out_channels))
    count = height * width
    block, out_block, warps = deform_blocks(out_channels)
    with_side = side_weight.shape[0] > 0
    wrap_triton(_deform_conv)[(triton.cdiv(count, block), out_channels // out_block)](
        x, offset, weight, bias, side, side_weight, out, height, width,
        CHANNELS=channels, BIAS=bias.shape[0] > 0, SIDE=side.shape[2] if with_side else 0,
        SIDE_PADDED=side_weight.shape[0] if with_side else LANES, OUT=out_channels, AFTER=after,
        BLOCK=block, OUT_BLOCK=out_block, num_warps=warps,
    )  # fmt: skip
    return out


@triton_op("aot_perception::aliked_branch", mutates_args={})
def branch(x: Tensor, weight: Tensor, score_weight: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A level's branch, and what the score head's first layer makes of it.

    Args:
        x: (H, W, C).
        weight: (max(C, 16), Q) of the branch's 1x1 convolution. score_weight: (Q, 16), 8 columns used.
        parts: for the first level, the parts (h, w, 8) of the other three, which are added before a SELU; else none.

    Returns:
        The branch (H, W, Q) and the part (H, W, 8) in x's dtype.
    """
    height, width, channels = x.shape
    result, part = (x.new_empty((height, width, size)) for size in (weight.shape[1], SCORE_CHANNELS))
    full = len(parts) > 0
    two, three, four = parts if full else (x, x, x)
    count, (block, warps) = height * width, BRANCH
    wrap_triton(_branch)[(triton.cdiv(count, block),)](
        x, weight, score_weight, two, three, four, result, part, count,
        CHANNELS=channels, PADDED=weight.shape[0], DIM=weight.shape[1], FULL=full, BLOCK=block,
        H1=height, W1=width, H2=two.shape[0], W2=two.shape[1], H3=three.shape[0], W3=three.shape[1],
        H4=four.shape[0], W4=four.shape[1], num_warps=warps,
    )  # fmt: skip
    return result, part


@triton_op("aot_perception::aliked_features", mutates_args={})
def features(
    places: Tensor, branches: list[Tensor], height: int, width: int, top: int, left: int, between: bool
) -> Tensor:
    """Unit features of places in the image; pixels outside it count as zero.

    Args:
        places: (N, 2) float32, x and y in pixels of the image.
        branches: four of (h, w, Q), the first one at padded full resolution.
        height, width: of the image. top, left: where it lies in the padded one.
        between: places lie between pixels, and four are blended; else they are pixels.

    Returns:
        (N, 4 * Q) in the dtype of the branches.
    """
    one, two, three, four = branches
    count, dim, (block, warps) = places.shape[0], one.shape[2], FEATURES
    out = one.new_empty((count, 4 * dim))
    wrap_triton(_features)[(triton.cdiv(count, block),)](
        places, one, two, three, four, out, count, height, width, top, left,
        CORNERS=4 if between else 1, DIM=dim, BLOCK=block,
        H1=one.shape[0], W1=one.shape[1], H2=two.shape[0], W2=two.shape[1], H3=three.shape[0], W3=three.shape[1],
        H4=four.shape[0], W4=four.shape[1], num_warps=warps,
    )  # fmt: skip
    return out


def conv_blocks(count: int, out: int) -> tuple[int, int, int]:
    """Pixels and channels per program, and warps, of a convolution of `count` pixels; measured on an H200."""
    if count >= 1 << 15:
        # Not 256: in a product of so many rows Triton 3.6 reads beyond shared memory (found by compute-sanitizer).
        return 128, out, 4 if out <= 16 else 8
    # Few pixels: the more programs, the more of the chip takes part.
    return LANES, (min(out, 32) if count >= 1 << 11 else LANES), 2


def deform_blocks(out: int) -> tuple[int, int, int]:
    """As `conv_blocks`, of a deformable one."""
    return LANES, min(out, 64), 8
