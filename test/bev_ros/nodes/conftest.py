# SPDX-License-Identifier: Apache-2.0
"""A bev_node with a tiny encoder, and the cameras of a vehicle that publish to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bev_artifacts import tiny_images, tiny_rig

NAMES = ("front", "left", "right")


class Vehicle:
    """A node, and the rig of its cameras.

    Args:
        ros: the session.
        node: active, or about to be.
        rig: where the cameras are.

    Attributes:
        features: messages of `~/bev_features`.
    """

    def __init__(self, ros: Any, node: Any, rig: Any, compressed: bool = False) -> None:
        from ros_cameras import CameraRig
        from sensor_msgs.msg import Image

        self.ros, self.node, self.rig = ros, node, rig
        self.cameras = CameraRig(ros, node, rig.names, compressed=compressed)
        self.features = ros.listen(Image, "/bev/bev_features")
        assert ros.until(lambda: node.wanted("bev_features"))

    def infos(self, rig: Any = None) -> None:
        """Publishes camera_info of all cameras."""
        for camera in rig or self.rig:
            self.cameras.info(camera.name, camera.matrix, camera.width, camera.height)

    def places(self, rig: Any = None) -> None:
        """Publishes where the cameras are on the vehicle, static."""
        for camera in rig or self.rig:
            self.cameras.transform("base_link", f"{camera.name}_optical", camera.sensor_to_ego)

    def show(self, images: dict[str, np.ndarray], index: int = 0, offsets_ns: dict[str, int] | None = None) -> None:
        """Publishes images of an instant, and waits until the node is done with them."""
        before = self.node.health.count("receive")
        self.cameras.send(images, index, offsets_ns)
        assert self.ros.until(lambda: self.node.health.count("receive") == before + len(images))
        self.cameras.done()

    def map(self) -> np.ndarray:
        """(C, Y, X) of the newest map."""
        return map_of(self.features[-1])


def map_of(msg: Any) -> np.ndarray:
    """(C, Y, X) of a message of features."""
    from aot_runtime.ros.messages import image_view

    return np.ascontiguousarray(image_view(msg).transpose(2, 0, 1))


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
