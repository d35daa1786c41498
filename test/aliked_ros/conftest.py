# SPDX-License-Identifier: Apache-2.0
"""Official outputs of ALIKED with the official weights, and the compiled artifacts that must reproduce them."""

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
    *("aliked_ros/config.py", "aliked_ros/model.py", "aliked_ros/deform_conv.py", "aliked_ros/descriptors.py"),
    *("aliked_ros/detection.py", "aliked_ros/deploy.py", "aliked_ros/alignment.py", "aliked_ros/export_aliked.py"),
    *("aot_runtime/export.py", "aot_runtime/golden.py", "aot_runtime/manifest.py", "aot_runtime/backends/aoti.py"),
    *("aot_runtime/backends/package.py", "aot_runtime/backends/onnx.py", "aot_runtime/deform_conv.py"),
)
SCORE_STEPS = 16383


def source_key(weights: Path, options: Any = None) -> str:
    """Changes with the sources, the weights, the options, torch and the CPU."""
    from aot_runtime.environment import this_host

    digest = hashlib.sha256(weights.read_bytes())
    for source in SOURCES:
        digest.update((ROOT / source).read_bytes())
    host = this_host()
    digest.update(repr((sorted((options or {}).items()), host.torch, sorted(host.cpu_flags))).encode())
    return digest.hexdigest()[:20]


@dataclass
class AlikedGolden:
    """One golden file of a variant: its arrays, its settings, and the image it was made from (H, W, 3) uint8 RGB."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    image: np.ndarray

    @property
    def score_map(self) -> np.ndarray:
        return self.arrays["score_map_u14"].astype(np.float64) / SCORE_STEPS


@pytest.fixture(scope="session")
def read_image(shared: Path) -> Callable[[str], np.ndarray]:
    """Reader of data/images by name, as uint8 RGB (H, W, 3)."""
    from PIL import Image

    return lambda name: np.array(Image.open(shared / "data" / "images" / name).convert("RGB"))


@pytest.fixture(scope="session")
def aliked_golden(shared: Path, read_image: Callable[[str], np.ndarray]) -> Callable[[str, str], AlikedGolden]:
    """Loader of golden/aliked/<variant>_<case>.npz."""
    folder = shared / "golden" / "aliked"

    def load(variant: str, case: str) -> AlikedGolden:
        with np.load(folder / f"{variant}_{case}.npz") as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        name = Path(meta["image"]).name
        if (folder / name).is_file():
            from PIL import Image

            image = np.array(Image.open(folder / name).convert("RGB"))
        else:
            image = read_image(name)
        return AlikedGolden(arrays, meta, image)

    return load


@pytest.fixture(scope="session")
def aliked_model(shared: Path) -> Callable[[str], Any]:
    """The network of a variant ("n16") with its official weights."""
    from aliked_ros.export_aliked import read_network

    return lambda variant: read_network(variant, shared / "weights" / "aliked" / f"aliked-{variant}.pth")[0]


@pytest.fixture(scope="session")
def aliked_artifact(artifact_cache: Path, shared: Path) -> Callable[..., Path]:
    """The artifact of a variant, compiled once and kept for later sessions.

    The key of the cache covers the sources, the weights, the options and everything the verdict looks at; an artifact
    that this machine may not run is compiled again.
    """
    from aliked_ros.export_aliked import export_aliked, read_network
    from aot_runtime.verdict import judge

    def get(variant: str, suffix: str = ".pt2", **options: Any) -> Path:
        weights = shared / "weights" / "aliked" / f"aliked-{variant}.pth"
        path = artifact_cache / f"aliked_{variant}_{source_key(weights, options)}{suffix}"
        if not path.is_file() or not judge(path, "cpu").ok:
            model, checkpoint = read_network(variant, weights)
            export_aliked(model, path, checkpoint=checkpoint, progress=False, **options)
        return path

    return get


@pytest.fixture(scope="session")
def parts_file(artifact_cache: Path, shared: Path) -> Path:
    """Where the compiled parts of test_blocks.py are kept; its name covers that test's source too."""
    test = hashlib.sha256(Path(__file__).with_name("test_blocks.py").read_bytes()).hexdigest()[:8]
    return artifact_cache / f"aliked_parts_{source_key(shared / 'weights' / 'aliked' / 'aliked-n16.pth')}_{test}.pt2"
