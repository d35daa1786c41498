# SPDX-License-Identifier: Apache-2.0
"""A linear layer that keeps its weights in 8 bits and multiplies in 16."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Widened(nn.Module):
    """What torchao made of a linear layer, with the product left to the library that runs all others.

    torchao's own runs PyTorch's kernel for 8-bit weights, with which a network takes 150 times as long on an H200 as in
    bf16 (docs/vggt.md). Making the weights 16 bits wide first is one pass over them.

    Args:
        plain: a linear layer whose weight is an 8-bit tensor of torchao, scaled by rows.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        told: Any = plain.weight
        self.dtype = told.dtype
        self.qdata: Tensor
        self.scale: Tensor
        self.register_buffer("qdata", told.qdata.detach().clone())
        self.register_buffer("scale", told.scale.detach().float().reshape(-1, 1))
        self.bias: Tensor | None = plain.bias  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:
        """(out, in) in the dtype of products, as those who ask a linear layer for it expect."""
        return (self.qdata.float() * self.scale).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight, self.bias)
