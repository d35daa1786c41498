# SPDX-License-Identifier: Apache-2.0
"""C++ and Python on the same recordings: decoded packets, windows, rows and counters are equal bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_events import Answer, Compared, Item, Rows, Step, assert_events, to_bytes

from f3_ros.events.binning import events_to_tensor
from f3_ros.events.codecs import ENCODINGS, encode_evt2, encode_evt21, encode_mono
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.readers import open_events
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindower, WindowConfig

BAGS = {
    "evt3": "bag_evt3_gen31_sqlite3",
    "evt3 with rate controller": "bag_evt3_gen41_sqlite3",
    "libcaer": "bag_libcaer_dvxplorer_sqlite3",
    "libcaer_cmp": "bag_libcaer_cmp_davis346_mcap",
    "mono": "bag_mono_sqlite3",
}


@pytest.fixture(scope="session")
def bag_packets(recordings: Path) -> Callable[[str], list[Packet]]:
    def read(name: str) -> list[Packet]:
        with open_events(recordings / BAGS[name]) as reader:
            return list(reader.packets())

    return read


@pytest.fixture
def compare(run_cpp: Callable[..., Any], tmp_path: Path) -> Callable[..., Compared]:
    """Run the items through both languages; fails at the first difference."""

    def check(items: Sequence[Item], rows: Rows | None = None, **config: Any) -> Compared:
        given, answered = tmp_path / "items.bin", tmp_path / "answer.bin"
        given.write_bytes(b"".join(map(to_bytes, items)))
        settings = {**config, **(rows.settings() if rows else {})}
        words = [f"{name}={'none' if value is None else value}" for name, value in settings.items()]
        run_cpp("test/events/dump_events", "stream", given, answered, *words)
        answer = Answer(answered)
        decoder, windower = PacketDecoder(), EventWindower(WindowConfig(**config))
        seen = Compared()
        for item in items:
            if item == "R":
                decoder.reset()
                continue
            if item == "F":
                windows = windower.flush()
            elif isinstance(item, Step):
                windows = windower.push(item.events, item.time_us, item.gap)
            else:
                assert isinstance(item, Packet)
                result = decoder.decode(item)
                time, gap, reset, events, triggers = answer.packet()
                assert (time, gap, reset) == (result.time_us, result.gap, result.reset)
                assert_events(events, result.events)
                found = result.triggers
                assert triggers == list(zip(found.t.tolist(), found.id.tolist(), found.p.tolist()))
                seen.events += len(events)
                windows = windower.push(result.events, result.time_us, result.gap)
            for expected in windows:
                start, end, complete, received, events, floats = answer.window()
                assert (start, end, complete, received) == (
                    expected.start_us, expected.end_us, expected.complete, expected.n_received,
                )  # fmt: skip
                assert_events(events, expected.events)
                if rows is not None:
                    tensor = events_to_tensor(
                        expected, rows.width, rows.height, rows.bins, rule=rows.rule,
                        with_polarity=rows.with_polarity, model_size=rows.model_size,
                    )  # fmt: skip
                    assert floats.tobytes() == tensor.tobytes()
                    seen.rows += len(tensor)
                seen.windows += 1
        seen.counters = answer.counters()
        packets, totals = decoder.counters, windower.counters
        expected_counters = {
            **{f"packet.{name}": value for name, value in vars(packets).items() if not name.startswith("_")},
            **{f"packet.dropped.{name}": value for name, value in packets.dropped.items()},
            **{f"window.{name}": value for name, value in vars(totals).items() if name != "dropped"},
            **{f"window.dropped.{name}": value for name, value in totals.dropped.items()},
            "window.pending": windower.pending,
        }
        assert seen.counters == expected_counters
        return seen

    return check


# Real recordings


@pytest.mark.parametrize("name", BAGS)
@pytest.mark.parametrize("config", [
    {},
    {"duration_us": 5000, "stride_us": 2500, "max_events": 300},
    {"mode": "count", "count": 1000, "count_stride": 400, "max_events": 500, "thinning": "random"},
    {"mode": "hybrid", "duration_us": 7000, "count": 900, "lateness_us": 1000},
], ids=["default", "sliding", "count", "hybrid"])  # fmt: skip
def test_bags_give_the_same_packets_windows_and_rows(name, config, bag_packets, compare):
    packets = bag_packets(name)
    rows = Rows(packets[0].width, packets[0].height)
    seen = compare([*packets, "F"], rows, **config)
    assert seen.events == sum(value for key, value in seen.counters.items() if key == "packet.events") > 0
    assert seen.windows > 0
    assert seen.rows > 0


@pytest.mark.parametrize("name", BAGS)
def test_lost_packets_and_restarts_give_the_same(name, bag_packets, compare):
    packets = bag_packets(name)
    rng = np.random.default_rng(2)
    kept = [packet for packet in packets if rng.random() < 0.7] or packets
    items: list[Item] = [*kept, "R", *packets[:30], *packets[:10], "F"]
    items.append(replace(packets[0], stamp_ns=packets[0].stamp_ns + 60_000_000_000, seq=10**6))
    seen = compare(items)
    if len(packets) > 1:
        assert seen.counters["packet.dropped.lost_packets"] > 0
        assert seen.counters["packet.gaps"] > 0


def raw_payload(path: Path) -> bytes:
    data, start = path.read_bytes(), 0
    while data[start : start + 2] == b"% ":
        start = data.index(b"\n", start) + 1
    return data[start:]


@pytest.mark.parametrize(
    ("file", "encoding", "size"),
    [
        ("evt3_gen41_1280x720.raw", "evt3", (1280, 720)),
        ("evt2_gen31_640x480.raw", "evt2", (640, 480)),
        ("evt21_genx320_order_reencoded.raw", "evt21", (1280, 720)),
        ("evt21_imx636_order_reencoded.raw", "evt21", (1280, 720)),
    ],
)
@pytest.mark.parametrize("rows", [
    {},
    {"rule": "training", "with_polarity": False},
    {"model_size": (1300, 500), "bins": 7},
], ids=["deployment", "training", "centred"])  # fmt: skip
def test_raw_words_cut_anywhere_give_the_same(file, encoding, size, rows, recordings, compare):
    payload = raw_payload(recordings / file)
    rng = np.random.default_rng(len(rows))
    cuts = np.sort(rng.integers(0, len(payload), 200)).tolist()  # at any byte: words are cut too
    packets = [
        Packet(i * 100_000, "", *size, i, 0, encoding, False, payload[a:b])
        for i, (a, b) in enumerate(itertools.pairwise([0, *cuts, len(payload)]))
    ]
    seen = compare([*packets, "F"], Rows(*size, **rows), duration_us=1000 * rows.get("bins", 20), max_events=20_000)
    assert seen.windows > 0
    words = [replace(packet, events=payload[i * 8000 : (i + 1) * 8000]) for i, packet in enumerate(packets)]
    seen = compare([*words, "F"], Rows(*size, **rows), duration_us=1000)
    assert seen.rows > 10_000


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ten_thousand_corrupt_packets_give_the_same(encoding, bag_packets, compare):
    good = [bytes(packet.events) for packet in seeds(encoding, bag_packets)]
    template = seeds(encoding, bag_packets)[0]
    packets = list(corrupt(good, template, ENCODINGS.index(encoding), 10_000))
    seen = compare([*packets, "F"], Rows(640, 480), max_buffered_events=20_000, max_events=5000, max_empty_windows=10)
    assert seen.events > 30_000
    assert seen.counters["packet.dropped.bigendian_packets"] > 100
    assert seen.counters["packet.gaps"] > 100


def seeds(encoding: str, bag_packets: Callable[[str], list[Packet]]) -> list[Packet]:
    """Twenty real packets of an encoding; those without a recording are encoded from one."""
    if encoding in ("evt3", "libcaer", "libcaer_cmp"):
        return bag_packets(encoding)[:20]
    decoder = PacketDecoder()
    encode = {
        "evt2": encode_evt2,
        "evt21": encode_evt21,
        "mono": lambda e: encode_mono(Events(e.x, e.y, e.t * 1000, e.p), int(e.t[0]) * 1000),
    }[encoding]
    found = []
    for packet in bag_packets("evt3")[:20]:
        events = decoder.decode(packet).events
        payload = encode(events).tobytes()
        found.append(replace(packet, encoding=encoding, time_base=int(events.t[0]) * 1000, events=payload))
    return found


def corrupt(good: list[bytes], template: Packet, seed: int, n: int) -> Iterator[Packet]:
    """Pieces of good payloads with noise, losses and lies about themselves."""
    rng = np.random.default_rng(seed)
    seq = 0
    for _ in range(n):
        payload = good[rng.integers(len(good))]
        start = int(rng.integers(len(payload)))
        data = np.frombuffer(payload, np.uint8)[start : start + int(rng.integers(0, 900))].copy()
        if len(data) and rng.random() < 0.6:
            a, b = np.sort(rng.integers(0, len(data) + 1, 2))
            kind = rng.integers(3)
            if kind == 0:
                data[a:b] = rng.integers(0, 256, b - a)
            elif kind == 1:
                data = np.delete(data, slice(a, b))
            else:
                data[a:b] = rng.choice([0, 255])
        lie = rng.random(6)
        seq = (seq + (1 if lie[0] < 0.9 else int(rng.integers(-50, 1 << 40)))) % (1 << 64)
        yield replace(
            template,
            seq=seq,
            stamp_ns=seq % (1 << 40) * 4_000_000 if lie[1] < 0.9 else int(rng.integers(0, 1 << 62)),
            time_base=template.time_base if lie[2] < 0.95 else int(rng.integers(0, 1 << 64, dtype=np.uint64)),
            encoding=template.encoding if lie[3] < 0.98 else str(rng.choice([*ENCODINGS, "evt4", ""])),
            width=template.width if lie[4] < 0.98 else int(rng.choice([0, 1, 346, 1280, (1 << 32) - 1])),
            is_bigendian=bool(lie[5] < 0.02),
            events=data.tobytes(),
        )


# The windower alone


@pytest.mark.parametrize("seed", range(24))
def test_random_steps_give_the_same_windows(seed, compare):
    rng = np.random.default_rng(seed)
    mode = ("time", "count", "hybrid")[seed % 3]
    config = {
        "mode": mode, "duration_us": 100, "stride_us": int(rng.choice([30, 100, 250])), "count": 7,
        "count_stride": int(rng.choice([3, 7, 12])), "lateness_us": int(rng.integers(0, 40)), "max_buffered_events": 60,
        "max_empty_windows": 3, "max_backstep_us": 200, "max_events": int(rng.choice([5, 50])),
        "thinning": str(rng.choice(["linspace", "random"])), "seed": seed,
    }  # fmt: skip
    items: list[Item] = []
    now = 1000
    for _ in range(400):
        now += int(rng.integers(-30, 400)) if rng.random() < 0.97 else int(rng.integers(-3000, 100_000))
        n = int(rng.integers(0, 20))
        t = now - rng.integers(-50, 400, n)
        if rng.random() < 0.5:
            t = np.sort(t)
        x, y, p = (rng.integers(0, top, n) for top in (64, 48, 2))
        events = Events(x.astype(np.uint16), y.astype(np.uint16), t.astype(np.int64), p.astype(np.uint8))
        items.append(Step(events, None if rng.random() < 0.1 else now, bool(rng.random() < 0.1)))
        if rng.random() < 0.02:
            items.append("F")
    seen = compare([*items, "F"], Rows(64, 48, bins=3), **config)
    assert seen.windows > 100


@pytest.mark.parametrize(("n", "limit"), [(100, 1), (9_999, 9_998), (12_000, 600), (12_000, 601), (200_000, 150_000)])
@pytest.mark.parametrize("method", ["linspace", "random"])
def test_thinning_keeps_the_same_events(n, limit, method, compare):
    rng = np.random.default_rng(n)
    t = np.sort(rng.integers(0, 20_000, n)) + (1 << 33)
    x, y, p = (rng.integers(0, top, n) for top in (640, 480, 2))
    events = Events(x.astype(np.uint16), y.astype(np.uint16), t, p.astype(np.uint8))
    for seed in (42, 0, 1 << 40):
        compare([Step(events, None, False), "F"], max_events=limit, thinning=method, seed=seed, mode="count", count=n)
