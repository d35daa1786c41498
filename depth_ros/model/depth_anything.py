# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V2 (arXiv 2406.09414), relative and metric, for images of any number of channels.

State dicts have the official names (`pretrained.*`, `depth_head.*`); F3's depth checkpoints hold the same under
`dav2.`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from depth_ros.model.dinov2 import DinoV2
from depth_ros.model.dpt import DPT
from depth_ros.model.vision_transformer import cast

PATCH = 14


@dataclass(frozen=True)
class DepthConfig:
    """A network: encoder, decoder, and what goes in and comes out.

    Args:
        name: of the encoder.
        dim, depth, heads, ffn: of the encoder, see `DinoV2`.
        taps: the blocks whose tokens the decoder reads.
        features, out_channels: of the decoder, see `DPT`.
        licence: of the official weights of this encoder.
        input_channels: 3 for RGB, 32 for most F3 features.
        max_depth: metres at the top of the sigmoid of a metric network; None: a relative network.
        image_size: side of the square image that the position embedding was made for.
    """

    name: str
    dim: int
    depth: int
    heads: int
    taps: tuple[int, int, int, int]
    features: int
    out_channels: tuple[int, int, int, int]
    ffn: str = "mlp"
    licence: str = ""
    input_channels: int = 3
    max_depth: float | None = None
    image_size: int = 518

    def __post_init__(self) -> None:
        if self.input_channels < 1:
            raise InputError(f"expected one or more input channels, found {self.input_channels}")
        if self.max_depth is not None and not (math.isfinite(self.max_depth) and self.max_depth > 0):
            raise InputError(f"expected a positive --max-depth in metres, found {self.max_depth}")

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return PATCH


_FREE, _NON_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0"
ENCODERS: dict[str, DepthConfig] = {
    config.name: config
    for config in (
        DepthConfig("vits", 384, 12, 6, (2, 5, 8, 11), 64, (48, 96, 192, 384), licence=_FREE),
        DepthConfig("vitb", 768, 12, 12, (2, 5, 8, 11), 128, (96, 192, 384, 768), licence=_NON_COMMERCIAL),
        DepthConfig("vitl", 1024, 24, 16, (4, 11, 17, 23), 256, (256, 512, 1024, 1024), licence=_NON_COMMERCIAL),
        DepthConfig("vitg", 1536, 40, 24, (9, 19, 29, 39), 384, (1536,) * 4, "swiglu", licence=_NON_COMMERCIAL),
    )
}
"""The official networks, by the name of their encoder, for RGB images and relative depth."""


class DepthAnythingV2(nn.Module):
    """The network of a `DepthConfig`; `load_state_dict` takes official checkpoints."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.config = config
        self.pretrained = DinoV2(
            config.dim,
            config.depth,
            config.heads,
            patch=PATCH,
            channels=config.input_channels,
            image_size=config.image_size,
            ffn=config.ffn,
        )
        self.depth_head = DPT(config.dim, config.features, config.out_channels)

    def randomise(self, seed: int) -> DepthAnythingV2:
        """Give every parameter a random value that keeps signals alive in every layer; the same values for a seed.

        For benchmarks, demos and tests without a checkpoint. Scales are those of a trained network where that matters:
        LayerScales below one, so that the residual stream does not swell, and depths that are positive for the most.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                noise = torch.randn(value.shape, generator=generator)
                if value.dim() == 1:
                    centre, spread = 0.0, 0.1
                    if name.endswith("gamma"):
                        centre, spread = 0.5, 0.1
                    elif "norm" in name and name.endswith("weight"):
                        centre = 1.0
                    value.copy_(centre + spread * noise)
                elif "token" in name or "pos_embed" in name:
                    value.copy_(0.2 * noise)
                else:
                    # A transposed convolution with kernel = stride sums over its first axis only.
                    transposed = "resize_layers.0" in name or "resize_layers.1" in name
                    value.copy_(noise / math.sqrt(value.shape[0] if transposed else value[0].numel()))
            last = self.depth_head.scratch.output_conv2[2]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            # The last ReLU cuts at zero; a metric depth's sigmoid has its middle there.
            last.bias.fill_(0.0 if self.config.max_depth is not None else 2.0)
        return self

    def cast_precision(self, dtype: torch.dtype) -> DepthAnythingV2:
        """Run matrix products, attention and convolutions in `dtype`, in place.

        Normalisations, the residual stream, the last 1x1 convolution's sums and the depth stay float32.
        """
        cast(self, dtype)
        # `project` sums in float32 anyway; its few weights need no rounding.
        self.depth_head.scratch.output_conv2[2].float()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Depth (B, H, W) float32 of an image or feature map (B, C, H, W).

        Relative: larger is nearer, zero or more, up to scale and shift. Metric: metres from 0 to `max_depth`.

        Raises:
            InputError: H or W is no multiple of 14.
        """
        height, width = image.shape[-2:]
        grid = self.pretrained.grid_of(height, width)
        taps = self.pretrained.taps(image, self.config.taps)
        depth = self.depth_head(taps, grid, (height, width))[:, 0]
        if self.config.max_depth is not None:
            return torch.sigmoid(depth) * self.config.max_depth
        return F.relu(depth)
