# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""/tf and /tf_static, in and out of a `TransformBuffer`: tf2_ros is not needed, only the package tf2_msgs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Transform, TransformStamped
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.messages import ns_to_stamp, transform_entries
from aot_runtime.ros.qos import latched_qos, no_complaints, output_qos
from aot_runtime.transforms import TransformBuffer, to_parts

if TYPE_CHECKING:
    from rclpy.node import Node

    from aot_runtime.ros.node import PerceptionNode

TOPIC, STATIC_TOPIC = "/tf", "/tf_static"
_DEPTH = 100


def message_type() -> Any:
    """tf2_msgs/TFMessage.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        raise InputError(
            "expected the package tf2_msgs, found none", "install ros-<distro>-tf2-msgs, or run: make setup"
        ) from None
    return TFMessage


class TransformListener:
    """Fills a buffer from both topics, until `close`. Malformed transforms are rejected as "bad_transform".

    Args:
        node: its executor calls; its health counts.
        buffer: to fill.

    Attributes:
        received: transforms taken so far.
    """

    def __init__(self, node: PerceptionNode, buffer: TransformBuffer) -> None:
        self.received = 0
        self._node = node
        self._buffer = buffer
        kind = message_type()
        self._subscriptions = [
            node.create_subscription(kind, TOPIC, self._on_moving, output_qos(_DEPTH)),
            node.create_subscription(kind, STATIC_TOPIC, self._on_static, latched_qos(_DEPTH)),
            # Some bag players and bridges publish static transforms without latching them.
            node.create_subscription(
                kind, STATIC_TOPIC, self._on_static, output_qos(_DEPTH), event_callbacks=no_complaints()
            ),
        ]

    def close(self) -> None:
        """Unsubscribes; the buffer keeps what it has."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_moving(self, msg: Any) -> None:
        self._take(msg, False)

    def _on_static(self, msg: Any) -> None:
        self._take(msg, True)

    def _take(self, msg: Any, static: bool) -> None:
        """Each transform by itself, so that a malformed one does not spoil those of other publishers behind it."""
        for one in msg.transforms:
            try:
                for parent, child, matrix, stamp_ns in transform_entries(type(msg)(transforms=[one])):
                    self._buffer.set(parent, child, matrix, stamp_ns, static=static)
                    self.received += 1
            except InputError as error:
                self._node.reject("bad_transform", error)


class TransformBroadcaster:
    """Publishes transforms on /tf, or, latched, on /tf_static.

    Args:
        node: whose publisher it is.
        static: for /tf_static, where each message repeats what was sent before, as late subscribers get only the last.
    """

    def __init__(self, node: Node, *, static: bool = False) -> None:
        self._node = node
        self._kind = message_type()
        self._sent: dict[str, Any] | None = {} if static else None
        qos = latched_qos() if static else output_qos(_DEPTH)
        self._publisher = node.create_publisher(self._kind, STATIC_TOPIC if static else TOPIC, qos)

    def send(self, transforms: Iterable[tuple[str, str, np.ndarray]], stamp_ns: int) -> None:
        """Publishes transforms of one time.

        Args:
            transforms: parent, child, (4, 4) parent <- child.
            stamp_ns: when they hold.
        """
        messages = [stamped_transform(parent, child, matrix, stamp_ns) for parent, child, matrix in transforms]
        if self._sent is not None:
            self._sent.update({one.child_frame_id: one for one in messages})
            messages = list(self._sent.values())
        self._publisher.publish(self._kind(transforms=messages))

    def close(self) -> None:
        """Destroys the publisher."""
        self._node.destroy_publisher(self._publisher)


def stamped_transform(parent: str, child: str, matrix: np.ndarray, stamp_ns: int) -> TransformStamped:
    """The message of a rigid (4, 4) matrix, parent <- child."""
    message = TransformStamped(
        header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=parent), child_frame_id=child, transform=Transform()
    )
    shift, turn = to_parts(matrix)
    place, rotation = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = shift.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = turn.tolist()
    return message
