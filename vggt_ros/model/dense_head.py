# SPDX-License-Identifier: Apache-2.0
"""VGGT's dense heads: patch tokens of four layers -> depth or points of every pixel, and how sure they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depth_ros.model.dpt import DPT
from vggt_ros.config import VggtConfig

UV_WEIGHT = 0.1
"""What the embedding of image positions is multiplied with."""
UV_BASE = 100.0


def uv_axis(size: int, other: int) -> Tensor:
    """Positions (size,) float64 of pixel centres along an axis of `size` pixels, the other axis having `other`.

    The image's half diagonal is 1.
    """
    edge = size / math.hypot(size, other) * (size - 1) / size
    return torch.linspace(-edge, edge, size, dtype=torch.float64)


def uv_waves(positions: Tensor, channels: int) -> Tensor:
    """Sines, then cosines of positions (n,) -> (2 * channels, n) float32, computed in float64 and rounded once."""
    frequencies = UV_BASE ** (-torch.arange(channels, dtype=torch.float64) / channels)
    angles = frequencies[:, None] * positions
    return torch.cat([angles.sin(), angles.cos()]).float()


class UvEmbedding(nn.Module):
    """The embedding of image positions, times UV_WEIGHT: half of the channels say u (columns), half v (rows).

    An image and its maps have one aspect, so that a map's size says all. Kept as one vector per axis: the whole map of
    a large image would be the largest constant of the network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fixed = False
        """Only maps of sizes that `fix` was told are taken."""

    def _name(self, channels: int, height: int, width: int) -> str:
        return f"waves_{channels}x{height}x{width}"

    def fix(self, channels: int, height: int, width: int) -> None:
        """Keep the vectors for maps of one size; call it for every size there is."""
        for axis, waves in zip("uv", self._waves(channels, height, width)):
            self.register_buffer(f"{axis}_{self._name(channels, height, width)}", waves, persistent=False)
        self.fixed = True

    @staticmethod
    def _waves(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        count = channels // 4
        return (
            UV_WEIGHT * uv_waves(uv_axis(width, height), count)[:, None, :],
            UV_WEIGHT * uv_waves(uv_axis(height, width), count)[:, :, None],
        )

    def forward(self, x: Tensor) -> Tensor:
        """(C, h, w) float32 for a map (B, C, h, w)."""
        channels, height, width = x.shape[1:]
        if self.fixed:
            name = self._name(channels, height, width)
            u, v = getattr(self, f"u_{name}"), getattr(self, f"v_{name}")
        else:
            u, v = (waves.to(x.device) for waves in self._waves(channels, height, width))
        return torch.cat([u.expand(-1, height, -1), v.expand(-1, -1, width)])


def dense_head(config: VggtConfig, outputs: int) -> DPT:
    """A head of `outputs` channels, the last of which is the confidence."""
    return DPT(
        2 * config.dim,
        config.features,
        config.out_channels,
        outputs,
        norm=True,
        rectified_skip=True,
        unused_unit=False,
        embedding=UvEmbedding(),
    )


def fix_size(head: DPT, height: int, width: int, patch: int) -> None:
    """Compute a head's embeddings for images of one size, in place."""
    embedding = head.embedding
    assert isinstance(embedding, UvEmbedding)
    for projection in head.projects:
        assert isinstance(projection, nn.Conv2d)
        embedding.fix(projection.out_channels, height // patch, width // patch)
    embedding.fix(head.scratch.output_conv1.out_channels, height, width)


def activate_depth(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, H, W) -> depth (B, H, W), positive, and confidence (B, H, W), 1 or more."""
    return raw[:, 0].exp(), 1 + raw[:, 1].exp()


def activate_points(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 4, H, W) -> points (B, H, W, 3) in the world, and confidence (B, H, W), 1 or more."""
    points = raw[:, :3].permute(0, 2, 3, 1)
    return points.sign() * points.abs().expm1(), 1 + raw[:, 3].exp()
