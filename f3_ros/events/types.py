# SPDX-License-Identifier: Apache-2.0
"""Plain containers that every part of the event pipeline passes around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Payload = bytes | bytearray | memoryview | np.ndarray


@dataclass
class Events:
    """Events as a structure of equal-length one-dimensional arrays.

    Attributes:
        x: column, uint16 pixels, 0 at the left.
        y: row, uint16 pixels, 0 at the top.
        t: sensor time, int64, microseconds unless the producer says otherwise.
        p: polarity, uint8, 1 = brighter (ON), 0 = darker (OFF).
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, index: slice | np.ndarray) -> Events:
        """The selected events; views for slices, copies for index or boolean arrays."""
        return Events(self.x[index], self.y[index], self.t[index], self.p[index])

    def copy(self) -> Events:
        """The same events in memory of their own (decoders reuse their output buffers)."""
        return Events(self.x.copy(), self.y.copy(), self.t.copy(), self.p.copy())

    @staticmethod
    def empty() -> Events:
        """Zero events."""
        return Events(np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, np.int64), np.zeros(0, np.uint8))

    @staticmethod
    def concatenate(parts: Sequence[Events]) -> Events:
        """All events of `parts`, in order, in new memory."""
        if not parts:
            return Events.empty()
        return Events(
            np.concatenate([e.x for e in parts]),
            np.concatenate([e.y for e in parts]),
            np.concatenate([e.t for e in parts]),
            np.concatenate([e.p for e in parts]),
        )


@dataclass
class Packet:
    """The fields of `event_camera_msgs/msg/EventPacket` without ROS.

    Attributes:
        stamp_ns: header stamp, nanoseconds of host time at which the first buffer of the packet arrived.
        frame_id: header frame.
        width, height: sensor size in pixels.
        seq: the publisher's packet counter; a jump means lost packets.
        time_base: nanoseconds; meaningful for libcaer, libcaer_cmp and mono only.
        encoding: "evt3", "evt2", "evt21", "libcaer", "libcaer_cmp" or "mono".
        is_bigendian: byte order of the payload's words.
        events: the encoded bytes.
    """

    stamp_ns: int
    frame_id: str
    width: int
    height: int
    seq: int
    time_base: int
    encoding: str
    is_bigendian: bool
    events: Payload
