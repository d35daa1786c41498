# SPDX-License-Identifier: Apache-2.0
"""Our EventPacket and TFMessage are the released ones, byte for byte on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

MSG = Path(__file__).resolve().parent.parent / "interfaces" / "event_camera_msgs" / "msg" / "EventPacket.msg"
RELEASED_HASH_START, RELEASED_HASH_END = "RIHS01_d6fa1762", "44aa"


def test_type_hash_equals_that_of_the_released_package() -> None:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(MSG.read_text(), "event_camera_msgs/msg/EventPacket"))
    digest = store.hash_rihs01("event_camera_msgs/msg/EventPacket")
    assert digest.startswith(RELEASED_HASH_START)
    assert digest.endswith(RELEASED_HASH_END)


def test_built_message_has_the_fields_in_wire_order() -> None:
    module = pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not built; run: make setup")
    assert module.EventPacket.get_fields_and_field_types() == {
        "header": "std_msgs/Header",
        "height": "uint32",
        "width": "uint32",
        "seq": "uint64",
        "time_base": "uint64",
        "encoding": "string",
        "is_bigendian": "boolean",
        "events": "sequence<uint8>",
    }


def test_built_message_serialises_to_the_documented_layout() -> None:
    module = pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not built; run: make setup")
    from rclpy.serialization import deserialize_message, serialize_message

    message = module.EventPacket()
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = 1, 2, "cam"
    message.height, message.width, message.seq, message.time_base = 720, 1280, 7, 9
    message.encoding = "evt3"
    message.events.frombytes(b"\x01\x02\x03")
    raw = serialize_message(message)
    body = raw[4:]  # after the encapsulation header, from which alignment counts
    assert int.from_bytes(body[0:4], "little") == 1
    assert body[8:16] == b"\x04\x00\x00\x00cam\x00"
    assert int.from_bytes(body[16:20], "little") == 720
    assert int.from_bytes(body[24:32], "little") == 7
    assert deserialize_message(raw, module.EventPacket) == message


def test_our_transform_message_is_that_of_tf2() -> None:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    name = "tf2_msgs/msg/TFMessage"
    released = get_typestore(Stores.ROS2_JAZZY).hash_rihs01(name)
    ours = get_typestore(Stores.ROS2_JAZZY)
    del ours.fielddefs[name]
    text = (MSG.parents[2] / "tf2_msgs" / "msg" / "TFMessage.msg").read_text()
    ours.register(get_types_from_msg(text, name))
    assert ours.hash_rihs01(name) == released
    module = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not built; run: make setup")
    assert module.TFMessage.get_fields_and_field_types() == {"transforms": "sequence<geometry_msgs/TransformStamped>"}
