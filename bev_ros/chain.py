# SPDX-License-Identifier: Apache-2.0
"""From prepared images and tables to the map, by whatever computes: one artifact, several, or eager torch."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import ArtifactError, InputError
from bev_ros.artifact import FAMILY, PARTS
from bev_ros.config import BevConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from aot_runtime.compiled_model import CompiledModel
    from aot_runtime.manifest import CheckpointInfo
    from bev_ros.model.encoder import BevEncoder

_AGAIN = "export it again with export_bev of this version"


class Chain(ABC):
    """One encoder on one device.

    Attributes:
        config: of it.
        device: where its inputs are.
        planes: whether it pools by planes of cells (`PoolingTables.planes`) instead of tables.
        capturable: whether a CUDA graph can hold it.
        identity: SHA-256 over what computes.
        checkpoint: where the weights come from.
    """

    config: BevConfig
    device: torch.device
    planes: bool
    capturable: bool
    identity: str
    checkpoint: CheckpointInfo

    @abstractmethod
    def run(self, images: Tensor, cameras: Tensor, cells: Sequence[Tensor]) -> Tensor:
        """The map (C, Y, X) float32 on the device.

        Args:
            images: (N, 3, H, W) float32, normalised.
            cameras: (N, 27) float32.
            cells: the three tensors of `TableTensors`, or the planes.
        """

    def close(self) -> None:
        """Free memory; `run` raises afterwards."""


class ArtifactChain(Chain):
    """Artifacts of `export_bev`: a fused one, or an image stage with, or without, pooling and BEV stage.

    Without an artifact of the pooling the library's own is taken.

    Attributes:
        models: the artifacts, as given.

    Raises:
        ArtifactError: a file is no BEV encoder's, parts are missing or double, or come from different encoders.
    """

    def __init__(self, models: Sequence[CompiledModel]) -> None:
        self.models = tuple(models)
        self._parts: dict[str, CompiledModel] = {}
        for model in models:
            part = _part_of(model)
            if part in self._parts:
                raise ArtifactError(
                    f"expected one artifact of the part {part}, found {self._parts[part].path} and {model.path}"
                )
            self._parts[part] = model
        first = models[0]
        told = first.manifest.preprocessing
        for model in models[1:]:
            other = model.manifest.preprocessing
            if (other["config"], other["weights"]) != (told["config"], told["weights"]):
                raise ArtifactError(
                    f"expected parts of one encoder, found {first.path} and {model.path} of different ones",
                    "export the parts together with export_bev --split-stages",
                )
        try:
            self.config = BevConfig.from_json(told["config"], str(first.path))
        except InputError as error:
            raise ArtifactError(f"expected an encoder's configuration, found: {error.reason}", _AGAIN) from error
        self._check_parts()
        pooling = self._parts.get("fused") or self._parts.get("pool")
        self.planes = pooling is not None and pooling.manifest.preprocessing["cells"] == "planes"
        self.device = first.device
        self.capturable = all(model.capturable for model in models)
        self.checkpoint = next(
            (model.manifest.checkpoint for model in models if model.manifest.checkpoint.is_random),
            first.manifest.checkpoint,
        )
        self.identity = _digest(sorted(_file_digest(model) for model in models))

    def _check_parts(self) -> None:
        found = set(self._parts)
        wanted = {"image"} if self.config.bev_stage == "none" else {"image", "bev"}
        if found == {"fused"} or wanted <= found <= wanted | {"pool"}:
            return
        raise ArtifactError(
            f"expected a fused artifact, or the parts {' and '.join(sorted(wanted))} (and pool), found "
            f"{', '.join(sorted(found))} in {', '.join(str(model.path) for model in self.models)}",
            "give all files of one export_bev --split-stages",
        )

    def run(self, images: Tensor, cameras: Tensor, cells: Sequence[Tensor]) -> Tensor:
        inputs: dict[str, Tensor] = {"images": images}
        if self.config.camera_aware:
            inputs["cameras"] = cameras
        names = ("planes",) if self.planes else ("ranks_feat", "ranks_depth", "offsets")
        named = dict(zip(names, cells))
        if "fused" in self._parts:
            return self._parts["fused"].run(**inputs, **named)["bev"]
        lifted = self._parts["image"].run(**inputs)
        pooled = self._pool(lifted, named)
        return self._parts["bev"].run(pooled=pooled)["bev"] if "bev" in self._parts else pooled

    def _pool(self, lifted: Mapping[str, Tensor], cells: Mapping[str, Tensor]) -> Tensor:
        if "pool" in self._parts:
            return self._parts["pool"].run(**lifted, **cells)["pooled"]
        import torch

        from bev_ros.lifted import join_layers, pool_lifted
        from bev_ros.tables import TableTensors

        with torch.inference_mode():
            rows = pool_lifted(tuple(lifted.values()), TableTensors(**cells), self.config.map_shape)
            return join_layers(rows).contiguous()

    def close(self) -> None:
        for model in self.models:
            model.close()


class EagerChain(Chain):
    """An encoder as torch runs it, without an export.

    Args:
        encoder: it is moved to the device and put into eval mode.
        checkpoint: where its weights come from.
        precision: fp32, fp16 or bf16.
    """

    def __init__(
        self, encoder: BevEncoder, checkpoint: CheckpointInfo, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        import torch

        from aot_runtime.checkpoint import state_digest
        from aot_runtime.verdict import parse_device
        from bev_ros.custom import source_digest
        from bev_ros.deploy import Fused

        dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        if precision not in dtypes:
            raise InputError(f"expected precision {', '.join(dtypes)}, found {precision!r}")
        kind, index = parse_device(device)
        if kind == "cuda" and index >= torch.cuda.device_count():
            raise InputError(f"expected CUDA device {index}, found {torch.cuda.device_count()} CUDA devices")
        self.config = encoder.config
        self.device = torch.device(kind, index) if kind == "cuda" else torch.device("cpu")
        self.planes = False
        self.capturable = True
        self.checkpoint = checkpoint
        self._exact = precision == "fp32"
        custom = source_digest(self.config.custom_encoder) if self.config.custom_encoder else ""
        self.identity = _digest(["eager", self.config.to_json(), state_digest(encoder.state_dict()), custom, precision])
        module = Fused(encoder)
        if precision != "fp32":
            module.cast_precision(dtypes[precision])
        self._module: torch.nn.Module | None = module.to(self.device)

    def run(self, images: Tensor, cameras: Tensor, cells: Sequence[Tensor]) -> Tensor:
        import torch

        from aot_runtime.backends.aoti import exact_float32

        if self._module is None:
            raise ArtifactError(f"expected an open encoder, found {self.config.name} closed")
        with torch.inference_mode(), exact_float32(self._exact):
            found: Tensor = self._module(images, *([cameras] if self.config.camera_aware else []), *cells)
            return found

    def close(self) -> None:
        self._module = None


def load_chain(paths: Sequence[str | os.PathLike[str]], device: str, **options: Any) -> ArtifactChain:
    """Artifacts as a chain; `options` as of `aot_runtime.compiled_model.load_model`.

    Raises:
        ArtifactError: see `ArtifactChain` and `load_model`.
    """
    from aot_runtime.compiled_model import load_model

    if not paths:
        raise ArtifactError("expected one or more artifacts of export_bev, found none")
    models: list[CompiledModel] = []
    try:
        for path in paths:
            models.append(load_model(path, device, **options))
        return ArtifactChain(models)
    except BaseException:
        for model in models:
            model.close()
        raise


def _part_of(model: CompiledModel) -> str:
    manifest = model.manifest
    if manifest.family != FAMILY:
        raise ArtifactError(
            f"expected an artifact of the family {FAMILY}, found {manifest.family} in {model.path}",
            "export one with export_bev",
        )
    told = manifest.preprocessing
    part = told.get("part")
    if part not in PARTS or not isinstance(told.get("config"), dict) or "weights" not in told or "cells" not in told:
        raise ArtifactError(
            f"expected part, config, weights and cells in the manifest's preprocessing, found {sorted(told)} in "
            f"{model.path}",
            _AGAIN,
        )
    return str(part)


def _file_digest(model: CompiledModel) -> str:
    from aot_runtime.files import sha256_file

    return sha256_file(model.path)


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
