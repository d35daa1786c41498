# SPDX-License-Identifier: Apache-2.0
"""Official outputs of ALIKED with the official weights, and the compiled artifacts that must reproduce them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_artifacts import cached, key_of

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
SOURCES = (
    *("aliked_ros/config.py", "aliked_ros/model.py", "aliked_ros/deform_conv.py", "aliked_ros/descriptors.py"),
    *("aliked_ros/detection.py", "aliked_ros/deploy.py", "aliked_ros/alignment.py", "aliked_ros/export_aliked.py"),
    *("aot_runtime/export.py", "aot_runtime/golden.py", "aot_runtime/manifest.py", "aot_runtime/backends/aoti.py"),
    *("aot_runtime/backends/package.py", "aot_runtime/backends/onnx.py", "aot_runtime/deform_conv.py"),
)
SCORE_STEPS = 16383


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

    def get(variant: str, suffix: str = ".pt2", **options: Any) -> Path:
        weights = shared / "weights" / "aliked" / f"aliked-{variant}.pth"

        def make(path: Path) -> None:
            model, checkpoint = read_network(variant, weights)
            export_aliked(model, path, checkpoint=checkpoint, progress=False, **options)

        sources = (*SOURCES, str(weights))
        return cached(artifact_cache, f"aliked_{variant}", suffix, sources, make, asked=sorted(options.items()))

    return get


@pytest.fixture(scope="session")
def parts_file(artifact_cache: Path, shared: Path) -> Path:
    """Where the compiled parts of test_blocks.py are kept; its name covers that test's source too."""
    sources = (*SOURCES, "test/aliked_ros/test_blocks.py", str(shared / "weights" / "aliked" / "aliked-n16.pth"))
    return artifact_cache / f"aliked_parts_{key_of(sources)}.pt2"
