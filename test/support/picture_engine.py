# SPDX-License-Identifier: Apache-2.0
"""A small picture network, its ONNX artifact and engines: what the tests of TensorRT build and run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.environment import Host, module_version
from aot_runtime.manifest import CheckpointInfo, Manifest
from aot_runtime.parity import Tolerance

RTX = module_version("tensorrt_rtx")
# In CI these tests fail rather than vanish.
needs_tensorrt_rtx = pytest.mark.skipif(
    not RTX and os.environ.get("CI") != "true", reason="tensorrt_rtx is not installed"
)


def host(**changes: Any) -> Host:
    base = Host("linux", "x86_64", frozenset(), "", compute_capabilities=("8.9",), tensorrt_rtx=RTX)
    return dataclasses.replace(base, **changes)


class Picture(torch.nn.Module):
    """Convolutions, a resize, a product and a second output; 1 x 3 x h x w."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1, stride=2)
        self.last = torch.nn.Linear(16, 8)
        self.up = torch.nn.ConvTranspose2d(16, 16, 2, stride=2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.first(image.to(self.first.weight.dtype)))
        hidden = torch.relu(self.second(hidden))
        wide = torch.nn.functional.interpolate(hidden.float(), scale_factor=2, mode="bilinear", align_corners=True)
        wide = wide + self.up(hidden).float()
        features = self.last(wide.permute(0, 2, 3, 1).to(self.last.weight.dtype)).float()
        return {"features": features, "best": features.sum(3).flatten(1).argmax(1)}


PICTURE: dict[str, Any] = {
    "example_inputs": {"image": torch.zeros(1, 3, 24, 32)},
    "family": "picture",
    "variant": "v1",
    "task": "test",
    "outputs": [("features", "per pixel", "1"), ("best", "index of the strongest pixel", "")],
    "checkpoint": CheckpointInfo("p.pth", "cd" * 32, "MIT"),
    "preprocessing": {"mean": [0.5, 0.5, 0.5]},
    "rebuild_command": ["export_picture", "--format", "engine"],
    "progress": False,
}


def samples(count: int = 6) -> list[dict[str, np.ndarray[Any, Any]]]:
    generator = np.random.default_rng(1)
    return [{"image": generator.random((1, 3, 24, 32), dtype=np.float32)} for _ in range(count)]


def build(source: Path, path: Path, precision: str, target: str = "sm_89", **arguments: Any) -> Manifest:
    # The index of the strongest pixel moves with the rounding.
    tolerances = {"best": Tolerance(1e9, 0.0)}
    options = EngineOptions(target=target, samples=samples(), quantiser="onnxruntime", **arguments)
    return build_engine(source, path, precision, options, tolerances=tolerances, progress=False)
