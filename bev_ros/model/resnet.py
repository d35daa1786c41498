# SPDX-License-Identifier: Apache-2.0
"""ResNet by mmdet's names: the backbone of images, and the trunk of maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bev_ros.config import BACKBONES


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(planes)
        self.downsample = _downsample(channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which has the stride, as torchvision's weights expect) and 1x1 beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out = planes * self.expansion
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(out)
        self.downsample = _downsample(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def _downsample(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """The outputs of every stage, finest first.

    Args:
        kind: a member of BACKBONES.
        channels: of the input.
        base: channels of the first stage's 3x3 convolutions.
        stages: how many of the four.
        strides: of the stages.
        pool: halve the stem's output, as for images; maps keep it.

    Attributes:
        channels: of every stage's output.
    """

    def __init__(
        self,
        kind: str,
        channels: int = 3,
        base: int = 64,
        *,
        stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        pool: bool = True,
    ) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck]
        name, depths = BACKBONES[kind]
        block = BasicBlock if name == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(channels, base, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(base)
        self.pool = pool
        self.stages = stages
        self.channels = tuple(base * 2**stage * block.expansion for stage in range(stages))
        inside = base
        for stage in range(stages):
            planes = base * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depths[stage]):
                blocks.append(block(inside, planes, strides[stage] if index == 0 else 1))
                inside = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        found = []
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            found.append(x)
        return found
