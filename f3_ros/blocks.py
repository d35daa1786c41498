# SPDX-License-Identifier: Apache-2.0
"""The layers of F3: ConvNeXt-V2 blocks, entries, and the pixel-shuffle upsampling path.

Everything here works on channels-last fields `(B, W, H, C)`: W before H as in the official code, channels innermost,
so that normalisations and pointwise layers need no transposes and the output leaves in its official layout.
Parameter names and shapes equal the official checkpoint's.

Half precision: convolutions and matrix products run in the weights' dtype; every normalisation (LayerNorm's
moments, GRN's norms) is computed in float32 and its parameters stay float32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution of a channels-last field; `weight` is (O, C) or (O, C, 1, 1)."""
    return F.linear(x, weight.flatten(1), bias)


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv` over a channels-last field."""
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
        return pointwise(x, conv.weight, conv.bias)  # type: ignore[arg-type]
    y: Tensor = conv(x.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


def depthwise_taps(x: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1) -> Tensor:
    """A depthwise k x k convolution written as k*k shifted products, for compilers that fuse them.

    In channels-last layout each product reads contiguous channels, and the sum fuses with the normalisation that
    follows into one kernel; libraries run depthwise convolutions of this size far below the memory's speed.
    Products accumulate in float32.

    Args:
        x: (B, W, H, C). weight: (C, 1, k, k). bias: (C,).
    """
    size = weight.shape[-1]
    pad = (size - 1) // 2 * dilation
    width, height = x.shape[1], x.shape[2]
    padded = F.pad(x, (0, 0, pad, pad, pad, pad))
    # A view by strides makes the compiler write the padded field once, instead of testing the border in each product.
    padded = padded.as_strided(padded.shape, padded.stride())
    taps = weight[:, 0].permute(1, 2, 0).float()
    total = bias.float().expand(x.shape)
    for i in range(size):
        for j in range(size):
            window = padded[:, i * dilation : i * dilation + width, j * dilation : j * dilation + height]
            total = total + window.float() * taps[i, j]
    return total.to(x.dtype)


def randomise_parameters(module: nn.Module, seed: int) -> None:
    """Give every parameter a random value that keeps signals alive, GRN included; the same values for a seed.

    For benchmarks, demos and tests without a checkpoint; training starts from the constructor's values.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "hashmap" in name:
                value.copy_(0.5 * noise)
            elif (value.dim() == 4 and value.shape[0] == 1) or value.dim() == 1:  # GRN, biases, LayerNorm
                ones = name.endswith("weight")
                value.copy_((1.0 if ones else 0.0) + 0.1 * noise)
            else:
                value.copy_(noise / math.sqrt(value[0].numel()))


class LayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel, in float32, returned in the input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, EPS).to(x.dtype)


class GRN(nn.Module):
    """Global response normalisation (ConvNeXt V2, arXiv 2301.00808): parameters, and the scale they give.

    y = gamma * (x * Nx) + beta + x = (gamma * Nx + 1) * x + beta is affine per channel, so `Block` folds it into the
    linear layer that follows instead of writing y.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def scale(self, x: Tensor) -> Tensor:
        """gamma * Nx + 1 per sample and channel, float32 (B, C); Nx = ||x|| / (mean over channels of ||x|| + eps)."""
        norm = x.float().square().sum(dim=(1, 2)).sqrt()
        return self.gamma.view(1, -1) * (norm / (norm.mean(dim=-1, keepdim=True) + EPS)) + 1


class Block(nn.Module):
    """ConvNeXt-V2 block: depthwise convolution, LayerNorm, pointwise, GELU, GRN, pointwise, residual.

    A kernel of 1 means a full (not depthwise) 1x1 convolution, as in the official code.
    """

    def __init__(self, channels: int, kernel: int, expansion: int, dilation: int = 1) -> None:
        super().__init__()
        hidden = expansion * channels
        groups, padding = (channels, (kernel - 1) // 2 * dilation) if kernel > 1 else (1, 0)
        dilation = dilation if kernel > 1 else 1
        self.dwconv = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=groups)
        self.norm = LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, hidden)
        self.grn = GRN(hidden)
        self.pwconv2 = nn.Linear(hidden, channels)
        self.depthwise = "conv"
        """How the depthwise convolution is written: see `f3_ros.deploy.DEPTHWISE`."""

    def normalised(self, x: Tensor) -> Tensor:
        """The depthwise convolution and the LayerNorm after it."""
        conv, norm = self.dwconv, self.norm
        if self.depthwise == "conv" or conv.groups == 1:
            return norm(convolve(x, conv))  # type: ignore[no-any-return]
        assert conv.bias is not None
        if self.depthwise == "triton" and conv.dilation == (1, 1):
            from f3_ros.kernels import depthwise_layer_norm

            size = conv.kernel_size[0]
            taps = conv.weight[:, 0].permute(1, 2, 0).reshape(size * size, -1).float().contiguous()
            bias = conv.bias.float()
            result: Tensor = depthwise_layer_norm(x.contiguous(), taps, bias, norm.weight, norm.bias, size, EPS)
            return result
        return norm(depthwise_taps(x, conv.weight, conv.bias, conv.dilation[0]))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pwconv1(self.normalised(x)))
        scale = self.grn.scale(y)
        weight, beta = self.pwconv2.weight, self.grn.beta.view(-1)
        bias = self.pwconv2.bias.float() + weight.float() @ beta
        folded = (weight.float() * scale[:, None, :]).to(y.dtype)  # (B, C, hidden)
        batch, width, height, hidden = y.shape
        if batch == 1:
            z = torch.mm(y.view(width * height, hidden), folded[0].t()).view(x.shape)
        else:
            z = torch.bmm(y.view(batch, width * height, hidden), folded.transpose(1, 2)).view(x.shape)
        return x + (z + bias).to(x.dtype)


class PixelShuffleUp(nn.Module):
    """3x3 convolution to out * factor**2 channels, then pixel shuffle by `factor`."""

    def __init__(self, channels: int, out: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out * factor * factor, 3, padding=1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(x, self.conv)
        batch, width, height, _ = x.shape
        f = self.factor
        x = x.view(batch, width, height, -1, f, f).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, width * f, height * f, -1)


class Merge(nn.Sequential):
    """What follows a skip connection: GELU, 1x1 convolution (2C -> C), LayerNorm, GELU, depthwise 3x3, LayerNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.GELU(),
            nn.Conv2d(2 * channels, channels, 1),
            LayerNorm(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            LayerNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = convolve(x, layer) if isinstance(layer, nn.Conv2d) else layer(x)
        return x
