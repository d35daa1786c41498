# SPDX-License-Identifier: Apache-2.0
"""The modules that are exported: a whole encoder, or one of its stages, with every choice frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bev_ros.config import BevConfig
from bev_ros.lifted import LiftedPlanes, pool_lifted
from bev_ros.model.encoder import BevEncoder, fold_batch_norm
from bev_ros.tables import TableTensors


def inductor_options(device: str) -> Mapping[str, Any]:
    """Options for the compiler by the kind of device, on top of those of `aot_runtime.backends.aoti`.

    On CUDA its own choice of layouts is off: that choice has made an ahead-of-time package compute something else (see
    `aliked_ros.export_aliked`); the network is channels-last as it is written.
    """
    return {"layout_optimization": False} if device.startswith("cuda") else {}


class DeployedStage(nn.Module):
    """A part of an encoder, ready for export: BatchNorm inside the convolutions, in any precision.

    Args:
        encoder: with its weights; it is not changed.
        planes: pool by planes of cells (ONNX) and not by tables.
        kernel: what is compiled pools by our own kernel, see `bev_ros.pooling.kernel_for`.
    """

    def __init__(self, encoder: BevEncoder, *, planes: bool = False, kernel: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        fold_batch_norm(self.encoder)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config: BevConfig = encoder.config
        self.planes = LiftedPlanes(self.config.map_shape) if planes else None

    def cast_precision(self, dtype: torch.dtype) -> DeployedStage:
        """Run the networks in `dtype`, in place; what enters and leaves them, and the pooling's sums, are float32."""
        for part in (self.encoder.backbone, self.encoder.head):
            cast = getattr(part, "cast_precision", None)
            if callable(cast):
                cast(dtype)
            elif part is not None:
                part.to(dtype)
        return self

    def lift(self, images: Tensor, *cameras: Tensor) -> tuple[Tensor, ...]:
        """What the image stage gives."""
        return self.encoder.lift(images, *cameras)

    def pool(self, lifted: tuple[Tensor, ...], cells: tuple[Tensor, ...]) -> Tensor:
        """The map by tables (ranks_feat, ranks_depth, offsets), or by planes of cells."""
        if self.planes is not None:
            found: Tensor = self.planes(lifted, cells[0])
            return found
        return pool_lifted(lifted, TableTensors(*cells), self.config.map_shape, kernel=self.kernel)


class Fused(DeployedStage):
    """images, then cameras if the encoder is camera-aware, then what the pooling takes -> bev (C, Y, X) float32."""

    def forward(self, images: Tensor, *rest: Tensor) -> Tensor:
        aware = int(self.config.camera_aware)
        lifted = self.lift(images, *rest[:aware])
        return self.encoder.finish(self.pool(lifted, rest[aware:]))


class ImageOnly(DeployedStage):
    """images, then cameras if the encoder is camera-aware -> depth and context, or the volume; float32."""

    def __init__(self, encoder: BevEncoder) -> None:
        super().__init__(encoder)
        self.encoder.head = None

    def forward(self, images: Tensor, *cameras: Tensor) -> tuple[Tensor, ...]:
        return self.lift(images, *cameras)


class PoolOnly(DeployedStage):
    """depth and context, or the volume, then what the pooling takes -> pooled (C, Y, X) float32."""

    def __init__(self, encoder: BevEncoder, *, planes: bool = False, kernel: bool = False) -> None:
        super().__init__(_without_weights(encoder), planes=planes, kernel=kernel)

    def forward(self, *inputs: Tensor) -> Tensor:
        count = 1 if self.config.volume else 2
        return self.encoder.finish(self.pool(inputs[:count], inputs[count:]))


class BevOnly(DeployedStage):
    """pooled (C, Y, X) -> bev (C, Y, X) float32."""

    def __init__(self, encoder: BevEncoder) -> None:
        super().__init__(_only_head(encoder))

    def forward(self, pooled: Tensor) -> Tensor:
        assert self.encoder.head is not None
        found: Tensor = self.encoder.head(pooled)
        return found


def _only_head(encoder: BevEncoder) -> BevEncoder:
    part = copy.copy(encoder)
    part._modules = {**encoder._modules, "backbone": nn.Identity()}
    return part


def _without_weights(encoder: BevEncoder) -> BevEncoder:
    part = copy.copy(encoder)
    part._modules = {"backbone": nn.Identity(), "head": None}
    return part
