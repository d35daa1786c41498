# SPDX-License-Identifier: Apache-2.0
"""What tests give to the C++ program dump_events, and what it answers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from f3_ros.events.types import Events, Packet

NONE = -(1 << 63)


@dataclass
class Step:
    """Events given to the windower directly."""

    events: Events
    time_us: int | None
    gap: bool


Item = Packet | Step | str
"""A packet, a step, "R" (reset of the decoder) or "F" (flush of the windower)."""


def to_bytes(item: Item) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, Step):
        e = item.events
        time = NONE if item.time_us is None else item.time_us
        head = b"E" + struct.pack("<qBQ", time, item.gap, len(e))
        return head + e.x.tobytes() + e.y.tobytes() + e.t.tobytes() + e.p.tobytes()
    payload = bytes(item.events)
    name = item.encoding.encode()
    return (
        b"P"
        + struct.pack(
            "<qIIQQBB", item.stamp_ns, item.width, item.height, item.seq, item.time_base, item.is_bigendian, len(name)
        )
        + name
        + struct.pack("<I", len(payload))
        + payload
    )


class Answer:
    """Reads the program's output."""

    def __init__(self, path: Path) -> None:
        self._data, self._at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def array(self, dtype: str, n: int) -> np.ndarray:
        values = np.frombuffer(self._data, dtype, n, self._at)
        self._at += values.nbytes
        return values

    def events(self) -> Events:
        (n,) = self.take("<Q")
        return Events(self.array("<u2", n), self.array("<u2", n), self.array("<i8", n), self.array("u1", n))

    def packet(self) -> tuple[int | None, bool, bool, Events, list[tuple[int, int, int]]]:
        letter, time, gap, reset = self.take("<cqBB")
        assert letter == b"P"
        events = self.events()
        (n,) = self.take("<Q")
        triggers = [self.take("<qBB") for _ in range(n)]
        return None if time == NONE else time, bool(gap), bool(reset), events, triggers

    def window(self) -> tuple[int, int, bool, int, Events, np.ndarray]:
        letter, start, end, complete, received = self.take("<cqqBQ")
        assert letter == b"W"
        events = self.events()
        (n,) = self.take("<Q")
        return start, end, bool(complete), received, events, self.array("<f4", n)

    def counters(self) -> dict[str, int]:
        letter, n = self.take("<cQ")
        assert letter == b"C"
        text = bytes(self.array("u1", n)).decode()
        assert self._at == len(self._data)
        return {name: int(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines())}


def assert_events(found: Events, expected: Events) -> None:
    for name in "xytp":
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@dataclass
class Rows:
    """How windows become rows: arguments of `events_to_tensor` by the names of the C++ program."""

    width: int
    height: int
    bins: int = 20
    rule: str = "deployment"
    with_polarity: bool = True
    model_size: tuple[int, int] | None = None

    def settings(self) -> dict[str, object]:
        size = self.model_size or (0, 0)
        return {
            "width": self.width, "height": self.height, "bins": self.bins, "rule": self.rule,
            "with_polarity": int(self.with_polarity), "model_width": size[0], "model_height": size[1],
        }  # fmt: skip


@dataclass
class Compared:
    """What was seen to be equal, so that a test can tell it was not empty."""

    events: int = 0
    windows: int = 0
    rows: int = 0
    counters: dict[str, int] = field(default_factory=dict)
