# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from f3_ros.events.codecs import Evt3Encoder, encode_evt2, encode_libcaer, encode_mono
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.types import Events, Packet

WRAP = 1 << 24
BAGS = (
    "bag_evt3_gen31_sqlite3",
    "bag_evt3_gen41_sqlite3",
    "bag_libcaer_dvxplorer_sqlite3",
    "bag_libcaer_cmp_davis346_mcap",
    "bag_mono_sqlite3",
)


def events_at(*times: int) -> Events:
    n = len(times)
    return Events(
        np.arange(n, dtype=np.uint16), np.full(n, 3, np.uint16), np.array(times, np.int64), np.zeros(n, np.uint8)
    )


def packet(seq: int, payload: bytes | np.ndarray, stamp_us: int = 0, **fields: object) -> Packet:
    return replace(Packet(stamp_us * 1000, "", 640, 480, seq, 0, "evt3", False, payload), **fields)  # type: ignore[arg-type]


class Camera:
    """A camera that runs since `started_us` of the host's clock and sends packets."""

    def __init__(self, started_us: int = 0, seq: int = 100) -> None:
        self.started_us, self.seq, self.encoder = started_us, seq, Evt3Encoder()

    def send(self, *times: int) -> Packet:
        self.seq += 1
        return packet(self.seq - 1, self.encoder.encode(events_at(*times)), self.started_us + times[0])


@pytest.mark.parametrize("name", BAGS)
def test_bags_decode_to_microseconds(name, bag_packets, truth, assert_same):
    packets, expected = bag_packets(name), truth(name).events
    decoder = PacketDecoder()
    decoded = [replace(result, events=result.events.copy()) for result in map(decoder.decode, packets)]
    nanoseconds = not packets[0].encoding.startswith("evt")
    found = Events.concatenate([result.events for result in decoded])
    assert_same(found, expected, expected.t // 1000 if nanoseconds else None)
    assert not any(result.gap or result.reset for result in decoded)
    assert sum(decoder.counters.dropped.values()) == 0
    assert decoder.counters.events == len(expected)
    assert decoder.counters.packets == len(packets)
    assert decoder.counters.bytes == sum(len(p.events) for p in packets)
    for result in decoded:
        assert len(result.events) == 0 or result.time_us >= result.events.t[-1]
    if name == "bag_evt3_gen31_sqlite3":
        np.testing.assert_array_equal(np.concatenate([r.triggers.t for r in decoded]), truth(name).trig_t)
        assert decoder.counters.triggers == 1216
    if name == "bag_evt3_gen41_sqlite3":
        assert (decoder.counters.erc_in, decoder.counters.erc_out) == (49_306, 49_306)


def test_a_lost_packet_is_counted_and_costs_nothing_wrong(bag_packets, truth):
    packets, expected = bag_packets("bag_evt3_gen31_sqlite3"), truth("bag_evt3_gen31_sqlite3")
    decoder = PacketDecoder()
    found = [decoder.decode(p).events.copy() for p in packets[:50]]
    result = decoder.decode(packets[53])
    assert result.gap
    assert not result.reset
    found += [result.events.copy()] + [decoder.decode(p).events.copy() for p in packets[54:]]
    counts = expected.n_per_msg
    lost = counts[50:53].sum() + decoder.counters.dropped["unsynchronised"]
    assert 0 < decoder.counters.dropped["unsynchronised"] < 20
    found = Events.concatenate(found)
    assert len(found) == len(expected.events) - lost
    resumed = counts[:53].sum() + decoder.counters.dropped["unsynchronised"]
    np.testing.assert_array_equal(found.t[counts[:50].sum() :], expected.events.t[resumed:])
    np.testing.assert_array_equal(found.y[counts[:50].sum() :], expected.events.y[resumed:])
    assert decoder.counters.dropped["lost_packets"] == 3
    assert decoder.counters.gaps == 1


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"is_bigendian": True}, "bigendian_packets"),
        ({"encoding": "evt4"}, "unknown_encoding_packets"),
        ({"encoding": ""}, "unknown_encoding_packets"),
        ({"width": 0}, "bad_size_packets"),
        ({"height": 0}, "bad_size_packets"),
        ({"width": 1 << 31}, "bad_size_packets"),
        ({"time_base": (1 << 64) - 1}, "bad_time_base_packets"),
        ({"events": None}, "unreadable_packets"),
        ({"events": "text"}, "unreadable_packets"),
    ],
)
def test_unusable_packets_are_counted_and_what_follows_is_resynchronised(fields, cause):
    camera, decoder = Camera(), PacketDecoder()
    assert len(decoder.decode(replace(camera.send(10), **fields)).events) == 0
    assert decoder.counters.dropped[cause] == 1
    assert len(decoder.decode(camera.send(20)).events) == 0  # the state was in the unusable packet
    camera.encoder = Evt3Encoder()
    assert decoder.decode(camera.send(30)).events.t.tolist() == [30]
    bad = decoder.decode(replace(camera.send(40), **fields))
    assert bad.time_us == 30
    assert not bad.reset
    after = decoder.decode(camera.send(50))
    assert after.gap
    assert len(after.events) == 0


def test_odd_sizes_and_empty_packets():
    camera, decoder = Camera(), PacketDecoder()
    first = camera.send(10)
    assert decoder.decode(replace(first, events=bytes(first.events) + b"?")).events.t.tolist() == [10]
    assert decoder.counters.dropped["trailing_bytes"] == 1
    empty = decoder.decode(replace(camera.send(20), events=b""))
    assert len(empty.events) == 0
    assert empty.time_us == 10
    assert not empty.gap


def test_time_is_unknown_until_the_stream_tells_it():
    decoder = PacketDecoder()
    assert decoder.decode(packet(0, b"\x05\x20")).time_us is None
    assert decoder.decode(packet(1, np.array([0x8001, 0x6002], "<u2").tobytes())).time_us == 4098


def test_time_words_alone_move_the_time():
    decoder, encoder = PacketDecoder(), Evt3Encoder()
    assert decoder.decode(packet(0, encoder.encode(events_at(10)))).time_us == 10
    assert decoder.decode(packet(1, encoder.encode(Events.empty(), end_us=5000))).time_us == 5000


@pytest.mark.parametrize("silence", [100_000, 5_000_000, 9_000_000, 12_000_000, 20_000_000, 100_000_000])
def test_long_gaps_get_their_wraps_from_the_header_stamps(silence):
    camera, decoder = Camera(started_us=1_700_000_000_000_000), PacketDecoder()
    assert decoder.decode(camera.send(15_000_000)).events.t.tolist() == [15_000_000]
    camera.seq += 5
    camera.encoder = Evt3Encoder()
    result = decoder.decode(camera.send(15_000_000 + silence, 15_000_001 + silence))
    assert result.gap
    assert not result.reset
    assert result.events.t.tolist() == [15_000_000 + silence, 15_000_001 + silence]
    assert result.time_us == 15_000_001 + silence
    after = decoder.decode(camera.send(15_000_002 + silence))
    assert (after.events.t.tolist(), after.gap) == ([15_000_002 + silence], False)


def test_stamps_are_not_used_where_they_tell_nothing():
    camera, decoder = Camera(), PacketDecoder()
    decoder.decode(replace(camera.send(1000), stamp_ns=0))
    camera.seq += 1
    camera.encoder = Evt3Encoder()
    assert decoder.decode(replace(camera.send(9_000_000), stamp_ns=0)).time_us == 9_000_000
    # A step of the host's clock by an hour, without a loss, does not move the sensor's time.
    assert decoder.decode(replace(camera.send(9_001_000), stamp_ns=3_600_000_000_000)).time_us == 9_001_000
    assert decoder.counters.clock_corrections == 0


def test_a_recording_that_starts_over_is_a_reset():
    decoder = PacketDecoder()
    camera = Camera()
    first = [camera.send(t) for t in (1_000_000, 1_010_000, 1_020_000)]
    assert [decoder.decode(p).reset for p in first] == [False] * 3
    again = decoder.decode(first[0])
    assert again.reset
    assert again.gap
    assert again.time_us == 1_000_000
    assert again.events.t.tolist() == [1_000_000]
    assert decoder.counters.resets == 1


def test_events_from_before_a_jump_back_inside_a_packet_are_left_out():
    encoder, decoder = Evt3Encoder(), PacketDecoder()
    decoder.decode(packet(0, encoder.encode(events_at(5_000_000)), 1))
    jump = np.concatenate([encoder.encode(events_at(5_000_001)), Evt3Encoder().encode(events_at(1_000_000))])
    result = decoder.decode(packet(1, jump, 2))
    assert result.reset
    assert result.events.t.tolist() == [1_000_000]
    assert decoder.counters.dropped["before_reset"] == 1


def test_a_jump_ahead_is_a_gap():
    camera, decoder = Camera(), PacketDecoder()
    decoder.decode(camera.send(1000))
    result = decoder.decode(camera.send(3_000_000))
    assert result.gap
    assert not result.reset
    assert decoder.counters.time_jumps == 1


def test_small_steps_back_are_no_reset():
    camera, decoder = Camera(), PacketDecoder()
    decoder.decode(camera.send(100_000))
    result = decoder.decode(camera.send(99_990))
    assert (result.reset, result.gap, result.events.t.tolist()) == (False, False, [99_990])


def test_another_sensor_or_encoding_starts_anew_and_keeps_the_counts():
    camera, decoder = Camera(), PacketDecoder()
    decoder.decode(packet(99, b"\x99\x99"))
    decoder.decode(camera.send(10))
    assert decoder.counters.dropped["reserved_words"] == 1
    wider = decoder.decode(replace(camera.send(20), width=1280, events=b"\x99\x99"))
    assert wider.reset
    assert wider.time_us is None
    other = decoder.decode(packet(102, encode_evt2(events_at(77)), encoding="evt2"))
    assert other.reset
    assert other.events.t.tolist() == [77]
    assert decoder.counters.dropped["reserved_words"] == 2
    assert decoder.counters.resets == 2


def test_nanosecond_encodings_round_down_to_microseconds():
    decoder = PacketDecoder()
    result = decoder.decode(packet(0, encode_mono(events_at(0, 999, 1000, 2999)), encoding="mono", time_base=500))
    assert result.events.t.tolist() == [0, 1, 1, 3]
    assert result.time_us == 3
    base = 1_700_000_000_000_000_123
    result = decoder.decode(packet(1, encode_libcaer(events_at(base + 5000), base), encoding="libcaer", time_base=base))
    assert result.events.t.tolist() == [base // 1000 + 5]


def test_reset_starts_a_new_stream():
    camera, decoder = Camera(), PacketDecoder()
    decoder.decode(camera.send(10))
    decoder.reset()
    result = decoder.decode(packet(7, Evt3Encoder().encode(events_at(5))))
    assert (result.gap, result.reset, result.events.t.tolist()) == (False, False, [5])


def test_one_packet_cannot_fill_the_memory():
    decoder = PacketDecoder(max_events=1000)
    camera = Camera()
    dense = np.array([0x8000, 0x6000, 0x0000, *[0x3000, 0x4FFF] * 5000], "<u2").tobytes()
    assert len(decoder.decode(replace(camera.send(10), events=dense)).events) <= 1000
    assert decoder.counters.dropped["overflow_words"] > 9000
    assert decoder.decode(camera.send(20)).gap


def test_sequence_numbers_wrap_at_64_bits():
    encoder, decoder = Evt3Encoder(), PacketDecoder()
    decoder.decode(packet((1 << 64) - 1, encoder.encode(events_at(10))))
    assert not decoder.decode(packet(0, encoder.encode(events_at(20)))).gap
