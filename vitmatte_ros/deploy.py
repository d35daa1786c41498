# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: VitMatte for one size of images, or for any, every choice frozen."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from vitmatte_ros.config import ATTENTIONS, MULTIPLE, RELATIVES, VitMatteConfig
from vitmatte_ros.model.attention import Attention
from vitmatte_ros.model.backbone import Layer
from vitmatte_ros.model.decoder import Head
from vitmatte_ros.model.vitmatte import VitMatte

MIN_SIZE = 32
"""Of height and width."""
FUSED_WIDTH = 2048
"""In pixels, up to which attention is one kernel: it takes a row of keys at a time."""


@dataclass(frozen=True)
class Form:
    """How the network is written, see `DeployedVitMatte`."""

    attention: str = "explicit"
    relative: str = "product"
    channel_multiple: int = 1


def fastest_form(suffix: str, device: str) -> Form:
    """The fastest way to write the network for a kind of artifact (".pt2", ".onnx", ".engine") and of device.

    On one core of a CPU, global attention of 32 x 32 tokens takes 39 ms as "explicit", 23 ms as "bias" and 49 ms as
    "concat". On an H200 the whole network (small, 512 x 512) as a CUDA graph takes 6.10 ms as "concat" and 6.27 ms as
    "bias" in float32, and 1.93 and 2.04 ms in float16, where `fused` takes its place. Exporters to ONNX know none but
    "explicit".
    """
    if suffix != ".pt2":
        return Form()
    return Form("concat", "gather", 8) if device.startswith("cuda") else Form("bias")


def inductor_options(device: str) -> Mapping[str, Any]:
    """Options for the compiler by the kind of device, on top of those of `aot_runtime.backends.aoti`.

    On CUDA its own choice of layouts is off: the network is channels-last as it is written, and that choice has made an
    ahead-of-time package compute something else (see `aliked_ros.export_aliked`). A normalisation of few tokens stays
    one kernel; by default it is split into three.
    """
    return {"layout_optimization": False, "split_reductions": False} if device.startswith("cuda") else {}


@contextlib.contextmanager
def tracing_any_size() -> Iterator[None]:
    """While a graph for any size is traced, let nothing about the size of the example decide how it is written.

    By default torch notes what holds for the example ("this slice is not contiguous", "there are several windows"),
    and refuses to export, or compiles a graph that is silently wrong elsewhere.
    """
    from torch.fx.experimental import _config

    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


class DeployedVitMatte(nn.Module):
    """VitMatte ready for export: BatchNorm inside the convolutions, everything that is constant computed.

    Args:
        model: the network with its weights (left untouched).
        height, width: of the images; both None for a module that takes any size. With a size, absolute and relative
            positions are tables; without, they are computed from the size at every call.
        form: how attention is written (a member of ATTENTIONS) and its relative terms (of RELATIVES); zero channels
            fill the image up to a multiple of `channel_multiple`, 8 for tensor cores.

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
        form: Form | None = None,
    ) -> None:
        super().__init__()
        form = form or Form()
        if form.attention not in ATTENTIONS:
            raise InputError(f"expected attention {', '.join(ATTENTIONS)}, found {form.attention!r}")
        if form.relative not in RELATIVES:
            raise InputError(f"expected relative positions by {' or '.join(RELATIVES)}, found {form.relative!r}")
        if form.channel_multiple < 1:
            raise InputError(f"expected a multiple of channels from 1, found {form.channel_multiple}")
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        for layer in self.network.backbone.encoder.layer:
            assert isinstance(layer, Layer)
            layer.attention.written = form.attention
            layer.attention.relative = form.relative
        if height is None or width is None:
            if height is not width:
                raise InputError(f"expected a height and a width, or neither, found {height} and {width}")
            self.network.backbone.fix_windows()
        else:
            check_size(height, width)
            patch = model.config.patch
            self.network.backbone.fix_size(_ceil(height) // patch, _ceil(width) // patch)
        self.network.decoder.fold_batch_norm()
        self.network.decoder.pad_channels(form.channel_multiple)
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
            elif isinstance(part, Attention):
                part.cast_tables(dtype)
        for part in self.network.modules():
            if isinstance(part, Head):
                part.matting_convs[3].float()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        alpha: Tensor = self.network(pixel_values)
        return alpha


def deployed_kind(
    config: VitMatteConfig, height: int | None, width: int | None, suffix: str, precision: str, device: str
) -> type[DeployedVitMatte]:
    """The module to export: `fused.FusedVitMatte` where its kernels run, the plain one everywhere else.

    Float32 stays plain: on tensor cores it would be TF32. So does a graph for any size, one of larger grids than the
    kernel of attention has memory for, and one whose heads no tensor core takes.
    """
    half = suffix == ".pt2" and precision == "fp16" and device.startswith("cuda") and find_spec("triton") is not None
    whole = config.head_dim >= 16 and config.head_dim & (config.head_dim - 1) == 0
    if not half or not whole or height is None or width is None or width > FUSED_WIDTH:
        return DeployedVitMatte
    from vitmatte_ros.fused import FusedVitMatte

    return FusedVitMatte


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
