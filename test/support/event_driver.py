# SPDX-License-Identifier: Apache-2.0
"""For tests of f3_node: made-up packets of events, published as a camera driver would."""

from __future__ import annotations

from typing import Any

import numpy as np
from event_camera_msgs.msg import EventPacket
from std_msgs.msg import UInt64

from aot_runtime.ros.qos import events_qos
from f3_ros.event_messages import message_from_packet
from f3_ros.events.codecs import encode_evt3
from f3_ros.events.types import Events, Packet

START_NS = 1_700_000_000_000_000_000


def packet(
    seq: int, begin_us: int, n: int = 100, *, length_us: int = 4000, size: tuple[int, int] = (1280, 720)
) -> Packet:
    """An EVT3 packet of n events in [begin, begin + length), ending with time words for its end."""
    rng = np.random.default_rng(seq)
    t = np.sort(rng.integers(begin_us, begin_us + length_us, n))
    x, y = (rng.integers(0, min(side, limit), n).astype(np.uint16) for side, limit in zip(size, (1280, 720)))
    events = Events(x, y, t.astype(np.int64), rng.integers(0, 2, n).astype(np.uint8))
    end = begin_us + length_us
    closing = np.array([0x8000 | (end >> 12 & 0xFFF), 0x6000 | (end & 0xFFF)], "<u2").view(np.uint8)
    payload = np.concatenate([np.asarray(encode_evt3(events)).view(np.uint8), closing])
    return Packet(START_NS + begin_us * 1000, "camera", *size, seq, 0, "evt3", False, payload)


class Driver:
    """Publishes packets as a camera driver would."""

    def __init__(self, ros: Any) -> None:
        self._ros = ros
        self._publisher = ros.listener.create_publisher(EventPacket, "/f3/events", events_qos())
        self.done = ros.listen(UInt64, "/f3/processed_seq", 10)
        assert ros.until(lambda: self._publisher.get_subscription_count() > 0)
        ros.spin(0.1)

    def send(self, message: EventPacket | Packet, **changes: Any) -> None:
        """Publishes, and waits until the node is done with it."""
        msg = message_from_packet(message) if isinstance(message, Packet) else message
        for name, value in changes.items():
            setattr(msg, name, value)
        before = len(self.done)
        self._publisher.publish(msg)
        assert self._ros.until(lambda: len(self.done) > before, 30), "not acknowledged"

    def send_unanswered(self, msg: EventPacket) -> None:
        """Publishes a message that the node refuses before it can acknowledge it."""
        self._publisher.publish(msg)
