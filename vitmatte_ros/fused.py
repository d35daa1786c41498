# SPDX-License-Identifier: Apache-2.0
"""The module that is exported for CUDA in half precision: `deploy.DeployedVitMatte` on the kernels of `kernels`.

Eager, it runs the plain operations, and only what is compiled contains the kernels: the export's check of compiled
against eager thus checks them too.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from vitmatte_ros import kernels
from vitmatte_ros.config import IN_CHANNELS
from vitmatte_ros.deploy import DeployedVitMatte, Form, fastest_form
from vitmatte_ros.model.attention import Attention
from vitmatte_ros.model.backbone import Layer
from vitmatte_ros.model.decoder import BasicConv3x3, DetailCapture, FusionBlock
from vitmatte_ros.model.vitmatte import VitMatte

_ALIGN = 64
"""Rows of whole 128 bytes: Inductor makes others longer, and copies."""


class FusedVitMatte(DeployedVitMatte):
    """As its base, for one size and form.relative "gather"; half precision on CUDA only, once compiled."""

    def __init__(
        self, model: VitMatte, height: int | None = None, width: int | None = None, form: Form | None = None
    ) -> None:
        form = form or fastest_form(".pt2", "cuda")
        if height is None or width is None or form.relative != "gather":
            raise InputError(f"expected a size and relative positions by gather, found {height}, {width} and {form}")
        super().__init__(model, height, width, form)
        for layer in self.network.backbone.encoder.layer:
            assert isinstance(layer, Layer)
            layer.attention = FusedAttention(layer.attention)  # type: ignore[assignment]
            if layer.has_residual:
                # Zeros, for the reason told in FusedDecoder.
                middle = layer.residual.conv2
                middle.bias = nn.Parameter(middle.weight.new_zeros(len(middle.weight)), requires_grad=False)
        self.network.decoder = FusedDecoder(self.network.decoder)  # type: ignore[assignment]


class FusedAttention(nn.Module):
    """As the `Attention` that it holds, in three kernels."""

    def __init__(self, plain: Attention) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """(B, h, w, dim) -> the same, in the weights' dtype."""
        plain = self.plain
        if not torch.compiler.is_compiling():
            return cast(Tensor, plain(x, window))
        weight, bias = longer_product(plain)
        products = F.linear(x.to(weight.dtype), weight, bias)
        head_dim = x.shape[-1] // plain.heads
        attended: Tensor = plain.proj(kernels.attention(products, bias, plain.heads, head_dim, window))
        return attended


def longer_product(plain: Attention) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer to queries, keys, values and the queries' relative terms.

    A query is a product, and so is what it makes of the table of relative positions: both together are one product
    with the token, which constants become when the graph is compiled.

    Returns:
        (3 * dim + heads * T, dim) and (3 * dim + heads * T,), T a multiple of 64; see `kernels.attention`.
    """
    weight, bias, table = plain.qkv.weight, plain.qkv.bias, plain.get_buffer("table").float().t()
    dim, heads = weight.shape[1], plain.heads
    assert bias is not None
    terms = table @ weight[:dim].float().reshape(heads, dim // heads, dim)
    term_bias = (table @ bias[:dim].float().reshape(heads, dim // heads, 1))[..., 0]
    more = -table.shape[0] % _ALIGN
    terms = F.pad(terms, (0, 0, 0, more)).reshape(-1, dim)
    term_bias = F.pad(term_bias, (0, more)).reshape(-1)
    return torch.cat([weight, terms.to(weight.dtype)]), torch.cat([bias, term_bias.to(bias.dtype)])


class FusedDecoder(nn.Module):
    """As the `DetailCapture` that it holds: maps are enlarged beside their details in one kernel.

    Where the last channels are powers of two, as in the published networks, the two last convolutions, at full
    resolution, are kernels as well: libraries are slow for few channels.
    """

    def __init__(self, plain: DetailCapture) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """As `DetailCapture.forward`."""
        plain = self.plain
        if not torch.compiler.is_compiling():
            return cast(Tensor, plain(features, image))
        head = plain.matting_head.matting_convs
        middle, last = cast(nn.Conv2d, head[0]), cast(nn.Conv2d, head[3])
        dtype = middle.weight.dtype
        image = F.pad(image.to(dtype), (0, 0, 0, 0, 0, plain.image_channels - IN_CHANNELS))
        details = plain.convstream(image.contiguous(memory_format=torch.channels_last))
        none = middle.weight.new_zeros(0)
        x = _rows(features)
        blocks = [
            cast(nn.Conv2d, cast(BasicConv3x3, cast(FusionBlock, block).conv).conv) for block in plain.fusion_blocks
        ]
        for conv, detail in zip(blocks[:-1], details[:0:-1]):
            both = _map(kernels.enlarge(x, _rows(detail), dtype))
            # Its bias belongs to the call: Inductor (torch 2.11) transposes maps and weights of a convolution without.
            x = _rows(F.relu(F.conv2d(both, conv.weight, conv.bias, padding=1)))
        conv = blocks[-1]
        side, channels = plain.image_channels, conv.in_channels - plain.image_channels
        if not all(map(_fits, (channels, conv.out_channels, middle.out_channels))):
            both = kernels.enlarge(x, _rows(details[0]), dtype)
            return torch.sigmoid(plain.matting_head(F.relu(F.conv2d(_map(both), conv.weight, conv.bias, padding=1))))
        large = kernels.enlarge(x, none, dtype)
        beside = neighbours(conv.weight[:, :side])
        x = kernels.conv(large, taps(conv.weight[:, side:]), _bias(conv), _rows(details[0]), beside, none.float())
        ends = torch.cat([last.weight.flatten(), cast(Tensor, last.bias)]).float()
        return _map(kernels.conv(x, taps(middle.weight), _bias(middle), none, none.reshape(0, 0, 0), ends))


def taps(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (9, C, O)."""
    return weight.permute(2, 3, 1, 0).reshape(9, weight.shape[1], weight.shape[0]).contiguous()


def neighbours(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (3, R, O), R the power of two from 3 * C, and zeros beyond."""
    out, channels = weight.shape[:2]
    rows = max(1 << (3 * channels - 1).bit_length(), kernels.LANES)
    matrix = weight.permute(2, 3, 1, 0).reshape(3, 3 * channels, out)
    return F.pad(matrix, (0, 0, 0, rows - 3 * channels)).contiguous()


def _fits(channels: int) -> bool:
    return channels >= kernels.LANES and channels & (channels - 1) == 0


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias).float()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view of what is channels-last already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _map(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), channels-last."""
    return x.permute(0, 3, 1, 2)
