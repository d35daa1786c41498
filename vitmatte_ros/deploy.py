# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: VitMatte for one size of images, or for any, every choice frozen."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from vitmatte_ros.config import MULTIPLE
from vitmatte_ros.model.attention import ATTENTIONS, RELATIVES
from vitmatte_ros.model.backbone import Layer
from vitmatte_ros.model.vitmatte import VitMatte

MIN_SIZE = 32
"""Of height and width."""


class DeployedVitMatte(nn.Module):
    """VitMatte ready for export: BatchNorm inside the convolutions, everything that is constant computed.

    Args:
        model: the network with its weights (left untouched).
        height, width: of the images; both None for a module that takes any size. With a size, absolute and relative
            positions are tables; without, they are computed from the size at every call.
        attention: how attention is written, a member of `vitmatte_ros.model.attention.ATTENTIONS`.
        relative: how its relative terms are, a member of RELATIVES.
        channel_multiple: zero channels fill the image up to a multiple of this, 8 for tensor cores.

    The forward takes `pixel_values` (B, 4, H, W) float32 and returns alpha (B, 1, H, W) float32, see
    `VitMatte.forward`.

    Raises:
        InputError: a size or option that does not fit.
    """

    def __init__(
        self,
        model: VitMatte,
        height: int | None = None,
        width: int | None = None,
        *,
        attention: str = "explicit",
        relative: str = "product",
        channel_multiple: int = 1,
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise InputError(f"expected attention {', '.join(ATTENTIONS)}, found {attention!r}")
        if relative not in RELATIVES:
            raise InputError(f"expected relative positions by {' or '.join(RELATIVES)}, found {relative!r}")
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        for layer in self.network.backbone.encoder.layer:
            assert isinstance(layer, Layer)
            layer.attention.written = attention
            layer.attention.relative = relative
        if height is None or width is None:
            if height is not width:
                raise InputError(f"expected a height and a width, or neither, found {height} and {width}")
            self.network.backbone.fix_windows()
        else:
            check_size(height, width)
            patch = model.config.patch
            self.network.backbone.fix_size(_ceil(height) // patch, _ceil(width) // patch)
        self.network.decoder.fold_batch_norm()
        self.network.decoder.pad_channels(channel_multiple)
        # Tokens are channels-last images as they come, so that the decoder can stay in that layout.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)

    def cast_precision(self, dtype: torch.dtype) -> DeployedVitMatte:
        """Run products, convolutions and attention in `dtype`, in place.

        Normalisations, the sum of the layers, the positions and the last layer stay float32.
        """
        for part in self.network.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.to(dtype)
        for layer in self.network.backbone.encoder.layer:
            assert isinstance(layer, Layer)
            layer.attention.cast_tables(dtype)
        self.network.decoder.matting_head.matting_convs[3].float()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        alpha: Tensor = self.network(pixel_values)
        return alpha


def check_size(height: int, width: int) -> None:
    """Refuses impossible sizes of images.

    Raises:
        InputError: smaller than one coarsest pixel of the decoder.
    """
    if min(height, width) < MIN_SIZE:
        raise InputError(
            f"expected a height and a width from {MIN_SIZE} pixels, found {height} x {width}", "give a larger size"
        )


def _ceil(size: int) -> int:
    return (size + MULTIPLE - 1) // MULTIPLE * MULTIPLE
