# SPDX-License-Identifier: Apache-2.0
"""Necks by the names of mmdet and mmdet3d: the maps of all stages of a backbone become one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvModule(nn.Module):
    """A convolution under the name `conv`, as mmcv's has it."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class Fpn(nn.Module):
    """One level of mmdet's FPN: 1x1 on each stage, added from coarse to fine by nearest neighbours, then 3x3.

    Only what the level needs is here: no convolutions of finer stages, and one 3x3.

    Args:
        channels: of the stages.
        out: channels of the result.
        level: the stage whose size the result has.
    """

    def __init__(self, channels: Sequence[int], out: int, level: int) -> None:
        super().__init__()
        self.level = level
        self.lateral_convs = nn.ModuleDict(
            {str(stage): ConvModule(channels[stage], out, 1) for stage in range(level, len(channels))}
        )
        self.fpn_convs = nn.ModuleDict({str(level): ConvModule(out, out, 3)})

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        names = sorted(self.lateral_convs, key=int, reverse=True)
        total = self.lateral_convs[names[0]](maps[int(names[0])])
        for name in names[1:]:
            finer = self.lateral_convs[name](maps[int(name)])
            total = finer + F.interpolate(total, size=finer.shape[2:], mode="nearest")
        found: Tensor = self.fpn_convs[str(self.level)](total)
        return found


class SecondFpn(nn.Module):
    """SECOND's neck: every map is brought to one size by a convolution of its own, and all are joined.

    Args:
        channels: of the maps.
        out: channels that each gives.
        scales: of each map's size: 2 doubles it, 1/4 quarters it.
    """

    # What mmdet3d's neck is trained with.
    EPS = 1e-3

    def __init__(self, channels: Sequence[int], out: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList(
            nn.Sequential(_resize(count, out, scale), nn.BatchNorm2d(out, eps=self.EPS), nn.ReLU())
            for count, scale in zip(channels, scales)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([deblock(x) for deblock, x in zip(self.deblocks, maps)], 1)


def _resize(channels: int, out: int, scale: float) -> nn.Module:
    if scale >= 1:
        return nn.ConvTranspose2d(channels, out, round(scale), round(scale), bias=False)
    step = round(1 / scale)
    return nn.Conv2d(channels, out, step, step, bias=False)
