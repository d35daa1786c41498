# SPDX-License-Identifier: Apache-2.0
"""C++ and Python on the same recordings: decoded packets, windows, rows and counters are equal bit for bit."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f3_ros.events.binning import events_to_tensor
from f3_ros.events.codecs import ENCODINGS, encode_evt2, encode_evt21, encode_mono
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.readers import open_events
from f3_ros.events.summary import summarise
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindower, WindowConfig

BAGS = {
    "evt3": "bag_evt3_gen31_sqlite3",
    "evt3 with rate controller": "bag_evt3_gen41_sqlite3",
    "libcaer": "bag_libcaer_dvxplorer_sqlite3",
    "libcaer_cmp": "bag_libcaer_cmp_davis346_mcap",
    "mono": "bag_mono_sqlite3",
}
NONE = -(1 << 63)


@pytest.fixture(scope="session")
def recordings(shared: Path) -> Path:
    return shared / "data" / "events"


@pytest.fixture(scope="session")
def bag_packets(recordings: Path) -> Callable[[str], list[Packet]]:
    def read(name: str) -> list[Packet]:
        with open_events(recordings / BAGS[name]) as reader:
            return list(reader.packets())

    return read


# What goes to the C++ program, and what comes back


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


# Files


@pytest.fixture(scope="session")
def plugins() -> dict[str, str]:
    """Where the compression filters of DSEC's files are."""
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    return {"HDF5_PLUGIN_PATH": str(hdf5plugin.PLUGIN_PATH)}


FILES = (
    "evt3_gen41_1280x720.raw",
    "evt2_gen31_640x480.raw",
    "evt21_genx320_order_reencoded.raw",
    "evt21_imx636_order_reencoded.raw",
    "m3ed_layout_gen41_1280x720.h5",
    "dsec_layout_gen31_640x480/events.h5",
    "synthetic/room_seed1_346x260.h5",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", [(0, None), (2000, 3000), (10_000_000, None)], ids=["whole", "part", "beyond"])
def test_files_give_the_same_events(file, part, recordings, run_cpp, plugins, tmp_path):
    start, duration = part
    out = tmp_path / "events.bin"
    run_cpp("test/events/dump_events", "file", recordings / file, out, f"start_us={start}",
            f"duration_us={'none' if duration is None else duration}", "chunk=3000", env=plugins)  # fmt: skip
    answer = Answer(out)
    first, _, _, events, _ = answer.packet()
    with open_events(recordings / file) as reader:
        assert first == reader.t_first_us
        chunks = list(reader.chunks(start, duration))
        assert_events(events, Events.concatenate(chunks))
        counters = answer.counters()
        assert (counters["width"], counters["height"]) == (reader.width, reader.height)


def test_a_missing_filter_is_named(recordings, run_cpp, tmp_path):
    failed = run_cpp("test/events/dump_events", "file", recordings / "dsec_layout_gen31_640x480" / "events.h5",
                     tmp_path / "out", env={"HDF5_PLUGIN_PATH": str(tmp_path)}, fails=True)  # fmt: skip
    assert "compression filter blosc, found one without it for /events/t of" in failed.stderr
    assert "set HDF5_PLUGIN_PATH to a folder with that filter" in failed.stderr


# Tools


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", [(0.0, None), (0.002, 0.003)], ids=["whole", "part"])
def test_event_info_tells_what_python_tells(file, part, recordings, run_cpp, plugins):
    start, duration = part
    words = ["--start", start, *([] if duration is None else ["--duration", duration])]
    told = json.loads(run_cpp("tools/event_info", recordings / file, "--json", *words, env=plugins).stdout)
    with open_events(recordings / file) as reader:
        expected = summarise(reader, round(start * 1e6), None if duration is None else round(duration * 1e6)).to_dict()
    for name in told.keys() - {"metadata", "per_ms", "rate_per_s", "n_triggers", "dropped"}:
        assert told[name] == expected[name], name
    assert told["per_ms"] == pytest.approx(expected["per_ms"])
    assert told["rate_per_s"] == pytest.approx(expected["rate_per_s"])
    if duration is None:
        assert (told["n_triggers"], told["dropped"]) == (expected["n_triggers"], expected["dropped"])
    for name in told["metadata"].keys() - {"t_offset_us"}:
        assert told["metadata"][name] == expected["metadata"][name]


def test_tools_say_what_is_wrong(recordings, run_cpp, tmp_path):
    assert "no file at /no/such" in run_cpp("tools/event_info", "/no/such", fails=True).stderr
    assert "found --speed" in run_cpp("tools/event_info", "x", "--speed", fails=True).stderr
    assert "expected a recording, found none" in run_cpp("tools/event_info", fails=True).stderr
    assert (
        "seconds from 0 on for --start, found 'x'" in run_cpp("tools/event_info", "a", "--start=x", fails=True).stderr
    )
    assert "usage: event_info FILE" in run_cpp("tools/event_info", "--help").stdout
    evt2 = recordings / "evt2_gen31_640x480.raw"
    assert "found raw evt2" in run_cpp("tools/decode_benchmark", evt2, fails=True).stderr


def test_decode_benchmark_measures(recordings, run_cpp):
    told = json.loads(run_cpp("tools/decode_benchmark", recordings / "evt3_gen41_1280x720.raw", "--repeats", 2,
                              "--runs", 1, "--window-us", 1000, "--json").stdout)  # fmt: skip
    assert told["events"] == 2 * 219_596
    assert told["bytes_per_event"] == pytest.approx(2.8137, abs=1e-3)
    assert len(told["mev_per_s"]) == 4
    for rate in told["mev_per_s"].values():
        assert 0 < rate["median"] <= rate["best"]
