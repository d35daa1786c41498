# SPDX-License-Identifier: Apache-2.0
"""ALIKED (arXiv 2304.03608) with official parameter names: an encoder of four levels, a score head, a descriptor head.

The image is padded to multiples of 32; the four levels, brought to D/4 channels each (`branches`), are all that the
heads read: concatenated at full resolution, they are the feature map. The score head's first layer is linear, as is
upsampling, so that it runs on each level before that. For what is exported see `aliked_ros.deploy`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.config import STRIDE, AlikedConfig
from aliked_ros.deform_conv import DeformableConv
from aliked_ros.descriptors import DescriptorHead

NORM_FLOOR = 1e-12


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) pixels that make a size divisible by 32, the smaller half first."""
    wide, high = -width % STRIDE, -height % STRIDE
    return wide // 2, wide - wide // 2, high // 2, high - high // 2


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) bilinearly at `size` = (H, W), corners on corners."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm and SELU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.selu(self.bn1(self.conv1(x)))
        return F.selu(self.bn2(self.conv2(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, plain or deformable, around a 1x1 shortcut."""

    def __init__(self, channels: int, out: int, *, deformable: bool) -> None:
        super().__init__()

        def conv(count: int) -> nn.Module:
            return DeformableConv(count, out) if deformable else nn.Conv2d(count, out, 3, padding=1, bias=False)

        self.conv1 = conv(channels)
        self.bn1: nn.Module = nn.BatchNorm2d(out)
        self.conv2 = conv(out)
        self.bn2: nn.Module = nn.BatchNorm2d(out)
        self.downsample = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.selu(self.bn1(self.conv1(x)))
        return F.selu(self.bn2(self.conv2(y)) + self.downsample(x))


class ALIKED(nn.Module):
    """The network of an `AlikedConfig`; official checkpoints load strictly."""

    def __init__(self, config: AlikedConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4 = config.channels
        quarter = config.dim // 4
        self.block1 = ConvBlock(3, c1)
        self.block2 = ResidualBlock(c1, c2, deformable=False)
        self.block3 = ResidualBlock(c2, c3, deformable=True)
        self.block4 = ResidualBlock(c3, c4, deformable=True)
        self.conv1 = nn.Conv2d(c1, quarter, 1, bias=False)
        self.conv2 = nn.Conv2d(c2, quarter, 1, bias=False)
        self.conv3 = nn.Conv2d(c3, quarter, 1, bias=False)
        self.conv4 = nn.Conv2d(c4, quarter, 1, bias=False)
        self.score_head = nn.Sequential(
            nn.Conv2d(config.dim, 8, 1, bias=False),
            nn.SELU(),
            nn.Conv2d(8, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 1, 3, padding=1, bias=False),
        )
        self.desc_head = DescriptorHead(config.dim, config.samples)
        self.eval().requires_grad_(False)

    def randomise(self, seed: int) -> ALIKED:
        """Give every parameter a random value that keeps signals alive; the same values for a seed."""
        generator = torch.Generator().manual_seed(seed)
        for name, value in self.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1:
                ones = ".bn" in name and name.endswith("weight")
                value.data.copy_((1.0 if ones else 0.0) + 0.1 * noise)
            else:
                value.data.copy_(noise / math.sqrt(value[0].numel()))
        return self

    def fold_batch_norm(self) -> ALIKED:
        """Move every BatchNorm into the convolution before it, in place."""
        for block in (self.block1, self.block2, self.block3, self.block4):
            for index in "12":
                conv, norm = getattr(block, f"conv{index}"), getattr(block, f"bn{index}")
                if isinstance(norm, nn.BatchNorm2d):
                    _fold(conv.regular_conv if isinstance(conv, DeformableConv) else conv, norm)
                    setattr(block, f"bn{index}", nn.Identity())
        return self

    def encode(self, image: Tensor) -> list[Tensor]:
        """Levels (B, c_i, H / s_i, W / s_i), s = 1, 2, 8, 32, of a padded RGB image (B, 3, H, W) in [0, 1]."""
        x1 = self.block1(image)
        x2 = self.block2(F.avg_pool2d(x1, 2))
        x3 = self.block3(F.avg_pool2d(x2, 4))
        return [x1, x2, x3, self.block4(F.avg_pool2d(x3, 4))]

    def branches(self, levels: list[Tensor]) -> list[Tensor]:
        """The levels with D/4 channels each."""
        convs = (self.conv1, self.conv2, self.conv3, self.conv4)
        return [F.selu(conv(level)) for conv, level in zip(convs, levels)]

    def scores(self, branches: list[Tensor]) -> Tensor:
        """Probability (B, 1, H, W) float32, at padded size, that a pixel is a keypoint."""
        size = (branches[0].shape[2], branches[0].shape[3])
        first = self.score_head[0]
        quarter = branches[0].shape[1]
        parts = [
            F.conv2d(branch, first.weight[:, i * quarter : (i + 1) * quarter])  # type: ignore[index]
            for i, branch in enumerate(branches)
        ]
        total = parts[0].float() + sum(upsample(part.float(), size) for part in parts[1:])
        return torch.sigmoid(self.score_head[1:](total.to(first.weight.dtype)).float())  # type: ignore[arg-type]

    def feature_map(self, branches: list[Tensor]) -> Tensor:
        """All branches at padded full resolution, (B, D, H, W), every pixel of length 1."""
        size = (branches[0].shape[2], branches[0].shape[3])
        features = torch.cat([branches[0], *(upsample(branch, size) for branch in branches[1:])], dim=1)
        return F.normalize(features.float(), dim=1, eps=NORM_FLOOR)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The dense maps of an image of any size.

        Args:
            image: (B, 3, H, W) float32 RGB in [0, 1].

        Returns:
            The feature map (B, D, H, W) and the score map (B, 1, H, W), float32.
        """
        height, width = image.shape[2:]
        left, right, top, bottom = padding(height, width)
        padded = F.pad(image, (left, right, top, bottom), mode="replicate")
        branches = self.branches(self.encode(padded))
        maps = self.feature_map(branches), self.scores(branches)
        features, scores = (x[..., top : top + height, left : left + width] for x in maps)
        return features, scores


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight = nn.Parameter(conv.weight * factor[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * factor, requires_grad=False)
