# SPDX-License-Identifier: Apache-2.0
"""How weights lie in memory for the kernels of `kernels`: matrices whose sides are powers of two, zeros beyond."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

LANES = 16
"""Tensor cores multiply matrices of this many rows and columns at least."""


def pack_conv(weight: Tensor, padded: int) -> Tensor:
    """(O, C, 3, 3) -> (3, R, padded): per row of the kernel a matrix, its rows by column of the kernel, then channel.

    R is the power of two from 3 * C; rows and columns beyond are zeros.
    """
    out, channels = weight.shape[:2]
    rows = 1 << (3 * channels - 1).bit_length()
    matrix = weight.permute(2, 3, 1, 0).reshape(3, 3 * channels, out)
    return F.pad(matrix, (0, padded - out, 0, max(rows, LANES) - 3 * channels)).contiguous()


def pointwise(layer: nn.Conv2d) -> Tensor:
    """The matrix (max(C, 16), O) of a 1x1 convolution."""
    matrix = layer.weight.flatten(1).t()
    return F.pad(matrix, (0, 0, 0, max(LANES - matrix.shape[0], 0))).contiguous()
