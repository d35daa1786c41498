# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: VGGT for one size of images, every choice frozen.

Written for what a call costs. On a large GPU 8 frames of 518 x 518 are 37 TFLOP, and everything else shall be small
beside them: weights are cast once, before the export; position tables, resized embeddings and folded LayerScales are
constants; four layers are kept and not 24; the dense heads are channels-last from the tokens on, and add their maps in
the small type; attention is cuDNN's where it may be.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from depth_ros.deploy import PATCHES
from depth_ros.model.dinov2 import DinoV2
from depth_ros.model.vision_transformer import Block, cast
from vggt_ros import quantise
from vggt_ros.model import dense_head
from vggt_ros.model.vggt import Vggt

HEADS = ("same", "fp32")
"""Precision of the camera and dense heads: that of the aggregator, or float32 as the official code runs them."""
STREAMS = ("same", "fp32")
"""Precision of the aggregator's residual stream: that of its products, or float32 as in the official code."""


@dataclass(frozen=True)
class Form:
    """How the network is written, see `DeployedVggt`."""

    heads: str = "same"
    stream: str = "fp32"
    patches: str = "product"
    quantisation: str = "none"

    def __post_init__(self) -> None:
        for name, known in (
            ("heads", HEADS),
            ("stream", STREAMS),
            ("patches", PATCHES),
            ("quantisation", ("none", *quantise.PACKAGE_MODES)),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"expected {name} {' or '.join(known)}, found {getattr(self, name)!r}")


def inductor_options(device: str, form: Form) -> Mapping[str, Any]:
    """Options for the compiler by the kind of device, on top of those of `aot_runtime.backends.aoti`.

    Freezing computes what is constant, the weights of quantised layers among it: a package of int8 weights has them in
    float32 then, so it is off for these (measured: 153 kB more for a block of 49 k weights, its int8 saving exactly).

    On CUDA its own choice of layouts is off: the dense heads are channels-last as they are written, and that choice has
    made an ahead-of-time package compute something else (see `aliked_ros.export_aliked`).
    """
    options: dict[str, Any] = {}
    if device.startswith("cuda"):
        options["layout_optimization"] = False
    if form.quantisation != "none":
        options["freezing"] = False
    if form.quantisation == "int8-dynamic":
        # The scale of the weights right behind the integer product: its sums never lie in memory as 32 bits.
        options["force_fuse_int_mm_with_mul"] = True
    return options


@contextlib.contextmanager
def fastest_attention(device: str) -> Iterator[None]:
    """While a graph is traced for CUDA, prefer cuDNN's fused attention.

    On an H200 it runs global attention over 8 x 1374 tokens at 409 TFLOP/s. Elsewhere, and for what it cannot do
    (float32), the next one that can is taken. Which one is decided when the graph is made, and stays in the artifact.
    """
    if not device.startswith("cuda"):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield


class DeployedVggt(nn.Module):
    """VGGT for frames of one size, of a fixed or free number, ready for export.

    Args:
        model: the network with its weights (left untouched).
        height, width: of the images, multiples of 14.
        pcd_only: leave the point head out, if there is one; depth and cameras make the better cloud.
        form: how it is written.

    The forward takes `images` (S, 3, H, W) float32 RGB in 0..1 and returns what `Vggt.forward` does, float32.

    Raises:
        InputError: a size or option that does not fit.
    """

    def __init__(
        self, model: Vggt, height: int, width: int, *, pcd_only: bool = True, form: Form | None = None
    ) -> None:
        super().__init__()
        self.form = form or Form()
        self._quantised = False
        model.aggregator.grid_of(height, width)
        # Weights of a head that is dropped are not worth a copy.
        kept = {id(model.point_head): None} if pcd_only and model.point_head is not None else {}
        network = copy.deepcopy(model, kept) if kept else copy.deepcopy(model)
        if pcd_only:
            network.point_head = None
        self.network = network.requires_grad_(False).eval()
        aggregator = self.network.aggregator
        aggregator.fix_size(height, width)
        embed = aggregator.patch_embed
        conv = embed.patch_embed if isinstance(embed, DinoV2) else embed
        conv.as_product = self.form.patches == "product"
        if isinstance(embed, DinoV2):
            del embed.mask_token
        for part in self.network.modules():
            if isinstance(part, Block):
                part.fold_layer_scales()
        for head in self._dense_heads():
            dense_head.fix_size(head, height, width, model.config.patch)
            head.enlarge_by_products()
            head.add_zero_biases()
            # Tokens are channels-last maps as they come, so that the convolutions can stay in that layout.
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)

    def _dense_heads(self) -> list[Any]:
        return [head for head in (self.network.depth_head, self.network.point_head) if head is not None]

    def cast_precision(self, dtype: torch.dtype) -> DeployedVggt:
        """Run products, attention and convolutions in `dtype`, in place.

        Always float32: normalisation of images, LayerNorms, rotations, DINOv2's residual stream, the layers that give
        the numbers of a pose, the last 1x1 convolution's sums, activations and outputs. Then quantise, if the form says
        so; the precision is settled from there on.
        """
        if self._quantised:
            return self
        cast(self.network.aggregator, dtype)
        if self.form.stream == "same":
            self.network.aggregator.stream = dtype
        if self.form.heads == "same":
            cast(self.network.camera_head, dtype)
            self.network.camera_head.keep_float32()
            for head in self._dense_heads():
                cast(head, dtype)
                head.sum_in(dtype)
                # `project` sums in float32 anyway; its few weights need no rounding.
                head.scratch.output_conv2[2].float()
        if self.form.quantisation != "none":
            quantise.quantise_blocks(self.network, self.form.quantisation)
            self._quantised = True
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.network(images)
        return found
