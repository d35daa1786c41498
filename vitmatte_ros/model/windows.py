# SPDX-License-Identifier: Apache-2.0
"""Cut a grid of tokens into square windows and put it together again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def counts(height: int, width: int, window: int) -> tuple[int, int]:
    """Windows that cover a grid of tokens, downwards and across; two or more while a graph for any size is traced."""
    down, across = (height + window - 1) // window, (width + window - 1) // window
    if isinstance(across, torch.SymInt):
        # Whether windows are contiguous depends on there being one or several, and the graph would hold for one of the
        # two. A window of nothing but padding changes nothing in the others.
        across = torch.sym_max(across, 2)
    return down, across


def partition(x: Tensor, window: int) -> Tensor:
    """(B, h, w, C) -> (B * windows, window, window, C); zeros fill up the windows on the right and at the bottom."""
    batch, height, width, channels = x.shape
    down, across = counts(height, width, window)
    x = F.pad(x, (0, 0, 0, across * window - width, 0, down * window - height))
    x = x.reshape(batch, down, window, across, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch * down * across, window, window, channels)


def join(x: Tensor, window: int, batch: int, height: int, width: int) -> Tensor:
    """The opposite of `partition`: (B * windows, window, window, C) -> (B, h, w, C)."""
    down, across = counts(height, width, window)
    x = x.reshape(batch, down, across, window, window, -1).permute(0, 1, 3, 2, 4, 5)
    return cut(x.reshape(batch, down * window, across * window, -1), height, width)


def cut(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left corner of (B, h, w, C)."""
    if not isinstance(height, torch.SymInt) and not isinstance(width, torch.SymInt):
        return x[:, :height, :width]
    # While a graph for any size is traced: whether a slice is contiguous depends on the size, and the graph would hold
    # only where the answer is that of the traced size. A selection is a tensor of its own.
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(1, rows).index_select(2, columns)
