# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: one image of one size in, its depth out, every choice frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aot_runtime.errors import ExportError, InputError
from depth_ros.model.depth_anything import DepthAnythingV2
from depth_ros.model.vision_transformer import Block

PATCHES = ("conv", "product")
"""How the patch embedding is written: "conv" leaves it to the library, "product" as one matrix product."""


def fastest_patches(device: str) -> str:
    """The member of PATCHES for the kind of device; on CPUs it saves 2 % of a vitb of 32 channels at 238 x 308."""
    return "product"


def inductor_options(device: str) -> Mapping[str, Any]:
    """Options for the compiler by the kind of device, on top of those of `aot_runtime.backends.aoti`."""
    return {}


class DeployedDepth(nn.Module):
    """Depth Anything V2 for one size of images, ready for export.

    The position embedding is resized once and for all, LayerScales are multiplied into the weights before them, and
    weights that the forward never reads are left out.

    Args:
        model: the network with its weights (left untouched).
        height, width: of the images, multiples of 14.
        patches: one of PATCHES.

    The forward takes (1, C, height, width) float32 and returns (1, height, width) float32.

    Raises:
        InputError: a size or option that does not fit.
    """

    def __init__(self, model: DepthAnythingV2, height: int, width: int, *, patches: str = "conv") -> None:
        super().__init__()
        if patches not in PATCHES:
            raise InputError(f"expected patches {', '.join(PATCHES)}, found {patches!r}")
        model.pretrained.grid_of(height, width)
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        encoder = self.network.pretrained
        encoder.fix_size(height, width)
        encoder.patch_embed.as_product = patches == "product"
        del encoder.mask_token, self.network.depth_head.scratch.refinenet4.resConfUnit1
        encoder.blocks = encoder.blocks[: max(model.config.taps) + 1]
        for block in encoder.blocks:
            assert isinstance(block, Block)
            block.fold_layer_scales()
        # Tokens are channels-last maps as they come, so that the decoder's convolutions can stay in that layout.
        self.network.depth_head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)

    def cast_precision(self, dtype: torch.dtype) -> DeployedDepth:
        """Run in `dtype`, in place; see `DepthAnythingV2.cast_precision` for what stays float32."""
        self.network.cast_precision(dtype)
        return self

    def forward(self, image: Tensor) -> Tensor:
        depth: Tensor = self.network(image)
        return depth


class Castable(Protocol):
    """A deployed module: a network, and which of its parts run in another precision."""

    @property
    def network(self) -> nn.Module: ...

    def cast_precision(self, dtype: torch.dtype) -> nn.Module: ...


def require_range(module: Castable, image: Tensor, dtype: torch.dtype, device: str) -> None:
    """Run the network once in `dtype` and refuse it where a number leaves the dtype's range.

    Args:
        module: moved to `device` and cast in place.
        image: what its forward takes.

    Raises:
        ExportError: naming the first layer whose output is not finite.
    """
    deployed = module.cast_precision(dtype).to(device)
    overflown: list[str] = []
    hooks = []
    for name, layer in module.network.named_modules():
        if next(layer.children(), None) is None:

            def watch(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                if not overflown and not bool(torch.isfinite(output).all()):
                    overflown.append(name)

            hooks.append(layer.register_forward_hook(watch))
    try:
        with torch.no_grad():
            deployed(image.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    if overflown:
        raise ExportError(
            f"expected numbers within the range of {str(dtype).removeprefix('torch.')} "
            f"(+-{torch.finfo(dtype).max:g}), found NaN or infinity first in layer {overflown[0]}",
            "nothing was written; export with --precision bf16 (.pt2 and engines), or fp32",
        )
