# SPDX-License-Identifier: Apache-2.0
"""The transformer: ViTDet (arXiv 2203.16527) with four input channels.

Tokens are (B, h, w, dim) throughout, which is what linear layers and normalisations want; to a convolution they are a
channels-last image. Reduced precision: products, convolutions and attention run in the dtype of their weights, while
normalisations and the sum of the layers stay float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmatte_ros.config import IN_CHANNELS, VitMatteConfig
from vitmatte_ros.model.attention import Attention
from vitmatte_ros.model.positions import absolute_positions


class Embeddings(nn.Module):
    """Patches become tokens, and get their position.

    Args:
        patch: pixels on a side of a patch.
        grid: positions on a side of the table.
    """

    positions: Tensor

    def __init__(self, dim: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch = patch
        self.grid = grid
        self.projection = nn.Conv2d(IN_CHANNELS, dim, patch, stride=patch)
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.fixed: tuple[int, int] | None = None

    def fix_size(self, height: int, width: int) -> None:
        """Resize the positions to (height, width) tokens once, in place."""
        with torch.no_grad():
            fixed = absolute_positions(self.position_embeddings, self.grid, height, width)
        self.register_buffer("positions", fixed.contiguous(), persistent=False)
        self.fixed = (height, width)
        del self.position_embeddings

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, H / patch, W / patch, dim) float32; H and W are multiples of the patch."""
        batch, channels, height, width = pixel_values.shape
        patch = self.patch
        down, across = height // patch, width // patch
        weight = self.projection.weight.flatten(1)
        patches = pixel_values.to(weight.dtype).reshape(batch, channels, down, patch, across, patch)
        # One product: a convolution whose stride is its size.
        columns = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, down, across, channels * patch * patch)
        tokens = F.linear(columns, weight, self.projection.bias)
        if self.fixed:
            return tokens + self.positions
        return tokens + absolute_positions(self.position_embeddings, self.grid, down, across)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, h, w, C), in the dtype of its weights, which stays float32."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype))))
        return y


class ResBottleneckBlock(nn.Module):
    """x plus convolutions of 1x1, 3x3 and 1x1 pixels at half the channels, each with a normalisation."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        half = dim // 2
        self.conv1 = nn.Conv2d(dim, half, 1, bias=False)
        self.norm1 = ChannelNorm(half, eps)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.norm2 = ChannelNorm(half, eps)
        self.conv3 = nn.Conv2d(half, dim, 1, bias=False)
        self.norm3 = ChannelNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, dim) float32 -> the same."""
        dtype = self.conv1.weight.dtype
        y = F.gelu(self.norm1(F.linear(x.to(dtype), self.conv1.weight.flatten(1))))
        y = self.conv2(y.to(dtype).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.gelu(self.norm2(y))
        y = self.norm3(F.linear(y.to(dtype), self.conv3.weight.flatten(1)))
        return x + y


class Layer(nn.Module):
    """x + attention(norm1(x)), x + mlp(norm2(x)), and in some layers a residual block.

    Args:
        window: tokens on a side of its windows; 0 for a layer that looks at all tokens.
    """

    def __init__(self, config: VitMatteConfig, *, window: int, residual: bool) -> None:
        super().__init__()
        dim = config.dim
        self.window = window
        self.norm1 = ChannelNorm(dim, config.layer_norm_eps)
        self.attention = Attention(dim, config.heads, window or config.image_tokens)
        self.norm2 = ChannelNorm(dim, config.layer_norm_eps)
        self.mlp = Mlp(dim, dim * config.mlp_ratio)
        if residual:
            self.residual = ResBottleneckBlock(dim, config.layer_norm_eps)
        self.has_residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, dim) float32 -> the same."""
        x = x + self.attention(self.norm1(x), self.window)
        x = x + self.mlp(self.norm2(x))
        return self.residual(x) if self.has_residual else x


class Encoder(nn.Module):
    """All layers, one after another."""

    def __init__(self, config: VitMatteConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(config, window=config.window if i in config.windowed else 0, residual=i in config.residual)
            for i in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, dim) float32 -> the same."""
        for layer in self.layer:
            x = layer(x)
        return x


class Backbone(nn.Module):
    """Image and trimap -> features of one token per patch."""

    def __init__(self, config: VitMatteConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config.dim, config.patch, config.pretrain_grid)
        self.encoder = Encoder(config)

    def fix_windows(self) -> None:
        """Compute the relative positions within windows, whose size never changes, once, in place."""
        for layer in self.encoder.layer:
            assert isinstance(layer, Layer)
            if layer.window:
                layer.attention.fix_size(layer.window, layer.window)

    def fix_size(self, height: int, width: int) -> None:
        """Compute everything that depends on the (height, width) of the grid of tokens once, in place."""
        self.fix_windows()
        self.embeddings.fix_size(height, width)
        for layer in self.encoder.layer:
            assert isinstance(layer, Layer)
            if not layer.window:
                layer.attention.fix_size(height, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, H / patch, W / patch, dim) float32."""
        features: Tensor = self.encoder(self.embeddings(pixel_values))
        return features
