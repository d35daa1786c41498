# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3 and mcap) of EventPacket or EventArray messages, read without ROS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.bags import BagGuard, storage_path
from aot_runtime.errors import InputError
from f3_ros.events.codecs import make_decoder
from f3_ros.events.codecs.base import Decoder
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.readers.bag_types import EVENT_TYPES, event_typestore
from f3_ros.events.readers.base import DEFAULT_CHUNK, EventReader, ReadStats, cut_time
from f3_ros.events.readers.word_scan import Evt3Scanner
from f3_ros.events.types import Events, Packet


class BagReader(EventReader):
    """Reader of one event topic of a bag: a folder with metadata.yaml, or a single .mcap or .db3 file.

    Packets are the recorded messages with their own stamps and sequence numbers. Messages whose bytes are not of the
    stated type are left out and counted as "malformed_messages".

    Args:
        topic: the topic; None takes the only event topic.

    Raises:
        InputError: no bag, a damaged one, no or several event topics (they are listed), or a topic without messages.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        super().__init__(path)
        self._store = event_typestore()
        self._source = storage_path(path)
        with self._reader() as reader, BagGuard(path):
            connections = list(reader.connections)
            self._choose_topic(connections, topic)
            self.format = f"rosbag2 {self._storage_name()}"
            self.metadata.update(
                topic=self.topic,
                message_type=self.message_type,
                n_messages=sum(c.msgcount for c in connections if c.topic == self.topic),
                topics={c.topic: c.msgtype for c in connections},
                ros_distro=reader.ros_distro,
            )
            self._bag_duration_us = int(reader.duration) // 1000
        first = next(self._messages(), None)
        if first is None:
            raise InputError(f"expected event messages on {self.topic}, found none in {path}", "record the bag again")
        self.width, self.height, self.encoding = first.width, first.height, first.encoding
        self.metadata["geometry_source"] = "message"
        self.metadata["frame_id"] = first.frame_id
        self._t_first: int | None = None
        self._t_first_known = False

    def _choose_topic(self, connections: list[Any], topic: str | None) -> None:
        listing = ", ".join(f"{c.topic} ({c.msgtype})" for c in connections) or "no topics"
        events = {c.topic: c.msgtype for c in connections if c.msgtype in EVENT_TYPES}
        if topic is None and len(events) == 1:
            topic = next(iter(events))
        if topic is None:
            found = "several event topics" if events else "no event topic"
            raise InputError(
                f"expected one topic of type {' or '.join(EVENT_TYPES)}, found {found} among {listing} in {self.path}",
                "name the topic" if events else "record the camera's event topic",
            )
        if topic not in events:
            raise InputError(
                f"expected an event topic {topic}, found {listing} in {self.path}",
                f"choose one of {', '.join(events)}" if events else "record the camera's event topic",
            )
        self.topic, self.message_type = topic, events[topic]

    def _storage_name(self) -> str:
        files = [self._source] if self._source.is_file() else list(self._source.iterdir())
        return "mcap" if any(file.suffix == ".mcap" for file in files) else "sqlite3"

    # ------------------------------------------------------------------------------------------ messages

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Any]:
        from rosbags.rosbag2 import Reader

        with BagGuard(self.path):
            reader = Reader(self._source)
            reader.open()
        try:
            yield reader
        finally:
            with contextlib.suppress(Exception):  # a damaged storage may fail to close too; its first error counts
                reader.close()

    def _messages(self) -> Iterator[Packet]:
        """All packets of the topic in recorded order."""
        with self._reader() as reader:
            with BagGuard(self.path):
                connections = [c for c in reader.connections if c.topic == self.topic]
                messages = iter(reader.messages(connections))
            while True:
                with BagGuard(self.path):
                    item = next(messages, None)
                if item is None:
                    return
                packet = self._packet(item[2])
                if packet is None:
                    self.stats.dropped["malformed_messages"] += 1
                else:
                    yield packet

    def _packet(self, data: bytes | memoryview) -> Packet | None:
        """The message's fields; None if the bytes are no such message."""
        try:
            m = self._store.deserialize_cdr(data, self.message_type)
        except Exception:  # rosbags raises whatever its generated parser meets on wrong bytes
            return None
        stamp = m.header.stamp
        return Packet(
            stamp.sec * 1_000_000_000 + stamp.nanosec, m.header.frame_id, m.width, m.height, m.seq, m.time_base,
            m.encoding, bool(m.is_bigendian), m.events,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ EventReader

    @property
    def t_first_us(self) -> int | None:
        if not self._t_first_known:
            decoder = PacketDecoder()
            for packet in self._messages():
                events = decoder.decode(packet).events
                if len(events):
                    self._t_first = int(events.t[0])
                    break
            self._t_first_known = True
        return self._t_first

    @property
    def duration_us(self) -> int | None:
        """Time between the first and the last message of the bag."""
        return self._bag_duration_us

    def chunks(
        self, start_us: int = 0, duration_us: int | None = None, *, max_events: int = DEFAULT_CHUNK
    ) -> Iterator[Events]:
        """As in `EventReader`, decoded like a live stream (lost messages and damage included). Times of libcaer and
        mono messages are rounded down to microseconds; `chunks_ns` gives them in full."""
        start, end = self._range(start_us, duration_us)
        self.stats = ReadStats()
        if self.t_first_us is None:
            return
        self.stats = ReadStats()
        decoder = PacketDecoder()
        for packet in self._messages():
            decoded = decoder.decode(packet)
            self.stats.triggers = decoder.counters.triggers
            counted = decoder.counters.dropped
            self.stats.dropped.update({k: v - self.stats.dropped[k] for k, v in counted.items() if v})
            events = cut_time(decoded.events, start if start_us else None, end)
            for lo in range(0, len(events), max_events):
                yield events[lo : lo + max_events].copy()
            if end is not None and decoded.time_us is not None and decoded.time_us > end + 1_000_000:
                return

    def chunks_ns(self) -> Iterator[Events]:
        """All events with `t` in nanoseconds, as libcaer and mono messages carry it (EVT: microseconds * 1000)."""
        decoder: Decoder | None = None
        for packet in self._messages():
            if decoder is None or decoder.encoding != packet.encoding:
                decoder = make_decoder(packet.encoding, packet.width, packet.height)
            events = decoder.decode(packet.events, packet.time_base).copy()
            if decoder.time_unit == "us":
                events.t *= 1000
            yield events

    def packets(
        self,
        start_us: int = 0,
        duration_us: int | None = None,
        packet_us: int = 4000,
        *,
        encoding: str | None = None,
    ) -> Iterator[Packet]:
        """The recorded messages; `packet_us` is ignored unless they are encoded anew.

        Messages are never cut: the first is the one that contains the start, the last the one that contains the end.
        With a start, the first EVT3 message begins with words that restore the decoder's state at that place.
        """
        if encoding not in (None, self.encoding):
            yield from self._transcoded(start_us, duration_us, packet_us, str(encoding))
            return
        start, end = self._range(start_us, duration_us)
        if start_us == 0 and end is None:
            yield from self._messages()
            return
        decoder, scanner = PacketDecoder(), Evt3Scanner()
        started = start_us == 0
        for packet in self._messages():
            decoded = decoder.decode(packet)
            time = decoded.time_us
            if not started and (time is None or time < start):
                if packet.encoding == "evt3":
                    scanner.seek(_evt3_words(packet.events), 1 << 62)
                continue
            if not started and packet.encoding == "evt3":
                packet.events = np.concatenate([scanner.prefix(), np.frombuffer(packet.events, np.uint8)])
            started = True
            yield packet
            if end is not None and time is not None and time >= end:
                return


def _evt3_words(payload: Any) -> np.ndarray:
    data = bytes(payload)
    return np.frombuffer(data, "<u2", len(data) // 2)
