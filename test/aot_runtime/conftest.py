# SPDX-License-Identifier: Apache-2.0
"""One tiny network, compiled once per session, and manifests and packages that need no compiler."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.manifest import METADATA_KEY, CheckpointInfo, DynamicDim, Manifest

DATA = Path(__file__).resolve().parent.parent / "data"
MEMBER = "model/data/aotinductor/model/"


@pytest.fixture(scope="session")
def verdict_cases() -> dict[str, Any]:
    """The table that Python and C++ share."""
    return json.loads((DATA / "verdict_cases.json").read_text())


@pytest.fixture
def plain_manifest(verdict_cases: dict[str, Any]) -> dict[str, Any]:
    """A valid manifest as parsed JSON, to be changed at will."""
    return copy.deepcopy(verdict_cases["base_manifest"])


@pytest.fixture
def make_package(tmp_path: Path) -> Callable[..., Path]:
    """A `.pt2`-shaped zip around a manifest (text, JSON object, or None for none); it cannot be loaded, only judged."""

    def make(manifest: Any, name: str = "m.pt2") -> Path:
        told = {"AOTI_DEVICE_KEY": "cpu"}
        if manifest is not None:
            told[METADATA_KEY] = manifest if isinstance(manifest, str) else json.dumps(manifest)
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{MEMBER}a.wrapper_metadata.json", json.dumps(told))
            archive.writestr(f"{MEMBER}a.kernel_metadata.json", json.dumps(told))
            archive.writestr(f"{MEMBER}a.wrapper.so", bytes(range(256)) * 64)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_network() -> Any:
    """Two inputs, two outputs; `log` makes NaN of a negative scale."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 8)

        def forward(self, events: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = torch.tanh(self.layer(events.to(self.layer.weight.dtype)))
            return {"total": events.sum(0), "features": hidden.float() + torch.log(scale)}

    torch.manual_seed(3)
    return Tiny()


@pytest.fixture(scope="session")
def export_arguments() -> dict[str, Any]:
    """What export_model needs for the tiny network, besides the path."""
    import torch

    from aot_runtime.golden import grid, uniform

    return {
        "example_inputs": {"events": torch.zeros(16, 4), "scale": torch.ones(8)},
        "family": "tiny",
        "variant": "v1",
        "task": "test",
        "outputs": [("features", "hidden units", "1"), ("total", "sum of the events", "px")],
        "checkpoint": CheckpointInfo("tiny.pth", "ab" * 32, "MIT"),
        "dynamic_dims": {"events": {0: DynamicDim("n", 0, 100)}},
        "golden_laws": {"events": grid(640, 480, 20, (2, 1)), "scale": uniform(0.5, 1.5)},
        "input_meanings": {"events": ("x/W, y/H, k/T, p", "1")},
        "preprocessing": {"bin_us": 1000},
        "check_sizes": [{"n": 0}, {"n": 1}, {"n": 100}],
        "rebuild_command": ["export_tiny", "--output-name", "tiny.pt2"],
        "progress": False,
    }


@pytest.fixture(scope="session")
def tiny_artifact(
    tmp_path_factory: pytest.TempPathFactory, tiny_network: Any, export_arguments: dict[str, Any]
) -> tuple[Path, Manifest]:
    """The compiled tiny network; treat it as read-only."""
    from aot_runtime.export import export_model

    path = tmp_path_factory.mktemp("artifact") / "tiny.pt2"
    return path, export_model(tiny_network, path=path, **export_arguments)


@pytest.fixture(scope="session")
def picture_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture network as an fp32 ONNX artifact; read-only."""
    from picture_engine import PICTURE, Picture

    from aot_runtime.export import export_model

    path = tmp_path_factory.mktemp("engine") / "picture.onnx"
    export_model(Picture(), path=path, **PICTURE)
    return path


@pytest.fixture(scope="session")
def engine(picture_onnx: Path) -> tuple[Path, Manifest]:
    """An fp32 engine for sm_89 from it; read-only."""
    from aot_runtime.engine import EngineOptions, build_engine

    path = picture_onnx.with_suffix(".engine")
    command = ["build_engine", "picture.onnx", "--target", "sm_89"]
    options = EngineOptions(target="sm_89")
    return path, build_engine(picture_onnx, path, options=options, rebuild_command=command, progress=False)


@pytest.fixture
def own_engine(engine: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy of the engine, to be spoiled."""
    from aot_runtime.backends import engine_file

    path = tmp_path / "p.engine"
    shutil.copy(engine[0], path)
    shutil.copy(engine_file.manifest_path(engine[0]), engine_file.manifest_path(path))
    return path
