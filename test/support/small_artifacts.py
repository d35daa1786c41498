# SPDX-License-Identifier: Apache-2.0
"""Small artifacts that tests in both languages run, compiled once and kept in the folder of `artifact_cache`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kept_artifacts import cached

from aot_runtime.backends import package

THIS = "test/support/small_artifacts.py"


def export_for_test(network: Any, inputs: dict[str, Any], path: Path, outputs: Sequence[str], **options: Any) -> None:
    """`export_model` with a manifest that says nothing; `options` are further arguments of it."""
    from aot_runtime.export import export_model
    from aot_runtime.manifest import CheckpointInfo

    export_model(
        network,
        inputs,
        path=path,
        family="test",
        variant=path.stem,
        task="test",
        outputs=[(name, "", "") for name in outputs],
        checkpoint=CheckpointInfo.random(0),
        progress=False,
        **options,
    )


def two_outputs(folder: Path, suffix: str = ".pt2") -> Path:
    """events (n, 4), n <= 100, and scale (8,) -> features (n, 8) and total (4,)."""
    import torch

    from aot_runtime.export import export_model
    from aot_runtime.golden import grid, uniform
    from aot_runtime.manifest import CheckpointInfo, DynamicDim

    class TwoOutputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 8)

        def forward(self, events: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"features": torch.tanh(self.layer(events)) + torch.log(scale), "total": events.sum(0)}

    torch.manual_seed(3)
    network = TwoOutputs()
    return cached(
        folder,
        "two_outputs",
        suffix,
        (THIS, "aot_runtime/backends"),
        lambda path: export_model(
            network,
            {"events": torch.zeros(16, 4), "scale": torch.ones(8)},
            path=path,
            family="two_outputs",
            variant="v1",
            task="test",
            outputs=[("features", "hidden units", "1"), ("total", "sum of the events", "px")],
            checkpoint=CheckpointInfo.random(3),
            dynamic_dims={"events": {0: DynamicDim("n", 0, 100)}},
            golden_laws={"events": grid(640, 480, 20, (2, 1)), "scale": uniform(0.5, 1.5)},
            rebuild_command=["export_two", "--output-name", "two outputs.pt2"],
            progress=False,
        ),
    )


def small_depth(folder: Path, max_depth: float | None = None) -> Path:
    """Depth Anything V2 of RGB images with four blocks and random weights, 42 x 56; metric with a `max_depth`."""
    import torch

    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

    torch.manual_seed(5)
    config = DepthConfig("tiny", 24, 4, 2, (0, 1, 2, 3), 8, (8, 8, 8, 8), max_depth=max_depth, image_size=56)
    network = DepthAnythingV2(config).eval()
    return cached(
        folder,
        f"small_depth_{max_depth}",
        ".pt2",
        (THIS, "aot_runtime/backends", "depth_ros/model"),
        lambda path: export_dav2(
            network,
            path,
            height=42,
            width=56,
            checkpoint=CheckpointInfo.random(5),
            kind="relative" if max_depth is None else "metric",
            progress=False,
        ),
    )


def with_manifest(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a `.pt2` with another manifest."""
    document = json.loads(package.read_manifest_json(source))
    change(document)
    package.write_with_manifest(source, target, json.dumps(document))
    return target


def small_aliked(folder: Path, shared: Path, top_k: int = 150) -> Path:
    """ALIKED-T16 with the official weights for images of 160 x 120."""
    from aliked_ros.export_aliked import export_aliked, read_network

    def make(path: Path) -> None:
        network, checkpoint = read_network("t16", shared / "weights" / "aliked" / "aliked-t16.pth")
        export_aliked(network, path, checkpoint=checkpoint, height=120, width=160, top_k=top_k, progress=False)

    return cached(folder, f"small_aliked_{top_k}", ".pt2", (THIS, "aot_runtime/backends", "aliked_ros"), make)
