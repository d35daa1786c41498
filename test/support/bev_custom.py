# SPDX-License-Identifier: Apache-2.0
"""Custom image stages for tests, right and wrong ones; see `bev_ros.custom`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Colours(nn.Module):
    """Mean colours of each feature's pixels as context, and one depth for all of them, told by an option."""

    def __init__(self, config: Any, bin: int = 2) -> None:
        super().__init__()
        self.config = config
        self.bin = bin
        self.scale = nn.Parameter(torch.ones(config.channels))

    def forward(self, images: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
        means = nn.functional.avg_pool2d(images, self.config.stride)
        times = -(-self.config.channels // 3)
        context = means.repeat(1, times, 1, 1)[:, : self.config.channels] * self.scale[:, None, None]
        depth = torch.zeros_like(means[:, :1]).repeat(1, self.config.frustum.bins, 1, 1)
        depth[:, self.bin] = 1.0
        # The camera's focal length, so that the vectors are used.
        return depth, context + 0.0 * cameras[:, :1, None, None]


class OwnWeights(Colours):
    """Reads a file of another kind."""

    def load_weights(self, path: str | Path) -> None:
        """One number in a text file."""
        with torch.no_grad():
            self.scale.fill_(float(torch.load(path, weights_only=True)["number"]))


class WrongShape(Colours):
    """One channel too few."""

    def forward(self, images: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
        depth, context = super().forward(images, cameras)
        return depth, context[:, 1:]


class Alone(Colours):
    """Depth without context."""

    def forward(self, images: Tensor, cameras: Tensor) -> Any:
        return super().forward(images, cameras)[0]


class Failing(Colours):
    """Raises."""

    def forward(self, images: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError("nothing works")


class NoModule:
    """Not a network."""

    def __init__(self, config: Any) -> None:
        self.config = config


def function(config: Any) -> None:
    """Not a class."""
