# SPDX-License-Identifier: Apache-2.0
"""For tests of bev_node: the cameras of a vehicle that publish to it, and its maps."""

from __future__ import annotations

from typing import Any

import numpy as np


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
