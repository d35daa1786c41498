# SPDX-License-Identifier: Apache-2.0
"""EventPatchFF: the F3 network (Fast Feature Fields, arXiv 2509.25146) as an eager module with official names.

Events `(N, 4)` float32 with columns x/W, y/H, k/T, p become a field of summed event features `(B, W, H, C0)`, and
that, through convolutional stages, the feature field `(B, W', H', C)`. W comes before H everywhere.
For what is exported see `f3_ros.deploy`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from f3_ros.blocks import Block, LayerNorm, Merge, PixelShuffleUp, convolve, randomise_parameters
from f3_ros.config import F3Config
from f3_ros.encoder import MultiResolutionHashEncoder, mask_padding, pixels, pool


class EventPatchFF(nn.Module):
    """The network of an `F3Config`; `load_state_dict` takes official checkpoints."""

    def __init__(self, config: F3Config) -> None:
        super().__init__()
        if config.encoder is None or config.model != "EventPatchFF":
            raise InputError(f"expected a configuration of EventPatchFF, found {config.name} of {config.model}")
        self.config = config
        self.multi_hash_encoder = MultiResolutionHashEncoder(config.encoder)
        channels = (config.encoder.channels, *config.dims)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, (kernel, stride) in enumerate(zip(config.entry_kernels, config.entry_strides)):
            conv = nn.Conv2d(channels[i], channels[i + 1], kernel, stride, padding=(kernel - 1) // 2)
            # The official order differs between the first stage and the others.
            layers = [conv, LayerNorm(channels[1])] if i == 0 else [LayerNorm(channels[i]), conv]
            self.downsample_layers.append(nn.Sequential(*layers))
            block = (channels[i + 1], config.kernels[i], config.bottlenecks[i], config.dilations[i])
            self.stages.append(nn.Sequential(*(Block(*block) for _ in range(config.depths[i]))))
        if config.upsampling_dims:
            self._build_upsampling()
        if config.decoder_block:
            self.decoder = Block(config.feature_size, 7, 4)
        self.pred = nn.Conv2d(config.feature_size, config.patch_size**2 * config.prediction_bins, 1)
        self.apply(_initialise)

    def _build_upsampling(self) -> None:
        config = self.config
        assert config.encoder is not None
        self.upsample_layers = nn.ModuleList()
        self.upsample_process = nn.ModuleList()
        for i in range(len(config.dims) - 1, 0, -1):
            self.upsample_layers.append(PixelShuffleUp(config.dims[i], config.dims[i - 1], config.entry_strides[i]))
            self.upsample_process.append(Merge(config.dims[i - 1]))
        out, patch = config.upsampling_dims, config.patch_size
        self.upsample_layers.append(PixelShuffleUp(config.dims[0], out, config.entry_strides[0] // patch))
        self.upsample_process.append(Merge(out))
        self.downsample_hash_to_patchsize = nn.Conv2d(
            config.encoder.channels, out, patch, patch, padding=(patch - 1) // 2
        )

    def randomise(self, seed: int) -> EventPatchFF:
        """Random weights that keep signals alive, GRN included; the same for a seed."""
        randomise_parameters(self, seed)
        return self

    def cast(self, dtype: torch.dtype) -> EventPatchFF:
        """Run convolutions and matrix products in `dtype`, in place.

        The encoder, the pooled field and what reads it directly stay float32 (sums of many small features), as do
        all normalisations.
        """
        first = {id(m) for m in self.downsample_layers[0].modules()}
        if self.config.upsampling_dims:
            first.add(id(self.downsample_hash_to_patchsize))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in first:
                module.to(dtype)
        return self

    def field(self, events: Tensor, counts: Tensor | None = None) -> Tensor:
        """The summed event features.

        Args:
            events: (N, 3) or (N, 4) float32; all samples concatenated along N if `counts` is given.
            counts: (B,) events per sample, summing to N; None for one sample.

        Returns:
            (B, W, H, C0) float32.
        """
        width, height, _ = self.config.frame
        features = mask_padding(events, self.multi_hash_encoder(events))
        xi, yi = pixels(events, width, height)
        cell = xi * height + yi
        batch = 1
        if counts is not None:
            batch = len(counts)
            sample = torch.repeat_interleave(torch.arange(batch, device=events.device), counts.to(events.device))
            if len(sample) != len(events):
                raise InputError(f"expected counts that sum to {len(events)} events, found a sum of {len(sample)}")
            cell = cell + sample * (width * height)
        return pool(features, cell, batch, width, height)

    def features(self, field: Tensor) -> Tensor:
        """The feature field (B, W', H', C) of a field (B, W, H, C0), before the decoder block."""
        dtype = self.pred.weight.dtype
        skips = [field]
        x = field
        for i, (entry, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            for layer in entry:  # type: ignore[attr-defined]
                x = convolve(x, layer) if isinstance(layer, nn.Conv2d) else layer(x)
            x = stage(x.to(dtype) if i == 0 else x)
            skips.append(x)
        if not self.config.upsampling_dims:
            return x
        for i in range(len(self.stages) - 1):
            x = self.upsample_layers[i](x)
            x = self.upsample_process[i](torch.cat([skips[-2 - i], x], dim=-1))
        x = self.upsample_layers[-1](x)
        # The official code reverses the order of the concatenation here.
        x = torch.cat([x, convolve(field, self.downsample_hash_to_patchsize).to(dtype)], dim=-1)
        y: Tensor = self.upsample_process[-1](x)
        return y

    def logits(self, features: Tensor) -> Tensor:
        """Event occupancy logits of the future (B, W, H, T) from the feature field."""
        x = self.decoder(features) if self.config.decoder_block else features
        x = convolve(x, self.pred)
        batch, width, height, _ = x.shape
        patch = self.config.patch_size
        x = x.view(batch, width, height, patch, patch, -1).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, width * patch, height * patch, -1)

    def resize(self, field: Tensor, size: tuple[int, int]) -> Tensor:
        """The field resized to (B, W', H', C0) the plain way: bilinear, align_corners=True."""
        resized = F.interpolate(field.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=True)
        return resized.permute(0, 2, 3, 1)

    def forward(self, events: Tensor, counts: Tensor | None = None) -> Tensor:
        """Features (B, W', H', C) of events; see `field`."""
        return self.features(self.field(events, counts))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
