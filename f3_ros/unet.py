# SPDX-License-Identifier: Apache-2.0
"""EventUNetFF: the voxel-grid U-Net that the F3 paper compares against (reference f3.md section 3.4).

Works on `(B, C, W, H)` fields, W before H, with the official parameter names. Evaluation mode only (BatchNorm).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from f3_ros.config import F3Config
from f3_ros.encoder import pixels


class DoubleConv(nn.Module):
    """Two rounds of 7x7 convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels, out, 7, padding=3),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 7, padding=3),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.double_conv(x)
        return y


class Down(nn.Module):
    """Halve by max-pooling, then a DoubleConv."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """Double by a transposed convolution, join the skip connection in front, then a DoubleConv."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv = DoubleConv(skip + channels, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return y


class EventUNetFF(nn.Module):
    """The network of an `F3Config` with model "EventUNetFF"; W and H must be divisible by 4."""

    def __init__(self, config: F3Config) -> None:
        super().__init__()
        if config.model != "EventUNetFF":
            raise InputError(f"expected a configuration of EventUNetFF, found {config.name} of {config.model}")
        if config.frame[0] % 4 or config.frame[1] % 4:
            raise InputError(f"expected a frame divisible by 4, found {config.frame[:2]} in {config.name}")
        self.config = config
        a, b = config.dims
        self.inc = DoubleConv(config.frame[2], a)
        self.down1 = Down(a, a)
        self.down2 = DoubleConv(a, b)
        self.down3 = DoubleConv(b, b)
        self.down4 = Down(b, b)
        self.down5 = DoubleConv(b, b)
        self.down6 = DoubleConv(b, b)
        self.up1 = DoubleConv(2 * b, b)
        self.up2 = DoubleConv(2 * b, b)
        self.up3 = Up(b, b, b)
        self.up4 = DoubleConv(2 * b, a)
        self.up5 = DoubleConv(2 * a, a)
        self.up6 = Up(a, a, a)
        self.pred = nn.Conv2d(a, config.prediction_bins, 1)
        self.eval()

    def randomise(self, seed: int) -> EventUNetFF:
        """Random weights that keep signals alive, the same for a seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.parameters():
                if value.dim() == 4:
                    value.copy_(torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel()))
        return self

    def voxels(self, events: Tensor, counts: Tensor | None = None) -> Tensor:
        """Occupancy (B, T, W, H) float32: 1 where at least one event fell; padding events (t < 0) leave none.

        Args:
            events: (N, >= 3) float32 x/W, y/H, k/T, samples concatenated. counts: (B,) events per sample.
        """
        width, height, bins = self.config.frame
        xi, yi = pixels(events, width, height)
        k = (events[:, 2] * bins).round().to(torch.int32).clamp(0, bins - 1)
        cell = (k * width + xi) * height + yi
        batch = 1
        if counts is not None:
            batch = len(counts)
            sample = torch.repeat_interleave(torch.arange(batch, device=events.device), counts.to(events.device))
            cell = cell + sample * (bins * width * height)
        grid = torch.zeros(batch * bins * width * height, device=events.device)
        grid = grid.index_add(0, cell, (events[:, 2] >= 0).float())
        return (grid > 0).float().view(batch, bins, width, height)

    def bottleneck(self, voxels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The field (B, C, W/4, H/4) between the halves, and the skip connections from shallow to deep."""
        skips = [self.inc(voxels)]
        for layer in (self.down1, self.down2, self.down3, self.down4, self.down5, self.down6):
            skips.append(layer(skips[-1]))
        return skips.pop(), skips

    def features(self, bottleneck: Tensor) -> Tensor:
        """The feature field (B, W, H, C): the bottleneck, resized bilinearly (align_corners=False)."""
        size = self.config.frame[:2]
        x = F.interpolate(bottleneck, size=size, mode="bilinear", align_corners=False)
        return x.permute(0, 2, 3, 1)

    def logits(self, bottleneck: Tensor, skips: list[Tensor]) -> Tensor:
        """Event occupancy logits of the future (B, W, H, T)."""
        x = bottleneck
        for layer, skip in zip((self.up1, self.up2, self.up3, self.up4, self.up5, self.up6), reversed(skips)):
            x = layer(x, skip) if isinstance(layer, Up) else layer(torch.cat([skip, x], dim=1))
        y: Tensor = self.pred(x)
        return y.permute(0, 2, 3, 1)

    def forward(self, events: Tensor, counts: Tensor | None = None) -> Tensor:
        """Features (B, W, H, C) of events; see `voxels`."""
        return self.features(self.bottleneck(self.voxels(events, counts))[0])
