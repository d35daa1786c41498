# SPDX-License-Identifier: Apache-2.0
"""Official outputs of VitMatte, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kept_artifacts import cached, judged

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *(f"vitmatte_ros/model/{name}.py" for name in ("attention", "backbone", "decoder", "positions", "vitmatte")),
    *(f"vitmatte_ros/{name}.py" for name in ("config", "deploy", "fused", "kernels", "model/windows")),
    "vitmatte_ros/export_vitmatte.py",
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "engine", "engine_graph", "golden", "manifest")),
    *(f"aot_runtime/backends/{name}.py" for name in ("aoti", "package", "onnx", "mixed_precision", "tensorrt_build")),
)
CASES = ("64x96", "96x64")


@dataclass(frozen=True)
class MatteNetwork:
    """A `VitMatteConfig` and weights for it."""

    config: Any
    state: Mapping[str, Any]

    def model(self) -> Any:
        """A network with these weights."""
        from vitmatte_ros.model.vitmatte import VitMatte

        model = VitMatte(self.config)
        model.load_state_dict(dict(self.state), strict=True)
        return model


@dataclass(frozen=True)
class MatteGolden(MatteNetwork):
    """The golden network, the inputs and official outputs of its cases, and of its preprocessing."""

    cases: Mapping[str, Mapping[str, Any]]
    preprocess: Mapping[str, Any]


@pytest.fixture(scope="session")
def published_windows() -> MatteNetwork:
    """A small network with the windows, grids and tables of the published ones, and random weights."""
    from vitmatte_ros.config import from_name
    from vitmatte_ros.model.vitmatte import VitMatte

    config = replace(from_name("small"), dim=32, heads=2, depth=2, windowed=(0,), residual=(1,))
    config = replace(config, name="windows", details=(8, 8, 8), fusion=(16, 8, 8, 8))
    return MatteNetwork(config, VitMatte(config).randomise(0).state_dict())


@pytest.fixture(scope="session")
def matte_golden(shared: Path) -> MatteGolden:
    """golden/vitmatte."""
    from safetensors.torch import load_file

    from vitmatte_ros.config import from_transformers

    folder = shared / "golden" / "vitmatte"
    return MatteGolden(
        from_transformers(json.loads((folder / "config.json").read_text()), "tiny"),
        load_file(folder / "weights.safetensors"),
        {case: load_file(folder / f"case_{case}.safetensors") for case in CASES},
        load_file(folder / "preprocess.safetensors"),
    )


@pytest.fixture(scope="session")
def matte_artifact(artifact_cache: Path, matte_golden: MatteGolden) -> Callable[..., Path]:
    """The artifact of the golden network, or of another `network`, compiled once and kept for later sessions.

    The key of the cache covers the sources, the weights, the options and everything the verdict looks at; an artifact
    that this machine may not run is compiled again. An engine is built for `target`, and not judged on this machine.
    """
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo
    from vitmatte_ros.export_vitmatte import export_vitmatte

    def get(
        suffix: str = ".pt2", *, target: str | None = None, network: MatteNetwork | None = None, **options: Any
    ) -> Path:
        chosen = network or matte_golden

        def make(path: Path) -> None:
            engine = {"engine_options": EngineOptions(target=target)} if suffix == ".engine" else {}
            info = CheckpointInfo("weights.safetensors", "0" * 64, "MIT")
            export_vitmatte(chosen.model(), path, checkpoint=info, progress=False, **engine, **options)

        return cached(
            artifact_cache,
            "vitmatte",
            suffix,
            SOURCES,
            make,
            asked=(chosen.config, sorted(options.items()), target),
            state=chosen.state,
            good=Path.is_file if suffix == ".engine" else judged(options.get("device", "cpu")),
        )

    return get
