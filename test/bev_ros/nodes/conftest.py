# SPDX-License-Identifier: Apache-2.0
"""A bev_node with a tiny encoder, and the cameras of a vehicle that publish to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bev_artifacts import tiny_images, tiny_rig
from bev_vehicle import Vehicle

NAMES = ("front", "left", "right")


@pytest.fixture
def rig() -> Any:
    """Cameras of 160 x 90 that look forward, left and right."""
    return tiny_rig(NAMES)


@pytest.fixture
def images(rig: Any) -> dict[str, np.ndarray]:
    """A picture for each."""
    return tiny_images(rig)


@pytest.fixture
def pipeline(bev_artifact: Path) -> Iterator[Any]:
    """What the node must agree with."""
    from bev_ros.pipeline import BevPipeline

    with BevPipeline(bev_artifact) as pipeline:
        yield pipeline


@pytest.fixture
def make(ros: Any, bev_artifact: Path) -> Callable[..., Any]:
    """make(**parameters): a BevNode with the tiny encoder, active unless it cannot be."""
    from bev_ros.node import BevNode

    def start(active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        defaults = {"model": bev_artifact, "cameras": list(NAMES), "sync_patience": 0.3}
        told = {name: value for name, value in {**defaults, **values}.items() if value is not None}
        return ros.start(BevNode, active, cli_args, **told)

    return start


@pytest.fixture
def vehicle(ros: Any, make: Callable[..., Any], rig: Any) -> Callable[..., Vehicle]:
    """vehicle(**parameters): an active node that knows its cameras and their places."""

    def start(info: bool = True, tf: bool = True, **values: Any) -> Vehicle:
        made = Vehicle(ros, make(**values), rig, values.get("image_transport") == "compressed")
        if info:
            made.infos()
        if tf:
            made.places()
        return made

    return start
