# SPDX-License-Identifier: Apache-2.0
"""Corrupt packets, 10,000 per encoding and more: nothing raises, memory stays bounded, and the stream recovers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f3_ros.events.codecs import ENCODINGS, encode_evt2, encode_evt21, encode_mono, make_decoder
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindower, WindowConfig

PACKETS = 10_000
WIDTH, HEIGHT = 640, 480
EVENTS_PER_BYTE = {"evt3": 6, "evt2": 0.25, "evt21": 4, "libcaer": 0.125, "libcaer_cmp": 4, "mono": 0.125}
WRAP = {"evt3": 1 << 24, "evt2": 1 << 34, "evt21": 1 << 34}
MAX_PENDING = 20_000


@pytest.fixture(scope="module")
def seeds(bag_packets, truth) -> dict[str, list[Packet]]:
    """Some real packets of each encoding; those without a recording are encoded from one."""
    bags = {
        "evt3": "bag_evt3_gen31_sqlite3",
        "libcaer": "bag_libcaer_dvxplorer_sqlite3",
        "libcaer_cmp": "bag_libcaer_cmp_davis346_mcap",
    }
    found = {encoding: bag_packets(name)[:20] for encoding, name in bags.items()}
    events = truth(bags["evt3"]).events[:20_000]
    parts = [events[i : i + 1000] for i in range(0, 20_000, 1000)]
    base = int(events.t[0]) * 1000

    def packets(encoding: str, payloads: list[np.ndarray]) -> list[Packet]:
        return [
            Packet(i * 4_000_000, "", WIDTH, HEIGHT, i, base, encoding, False, payload.tobytes())
            for i, payload in enumerate(payloads)
        ]

    def in_nanoseconds(part: Events) -> Events:
        return Events(part.x, part.y, part.t * 1000, part.p)

    found["evt2"] = packets("evt2", [encode_evt2(part) for part in parts])
    found["evt21"] = packets("evt21", [encode_evt21(part) for part in parts])
    found["mono"] = packets("mono", [encode_mono(in_nanoseconds(part), base) for part in parts])
    assert set(found) == set(ENCODINGS)
    return found


class Mutator:
    """Makes corrupt packets out of good ones, the same ones for the same seed."""

    def __init__(self, packets: list[Packet], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.payloads = [np.frombuffer(packet.events, np.uint8) for packet in packets]
        self.template = packets[0]
        self.seq = 0

    def payload(self) -> np.ndarray:
        rng = self.rng
        good = self.payloads[rng.integers(len(self.payloads))]
        start = int(rng.integers(0, len(good)))
        data = good[start : start + int(rng.integers(0, 1500))].copy()
        for _ in range(rng.integers(0, 4)):
            if len(data) == 0:
                break
            kind = rng.integers(6)
            a, b = np.sort(rng.integers(0, len(data) + 1, 2))
            if kind == 0:  # noise
                data[a:b] = rng.integers(0, 256, b - a)
            elif kind == 1:  # flipped bits
                at = rng.integers(0, len(data), 8)
                data[at] ^= np.left_shift(1, rng.integers(0, 8, 8)).astype(np.uint8)
            elif kind == 2:  # a piece lost, at any byte
                data = np.delete(data, slice(a, b))
            elif kind == 3:  # a piece twice
                data = np.concatenate([data[:b], data[a:]])[:3000]
            elif kind == 4:  # all ones or zeros
                data[a:b] = rng.choice([0, 255])
            else:  # cut off
                data = data[:a]
        return data

    def packet(self) -> Packet:
        rng = self.rng
        self.seq += 1 if rng.random() < 0.9 else int(rng.integers(-50, 1 << 40))
        self.seq %= 1 << 64
        packet = replace(self.template, seq=self.seq, events=self.payload(), stamp_ns=int(rng.integers(0, 1 << 62)))
        if rng.random() < 0.9:
            packet.stamp_ns = self.seq % (1 << 40) * 4_000_000
        if rng.random() < 0.05:
            packet.time_base = int(rng.integers(0, 1 << 64, dtype=np.uint64))
        if rng.random() < 0.02:
            packet.encoding = str(rng.choice([*ENCODINGS, "evt4", ""]))
        if rng.random() < 0.02:
            packet.width, packet.height = (int(v) for v in rng.choice([0, 1, 346, 1280, (1 << 32) - 1], 2))
        packet.is_bigendian = bool(rng.random() < 0.02)
        return packet


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_corrupt_packets_never_raise_and_the_stream_recovers(encoding, seeds, assert_same):
    good = seeds[encoding]
    mutator = Mutator(good, seed=ENCODINGS.index(encoding))
    decoder = PacketDecoder()
    windower = EventWindower(WindowConfig(max_buffered_events=MAX_PENDING, max_events=5000))
    fresh = PacketDecoder()
    expected = [(result.events.copy(), result.triggers) for result in map(fresh.decode, good[:2])]
    assert sum(len(events) for events, _ in expected) > 300
    wrap_us = WRAP.get(encoding)
    recovered = 0
    for i in range(PACKETS):
        packet = mutator.packet()
        result = decoder.decode(packet)
        events = result.events
        assert len(events) <= len(packet.events) * EVENTS_PER_BYTE.get(packet.encoding, 0)
        if len(events):
            assert int(events.x.max()) < packet.width
            assert int(events.y.max()) < packet.height
            assert int(events.p.max()) <= 1
            assert events.t.dtype == np.int64
        assert len(result.triggers) <= len(packet.events)
        windows = windower.push(events, result.time_us, result.gap)
        assert windower.pending <= MAX_PENDING
        assert len(windows) <= windower.config.max_empty_windows + len(events) + MAX_PENDING
        if i % 500 == 499:  # after a loss, good packets come again
            mutator.seq += 7
            for packet, (events, triggers) in zip(good, expected):
                found = decoder.decode(replace(packet, seq=mutator.seq, stamp_ns=packet.stamp_ns))
                mutator.seq += 1
                shift = int(found.events.t[0] - events.t[0])
                assert shift == 0 if wrap_us is None else shift % wrap_us == 0
                assert_same(found.events, events, events.t + shift)
                np.testing.assert_array_equal(found.triggers.t, triggers.t + shift)
            mutator.seq -= 1
            recovered += 1
    assert recovered == PACKETS // 500
    counters = decoder.counters
    assert counters.packets == PACKETS + 2 * recovered
    assert counters.gaps > 100
    dropped = counters.dropped
    assert dropped["bigendian_packets"] > 100
    assert dropped["unknown_encoding_packets"] > 10
    assert dropped["bad_size_packets"] > 10
    assert dropped["out_of_sensor"] > 0
    assert dropped["lost_packets"] > 0
    assert decoder.decoder is not None
    assert decoder.decoder._buffer.capacity < 200_000


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            Packet,
            stamp_ns=st.integers(-(1 << 63), (1 << 63) - 1),
            frame_id=st.text(max_size=5),
            width=st.integers(0, (1 << 32) - 1) | st.just(640),
            height=st.integers(0, (1 << 32) - 1) | st.just(480),
            seq=st.integers(0, (1 << 64) - 1),
            time_base=st.integers(0, (1 << 64) - 1),
            encoding=st.sampled_from(ENCODINGS) | st.text(max_size=8),
            is_bigendian=st.booleans(),
            events=st.binary(max_size=200),
        ),
        max_size=6,
    ),
    st.sampled_from(["time", "count", "hybrid"]),
)
def test_arbitrary_fields_never_raise(packets, mode):
    decoder, windower = PacketDecoder(), EventWindower(WindowConfig(mode=mode, count=10, max_buffered_events=1000))
    for packet in packets:
        result = decoder.decode(packet)
        windower.push(result.events, result.time_us, result.gap)
        assert windower.pending <= 1000
    windower.flush()
    assert decoder.counters.packets == len(packets)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_buffers_shrink_again_after_a_huge_packet(encoding):
    word = {"evt3": [0x4FFF] * 1_000_000, "libcaer_cmp": [0x50FF] * 1_000_000}.get(encoding, [0] * 1_000_000)
    size = make_decoder(encoding, 640, 480).word_bytes
    decoder = PacketDecoder(max_events=1 << 20)
    huge = np.array(word, f"<u{size}").tobytes()
    decoder.decode(Packet(0, "", 640, 480, 0, 0, encoding, False, huge))
    decoder.decode(Packet(0, "", 640, 480, 1, 0, encoding, False, b""))
    assert decoder.decoder is not None
    assert decoder.decoder._buffer.capacity <= 1 << 22
