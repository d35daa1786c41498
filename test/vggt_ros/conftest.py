# SPDX-License-Identifier: Apache-2.0
"""Official outputs of VGGT, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_artifacts import cached
from small_artifacts import cached as small_cached

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *(f"vggt_ros/model/{name}.py" for name in ("aggregator", "camera_head", "dense_head", "rope", "vggt")),
    *(f"vggt_ros/{name}.py" for name in ("artifact", "config", "deploy", "quantise")),
    *(f"depth_ros/model/{name}.py" for name in ("vision_transformer", "dinov2", "dpt")),
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "engine", "engine_graph", "golden", "manifest")),
    *(f"aot_runtime/backends/{name}.py" for name in ("aoti", "package", "onnx", "mixed_precision", "tensorrt_build")),
)
CASES = ("case_3x56x70", "case_1x70x70", "case_2x84x42")
OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")


@dataclass(frozen=True)
class VggtGolden:
    """The golden network and the official inputs and outputs of its cases."""

    folder: Path
    options: Mapping[str, Any]
    state: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / "weights.safetensors"

    def config(self, **changed: Any) -> Any:
        """The `VggtConfig` of the golden."""
        from vggt_ros.config import from_dict

        return from_dict({**self.options, **changed}, "tiny")

    def model(self, *, points: bool = True) -> Any:
        """A network with the golden's weights."""
        from vggt_ros.model.vggt import Vggt

        model = Vggt(self.config(), points=points).eval()
        state = {key: value for key, value in self.state.items() if points or not key.startswith("point_head.")}
        model.load_state_dict(state, strict=True)
        return model

    def images(self, case: str) -> Any:
        """(S, 3, H, W)."""
        import torch

        return torch.from_numpy(self.cases[case]["images"])

    def expected(self, case: str, output: str) -> np.ndarray:
        """An output as ours: without the axis of scenes, and depth without its channel."""
        array = self.cases[case][output][0]
        return array[..., 0] if output == "depth" else array


@pytest.fixture(scope="session")
def vggt_golden(shared: Path) -> VggtGolden:
    """golden/vggt."""
    from safetensors.torch import load_file

    folder = shared / "golden" / "vggt"
    cases = {case: dict(np.load(folder / f"{case}.npz")) for case in (*CASES, "case_conv")}
    options = json.loads((folder / "config.json").read_text())["config"]
    return VggtGolden(folder, options, load_file(folder / "weights.safetensors"), cases)


@pytest.fixture(scope="session")
def small_network() -> Any:
    """A random network that compiles in seconds: every part is there, most of them once."""
    from vggt_ros.config import VggtConfig
    from vggt_ros.model.vggt import without_values

    config = VggtConfig(
        "small",
        dim=32,
        depth=4,
        heads=2,
        image_size=28,
        dino_depth=1,
        dino_heads=2,
        camera_depth=1,
        camera_heads=2,
        features=16,
        out_channels=(8, 8, 8, 8),
        taps=(0, 1, 2, 3),
    )
    return without_values(config).randomise(3)


@pytest.fixture(scope="session")
def metric_brightness(artifact_cache: Path) -> Callable[..., Path]:
    """metric_brightness(random=False): a network for 160x120 whose metres are ten times the brightness of the image."""

    def get(*, random: bool = False) -> Path:
        from depth_artifacts import export_brightness

        sources = ("aot_runtime/export.py", "aot_runtime/backends", "aot_runtime/manifest.py", "test/support")
        name = "metric_random" if random else "metric"
        return small_cached(
            artifact_cache,
            name,
            ".onnx",
            sources,
            lambda path: export_brightness(path, 120, 160, "metric", random=random),
        )

    return get


@pytest.fixture(scope="session")
def vggt_artifact(artifact_cache: Path, vggt_golden: VggtGolden, small_network: Any) -> Callable[..., Path]:
    """The artifact of the golden network (or the small one) without its point head, compiled once and kept.

    The key of the cache covers the sources, the weights, the options and everything the verdict looks at; an artifact
    that this machine may not run is compiled again. An engine is built for `target`, and not judged on this machine.
    """
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo
    from vggt_ros.artifact import export_vggt

    def get(suffix: str = ".pt2", *, small: bool = False, target: str | None = None, **options: Any) -> Path:
        def make(path: Path) -> None:
            engine = {"engine_options": EngineOptions(target=target)} if suffix == ".engine" else {}
            info = CheckpointInfo("weights.safetensors", "0" * 64, "VGGT License (non-commercial)")
            model = small_network if small else vggt_golden.model(points=False)
            export_vggt(model, path, checkpoint=info, progress=False, **engine, **options)

        return cached(
            artifact_cache,
            "vggt",
            suffix,
            SOURCES,
            make,
            asked=(sorted(options.items()), target),
            state=small_network.state_dict() if small else vggt_golden.state,
            good=Path.is_file if suffix == ".engine" else None,
        )

    return get
