# SPDX-License-Identifier: Apache-2.0
"""BEVDepth's depth network by its names: depth and context of every pixel, gated by what is known of the camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.deform_conv import deform_conv2d
from bev_ros.geometry import VECTOR
from bev_ros.model.resnet import BasicBlock

DILATIONS = (1, 6, 12, 18)
DEFORM_GROUPS = 4


class Mlp(nn.Module):
    """Two layers with a ReLU between."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, out)
        self.fc2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc2(F.relu(self.fc1(x)))
        return found


class CameraGate(nn.Module):
    """Squeeze-and-excitation whose squeezed vector comes from the camera and not from the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, channels, 1)
        self.conv_expand = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, camera: Tensor) -> Tensor:
        """(N, C, h, w) scaled by a gate from (N, C) float32, computed in float32."""
        gate = self.conv_expand(F.relu(self.conv_reduce(camera[:, :, None, None])))
        return x * torch.sigmoid(gate).to(x.dtype)


class DilatedConv(nn.Module):
    """A dilated convolution, normalised, with a ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = 0 if kernel == 1 else dilation
        self.atrous_conv = nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class Aspp(nn.Module):
    """Convolutions of four dilations and the mean of the image, mixed by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index, dilation in enumerate(DILATIONS):
            self.add_module(f"aspp{index + 1}", DilatedConv(channels, channels, 1 if dilation == 1 else 3, dilation))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(channels * (len(DILATIONS) + 1), channels, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.get_submodule(f"aspp{index + 1}")(x) for index in range(len(DILATIONS))]
        mean = self.global_avg_pool(x).expand(-1, -1, x.shape[2], x.shape[3])
        return F.relu(self.bn1(self.conv1(torch.cat([*found, mean], 1))))


class DeformConv(nn.Module):
    """Deformable convolution v1, 3x3, in groups of channels that share one set of offsets, as mmcv's DCN has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels // DEFORM_GROUPS, 3, 3))
        self.conv_offset = nn.Conv2d(channels, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return deform_conv2d(x, self.conv_offset(x).float(), self.weight, padding=(1, 1))


class DepthNet(nn.Module):
    """(N, C_in, h, w) features and (N, 27) camera numbers -> depth logits (N, D, h, w) and context (N, C, h, w)."""

    def __init__(self, channels: int, mid: int, context: int, depth: int) -> None:
        super().__init__()
        self.reduce_conv = nn.Sequential(nn.Conv2d(channels, mid, 3, padding=1), nn.BatchNorm2d(mid), nn.ReLU())
        self.context_conv = nn.Conv2d(mid, context, 1)
        self.bn = nn.BatchNorm1d(VECTOR)
        self.depth_mlp = Mlp(VECTOR, mid)
        self.depth_se = CameraGate(mid)
        self.context_mlp = Mlp(VECTOR, mid)
        self.context_se = CameraGate(mid)
        blocks = [BasicBlock(mid, mid) for _ in range(3)]
        self.depth_conv = nn.Sequential(*blocks, Aspp(mid), DeformConv(mid), nn.Conv2d(mid, depth, 1))

    def forward(self, x: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.bn(cameras)
        x = self.reduce_conv(x)
        context = self.context_conv(self.context_se(x, self.context_mlp(numbers)))
        depth = self.depth_conv(self.depth_se(x, self.depth_mlp(numbers)))
        return depth, context


class LssHead(nn.Conv2d):
    """Depth logits and context by one 1x1 convolution."""

    def __init__(self, channels: int, context: int, depth: int) -> None:
        super().__init__(channels, depth + context, 1)
        self.depth = depth

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        found = super().forward(x)
        return found[:, : self.depth], found[:, self.depth :]


class DepthAggregation(nn.Module):
    """BEVDepth's refinement: convolutions over depth and columns of the volume, every image row by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def layer() -> list[nn.Module]:
            return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]

        self.reduce_conv = nn.Sequential(*layer())
        self.conv = nn.Sequential(*layer(), *layer())
        self.out_conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, depth: Tensor, context: Tensor) -> Tensor:
        """Depth (N, D, h, w) and context (N, C, h, w) -> the refined volume (N, D, h, w, C)."""
        cameras, bins, height, width = depth.shape
        volume = depth.to(context.dtype).unsqueeze(1) * context.unsqueeze(2)
        rows = volume.permute(0, 3, 1, 4, 2).reshape(cameras * height, -1, width, bins)
        rows = self.reduce_conv(rows)
        rows = self.out_conv(self.conv(rows) + rows)
        return rows.view(cameras, height, -1, width, bins).permute(0, 4, 1, 3, 2).contiguous()
