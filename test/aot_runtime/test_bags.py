# SPDX-License-Identifier: Apache-2.0
"""Messages of bags of both kinds have the same fields; their stamps are read without the rest."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from rig_bags import START_NS, write_rig_bag

from aot_runtime.bags import MessageReader, bag_messages, is_bag, is_rosbag1, open_bag
from aot_runtime.errors import InputError


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "rosbag1"])
def test_messages_have_the_fields_of_ros_2(tmp_path: Path, storage: str) -> None:
    path = tmp_path / ("drive.bag" if storage == "rosbag1" else "drive")
    bag = write_rig_bag(path, storage=storage, count=1, cameras=("front",))
    assert (is_bag(path), is_rosbag1(path)) == (storage != "rosbag1", storage == "rosbag1")
    found = {}
    with open_bag(path, rosbag1=True) as reader:
        messages = MessageReader(reader, path)
        for connection, _, raw in bag_messages(reader, path, {c.topic for c in reader.connections}):
            found[connection.topic] = messages.message(connection, raw)
            if connection.msgtype != "tf2_msgs/msg/TFMessage":
                assert messages.stamp_ns(raw) == START_NS
    image, info = found["/sensors/front/image_rect"], found["/sensors/front/camera_info"]
    np.testing.assert_array_equal(np.asarray(image.data).reshape(36, 64, 3), bag.images["front", 0])
    np.testing.assert_array_equal(info.k, bag.matrix.ravel())
    assert (info.p.size, info.d.size, info.header.frame_id) == (12, 5, "front_optical")
    assert found["/tf"].transforms[0].child_frame_id == "base_link"
    assert found["/tf_static"].transforms[0].child_frame_id == "front_optical"


def test_a_rosbag1_is_only_for_who_asks(tmp_path: Path) -> None:
    """Others would take its messages for CDR."""
    path = tmp_path / "drive.bag"
    write_rig_bag(path, storage="rosbag1", count=1)
    with pytest.raises(InputError, match=r"expected a bag file named \.mcap or \.db3"), open_bag(path):
        pass


def test_stamps_in_both_byte_orders_and_broken_ones(tmp_path: Path) -> None:
    path = write_rig_bag(tmp_path / "drive", count=1).path
    with open_bag(path) as reader:
        messages = MessageReader(reader, path)
    assert messages.stamp_ns(b"\0\1\0\0" + struct.pack("<iI", 5, 6)) == 5_000_000_006
    assert messages.stamp_ns(b"\0\0\0\0" + struct.pack(">iI", 5, 6)) == 5_000_000_006
    for raw in (b"", b"\0", b"\0\1\0\0\1\0\0", b"\0\1\0\0" + struct.pack("<iI", 5, 10**9)):
        with pytest.raises(InputError, match="drive"):
            messages.stamp_ns(raw)
