# SPDX-License-Identifier: Apache-2.0
"""/tf and /tf_static in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from geometry_msgs.msg import TransformStamped
from ros_session import ros
from std_msgs.msg import Header

from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.node import PerceptionNode
from aot_runtime.ros.qos import latched_qos
from aot_runtime.ros.tf import (
    STATIC_TOPIC,
    TOPIC,
    TransformBroadcaster,
    TransformListener,
    message_type,
    stamped_transform,
    transform_entries,
)
from aot_runtime.transforms import TransformBuffer, to_matrix

__all__ = ["ros"]
S = 1_000_000_000
HALF = to_matrix((1, 2, 3), (0, 0, np.sqrt(0.5), np.sqrt(0.5)))


@pytest.fixture
def node(ros: Any) -> Any:
    return ros.add(PerceptionNode("listener_node", ("receive", "publish")))


def test_messages_there_and_back() -> None:
    message = message_type()(transforms=[stamped_transform("map", "base", HALF, 5 * S + 1)])
    ((parent, child, matrix, stamp_ns),) = transform_entries(message)
    assert (parent, child, stamp_ns) == ("map", "base", 5 * S + 1)
    assert matrix == pytest.approx(HALF)


def test_what_is_broadcast_is_heard(ros: Any, node: Any) -> None:
    buffer = TransformBuffer()
    listener = TransformListener(node, buffer)
    moving, static = TransformBroadcaster(ros.listener), TransformBroadcaster(ros.listener, static=True)
    static.send([("base", "left", HALF)], 0)
    static.send([("base", "right", np.eye(4))], 0)
    assert ros.until(lambda: "right" in buffer.frames)
    assert ros.until(lambda: ros.listener.count_subscribers(TOPIC))
    ros.spin(0.1)
    moving.send([("map", "base", np.eye(4))], 1 * S)
    moving.send([("map", "base", HALF), ("map", "other", HALF)], 2 * S)
    assert ros.until(lambda: "other" in buffer.frames)
    assert buffer.lookup("map", "left", 2 * S) == pytest.approx(HALF @ HALF)
    # The second message of the latched topic repeats the first one's transform, for those who come later.
    late = TransformBuffer()
    second = TransformListener(node, late)
    assert ros.until(lambda: {"left", "right"} <= set(late.frames))
    for one in (listener, second):
        one.close()
    assert node.count_subscribers(TOPIC) == 0
    moving.close()
    static.close()


def test_static_transforms_that_nobody_latches(ros: Any, node: Any) -> None:
    buffer = TransformBuffer()
    TransformListener(node, buffer)
    publisher = ros.publisher(message_type(), STATIC_TOPIC, 10)
    ros.spin(0.1)
    publisher.publish(message_type()(transforms=[stamped_transform("base", "left", HALF, 0)]))
    assert ros.until(lambda: "left" in buffer.frames)
    assert buffer.lookup("base", "left", 99 * S) == pytest.approx(HALF)


def test_malformed_transforms_are_rejected_alone(ros: Any, node: Any) -> None:
    buffer = TransformBuffer()
    listener = TransformListener(node, buffer)
    publisher = ros.publisher(message_type(), TOPIC, latched_qos(10))
    ros.spin(0.1)
    forgotten = TransformStamped(header=Header(frame_id="map"), child_frame_id="zero")
    forgotten.transform.rotation.w = 0.0
    nameless = stamped_transform("map", "", HALF, 0)
    infinite = stamped_transform("map", "far", HALF, 0)
    infinite.transform.translation.x = float("inf")
    stamp = stamped_transform("map", "when", HALF, 0)
    stamp.header.stamp.nanosec = 2 * 10**9
    good = stamped_transform("map", "base", HALF, S)
    publisher.publish(message_type()(transforms=[forgotten, nameless, infinite, stamp, good]))
    assert ros.until(lambda: "base" in buffer.frames)
    assert node.health.drops() == {"bad_transform": 4}
    assert buffer.frames == ("base", "map")
    assert listener.received == 1
    assert ns_to_stamp(S).sec == 1
