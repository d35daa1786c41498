# SPDX-License-Identifier: Apache-2.0
"""Help for tests of aliked_node: compiled official networks, real images, and nodes that spin in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_session import Session

# As in test_golden.py, so that the same compiled artifacts serve.
OPTIONS = {
    "crop_th02": {"height": 120, "width": 160, "top_k": 300, "score_map": True},
    "tum_k1000": {"height": 480, "width": 640, "top_k": 1000, "score_map": True},
}


@pytest.fixture(scope="session")
def network(aliked_artifact: Callable[..., Path]) -> Callable[..., Path]:
    """network(variant, case, suffix): the artifact of an official network for the images of a golden case."""
    return lambda variant="t16", case="crop_th02", suffix=".pt2": aliked_artifact(
        variant, suffix=suffix, **OPTIONS[case]
    )


@pytest.fixture
def altered(network: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """altered(family=..., random=..., **preprocessing): the small artifact with another manifest."""
    from dataclasses import replace

    from aot_runtime.backends.package import read_manifest_json, write_with_manifest
    from aot_runtime.manifest import CheckpointInfo, Manifest

    def get(*, family: str = "aliked", random: bool = False, **preprocessing: Any) -> Path:
        manifest = Manifest.from_json(read_manifest_json(network()))
        changed = replace(
            manifest,
            family=family,
            preprocessing={**manifest.preprocessing, **preprocessing},
            checkpoint=CheckpointInfo.random(0) if random else manifest.checkpoint,
        )
        write_with_manifest(network(), tmp_path / "altered.pt2", changed.to_json())
        return tmp_path / "altered.pt2"

    return get


@pytest.fixture(scope="session")
def crops(read_image: Callable[[str], np.ndarray]) -> list[np.ndarray]:
    """Views 160x120 of a real image that move right by 8 and down by 5 pixels each: points move left and up."""
    image = read_image("tum_1311868169.163498.png")
    corners = [(240 + 8 * n, 180 + 5 * n) for n in range(4)]
    return [np.ascontiguousarray(image[y : y + 120, x : x + 160]) for x, y in corners]


@pytest.fixture
def aliked(ros: Session, network: Callable[..., Path]) -> Callable[..., Any]:
    """aliked(**parameters): an AlikedNode with the network t16 for 160x120, active unless it cannot be."""
    from aliked_ros.node import AlikedNode

    def make(active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        if "artifact" not in values:
            values["artifact"] = network()
        return ros.start(AlikedNode, active, cli_args, **values)

    return make
