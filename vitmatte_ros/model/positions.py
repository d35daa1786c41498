# SPDX-License-Identifier: Apache-2.0
"""Absolute and relative positions, resized to any grid of tokens without asking whether they need it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(table: Tensor) -> Tensor:
    """In float32, or float64 as it is."""
    return table.to(torch.promote_types(table.dtype, torch.float32))


def absolute_positions(table: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Position of every token.

    Args:
        table: (1, 1 + grid^2, C), with a class token first that nothing reads.
        height, width: tokens wanted.

    Returns:
        (1, height, width, C) float32, bicubic (a = -0.75, edges clamped, no aligned corners). At the table's own size
        the weights are 0 and 1, so that nothing changes.
    """
    square = _wide(table[:, 1:]).reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def relative_rows(table: Tensor, tokens: int) -> Tensor:
    """A table of relative positions for `tokens` tokens in a row: (rows, C) -> (2 * tokens - 1, C), float32.

    Linear without aligned corners: row i lies at (i + 1/2) rows / wanted - 1/2 of the table. That is a fraction of two
    integers below 2^24, which float32 divides exactly where the result is whole: a table of the right length comes out
    as it is.
    """
    rows = table.shape[0]
    wanted = 2 * tokens - 1
    whole = (2 * torch.arange(wanted, device=table.device) + 1) * rows - wanted
    # In float32: Inductor would follow the integers into the index, and stumbles there (torch 2.13, symbolic sizes).
    place, step = whole.float().clamp(min=0), 2 * wanted
    low = (place / step).floor()
    first, values = low.long(), _wide(table)
    share = ((place - low * step).to(values.dtype) / step)[:, None]
    return values[first] * (1 - share) + values[(first + 1).clamp(max=rows - 1)] * share


def offsets(tokens: int, device: torch.device) -> Tensor:
    """(tokens, tokens) int64: the row of a relative table for query i and key j, i - j + tokens - 1."""
    line = torch.arange(tokens, device=device)
    return line[:, None] - line[None, :] + (tokens - 1)


def relative_table(table: Tensor, tokens: int) -> Tensor:
    """(tokens, tokens, C) float32: what query i is multiplied by for key j."""
    return relative_rows(table, tokens)[offsets(tokens, table.device)]
