# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import copy
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from f3_ros.events.codecs import (
    ENCODINGS,
    EventBuffer,
    Evt2Decoder,
    Evt3Decoder,
    Evt3Encoder,
    Evt21Decoder,
    LibcaerCmpDecoder,
    LibcaerDecoder,
    MonoDecoder,
    encode_evt2,
    encode_evt3,
    encode_evt21,
    encode_libcaer,
    encode_mono,
    make_decoder,
)
from f3_ros.events.types import Events

EVT3_BAGS = ("bag_evt3_gen31_sqlite3", "bag_evt3_gen41_sqlite3")
BAGS = (*EVT3_BAGS, "bag_libcaer_dvxplorer_sqlite3", "bag_libcaer_cmp_davis346_mcap", "bag_mono_sqlite3")
RAW_FILES = {
    "evt3_gen41_1280x720.raw": ("evt3", 1280, 720, "evt3_gen41_1280x720.truth.npz"),
    "evt2_gen31_640x480.raw": ("evt2", 640, 480, "evt2_gen31_640x480.truth.npz"),
    "evt21_genx320_order_reencoded.raw": ("evt21", 1280, 720, "evt21_reencoded.truth.npz"),
    "evt21_imx636_order_reencoded.raw": ("evt21", 1280, 720, "evt21_reencoded.truth.npz"),
}


def words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def rows(events: Events) -> list[tuple[int, int, int, int]]:
    return list(zip(events.x.tolist(), events.y.tolist(), events.t.tolist(), events.p.tolist()))


def keys(events: Events) -> np.ndarray:
    """One number per event, different for different events."""
    return events.t << 23 | events.x.astype(np.int64) << 12 | events.y.astype(np.int64) << 1 | events.p


def make_events(*values: tuple[int, int, int, int]) -> Events:
    x, y, t, p = zip(*values)
    return Events(np.array(x, np.uint16), np.array(y, np.uint16), np.array(t, np.int64), np.array(p, np.uint8))


def total_dropped(decoder) -> int:
    return sum(decoder.counters.dropped.values())


def in_pieces(decoder, payload: bytes, word: int, seed: int, pieces: int) -> Events:
    """Decode a payload cut at random words, with empty pieces among them."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(payload) // word + 1, pieces)) * word
    edges = [0, *cuts.tolist(), len(payload)]
    return Events.concatenate([decoder.decode(payload[a:b]).copy() for a, b in itertools.pairwise(edges)])


# Real recordings


@pytest.mark.parametrize("name", RAW_FILES)
def test_raw_files_decode_exactly_whole_and_cut_at_any_word(name, raw_file, truth, assert_same):
    encoding, width, height, truth_name = RAW_FILES[name]
    payload, expected = raw_file(name), truth(truth_name).events
    decoder = make_decoder(encoding, width, height)
    assert_same(decoder.decode(payload), expected)
    assert total_dropped(decoder) == 0
    assert decoder.counters.bytes == len(payload)
    assert decoder.counters.events == len(expected)
    assert decoder.last_time_us >= expected.t[-1]
    for seed, pieces in enumerate((1, 7, 300, 5000)):
        decoder = make_decoder(encoding, width, height)
        assert_same(in_pieces(decoder, payload, decoder.word_bytes, seed, pieces), expected)


@pytest.mark.parametrize("name", RAW_FILES)
def test_raw_files_decode_exactly_one_word_at_a_time(name, raw_file, truth, assert_same):
    encoding, width, height, truth_name = RAW_FILES[name]
    decoder = make_decoder(encoding, width, height)
    size = decoder.word_bytes
    payload = raw_file(name)[: 3000 * size]
    found = Events.concatenate([decoder.decode(payload[i : i + size]).copy() for i in range(0, len(payload), size)])
    assert len(found) > 1000
    assert_same(found, truth(truth_name).events[: len(found)])


@pytest.mark.parametrize("name", BAGS)
def test_bags_decode_exactly_packet_by_packet(name, bag_packets, truth, assert_same):
    packets, expected = bag_packets(name), truth(name)
    decoder = make_decoder(packets[0].encoding, packets[0].width, packets[0].height)
    parts, triggers = [], []
    for packet in packets:
        parts.append(decoder.decode(packet.events, packet.time_base).copy())
        triggers.append(decoder.triggers)
    assert_same(Events.concatenate(parts), expected.events)
    np.testing.assert_array_equal([len(part) for part in parts], expected.n_per_msg)
    assert total_dropped(decoder) == 0
    if packets[0].encoding == "evt3":
        np.testing.assert_array_equal(np.concatenate([part.t for part in triggers]), expected.trig_t)
        np.testing.assert_array_equal(np.concatenate([part.id for part in triggers]), expected.trig_id)
        np.testing.assert_array_equal(np.concatenate([part.p for part in triggers]), expected.trig_p)
        assert decoder.counters.triggers == len(expected.trig_t)
    else:
        assert decoder.time_unit == "ns"
        assert decoder.last_time_us == decoder.last_time // 1000


@pytest.mark.parametrize("name", EVT3_BAGS)
def test_evt3_bags_decode_exactly_cut_at_any_word(name, bag_packets, truth, assert_same):
    packets, expected = bag_packets(name), truth(name).events
    payload = b"".join(packet.events for packet in packets)
    for seed, pieces in enumerate((0, 13, 1000)):
        decoder = Evt3Decoder(packets[0].width, packets[0].height)
        assert_same(in_pieces(decoder, payload, 2, seed, pieces), expected)


def test_rate_controller_counts_are_read(bag_packets):
    packets = bag_packets("bag_evt3_gen41_sqlite3")
    decoder = Evt3Decoder(1280, 720)
    for packet in packets:
        decoder.decode(packet.events)
    # No event was taken out, and the sum differs from the 49,316 events only by the last unreported period.
    assert decoder.erc_counts == (49_306, 49_306)


@pytest.mark.parametrize("name", ["evt3_gen41_1280x720.raw", *EVT3_BAGS])
def test_after_a_loss_nothing_wrong_is_emitted(name, raw_file, bag_packets, truth):
    """40 losses of 2,000 words each: all later events are in the truth, few are missing."""
    if name in RAW_FILES:
        payload, expected = raw_file(name), truth(RAW_FILES[name][3]).events
    else:
        payload, expected = b"".join(packet.events for packet in bag_packets(name)), truth(name).events
    width, height = (1280, 720) if "gen41" in name else (640, 480)
    true_keys = np.unique(keys(expected))
    rng = np.random.default_rng(1)
    wrong_if_ignored = 0
    decoder, at, before = Evt3Decoder(width, height), 0, 0
    for start in np.sort(rng.integers(1000, len(payload) // 2 - 12_000, 40) * 2).tolist():
        before += len(decoder.decode(payload[at:start]))
        at = start
        careful, careless = copy.deepcopy(decoder), copy.deepcopy(decoder)
        first = before + len(copy.deepcopy(decoder).decode(payload[start : start + 4000]))
        careful.desynchronise()
        assert not careful.synchronised
        tail = payload[start + 4000 : start + 24_000]
        found = keys(careful.decode(tail))
        assert careful.synchronised
        assert np.isin(found, true_keys).all()
        complete = keys(expected[first : first + len(found) + careful.counters.dropped["unsynchronised"]])
        np.testing.assert_array_equal(found, complete[np.isin(complete, found)])  # in order, none twice
        assert careful.counters.dropped["unsynchronised"] <= 1000
        wrong_if_ignored += np.count_nonzero(~np.isin(keys(careless.decode(tail)), true_keys))
    assert wrong_if_ignored > 0  # the rule is needed


def test_joining_mid_stream_emits_only_true_events(raw_file, truth):
    payload = raw_file("evt3_gen41_1280x720.raw")
    true_keys = np.unique(keys(truth("evt3_gen41_1280x720.truth.npz").events))
    for start in (2, 4, 6, 100_002, 300_000):
        found = Evt3Decoder(1280, 720).decode(payload[start:])
        assert len(found) > 10_000
        assert np.isin(keys(found), true_keys).all()


# EVT 3.0 word by word


def test_evt3_needs_time_row_and_vector_base():
    decoder = Evt3Decoder(640, 480)
    assert rows(decoder.decode(words(0x2005, 0x4003, 0x000A, 0x2005))) == []
    assert decoder.last_time_us is None
    assert rows(decoder.decode(words(0x8001, 0x2005))) == []  # TIME_LOW is still unknown
    assert decoder.last_time_us is None
    assert rows(decoder.decode(words(0x6007, 0x2005))) == [(5, 10, 4103, 0)]
    assert rows(decoder.decode(words(0x4003))) == []  # no vector base yet
    assert rows(decoder.decode(words(0x3864, 0x4803, 0x5081))) == [
        (100, 10, 4103, 1), (101, 10, 4103, 1), (111, 10, 4103, 1), (112, 10, 4103, 1), (119, 10, 4103, 1),
    ]  # fmt: skip
    assert decoder.counters.dropped["unsynchronised"] == 7


def test_evt3_time_high_that_changes_clears_time_low():
    decoder = Evt3Decoder(640, 480)
    found = decoder.decode(words(0x8001, 0x6FFF, 0x0001, 0x2001, 0x8002, 0x2002, 0x8002, 0x6005, 0x8002, 0x2003))
    assert found.t.tolist() == [8191, 8192, 8197]


def test_evt3_changed_time_high_tells_the_time_only_if_the_one_before_was_known():
    decoder = Evt3Decoder(640, 480)
    decoder.decode(words(0x8001, 0x6001, 0x0001))
    decoder.desynchronise()
    assert rows(decoder.decode(words(0x0001, 0x8002, 0x2001))) == []
    assert decoder.last_time_us == 4097
    assert decoder.decode(words(0x8003, 0x2001)).t.tolist() == [3 << 12]


def test_evt3_time_wraps_and_glitches_do_not():
    decoder = Evt3Decoder(640, 480)
    times = decoder.decode(
        words(0x8FFF, 0x6000, 0x0001, 0x2001, 0x8000, 0x2001, 0x8FFF, 0x2001, 0x8000, 0x2001, 0x8005, 0x2001)
        + words(0x8003, 0x2001, 0x6FFF, 0x2001, 0x6FF0, 0x2001)
    ).t
    wrap = 1 << 24
    assert (times - wrap).tolist() == [-4096, 0, -4096, 0, 5 * 4096, 3 * 4096, 4 * 4096 - 1, 4 * 4096 - 16]


def test_evt3_skips_and_counts_what_it_does_not_know():
    decoder = Evt3Decoder(640, 480)
    decoder.decode(words(0x8001, 0x6001, 0x0001, 0x9999, 0x1234, 0xB000, 0xC000, 0xDFFF, 0xE0FF, 0xF123, 0x7123))
    assert decoder.counters.dropped["reserved_words"] == 5
    assert rows(decoder.decode(words(0x2801))) == [(1, 1, 4097, 1)]


def test_evt3_drops_what_lies_outside_the_sensor():
    decoder = Evt3Decoder(640, 480)
    found = decoder.decode(
        words(0x8001, 0x6001, 0x01E0, 0x2001, 0x3001, 0x4001, 0x0001, 0x2280, 0x227F, 0x327A, 0x4FFF, 0x5FFF)
    )
    assert rows(found) == [(639, 1, 4097, 0)] + [(634 + i, 1, 4097, 0) for i in range(6)]
    assert decoder.counters.dropped["out_of_sensor"] == 2 + 1 + 6 + 8


def test_evt3_row_of_the_second_camera_is_a_row():
    assert rows(Evt3Decoder(640, 480).decode(words(0x8000, 0x6000, 0x0805, 0x2001))) == [(1, 5, 0, 0)]


def test_evt3_triggers_grow_and_need_the_time():
    decoder = Evt3Decoder(640, 480)
    decoder.decode(words(0xA101))
    assert len(decoder.triggers) == 0
    assert decoder.counters.dropped["unsynchronised"] == 1
    decoder.decode(words(0x8001, 0x6002, *[0xA601, 0xA200] * 500))
    assert len(decoder.triggers) == 1000
    assert set(decoder.triggers.t.tolist()) == {4098}
    assert decoder.triggers.id[:3].tolist() == [6, 2, 6]
    assert decoder.triggers.p[:3].tolist() == [1, 0, 1]
    decoder.decode(words(0x2001))
    assert len(decoder.triggers) == 0


def test_assume_synchronised_decodes_from_the_first_word():
    decoder = Evt3Decoder(640, 480, assume_synchronised=True)
    assert rows(decoder.decode(words(0x2003, 0x4001))) == [(3, 0, 0, 0), (0, 0, 0, 0)]
    decoder.reset()
    assert decoder.synchronised


def test_reset_forgets_state_and_keeps_counters():
    decoder = Evt3Decoder(640, 480)
    decoder.decode(words(0x8001, 0x6001, 0x0001, 0x2001))
    decoder.reset()
    assert decoder.last_time_us is None
    assert len(decoder.decode(words(0x2001))) == 0
    assert decoder.counters.events == 1


def test_shift_time_moves_what_follows():
    decoder = Evt3Decoder(640, 480)
    decoder.shift_time(1)
    assert decoder.last_time_us is None
    assert decoder.decode(words(0x8001, 0x6001, 0x0001, 0x2001)).t.tolist() == [(1 << 24) + 4097]
    decoder.shift_time(-1)
    assert decoder.last_time_us == 4097
    assert decoder.decode(words(0x2001)).t.tolist() == [4097]


# The other encodings word by word


def test_evt2_wraps_at_34_bits_and_waits_for_time_high():
    decoder = Evt2Decoder(640, 480)
    payload = np.array([0x10000801, 0x8FFFFFFF, 0x1FC00801, 0x80000000, 0x00400801, 0xA0C00301, 0x90000000], "<u4")
    found = decoder.decode(payload.tobytes())
    assert rows(found) == [(1, 1, (1 << 34) - 1, 1), (1, 1, (1 << 34) + 1, 0)]
    assert (decoder.triggers.t.tolist(), decoder.triggers.id.tolist(), decoder.triggers.p.tolist()) == (
        [(1 << 34) + 3], [3], [1],
    )  # fmt: skip
    assert decoder.counters.dropped["unsynchronised"] == 1
    assert decoder.counters.dropped["reserved_words"] == 1
    decoder.desynchronise()
    assert len(decoder.decode(payload[4:5].tobytes())) == 0


@pytest.mark.parametrize("order", ["genx320", "imx636"])
def test_evt21_finds_the_order_in_time(order):
    events = make_events((31, 7, 1_000_000, 1), (63, 7, 1_000_000, 1), (100, 0, 1_000_100, 0))
    payload = encode_evt21(events, order).tobytes()
    decoder = Evt21Decoder(640, 480)
    found = Events.concatenate([decoder.decode(payload[i : i + 8]).copy() for i in range(0, len(payload), 8)])
    assert rows(found) == rows(events)
    assert decoder.order == order
    decoder.reset()
    assert decoder.order == "auto"
    other = Evt21Decoder(640, 480, order="imx636" if order == "genx320" else "genx320")
    assert rows(other.decode(payload)) != rows(events)


def test_evt21_mask_is_cut_at_the_border():
    word = (0x10000000 | 630 << 11 | 5) << 32 | 0xFFFFFFFF
    payload = np.array([0x80000001 << 32, word], "<u8").tobytes()
    decoder = make_decoder("evt21", 640, 480, order="genx320")
    assert rows(decoder.decode(payload)) == [(630 + i, 5, 64, 1) for i in range(10)]
    assert decoder.counters.dropped["out_of_sensor"] == 22


def test_evt21_unknown_order_is_refused():
    with pytest.raises(InputError, match="word order out of auto, genx320, imx636"):
        Evt21Decoder(640, 480, order="middle")
    with pytest.raises(InputError, match="genx320, imx636"):
        encode_evt21(Events.empty(), "auto")


def test_libcaer_counts_rollovers_inside_a_packet_only():
    late, early = (1 << 31) - 5, 7
    data = (3 << 17) | (4 << 2) | 0b11
    payload = np.array([late << 32 | data, early << 32 | data, early << 32 | (data & ~1)], "<u8").tobytes()
    decoder = LibcaerDecoder(640, 480)
    for _ in range(2):
        found = decoder.decode(payload, 1_000)
        assert rows(found) == [(3, 4, late * 1000 + 1000, 1), (3, 4, ((1 << 31) + early) * 1000 + 1000, 1)]
    assert decoder.counters.dropped["invalid_events"] == 2


def test_libcaer_cmp_is_column_wise_and_starts_anew_in_each_packet():
    decoder = LibcaerCmpDecoder(346, 260)
    payload = words(0x3005, 0x5001, 0x0001, 0x1002, 0x2064, 0x3805, 0x40C8, 0x5083, 0x5001, 0x7000, 0x3104)
    found = decoder.decode(payload, 5000)
    t = 5000 + 4098 * 1000
    assert rows(found) == [(100, 5, t, 1), (100, 200, t, 0), (100, 201, t, 0), (100, 207, t, 0), (100, 208, t, 0)]
    assert decoder.last_time == t
    assert decoder.counters.dropped == {
        "unsynchronised": 2, "out_of_sensor": 1, "reserved_words": 1, "trailing_bytes": 0, "overflow_words": 0,
    }  # fmt: skip
    assert rows(decoder.decode(words(0x2001, 0x3001))) == [(1, 1, 0, 0)]


def test_mono_takes_all_fields():
    payload = np.array([1 << 63 | 479 << 48 | 639 << 32 | 0xFFFFFFFF, 480 << 48], "<u8").tobytes()
    decoder = MonoDecoder(640, 480)
    assert rows(decoder.decode(payload, 10)) == [(639, 479, 10 + 0xFFFFFFFF, 1)]
    assert decoder.counters.dropped["out_of_sensor"] == 1
    decoder.reset()
    assert decoder.last_time_us is None


# Payloads and buffers


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_kind_of_bytes_gives_the_same(encoding, assert_same):
    rng = np.random.default_rng(3)
    n = 200
    t = np.sort(rng.integers(0, 50_000, n))
    events = Events(rng.integers(0, 64, n).astype(np.uint16), rng.integers(0, 64, n).astype(np.uint16), t,
                    rng.integers(0, 2, n).astype(np.uint8))  # fmt: skip
    encode = {
        "evt3": encode_evt3, "evt2": encode_evt2, "evt21": encode_evt21,
        "libcaer": lambda e: encode_libcaer(Events(e.x, e.y, e.t * 1000, e.p)), "mono": encode_mono,
        "libcaer_cmp": lambda e: np.frombuffer(words(*np.repeat([0x2003, 0x3003], 100)), np.uint8),
    }  # fmt: skip
    payload = encode[encoding](events).tobytes()
    expected = make_decoder(encoding, 64, 64).decode(payload).copy()
    assert len(expected) > 50
    shifted = bytearray(b"?" * 3 + payload)
    read_only = np.frombuffer(payload, np.uint8)
    kinds = (
        bytearray(payload), memoryview(payload), array.array("B", payload), read_only, read_only.copy(),
        memoryview(shifted)[3:], np.frombuffer(shifted, np.uint8)[3:], np.repeat(read_only, 2)[::2],
    )  # fmt: skip
    for kind in kinds:
        assert_same(make_decoder(encoding, 64, 64).decode(kind), expected)
    assert read_only.copy().flags.writeable
    np.frombuffer(shifted, np.uint8)[3:] = 0  # the caller's memory was left as it was: writable


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_trailing_bytes_are_dropped_and_counted(encoding):
    decoder = make_decoder(encoding, 64, 64)
    decoder.decode(b"")
    decoder.decode(bytes(decoder.word_bytes + 1))
    decoder.decode(bytes(decoder.word_bytes - 1))
    assert decoder.counters.dropped["trailing_bytes"] == decoder.word_bytes
    assert decoder.counters.words == 1


def test_a_callers_buffer_is_appended_to(raw_file, truth, assert_same):
    payload, expected = raw_file("evt3_gen41_1280x720.raw"), truth("evt3_gen41_1280x720.truth.npz").events
    decoder, buffer = Evt3Decoder(1280, 720), EventBuffer(10)
    first = decoder.decode(payload[:1000], out=buffer)
    n = len(first)
    decoder.decode(payload[1000:], out=buffer)
    assert_same(buffer.view(0, buffer.size), expected)
    assert_same(first, expected[:n])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_huge_packet_is_cut_off(encoding):
    dense = {
        "evt3": words(0x8000, 0x6000, 0x0000, *[0x3000, 0x4FFF] * 1000),
        "libcaer_cmp": words(0x2000, *[0x4000, 0x50FF] * 1000),
        "evt2": np.array([0x80000000] + [0] * 9000, "<u4").tobytes(),
        "evt21": np.array([0x80000000 << 32] + [0xFFFFFFFF] * 1000, "<u8").tobytes(),
        "libcaer": np.ones(9000, "<u8").tobytes(),
        "mono": np.zeros(9000, "<u8").tobytes(),
    }[encoding]
    decoder = make_decoder(encoding, 640, 480, max_events=5000)
    found = decoder.decode(dense)
    assert 5000 - 32 < len(found) <= 5000
    assert decoder.counters.dropped["overflow_words"] > 100
    assert len(make_decoder(encoding, 640, 480).decode(dense)) > 7000


def test_unknown_encoding_is_refused():
    with pytest.raises(InputError, match="evt3, evt2, evt21, libcaer, libcaer_cmp, mono, found 'evt4'"):
        make_decoder("evt4", 640, 480)


# Encoders

stream = st.lists(
    st.tuples(
        st.integers(0, 319), st.integers(0, 3), st.sampled_from([0, 0, 0, 0, 1, 7, 70, 5000, 100_000, 9_000_000]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=60,
)  # fmt: skip


def to_events(values: list[tuple[int, int, int, int]], start: int = 0) -> Events:
    x, y, dt, p = (np.array(column) for column in zip(*values))
    return Events(x.astype(np.uint16), y.astype(np.uint16), start + np.cumsum(dt), p.astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(stream, st.integers(0, 60), st.integers(0, (1 << 24) - 1), st.booleans())
def test_evt3_round_trip(values, cut, start, self_contained):
    events = to_events(values, start)
    encoder, decoder = Evt3Encoder(), Evt3Decoder(320, 4)
    payloads = [
        encoder.encode(events[:cut]),
        encoder.encode(events[cut:], None, self_contained),
        encoder.encode(events[:0]),
    ]
    found = Events.concatenate([decoder.decode(payload).copy() for payload in payloads])
    found.t += int(events.t[0]) >> 24 << 24  # the words tell the time modulo a wrap
    assert rows(found) == rows(events)


@settings(max_examples=60, deadline=None)
@given(stream)
def test_other_round_trips(values):
    events = to_events(values, 1 << 30)
    n = len(events)
    assert rows(make_decoder("evt2", 320, 4).decode(encode_evt2(events))) == rows(events)
    for order in ("genx320", "imx636"):
        assert rows(make_decoder("evt21", 320, 4).decode(encode_evt21(events, order))) == rows(events)
    nanoseconds = Events(events.x, events.y, events.t * 1000 + 17, events.p)
    assert rows(make_decoder("libcaer", 320, 4).decode(encode_libcaer(nanoseconds, 17), 17)) == rows(nanoseconds)
    short = Events(events.x, events.y, np.arange(n) * 3 + 100, events.p)
    assert rows(make_decoder("mono", 320, 4).decode(encode_mono(short, 100), 100)) == rows(short)


def test_evt3_encoder_uses_vectors_and_keeps_order():
    line = Events(np.arange(48, dtype=np.uint16), np.full(48, 2, np.uint16), np.full(48, 5), np.ones(48, np.uint8))
    payload = encode_evt3(line)
    assert len(payload) // 2 == 3 + 1 + 4  # time high and low, row; base, four full vectors
    assert rows(Evt3Decoder(64, 4).decode(payload)) == rows(line)
    backwards = line[np.arange(47, -1, -1)]
    assert rows(Evt3Decoder(64, 4).decode(encode_evt3(backwards))) == rows(backwards)


def test_evt3_encoder_tells_the_time_without_events():
    encoder, decoder = Evt3Encoder(), Evt3Decoder(64, 4)
    decoder.decode(encoder.encode(Events.empty(), end_us=1000))
    assert decoder.last_time_us == 1000
    decoder.decode(encoder.encode(make_events((1, 1, 2000, 1)), end_us=60_000_000))
    assert decoder.last_time_us == 60_000_000
    decoder.decode(encoder.encode(Events.empty(), end_us=5))  # never back
    assert decoder.last_time_us == 60_000_000
    assert decoder.decode(encoder.encode(make_events((2, 3, 60_000_001, 0)))).t.tolist() == [60_000_001]


def test_self_contained_packets_survive_the_loss_of_the_one_before():
    encoder = Evt3Encoder()
    encoder.encode(make_events((1, 1, 2000, 1)))
    packet = encoder.encode(make_events((2, 1, 2001, 1)), self_contained=True)
    assert rows(Evt3Decoder(64, 4).decode(packet)) == [(2, 1, 2001, 1)]


@pytest.mark.parametrize("encode", [encode_evt3, encode_evt2, encode_evt21, encode_libcaer, encode_mono])
def test_encoders_refuse_what_does_not_fit(encode):
    with pytest.raises(InputError, match="coordinates up to"):
        encode(make_events((1, 40_000, 0, 0)))
    with pytest.raises(InputError, match="polarities 0 and 1, found 2"):
        encode(make_events((1, 1, 0, 2)))
    with pytest.raises(InputError, match="times from zero on"):
        encode(make_events((1, 1, -1, 0)))
    assert len(encode(Events.empty())) == 0


def test_evt3_encoder_refuses_times_in_another_unit():
    with pytest.raises(InputError, match="silences of weeks, found times from 0 to 1700000000000000000 us"):
        encode_evt3(make_events((1, 1, 0, 0), (1, 1, 1_700_000_000_000_000_000, 0)))
    encoder = Evt3Encoder()
    assert len(encoder.encode(Events.empty(), end_us=1_700_000_000_000_000)) <= 4  # the clock may start anywhere
    with pytest.raises(InputError, match="silences of weeks"):
        encoder.encode(Events.empty(), end_us=1_700_000_000_000_000_000)


def test_encoders_with_a_time_base_refuse_times_before_it():
    with pytest.raises(InputError, match="after the time base"):
        encode_mono(make_events((1, 1, 5, 0)), 6)
    with pytest.raises(InputError, match="at or after the time base"):
        encode_libcaer(make_events((1, 1, 5, 0)), 6)
