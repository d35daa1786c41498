# SPDX-License-Identifier: Apache-2.0
"""Goldens of lift-splat encoders, and tiny artifacts that pipelines, commands and nodes run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def bev_artifact(artifact_cache: Path) -> Path:
    """A whole encoder of the preset "tiny" with random weights as a .pt2, see `bev_artifacts.tiny_artifact`."""
    from bev_artifacts import tiny_artifact

    return tiny_artifact(artifact_cache)


@pytest.fixture(scope="session")
def bev_artifacts(artifact_cache: Path) -> Callable[..., Path]:
    """bev_artifacts(part, suffix, seed, **changes): other tiny artifacts, see `bev_artifacts.tiny_artifact`."""
    from bev_artifacts import tiny_artifact

    def get(part: str = "fused", suffix: str = ".pt2", **changes: Any) -> Path:
        return tiny_artifact(artifact_cache, part, suffix, **changes)

    return get


@dataclass(frozen=True)
class LssGolden:
    """golden/bev/lss_tiny_*: the reference encoder with random weights on three cameras.

    Attributes:
        config: of it; the rule is "trunc".
        weights: by the official names.
        case: tensors of the case, without batch and sweep.
    """

    config: Any
    weights: dict[str, Any]
    case: dict[str, Any]

    def encoder(self, rule: str = "trunc") -> Any:
        """The network with the golden's weights and an index rule."""
        from bev_ros.model.encoder import BevEncoder
        from bev_ros.weights import rename

        grid = replace(self.config.grid, rule=rule)
        encoder = BevEncoder(replace(self.config, grid=grid)).eval()
        wanted = encoder.state_dict()
        state = {rename(key): value for key, value in self.weights.items()}
        encoder.load_state_dict({key: value for key, value in state.items() if key in wanted}, strict=True)
        return encoder

    def inputs(self, rule: str = "trunc", *, planes: bool = False, bda: Any = None) -> list[Any]:
        """What the encoder takes: images, cameras, tables (or planes of cells); by another bda if one is given."""
        import torch

        from bev_ros.geometry import Lift, camera_vector
        from bev_ros.tables import camera_cells, merge_cells

        names = ("intrin_mats", "sensor2ego_mats", "ida_mats")
        mats = [self.case[name].double().numpy() for name in names]
        turn = self.case["bda_mat"].double().numpy() if bda is None else bda
        vectors = np.stack([camera_vector(*(mat[n] for mat in mats), turn) for n in range(self.config.cameras)])
        frustum, grid = self.config.frustum, replace(self.config.grid, rule=rule)
        cells = [
            camera_cells(Lift.of(*(mat[n] for mat in mats), turn), frustum, grid) for n in range(self.config.cameras)
        ]
        tables = merge_cells(cells, frustum, grid)
        last = [torch.from_numpy(tables.planes())] if planes else list(tables.tensors())
        return [self.case["imgs"], torch.from_numpy(vectors), *last]


@pytest.fixture(scope="session")
def lss_golden(shared: Path) -> LssGolden:
    """golden/bev/lss_tiny_*."""
    from safetensors.torch import load_file

    from bev_ros.config import BevConfig
    from bev_ros.grid import BevGrid

    folder = shared / "golden" / "bev"
    told = json.loads((folder / "lss_tiny_config.json").read_text())
    config = BevConfig(
        name="lss_tiny",
        grid=BevGrid(told["x_bound"], told["y_bound"], told["z_bound"], "trunc"),
        depth=told["d_bound"],
        image=tuple(told["final_dim"]),
        stride=told["downsample_factor"],
        cameras=3,
        backbone="resnet10",
        base_channels=told["img_backbone_conf"]["base_channels"],
        neck="fpn",
        neck_channels=told["img_neck_conf"]["out_channels"],
        mid_channels=told["depth_net_conf"]["mid_channels"],
        channels=told["output_channels"],
    )
    case = {}
    for name, tensor in load_file(folder / "lss_tiny_case.safetensors").items():
        # (batch, sweep, camera, ...) of one batch and one sweep.
        case[name] = tensor[0, 0] if name in ("imgs",) or name.endswith("_mats") else tensor
    for name in ("bda_mat", "bev_trunc_float64", "bev_floor_float64", "fpn_feature"):
        case[name] = case[name][0]
    return LssGolden(config, load_file(folder / "lss_tiny_weights.safetensors"), case)


@pytest.fixture(scope="session")
def lss_artifact(artifact_cache: Path, lss_golden: LssGolden) -> Callable[[str], Path]:
    """lss_artifact(suffix): the golden's encoder, fused."""
    from bev_artifacts import SOURCES
    from kept_artifacts import cached

    from aot_runtime.checkpoint import state_digest
    from aot_runtime.manifest import CheckpointInfo
    from bev_ros.artifact import export_part

    def get(suffix: str) -> Path:
        encoder = lss_golden.encoder()
        key = state_digest(encoder.state_dict()) + json.dumps(encoder.config.to_json(), sort_keys=True)
        checkpoint = CheckpointInfo("lss_tiny_weights.safetensors", "0" * 64, "MIT")
        return cached(
            artifact_cache,
            f"bev_lss_{hashlib.sha256(key.encode()).hexdigest()[:8]}",
            suffix,
            SOURCES,
            lambda path: export_part(encoder, "fused", path, checkpoint=checkpoint, progress=False),
        )

    return get
