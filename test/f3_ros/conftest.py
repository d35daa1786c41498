# SPDX-License-Identifier: Apache-2.0
"""Official outputs of F3, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_artifacts import cached, judged

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *(
        f"f3_ros/{name}.py"
        for name in ("config", "blocks", "encoder", "model", "unet", "deploy", "kernels", "export_f3")
    ),
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "golden", "manifest")),
    *(f"aot_runtime/backends/{name}.py" for name in ("aoti", "package")),
)


@dataclass
class F3Golden:
    """One golden file: configuration, weights, and arrays by their names without "in::" and "out::"."""

    name: str
    options: dict[str, Any]
    state: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    def model(self) -> Any:
        """The network with the golden's weights."""
        from f3_ros.config import F3Config
        from f3_ros.export_f3 import make_model

        model = make_model(F3Config.from_dict(self.options, self.name))
        model.load_state_dict(self.state, strict=True)
        return model

    def events(self, case: str) -> Any:
        """The events of a case; "" for files with a single one."""
        return self.inputs[f"events_{case}" if case else "events"]


@pytest.fixture(scope="session")
def f3_golden(shared: Path) -> Callable[[str], F3Golden]:
    """Loader of golden/f3 files by name; floating arrays become float32 tensors."""
    import torch

    def load(name: str) -> F3Golden:
        groups: dict[str, dict[str, Any]] = {"sd": {}, "in": {}, "out": {}}
        with np.load(shared / "golden" / "f3" / f"{name}.npz") as archive:
            options = json.loads(str(archive["config"]))
            for key in archive.files:
                if key != "config":
                    group, _, field = key.partition("::")
                    array = archive[key]
                    groups[group][field] = torch.from_numpy(
                        array.astype(np.float32) if array.dtype.kind == "f" else array
                    )
        return F3Golden(name, options, groups["sd"], groups["in"], groups["out"])

    return load


@pytest.fixture(scope="session")
def f3_artifact(artifact_cache: Path, f3_golden: Callable[[str], F3Golden]) -> Callable[..., Path]:
    """The artifact of a golden configuration, compiled once and kept for later sessions.

    The key of the cache covers the sources, the weights, the options and everything the verdict looks at; an artifact
    that this machine may not run is compiled again.
    """
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.export_f3 import export_f3

    def get(name: str, **options: Any) -> Path:
        golden = f3_golden(name)
        checkpoint = CheckpointInfo(f"{name}.npz", "0" * 64, "Apache-2.0")
        return cached(
            artifact_cache,
            name,
            ".pt2",
            SOURCES,
            lambda path: export_f3(golden.model(), path, checkpoint=checkpoint, progress=False, **options),
            asked=(golden.options, sorted(options.items())),
            state=golden.state,
            good=judged(options.get("device", "cpu")),
        )

    return get


@pytest.fixture(scope="session")
def stand_in_head(artifact_cache: Path) -> Callable[..., Path]:
    """stand_in_head(family, channels, height, width, device=, **told): a head whose output is known by hand.

    Flow is the first two channels of the features; depth is the mean of their absolute values. `told` replaces what
    the manifest's preprocessing says. Compiled once and kept for later sessions.
    """
    import torch
    from torch import nn

    from aot_runtime.export import export_model
    from aot_runtime.manifest import CheckpointInfo

    class FirstChannels(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :2] * 1.0

    class MeanMagnitude(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.abs().mean(1)

    def get(family: str, channels: int, height: int, width: int, *, device: str = "cpu", **told: Any) -> Path:
        kind = {"kind": "relative"} if family == "depth" else {"interval_us": 100_000}
        return cached(
            artifact_cache,
            f"stand_in_{family}",
            ".pt2",
            (),
            lambda path: export_model(
                MeanMagnitude() if family == "depth" else FirstChannels(),
                {"features": torch.zeros(1, channels, height, width)},
                path=path,
                family=family,
                variant="stand_in",
                task=f"{family}_stand_in",
                outputs=[(family, "", "")],
                checkpoint=CheckpointInfo("stand_in.pth", "0" * 64, "Apache-2.0"),
                device=device,
                preprocessing={
                    "input": "f3_features",
                    "input_channels": channels,
                    "size": [height, width],
                    "resize": "stretch",
                    "interpolation": "bilinear",
                    "align_corners": True,
                    "backbone_digest": None,
                    **kind,
                    **told,
                },
                progress=False,
            ),
            asked=(channels, height, width, device, sorted(told.items())),
            good=judged(device),
        )

    return get


FLOW_SOURCES = (
    *("f3_ros/blocks.py", "f3_ros/flow_head.py", "f3_ros/export_flowhead.py", "aot_runtime/export.py"),
    *("aot_runtime/golden.py", "aot_runtime/manifest.py", "aot_runtime/backends/aoti.py"),
    *("aot_runtime/makers.py", "aot_runtime/backends/package.py", "aot_runtime/backends/onnx.py"),
    *("aot_runtime/engine.py", "aot_runtime/engine_graph.py", "aot_runtime/backends/mixed_precision.py"),
    "aot_runtime/backends/tensorrt_build.py",
)


@dataclass
class FlowGolden:
    """An official flow head with its weights, its features (B, C, H, W), and the flow (B, 2, H, W) of them."""

    options: dict[str, Any]
    state: dict[str, Any]
    features: Any
    flow: Any

    def model(self) -> Any:
        """The network with the golden's weights."""
        from f3_ros.flow_head import FlowHead

        options = self.options
        model = FlowHead(options["input_channels"], options["kernels"], options["btlncks"], options["dilations"])
        model.load_state_dict(self.state, strict=True)
        return model.eval()


@pytest.fixture(scope="session")
def flow_golden(f3_golden: Callable[[str], F3Golden]) -> Callable[[str], FlowGolden]:
    """Loader of golden/f3/flowhead_* by name."""

    def load(name: str) -> FlowGolden:
        golden = f3_golden(name)
        return FlowGolden(golden.options, golden.state, golden.inputs["features_BCHW"], golden.outputs["flow_B2HW"])

    return load


@pytest.fixture(scope="session")
def flow_artifact(artifact_cache: Path, flow_golden: Callable[[str], FlowGolden]) -> Callable[..., Path]:
    """The artifact of a golden flow head for its features' size, or for `height` x `width`; kept as `f3_artifact`'s.

    An engine is built for `target`, and must not be judged on this machine.
    """
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.export_flowhead import export_flowhead

    def get(name: str = "flowhead_k9999", suffix: str = ".pt2", target: str | None = None, **options: Any) -> Path:
        golden = flow_golden(name)
        options = {"height": golden.features.shape[2], "width": golden.features.shape[3], **options}
        checkpoint = CheckpointInfo(f"{name}.npz", "0" * 64, "Apache-2.0")
        engine = EngineOptions(target=target)
        return cached(
            artifact_cache,
            name,
            suffix,
            FLOW_SOURCES,
            lambda path: export_flowhead(
                golden.model(), path, checkpoint=checkpoint, engine_options=engine, progress=False, **options
            ),
            asked=(golden.options, sorted(options.items()), target),
            state=golden.state,
            good=Path.is_file if suffix == ".engine" else None,
        )

    return get
