# SPDX-License-Identifier: Apache-2.0
"""The decoder: details of the image, kept by a few convolutions, meet the transformer's features (arXiv 2305.15272)."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmatte_ros.config import IN_CHANNELS, VitMatteConfig


class BasicConv3x3(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out: int, eps: float, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.batch_norm: nn.Module = nn.BatchNorm2d(out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.batch_norm(self.conv(x)))


class ConvStream(nn.Module):
    """Details of the image at full size and at 1/2, 1/4, 1/8 of it."""

    def __init__(self, channels: tuple[int, ...], eps: float) -> None:
        super().__init__()
        sizes = (IN_CHANNELS, *channels)
        self.convs = nn.ModuleList(BasicConv3x3(a, b, eps, stride=2) for a, b in pairwise(sizes))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 4, H, W) -> itself and (B, c_i, H / 2^i, W / 2^i), fine to coarse."""
        levels = [image]
        for conv in self.convs:
            levels.append(conv(levels[-1]))
        return levels


class FusionBlock(nn.Module):
    """Features at twice their size, beside the details of that size, through a convolution."""

    def __init__(self, channels: int, out: int, eps: float) -> None:
        super().__init__()
        self.conv = BasicConv3x3(channels, out, eps)

    def forward(self, features: Tensor, detail: Tensor) -> Tensor:
        """(B, c, h, w) and (B, d, 2h, 2w) -> (B, out, 2h, 2w)."""
        size = (detail.shape[2], detail.shape[3])
        larger = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        fused: Tensor = self.conv(torch.cat([detail, larger], dim=1))
        return fused


class Head(nn.Module):
    """3x3 convolution to 16 channels, BatchNorm, ReLU, and one number per pixel."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        middle = 16
        self.matting_convs = nn.Sequential(
            nn.Conv2d(channels, middle, 3, padding=1),
            nn.BatchNorm2d(middle, eps=eps),
            nn.ReLU(),
            nn.Conv2d(middle, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> logits (B, 1, H, W) float32."""
        last = self.matting_convs[3]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        y: Tensor = self.matting_convs[:3](x)
        # A sum over channels that fuses with what is before and after it; its weights stay float32.
        weight = last.weight.reshape(1, -1, 1, 1)
        return (y.to(weight.dtype) * weight).sum(1, keepdim=True) + last.bias


class DetailCapture(nn.Module):
    """Features of the transformer and the image itself -> alpha.

    Attributes:
        image_channels: of the image that the convolutions take; more than 4 where `pad_channels` said so.
    """

    def __init__(self, config: VitMatteConfig) -> None:
        super().__init__()
        eps = config.batch_norm_eps
        self.convstream = ConvStream(config.details, eps)
        details = (IN_CHANNELS, *config.details)[::-1]
        sizes = (config.dim, *config.fusion)
        self.fusion_blocks = nn.ModuleList(
            FusionBlock(detail + size, out, eps) for detail, size, out in zip(details, sizes[:-1], sizes[1:])
        )
        self.matting_head = Head(config.fusion[-1], eps)
        self.image_channels = IN_CHANNELS

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Alpha of every pixel.

        Args:
            features: (B, dim, H / 16, W / 16).
            image: (B, 4, H, W), the network's input.

        Returns:
            (B, 1, H, W) float32, 0 to 1.
        """
        dtype = self.matting_head.matting_convs[0].weight.dtype
        assert isinstance(dtype, torch.dtype)
        image = F.pad(image.to(dtype), (0, 0, 0, 0, 0, self.image_channels - IN_CHANNELS))
        details = self.convstream(image.contiguous(memory_format=torch.channels_last))
        x = features.to(dtype)
        for fuse, detail in zip(self.fusion_blocks, details[::-1]):
            x = fuse(x, detail)
        return torch.sigmoid(self.matting_head(x))

    def fold_batch_norm(self) -> None:
        """Move every BatchNorm into the convolution before it, in place."""
        convs = [*self.convstream.convs, *(block.conv for block in self.fusion_blocks)]
        for part in convs:
            assert isinstance(part, BasicConv3x3)
            part.conv = fold(part.conv, part.batch_norm)
            part.batch_norm = nn.Identity()
        head = self.matting_head.matting_convs
        assert isinstance(head[0], nn.Conv2d)
        head[0], head[1] = fold(head[0], head[1]), nn.Identity()

    def pad_channels(self, multiple: int) -> None:
        """Give the image zero channels up to a multiple, and the convolutions that read it zero weights, in place.

        Tensor cores take half precision in vectors of 8 channels; with 4, or 4 and 64, a library pads at every call.
        """
        more = -self.image_channels % multiple
        first, last = self.convstream.convs[0], self.fusion_blocks[-1]
        for conv in (first.conv, last.conv.conv):  # type: ignore[union-attr]
            assert isinstance(conv, nn.Conv2d)
            weight = conv.weight
            zeros = weight.new_zeros(len(weight), more, *weight.shape[2:])
            image, rest = weight[:, : self.image_channels], weight[:, self.image_channels :]
            conv.weight = nn.Parameter(torch.cat([image, zeros, rest], dim=1), requires_grad=False)
            conv.in_channels += more
        self.image_channels += more


def fold(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """A convolution that computes norm(conv(x)); computed in float64, so that one rounding is all that differs."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded = copy.deepcopy(conv)
    factor = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * factor
    if conv.bias is not None:
        bias = bias + conv.bias.double() * factor
    folded.weight = nn.Parameter((conv.weight.double() * factor[:, None, None, None]).float(), requires_grad=False)
    folded.bias = nn.Parameter(bias.float(), requires_grad=False)
    return folded
