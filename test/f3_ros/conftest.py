# SPDX-License-Identifier: Apache-2.0
"""Official outputs of F3, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *("config.py", "blocks.py", "encoder.py", "model.py", "unet.py", "deploy.py", "export_f3.py"),
    *("export.py", "golden.py", "manifest.py", "backends/aoti.py", "backends/package.py"),
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
    from aot_runtime.environment import this_host
    from aot_runtime.manifest import CheckpointInfo
    from aot_runtime.verdict import judge
    from f3_ros.export_f3 import export_f3

    def get(name: str, **options: Any) -> Path:
        golden = f3_golden(name)
        digest = hashlib.sha256()
        for source in SOURCES:
            folder = "f3_ros" if (ROOT / "f3_ros" / source).is_file() else "aot_runtime"
            digest.update((ROOT / folder / source).read_bytes())
        for key, value in golden.state.items():
            digest.update(key.encode() + value.numpy().tobytes())
        host = this_host()
        digest.update(repr((golden.options, sorted(options.items()), host.torch, sorted(host.cpu_flags))).encode())
        path = artifact_cache / f"{name}_{digest.hexdigest()[:20]}.pt2"
        if not path.is_file() or not judge(path, "cpu").ok:
            checkpoint = CheckpointInfo(f"{name}.npz", "0" * 64, "Apache-2.0")
            export_f3(golden.model(), path, checkpoint=checkpoint, progress=False, **options)
        return path

    return get
