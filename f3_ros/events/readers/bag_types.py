# SPDX-License-Identifier: Apache-2.0
"""The event messages for the `rosbags` library, from our own list of their fields.

Bags written by rosbag2 embed the definition as IDL, which rosbags fails to parse; a type store of our own reads and
writes them all.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from aot_runtime.errors import InputError

EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
EVENT_ARRAY = "event_array_msgs/msg/EventArray"
"""Predecessor of EventPacket with the same fields."""
EVENT_TYPES = (EVENT_PACKET, EVENT_ARRAY)

_FIELDS = """\
std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""


@cache
def event_typestore() -> Any:
    """A rosbags type store that knows the event messages.

    Raises:
        InputError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise InputError(
            "expected the library rosbags for reading and writing bags, found none",
            "install it with: python -m pip install rosbags",
        ) from error
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in EVENT_TYPES:
        store.register(get_types_from_msg(_FIELDS, name))
    return store
