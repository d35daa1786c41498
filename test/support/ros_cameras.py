# SPDX-License-Identifier: Apache-2.0
"""For tests of nodes with several cameras: publishers of images, camera_info and transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ros_images import PERIOD_NS, START_NS
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.qos import image_input_qos, latched_qos
from aot_runtime.ros.tf import STATIC_TOPIC, TOPIC, message_type, stamped_transform


def info_of(matrix: np.ndarray, width: int, height: int, header: Header | None = None) -> CameraInfo:
    """The message of an ideal camera (3, 3)."""
    rows = np.asarray(matrix, np.float64)
    return CameraInfo(
        header=header or Header(),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=rows.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([rows, np.zeros((3, 1))]).ravel().tolist(),
    )


class CameraRig:
    """Publishes to a node with a `CameraSet`.

    Args:
        ros: the session.
        node: the node; its topics are those of its name.
        names: of the cameras.
        compressed: publish CompressedImage.
    """

    def __init__(self, ros: Any, node: Any, names: Sequence[str], *, compressed: bool = False) -> None:
        self.ros, self.node, self.names = ros, node, tuple(names)
        kind = CompressedImage if compressed else Image
        base = f"/{node.get_name()}"
        self._images = {name: ros.publisher(kind, f"{base}/{name}/image", image_input_qos(20)) for name in names}
        self._infos = {name: ros.publisher(CameraInfo, f"{base}/{name}/camera_info", latched_qos()) for name in names}
        self._tf: Any = None
        self._static: Any = None

    def info(self, name: str, matrix: np.ndarray, width: int, height: int, **fields: Any) -> None:
        """Publishes a camera_info and waits until the node has it; `fields` replace the message's."""
        message = info_of(matrix, width, height)
        for field, value in fields.items():
            setattr(message, field, value)
        known = self.node._cameras.calibrations[name]
        before = known.newest
        self._infos[name].publish(message)
        assert self.ros.until(lambda: known.newest is not before)

    def infos(self, width: int, height: int, focal: float = 100.0) -> None:
        """Publishes the same pinhole camera for all."""
        matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        for name in self.names:
            self.info(name, matrix, width, height)

    def publish(self, name: str, message: Any) -> None:
        """Publishes a message as it is."""
        self._images[name].publish(message)

    def send(
        self, images: Mapping[str, np.ndarray], index: int = 0, offsets_ns: Mapping[str, int] | None = None
    ) -> None:
        """Publishes images (H, W, 3) RGB of one instant, frame "<name>_optical"; does not wait."""
        for name, image in images.items():
            stamp_ns = START_NS + index * PERIOD_NS + (offsets_ns or {}).get(name, 0)
            header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=f"{name}_optical")
            self._images[name].publish(to_image(image, "rgb8", header))

    def done(self) -> None:
        """Waits until the node has nothing left to do."""
        self.ros.spin(0.05)
        assert self.ros.until(lambda: self.node._cameras.idle)
        self.ros.spin(0.02)

    def transform(self, parent: str, child: str, matrix: np.ndarray, index: int | None = None) -> None:
        """Publishes a transform of an instant, or, without index, a static one, and waits until it has come."""
        if index is None:
            self._static = self._static or self.ros.publisher(message_type(), STATIC_TOPIC, latched_qos(100))
        else:
            self._tf = self._tf or self.ros.publisher(message_type(), TOPIC, 100)
        publisher = self._static if index is None else self._tf
        stamp_ns = START_NS + (index or 0) * PERIOD_NS
        before = self.node._listener.received
        publisher.publish(message_type()(transforms=[stamped_transform(parent, child, matrix, stamp_ns)]))
        assert self.ros.until(lambda: self.node._listener.received > before)
