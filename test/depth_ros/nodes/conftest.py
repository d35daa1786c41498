# SPDX-License-Identifier: Apache-2.0
"""Help for tests of depth from images: small artifacts, real pictures, and a node that spins in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depth_artifacts import export_brightness
from kept_artifacts import cached
from ros_session import Session

HEIGHT, WIDTH = 56, 70
# Of the exporter; a change of any of these compiles the artifacts again.
SOURCES = (
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "engine", "engine_graph", "golden", "manifest")),
    "aot_runtime/backends",
)


@pytest.fixture(scope="session")
def stand_in(artifact_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """stand_in(**preprocessing): a network whose "depth" is ten times the mean of the image's channels, 0 .. 10.

    It is compiled once; other preprocessing only changes the manifest. `family` and `weights="known"` do so too.
    """
    from aot_runtime.backends.package import read_manifest_json, write_with_manifest
    from aot_runtime.manifest import CheckpointInfo, Manifest

    sources = (*SOURCES, "test/support/depth_artifacts.py")
    base = cached(
        artifact_cache,
        "brightness",
        ".pt2",
        sources,
        lambda path: export_brightness(path, HEIGHT, WIDTH),
        asked=(HEIGHT, WIDTH),
    )
    folder = tmp_path_factory.mktemp("stand_in")

    def get(*, family: str = "depth", random: bool = False, **preprocessing: Any) -> Path:
        from dataclasses import replace

        if family == "depth" and not random and not preprocessing:
            return base
        path = folder / f"{hashlib.sha256(repr((family, random, preprocessing)).encode()).hexdigest()[:16]}.pt2"
        if not path.is_file():
            manifest = Manifest.from_json(read_manifest_json(base))
            changed = replace(
                manifest,
                family=family,
                preprocessing={**manifest.preprocessing, **preprocessing},
                checkpoint=CheckpointInfo.random(0) if random else manifest.checkpoint,
            )
            write_with_manifest(base, path, changed.to_json())
        return path

    return get


@pytest.fixture(scope="session")
def tiny_dav2(artifact_cache: Path) -> Path:
    """A real but tiny Depth Anything V2 with random weights, metric to 20 m, exported by its own command's function."""
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 16, 16, 16), max_depth=20.0, image_size=56)
    return cached(
        artifact_cache,
        "tiny_dav2",
        ".pt2",
        (*SOURCES, "depth_ros/model", "depth_ros/deploy.py", "depth_ros/export_dav2.py"),
        lambda path: export_dav2(
            DepthAnythingV2(config).randomise(0),
            path,
            height=HEIGHT,
            width=WIDTH,
            checkpoint=CheckpointInfo.random(0),
            kind="metric",
            progress=False,
        ),
        asked=(config, HEIGHT, WIDTH),
    )


@pytest.fixture(scope="session")
def pictures(shared: Path) -> dict[str, np.ndarray]:
    """Real pictures and frames of the synthetic room by name, (H, W, 3) uint8 RGB."""
    from aot_runtime.frames import read_image

    files = {
        "kitti": "images/kitti_000100.png",
        "tum": "images/tum_1311868169.163498.png",
        "piazza": "images/piazza_san_marco_1.jpg",
        "redwood": "multiview/redwood_rgbd/00000.jpg",
        "room": "synthetic_room/left_00.png",
        "room2": "synthetic_room/left_01.png",
    }
    return {name: read_image(shared / "data" / file) for name, file in files.items()}


@pytest.fixture
def depth(ros: Session, stand_in: Callable[..., Path]) -> Callable[..., Any]:
    """depth(**parameters): a DepthNode with the relative stand-in, active unless it cannot be."""
    from depth_ros.node import DepthNode

    def make(active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        return ros.start(DepthNode, active, cli_args, **{"artifact": stand_in(), **values})

    return make
