# SPDX-License-Identifier: Apache-2.0
"""VitMatte as a whole, with the parameter names of Hugging Face's `VitMatteForImageMatting`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmatte_ros.config import MULTIPLE, VitMatteConfig
from vitmatte_ros.model.backbone import Backbone
from vitmatte_ros.model.decoder import DetailCapture
from vitmatte_ros.model.windows import cut


class VitMatte(nn.Module):
    """The network of a `VitMatteConfig`; official checkpoints load strictly (see `vitmatte_ros.weights`)."""

    def __init__(self, config: VitMatteConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.decoder = DetailCapture(config)
        self.eval().requires_grad_(False)

    def randomise(self, seed: int) -> VitMatte:
        """Give every parameter a random value that keeps all branches alive; the same values for a seed."""
        generator = torch.Generator().manual_seed(seed)
        for name, value in self.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "rel_pos" in name or "position_embeddings" in name:
                value.data.copy_(0.1 * noise)
            elif value.dim() > 1:
                # ReLU halves the power of what passes, and upsampling takes some more.
                gain = 2.0 if name.startswith("decoder.") else 0.7
                value.data.copy_(noise * gain / math.sqrt(value[0].numel()))
            else:
                value.data.copy_((1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.copy_(0.2 * torch.randn(part.running_mean.shape, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Alpha of every pixel of an image of any size.

        Args:
            pixel_values: (B, 4, H, W) float32: R, G, B normalised, and the trimap from 0 (background) over 0.5
                (unknown) to 1 (foreground). Zeros fill it up to multiples of 32 on the right and at the bottom.

        Returns:
            (B, 1, H, W) float32, 0 to 1. Known regions are the network's own answer too.
        """
        height, width = pixel_values.shape[2], pixel_values.shape[3]
        right = (width + MULTIPLE - 1) // MULTIPLE * MULTIPLE - width
        bottom = (height + MULTIPLE - 1) // MULTIPLE * MULTIPLE - height
        padded = F.pad(pixel_values, (0, right, 0, bottom))
        features = self.backbone(padded).permute(0, 3, 1, 2)
        alpha: Tensor = self.decoder(features, padded)
        return cut(alpha.permute(0, 2, 3, 1), height, width).permute(0, 3, 1, 2)
