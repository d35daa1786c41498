# SPDX-License-Identifier: Apache-2.0
"""Real recordings as plain data, read without the package's own readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from f3_ros.events.types import Events, Packet

FIELDS = """std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""
TYPES = ("event_camera_msgs/msg/EventPacket", "event_array_msgs/msg/EventArray")


@pytest.fixture(scope="session")
def recordings(shared: Path) -> Path:
    return shared / "data" / "events"


@pytest.fixture(scope="session")
def raw_file(recordings: Path) -> Callable[[str], bytes]:
    """Payload of a Prophesee .raw file, without its header."""

    def read(name: str) -> bytes:
        data = (recordings / name).read_bytes()
        start = 0
        while data[start : start + 2] == b"% ":
            start = data.index(b"\n", start) + 1
        return data[start:]

    return read


@pytest.fixture(scope="session")
def truth(recordings: Path) -> Callable[[str], SimpleNamespace]:
    """The decoded truth of a recording: `.events`, and the other arrays by name."""

    def read(name: str) -> SimpleNamespace:
        path = recordings / name
        with np.load(path / "truth.npz" if path.is_dir() else path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        return SimpleNamespace(events=Events(*(arrays.pop(key) for key in "xytp")), **arrays)

    return read


@pytest.fixture(scope="session")
def bag_packets(recordings: Path) -> Callable[[str], list[Packet]]:
    """All event packets of a bag."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name in TYPES:
        store.register(get_types_from_msg(FIELDS, name))
    cache: dict[str, list[Packet]] = {}

    def read(name: str) -> list[Packet]:
        if name not in cache:
            cache[name] = []
            with Reader(recordings / name) as reader:
                for connection, _, data in reader.messages():
                    if connection.msgtype in TYPES:
                        m = store.deserialize_cdr(data, connection.msgtype)
                        stamp = m.header.stamp.sec * 10**9 + m.header.stamp.nanosec
                        cache[name].append(
                            Packet(
                                stamp,
                                m.header.frame_id,
                                m.width,
                                m.height,
                                m.seq,
                                m.time_base,
                                m.encoding,
                                bool(m.is_bigendian),
                                bytes(m.events),
                            )
                        )
        return cache[name]

    return read


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Fails unless two lists of events are equal in all fields; `t` of the second may be scaled."""

    def check(found: Events, expected: Events, t: np.ndarray | None = None) -> None:
        assert len(found) == len(expected)
        np.testing.assert_array_equal(found.t, expected.t if t is None else t)
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.y, expected.y)
        np.testing.assert_array_equal(found.p, expected.p)
        assert (found.x.dtype, found.y.dtype, found.t.dtype, found.p.dtype) == (
            np.uint16, np.uint16, np.int64, np.uint8,
        )  # fmt: skip

    return check
