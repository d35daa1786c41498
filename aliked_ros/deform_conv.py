# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution of ALIKED's last two blocks."""

from __future__ import annotations

from torch import Tensor, nn

from aot_runtime.deform_conv import deform_conv2d


class DeformableConv(nn.Module):
    """A deformable convolution that predicts its own offsets, clamped to a quarter of the map's longer side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(channels, 18, 3, padding=1)
        self.regular_conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        limit = max(x.shape[2:]) / 4
        offset = self.offset_conv(x).float().clamp(-limit, limit)
        conv = self.regular_conv
        return deform_conv2d(x, offset, conv.weight, conv.bias, padding=(1, 1))
