# SPDX-License-Identifier: Apache-2.0
"""`event_camera_msgs/EventPacket` to and from our plain `Packet`."""

from __future__ import annotations

from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.ros.messages import ns_to_stamp, payload_view, stamp_to_ns
from f3_ros.events.types import Packet


def event_packet_type() -> Any:
    """The message class.

    Raises:
        InputError: the interface package is not installed.
    """
    try:
        from event_camera_msgs.msg import EventPacket
    except ImportError as error:
        raise InputError(
            "expected the message package event_camera_msgs, found no such Python module",
            "install it (apt install ros-$ROS_DISTRO-event-camera-msgs) or, without ROS, run: make setup",
        ) from error
    return EventPacket


def packet_from_message(msg: Any) -> Packet:
    """The message's fields; the payload is a view of the message's memory.

    Contents are not judged here (that is `PacketDecoder`'s task), only that the stamp is one.

    Raises:
        InputError: the stamp is malformed.
    """
    return Packet(
        stamp_ns=stamp_to_ns(msg.header.stamp),
        frame_id=msg.header.frame_id,
        width=msg.width,
        height=msg.height,
        seq=msg.seq,
        time_base=msg.time_base,
        encoding=msg.encoding,
        is_bigendian=bool(msg.is_bigendian),
        events=payload_view(msg.events),
    )


def message_from_packet(
    packet: Packet, *, stamp_ns: int | None = None, seq: int | None = None, frame_id: str | None = None
) -> Any:
    """A message with a copy of the payload; the keyword arguments replace what the packet says.

    Raises:
        InputError: the interface package is not installed, or a stamp does not fit a message.
    """
    msg = event_packet_type()()
    msg.header.stamp = ns_to_stamp(packet.stamp_ns if stamp_ns is None else stamp_ns)
    msg.header.frame_id = packet.frame_id if frame_id is None else frame_id
    msg.width, msg.height = packet.width, packet.height
    msg.seq = (packet.seq if seq is None else seq) % 2**64
    msg.time_base = packet.time_base
    msg.encoding = packet.encoding
    msg.is_bigendian = packet.is_bigendian
    if len(packet.events):
        msg.events.frombytes(np.ascontiguousarray(payload_view(packet.events)).data)
    return msg
