# SPDX-License-Identifier: Apache-2.0
"""Official outputs of Depth Anything V2, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_artifacts import cached

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *(f"depth_ros/model/{name}.py" for name in ("vision_transformer", "dinov2", "dpt", "depth_anything")),
    *("depth_ros/deploy.py", "depth_ros/export_dav2.py"),
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "engine", "engine_graph", "golden", "manifest")),
    *(f"aot_runtime/backends/{name}.py" for name in ("aoti", "package", "onnx", "mixed_precision", "tensorrt_build")),
)


@dataclass
class DepthGolden:
    """One golden file: configuration, weights, and arrays by their names without "in::" and "out::"."""

    name: str
    options: dict[str, Any]
    state: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    def config(self) -> Any:
        """The `DepthConfig` that the golden's options tell."""
        from depth_ros.model.depth_anything import DepthConfig

        vit = self.options["vit"]
        return DepthConfig(
            "tiny",
            vit["embed_dim"],
            vit["depth"],
            vit["num_heads"],
            tuple(self.options["intermediate_layers"]),
            self.options["features"],
            tuple(self.options["out_channels"]),
            {"mlp": "mlp", "swiglufused": "swiglu"}[vit["ffn_layer"]],
            input_channels=self.options["input_channels"],
            max_depth=self.options.get("max_depth"),
            image_size=vit["img_size"],
        )

    def model(self) -> Any:
        """The network with the golden's weights."""
        from depth_ros.model.depth_anything import DepthAnythingV2

        model = DepthAnythingV2(self.config()).eval()
        model.load_state_dict(self.state, strict=True)
        return model

    def atol(self) -> float:
        """The tolerance of a float32 depth, of the golden's README."""
        maximum = self.options.get("max_depth")
        return 5e-5 if maximum is None else 1e-5 * float(maximum)


@pytest.fixture(scope="session")
def depth_golden(shared: Path) -> Callable[[str], DepthGolden]:
    """Loader of golden/f3/dav2_* files by name; floating arrays become float32 tensors."""
    import torch

    def load(name: str) -> DepthGolden:
        groups: dict[str, dict[str, Any]] = {"sd": {}, "in": {}, "out": {}}
        with np.load(shared / "golden" / "f3" / f"{name}.npz") as archive:
            options = json.loads(str(archive["config"]))
            for key in archive.files:
                if key != "config":
                    group, _, field = key.partition("::")
                    groups[group][field] = torch.from_numpy(archive[key].astype(np.float32))
        return DepthGolden(name, options, groups["sd"], groups["in"], groups["out"])

    return load


@pytest.fixture(scope="session")
def depth_artifact(artifact_cache: Path, depth_golden: Callable[[str], DepthGolden]) -> Callable[..., Path]:
    """The artifact of a golden configuration at a size, compiled once and kept for later sessions.

    The key of the cache covers the sources, the weights, the options and everything the verdict looks at; an artifact
    that this machine may not run is compiled again. An engine is built for `target`, and not judged on this machine.
    """
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2

    def get(
        name: str,
        height: int = 42,
        width: int = 56,
        suffix: str = ".pt2",
        target: str | None = None,
        **options: Any,
    ) -> Path:
        golden = depth_golden(name)
        kind = "relative" if golden.config().max_depth is None else "metric"
        return cached(
            artifact_cache,
            name,
            suffix,
            SOURCES,
            lambda path: export_dav2(
                golden.model(),
                path,
                height=height,
                width=width,
                checkpoint=CheckpointInfo(f"{name}.npz", "0" * 64, "Apache-2.0"),
                engine_options=EngineOptions(target=target),
                progress=False,
                **{"kind": kind, **options},
            ),
            asked=(golden.options, height, width, sorted(options.items()), target),
            state=golden.state,
            good=Path.is_file if suffix == ".engine" else None,
        )

    return get
