# SPDX-License-Identifier: Apache-2.0
"""The modules that are exported: one tensor of events in, the feature field out, every choice frozen."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from f3_ros.blocks import Block
from f3_ros.encoder import Downsampling, PackedEncoder, VoxelTable, mask_padding, pixels, pool
from f3_ros.model import EventPatchFF
from f3_ros.unet import EventUNetFF

DEPTHWISE = ("conv", "taps", "triton")
"""How depthwise convolutions are written: "conv" leaves them to the library; "taps" writes shifted products, which the
compiler fuses with the normalisation that follows; "triton" uses our kernel for the two (CUDA only, undilated blocks;
the others fall back to "taps")."""


def fastest_depthwise(device: str) -> str:
    """The member of DEPTHWISE that was measured fastest on the kind of device (benchmarks/results)."""
    if not device.startswith("cuda"):
        return "conv"
    return "triton" if find_spec("triton") is not None else "taps"


def check_depthwise(depthwise: str, device: str) -> None:
    """Refuses what cannot run there.

    Raises:
        InputError: unknown, or the kernel is asked for without CUDA or without Triton.
    """
    if depthwise not in DEPTHWISE:
        raise InputError(f"expected depthwise {', '.join(DEPTHWISE)}, found {depthwise!r}")
    if depthwise == "triton" and not device.startswith("cuda"):
        raise InputError(f"expected a CUDA device for --depthwise triton, found {device}", "use conv or taps")
    if depthwise == "triton" and find_spec("triton") is None:
        raise InputError("expected the package triton for --depthwise triton, found none", "pip install triton")


class DeployedF3(nn.Module):
    """F3 for one event window, ready for export.

    Args:
        model: the network with its weights (left untouched).
        hashed: look events up in a table of all voxels (`VoxelTable`) instead of the level tables.
        downsample: (W', H') of the field that the convolutions see; None for the full frame.
        depthwise: one of DEPTHWISE.
        logits: also return the prediction head's output.

    The forward takes `events` (N, 4) float32, columns x/W, y/H, k/T, p, any N including 0; an event with k/T < 0 is
    padding and contributes nothing. It returns features (1, W', H', C) in the network's dtype: float32, or what
    `cast_precision` made of it.
    """

    def __init__(
        self,
        model: EventPatchFF,
        *,
        hashed: bool = False,
        downsample: tuple[int, int] | None = None,
        depthwise: str = "conv",
        logits: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.height, _ = model.config.frame
        if downsample is not None and min(downsample) < 1:
            raise InputError(f"expected a positive size W H to downsample to, found {downsample}")
        width, height = downsample or (self.width, self.height)
        if model.config.upsampling_dims and (width % model.config.stride or height % model.config.stride):
            raise InputError(
                f"expected a field divisible by {model.config.stride}, found {width} x {height}",
                "choose another --downsample W H",
            )
        if downsample == (self.width, self.height):
            downsample = None
        self.downsample = downsample
        self.return_logits = logits
        encoder = model.multi_hash_encoder
        columns, rows = np.arange(self.width), np.arange(self.height)
        self.scatter: Downsampling | None = None
        if downsample is not None and Downsampling.worthwhile((self.width, self.height), downsample):
            self.scatter = Downsampling((self.width, self.height), downsample)
            columns, rows = self.scatter.used()
        self.table: VoxelTable | None = None
        self.encoder: PackedEncoder | None = None
        if hashed:
            self.table = VoxelTable(encoder, model.config.frame, columns, rows)
        else:
            self.encoder = PackedEncoder(encoder)
        self.network = _without_tables(model)
        for module in self.network.modules():
            if isinstance(module, Block):
                module.depthwise = depthwise
        self.requires_grad_(False).eval()

    def cast_precision(self, dtype: torch.dtype) -> DeployedF3:
        """Run in `dtype`, in place; see `EventPatchFF.cast` for what stays float32.

        The voxel table becomes float16 for either 16-bit type: with its scale that is the more exact of the two.
        """
        self.network.cast(dtype)
        if self.table is not None and dtype != torch.float32:
            self.table.halve()
        return self

    def field(self, events: Tensor) -> Tensor:
        """The (possibly downsampled) field (1, W', H', C0) float32."""
        xi, yi = pixels(events, self.width, self.height)
        if self.table is not None:
            features = self.table(events, xi, yi)
        else:
            assert self.encoder is not None
            features = self.encoder(events)
        features = mask_padding(events, features)
        if self.scatter is not None:
            return self.scatter.pool(features, xi, yi)
        field = pool(features, xi * self.height + yi, 1, self.width, self.height)
        return field if self.downsample is None else self.network.resize(field, self.downsample)

    def forward(self, events: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.network.features(self.field(events))
        if self.return_logits:
            return features, self.network.logits(features)
        return features


def _without_tables(model: EventPatchFF) -> EventPatchFF:
    """A copy of the network without the encoder's large tables."""
    kept = model.multi_hash_encoder
    try:
        model.multi_hash_encoder = nn.Identity()  # type: ignore[assignment]
        return copy.deepcopy(model)
    finally:
        model.multi_hash_encoder = kept


class DeployedUNet(nn.Module):
    """EventUNetFF for one event window: events (N, 4) in, features (1, W, H, C) and optionally logits out."""

    def __init__(self, model: EventUNetFF, *, logits: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        self.return_logits = logits

    def forward(self, events: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        network = self.network
        dtype = network.pred.weight.dtype
        bottleneck, skips = network.bottleneck(network.voxels(events).to(dtype))
        features = network.features(bottleneck)
        return (features, network.logits(bottleneck, skips)) if self.return_logits else features


def deploy(
    model: EventPatchFF | EventUNetFF,
    *,
    hashed: bool = False,
    downsample: tuple[int, int] | None = None,
    depthwise: str = "conv",
    logits: bool = False,
) -> DeployedF3 | DeployedUNet:
    """The exportable module of either network.

    Raises:
        InputError: an option does not fit the network.
    """
    if isinstance(model, EventPatchFF):
        return DeployedF3(model, hashed=hashed, downsample=downsample, depthwise=depthwise, logits=logits)
    if hashed or downsample is not None:
        raise InputError(
            f"expected no --build-hashed-feats and no --downsample for {model.config.name}, found one",
            "EventUNetFF has no encoder; leave them out",
        )
    return DeployedUNet(model, logits=logits)
