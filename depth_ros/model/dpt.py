# SPDX-License-Identifier: Apache-2.0
"""DPT (arXiv 2103.13413): four levels of transformer tokens become one dense map.

Parameter names equal those of Depth Anything V2 (and of VGGT's heads, which set `norm`, `rectified_skip` and
`embedding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Embedding = Callable[[Tensor], Tensor]
"""Something of a map's shape (broadcastable to (B, C, h, w)) that is added to it."""


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, as everywhere in this decoder."""
    if x.shape[-2:] == size:
        return x
    if x.is_cuda:
        # Said so that Inductor keeps it: left alone (torch 2.11) it reads VGGT's largest channels-last map in the order
        # of the other layout, one value per cache line: 3.4 ms in place of 0.2 in its depth head alone on an H200.
        x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ProductEnlarging(nn.Module):
    """A transposed convolution whose kernel is as large as its stride, as one product of matrices.

    No outputs overlap, so that every pixel gives a square of its own. What comes out is channels-last, whatever library
    runs the product; a library's transposed convolution of 16-bit maps goes through the other layout and back, and
    leaves it to what follows.
    """

    def __init__(self, plain: nn.ConvTranspose2d) -> None:
        super().__init__()
        side = plain.stride[0]
        if plain.kernel_size != (side, side) or plain.stride != (side, side) or plain.bias is None:
            raise ValueError(f"expected a transposed convolution of stride and kernel alike with a bias, found {plain}")
        self.side = side
        rows = plain.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        self.product = nn.Linear(plain.in_channels, len(rows), device=rows.device, dtype=rows.dtype)
        self.product.weight = nn.Parameter(rows.contiguous())
        self.product.bias = nn.Parameter(plain.bias.detach().repeat(side * side))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, out, side * h, side * w)."""
        batch, _, height, width = x.shape
        y = self.product(x.permute(0, 2, 3, 1)).reshape(batch, height, width, self.side, self.side, -1)
        y = y.transpose(2, 3).reshape(batch, height * self.side, width * self.side, -1)
        return y.permute(0, 3, 1, 2)


class ResidualConvUnit(nn.Module):
    """conv2(relu(conv1(relu(x)))) + x.

    With `rectified_skip` the sum takes relu(x): what an in-place ReLU made of the official code, and what VGGT's
    weights were trained with.
    """

    sums = torch.float32
    """Dtype of the sum, see `DPT.sum_in`."""

    def __init__(self, channels: int, *, rectified_skip: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.rectified_skip = rectified_skip

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.conv1.weight.dtype
        rectified = F.relu(x)
        y: Tensor = self.conv2(F.relu(self.conv1(rectified.to(dtype))))
        return y + (rectified if self.rectified_skip else x).to(self.sums)


class Fusion(nn.Module):
    """Adds a skip connection to the coarser map, refines, and enlarges.

    The official order is resize, then `out_conv`. A 1x1 convolution commutes with a bilinear resize (whose weights sum
    to one), and before it there are a quarter of the pixels, so it comes first here.

    Args:
        skip: has `resConfUnit1` for a skip connection.
    """

    sums = torch.float32
    """Dtype of the resized map, see `DPT.sum_in`."""

    def __init__(self, channels: int, *, skip: bool = True, rectified_skip: bool = False) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if skip:
            self.resConfUnit1 = ResidualConvUnit(channels, rectified_skip=rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(channels, rectified_skip=rectified_skip)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.out_conv(self.resConfUnit2(x).to(self.out_conv.weight.dtype))
        return resize(x.to(self.sums), size)


class Scratch(nn.Module):
    """The layers that the official checkpoints keep under `scratch.`.

    Args:
        unused_unit: `refinenet4` has the weights of a skip connection that it never gets, as official Depth Anything
            checkpoints do.
    """

    def __init__(
        self,
        features: int,
        out_channels: Sequence[int],
        outputs: int,
        *,
        rectified_skip: bool = False,
        unused_unit: bool = True,
    ) -> None:
        super().__init__()
        for i, channels in enumerate(out_channels, 1):
            setattr(self, f"layer{i}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
        self.refinenet1 = Fusion(features, rectified_skip=rectified_skip)
        self.refinenet2 = Fusion(features, rectified_skip=rectified_skip)
        self.refinenet3 = Fusion(features, rectified_skip=rectified_skip)
        self.refinenet4 = Fusion(features, skip=unused_unit, rectified_skip=rectified_skip)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1)
        )


class DPT(nn.Module):
    """The decoder.

    Args:
        dim: channels of the tokens.
        features: channels of the fused maps.
        out_channels: channels of the four levels before they are brought to `features`.
        outputs: channels of the result.
        norm: a LayerNorm (eps 1e-5) of the tokens, shared by the levels.
        rectified_skip: see `ResidualConvUnit`.
        unused_unit: see `Scratch`.
        embedding: added to the four levels after their projection, and to the map before the last two convolutions.
    """

    def __init__(
        self,
        dim: int,
        features: int,
        out_channels: Sequence[int],
        outputs: int = 1,
        *,
        norm: bool = False,
        rectified_skip: bool = False,
        unused_unit: bool = True,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(dim) if norm else nn.Identity()
        self.embedding = embedding
        self.projects = nn.ModuleList(nn.Conv2d(dim, channels, 1) for channels in out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(out_channels[0], out_channels[0], 4, stride=4),
                nn.ConvTranspose2d(out_channels[1], out_channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(out_channels[3], out_channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(features, out_channels, outputs, rectified_skip=rectified_skip, unused_unit=unused_unit)

    def add_zero_biases(self) -> None:
        """Give a bias of zeros to the convolutions that have none, in place.

        Inductor (torch 2.11) takes maps and weights of a convolution without bias to the other layout and leaves the
        result there, and what adds it to a map in this one reads it at a tenth of the memory's speed.
        """
        for i in range(1, 5):
            conv = getattr(self.scratch, f"layer{i}_rn")
            if conv.bias is None:
                conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))

    def enlarge_by_products(self) -> None:
        """Make the transposed convolutions products, in place; see `ProductEnlarging`."""
        for i, layer in enumerate(self.resize_layers):
            if isinstance(layer, nn.ConvTranspose2d):
                self.resize_layers[i] = ProductEnlarging(layer)

    def sum_in(self, dtype: torch.dtype) -> None:
        """Add and resize the fused maps in `dtype`, in place; float32 unless told otherwise.

        In the dtype of the weights the maps cost half the memory, and are rounded once more per sum.
        """
        for part in self.modules():
            if isinstance(part, ResidualConvUnit | Fusion):
                part.sums = dtype

    def fused(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """The map (B, features, 8 * rows, 8 * columns) of four taps (B, rows * columns, dim), shallow to deep."""
        rows, columns = grid
        dtype = self.scratch.output_conv1.weight.dtype
        levels = []
        for i, tap in enumerate(taps):
            x = self.norm(tap.float()).to(dtype)
            x = self.projects[i](x.transpose(1, 2).reshape(x.shape[0], -1, rows, columns))
            if self.embedding is not None:
                x = x + self.embedding(x).to(dtype)
            x = self.resize_layers[i](x)
            levels.append(getattr(self.scratch, f"layer{i + 1}_rn")(x))
        fine, middle, coarse, coarsest = levels
        scratch = self.scratch
        x = scratch.refinenet4(coarsest, None, coarse.shape[-2:])
        x = scratch.refinenet3(x, coarse, middle.shape[-2:])
        x = scratch.refinenet2(x, middle, fine.shape[-2:])
        height, width = fine.shape[-2:]
        fused: Tensor = scratch.refinenet1(x, fine, (2 * height, 2 * width))
        return fused

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """The result (B, outputs, H, W) float32, without an activation.

        Args:
            taps: four levels (B, rows * columns, dim), shallow to deep.
            grid: (rows, columns) of patches.
            size: (H, W).
        """
        dtype = self.scratch.output_conv1.weight.dtype
        x = resize(self.scratch.output_conv1(self.fused(taps, grid).to(dtype)), size)
        if self.embedding is not None:
            x = x + self.embedding(x).to(x.dtype)
        conv, _, last = self.scratch.output_conv2
        return project(F.relu(conv(x)), last)


def project(x: Tensor, conv: nn.Module) -> Tensor:
    """A 1x1 convolution to a few channels in float32: (B, C, h, w) -> (B, outputs, h, w).

    Rounding the last sum to 16 bits would leave 256 steps of bfloat16 per octave of depth. As sums of products it
    needs no float32 copy of its input: a compiler fuses it with what comes before.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    weight, bias = conv.weight.flatten(1).float(), conv.bias.float()
    sums = [(x.float() * row[:, None, None]).sum(1) for row in weight.unbind(0)]
    return torch.stack(sums, 1) + bias[:, None, None]
