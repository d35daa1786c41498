# SPDX-License-Identifier: Apache-2.0
"""The module that is exported for CUDA in half precision: `deploy.DeployedALIKED` on the kernels of `kernels`.

Eager, it runs the plain operations, and only what is compiled contains the kernels: the export's check of compiled
against eager thus checks them too.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros import kernels
from aliked_ros.deform_conv import DeformableConv
from aliked_ros.deploy import PIXEL_STEPS, DeployedALIKED
from aliked_ros.descriptors import Features
from aliked_ros.detection import Points, strongest
from aliked_ros.model import ResidualBlock, padding
from aliked_ros.packing import LANES, pack_conv, pointwise

RANKED = 4096
"""Up to so many keypoints, comparing each with each is faster than sorting them."""


class FusedALIKED(DeployedALIKED):
    """As its base; half precision on CUDA only, once compiled."""

    def dense(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not torch.compiler.is_compiling():
            return super().dense(image)
        return self.fused_dense(image)

    def detect(self, scores: Tensor) -> Points:
        by_rank = torch.compiler.is_compiling() and self.top_k <= RANKED
        return strongest(scores, self.top_k, self.nms_rounds, by_rank=by_rank)

    def describe(self, points: Tensor, branches: list[Tensor]) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().describe(points, branches)
        return self.fused_describe(points, branches)

    def fused_dense(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `dense`, with branches (h, w, D/4)."""
        network = self.network
        left, right, top, bottom = padding(self.height, self.width)
        size = self.height + top + bottom, self.width + left + right
        first = network.block1.conv1
        # The two halves of the weights together are the exact ones, and products are float32 here.
        assert first.bias is not None
        exact = first.weight.float()
        exact = exact[:, :3] + exact[:, 3:] if first.in_channels == 6 else exact
        taps = exact.permute(2, 3, 1, 0).reshape(27, -1) / PIXEL_STEPS
        x = kernels.first_conv(image[0], taps, first.bias.float(), *size, top, left, first.weight.dtype)
        x1 = convolve(network.block1.conv2, x, kernels.SELU)
        x2 = residual(network.block2, average(x1, 2))
        x3 = residual(network.block3, average(x2, 4))
        x4 = residual(network.block4, average(x3, 4))
        branches: list[Tensor] = []
        parts: list[Tensor] = []
        quarter, scorer = network.conv1.out_channels, cast(nn.Conv2d, network.score_head[0])
        layers = (network.conv1, network.conv2, network.conv3, network.conv4)
        for level in (3, 2, 1, 0):
            columns = scorer.weight[:, level * quarter : (level + 1) * quarter, 0, 0]
            score_weight = F.pad(columns.t(), (0, LANES - columns.shape[0])).contiguous()
            # The last one, at full resolution, adds up all.
            x = (x1, x2, x3, x4)[level]
            found, part = kernels.branch(x, pointwise(layers[level]), score_weight, [] if level else parts)
            branches.insert(0, found)
            parts.insert(0, part)
        x = parts[0]
        for index, after in ((2, kernels.SELU), (4, kernels.SELU), (6, kernels.SIGMOID)):
            x = convolve(network.score_head[index], x, after)
        return x[top : top + self.height, left : left + self.width, 0], branches

    def fused_describe(self, points: Tensor, branches: list[Tensor]) -> Tensor:
        """As `describe`, of branches (h, w, D/4)."""
        left, _, top, _ = padding(self.height, self.width)
        return self.network.desc_head(points, RowFeatures(branches, (self.height, self.width), (top, left)))


def average(x: Tensor, factor: int) -> Tensor:
    """(H, W, C) by means of factor x factor pixels."""
    height, width, channels = x.shape
    cells = x.view(height // factor, factor, width // factor, factor, channels)
    return cells.mean(dim=(1, 3), dtype=torch.float32).to(x.dtype)


def residual(block: ResidualBlock, x: Tensor) -> Tensor:
    """A residual block of (H, W, C)."""
    return convolve(
        block.conv2, convolve(block.conv1, x, kernels.SELU), kernels.SELU, side=x, shortcut=block.downsample
    )


def convolve(
    layer: nn.Module, x: Tensor, after: int, *, side: Tensor | None = None, shortcut: nn.Conv2d | None = None
) -> Tensor:
    """A 3x3 convolution, plain or deformable, of (H, W, C), with the shortcut of `side` added."""
    plain: Any = layer.regular_conv if isinstance(layer, DeformableConv) else layer
    out = plain.out_channels
    padded = max(out, LANES)
    bias = plain.bias.float() if plain.bias is not None else x.new_zeros(0, dtype=torch.float32)
    if side is None or shortcut is None:
        side, side_weight = x, x.new_zeros(0, padded)
    else:
        side_weight = pointwise(shortcut)
        assert shortcut.bias is not None
        bias = bias + shortcut.bias.float()
    if isinstance(layer, DeformableConv):
        limit = max(x.shape[:2]) / 4
        move = layer.offset_conv
        assert move.bias is not None
        offset = _conv(x, move, move.bias.float(), x, x.new_zeros(0, 32), kernels.CLAMP, limit, torch.float32)
        weight = plain.weight.permute(2, 3, 1, 0).reshape(9, x.shape[2], out).contiguous()
        return kernels.deform_conv(x, offset, weight, bias, side, side_weight, after)
    return _conv(x, plain, bias, side, side_weight, after, 0.0, torch.float32 if after == kernels.SIGMOID else x.dtype)


def _conv(
    x: Tensor, layer: Any, bias: Tensor, side: Tensor, side_weight: Tensor, after: int, limit: float, dtype: torch.dtype
) -> Tensor:
    padded = side_weight.shape[1]
    bias = F.pad(bias, (0, padded - bias.shape[0])) if len(bias) else bias
    weight = pack_conv(layer.weight, padded)
    return kernels.conv(x, weight, bias, side, side_weight, layer.out_channels, after, limit, dtype)


class RowFeatures(Features):
    """What `DescriptorHead` reads, from branches (h, w, D/4): a list of places at once, in half precision."""

    def __init__(self, branches: list[Tensor], size: tuple[int, int], origin: tuple[int, int]) -> None:
        self.height, self.width = size
        self._branches, self._origin = branches, origin

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        return self._read(torch.stack([x, y], dim=-1), between=False).float()

    def around(self, centres: Tensor) -> Tensor:
        steps = torch.arange(-1, 2, device=centres.device, dtype=torch.float32)
        x, y = centres[:, 0, None, None] + steps, centres[:, 1, None, None] + steps[:, None]
        return self._read(torch.stack(torch.broadcast_tensors(x, y), dim=-1), between=False)

    def between(self, places: Tensor) -> Tensor:
        return self._read(places, between=True)

    def _read(self, places: Tensor, *, between: bool) -> Tensor:
        flat = places.reshape(-1, 2).contiguous()
        rows = kernels.features(flat, self._branches, self.height, self.width, *self._origin, between)
        return rows.view(*places.shape[:-1], rows.shape[1])
