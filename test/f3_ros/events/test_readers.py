# SPDX-License-Identifier: Apache-2.0
"""Readers: every recording exactly as its truth says, as events and as packets; damaged files only raise InputError."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.packetize import packet_epoch_us, packets_from_chunks
from f3_ros.events.readers import EventReader, open_events
from f3_ros.events.readers.prophesee_header import parse_header
from f3_ros.events.types import Events, Packet
from f3_ros.events.writers import write_m3ed_h5, write_packet_bag, write_raw

# recording, truth, width, height, subtract from the truth's time, its units per microsecond, events
RECORDINGS = {
    "evt3": ("evt3_gen41_1280x720.raw", "evt3_gen41_1280x720.truth.npz", 1280, 720, 0, 1, None),
    "evt2": ("evt2_gen31_640x480.raw", "evt2_gen31_640x480.truth.npz", 640, 480, 0, 1, None),
    "evt21_genx320": ("evt21_genx320_order_reencoded.raw", "evt21_reencoded.truth.npz", 1280, 720, 0, 1, None),
    "evt21_imx636": ("evt21_imx636_order_reencoded.raw", "evt21_reencoded.truth.npz", 1280, 720, 0, 1, None),
    "dat": ("ncars_atis.dat", "ncars_atis.truth.npz", 304, 240, 0, 1, None),
    "aedat4": ("dvxplorer_lite_320x240.aedat4", "dvxplorer_lite_320x240.truth.npz", 320, 240, 0, 1, None),
    "bag_evt3_gen31": ("bag_evt3_gen31_sqlite3", "bag_evt3_gen31_sqlite3/truth.npz", 640, 480, 0, 1, None),
    "bag_evt3_gen41": ("bag_evt3_gen41_sqlite3", "bag_evt3_gen41_sqlite3/truth.npz", 1280, 720, 0, 1, None),
    "bag_libcaer": (
        "bag_libcaer_dvxplorer_sqlite3", "bag_libcaer_dvxplorer_sqlite3/truth.npz", 640, 480, 0, 1000, None,
    ),
    "bag_libcaer_cmp": (
        "bag_libcaer_cmp_davis346_mcap", "bag_libcaer_cmp_davis346_mcap/truth.npz", 346, 260, 0, 1000, None,
    ),
    "bag_mono": ("bag_mono_sqlite3", "bag_mono_sqlite3/truth.npz", 640, 480, 0, 1000, None),
    "m3ed": ("m3ed_layout_gen41_1280x720.h5", "bag_evt3_gen41_sqlite3/truth.npz", 1280, 720, 14_224_000, 1, None),
    "dsec": ("dsec_layout_gen31_640x480/events.h5", "evt2_gen31_640x480.truth.npz", 640, 480, 0, 1, None),
    "mvsec": ("mvsec_layout_davis346.hdf5", "bag_libcaer_cmp_davis346_mcap/truth.npz", 346, 260, 0, 1000, 25_000),
}  # fmt: skip
NATIVE = ("evt3", "evt2", "evt21_genx320", "evt21_imx636")


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    return shared / "data" / "events"


def load(data: Path, name: str) -> tuple[EventReader, Events]:
    """The opened recording and its truth in microseconds."""
    file, truth, width, height, offset, per_us, n = RECORDINGS[name]
    with np.load(data / truth) as z:
        events = Events(z["x"][:n], z["y"][:n], z["t"][:n] // per_us - offset, z["p"][:n])
    reader = open_events(data / file)
    assert (reader.width, reader.height) == (width, height)
    return reader, events


def assert_same(found: Events, expected: Events, as_set: bool = False) -> None:
    assert len(found) == len(expected)
    if as_set:  # EVT2.1 groups events of one time: the order inside is not defined
        found, expected = (e[np.lexsort((e.p, e.x, e.y, e.t))] for e in (found, expected))
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def all_events(reader: EventReader, *args: int | None, max_events: int = 1_000_000) -> Events:
    return Events.concatenate(list(reader.chunks(*args, max_events=max_events)))


def decoded(packets: list[Packet]) -> Events:
    """What a fresh consumer makes of the packets, moved to absolute time."""
    decoder = PacketDecoder()
    events = Events.concatenate([decoder.decode(packet).events.copy() for packet in packets])
    assert sum(decoder.counters.dropped.values()) == 0
    assert decoder.counters.gaps == decoder.counters.resets == 0
    events.t += packet_epoch_us(packets[0])
    return events


@pytest.mark.parametrize("name", RECORDINGS)
def test_chunks_equal_truth(data: Path, name: str) -> None:
    reader, truth = load(data, name)
    with reader:
        chunks = list(reader.chunks(max_events=7777))
        assert max(map(len, chunks)) <= 7777
        assert_same(Events.concatenate(chunks), truth, "evt21" in name)
        assert reader.t_first_us == truth.t[0]
        assert reader.n_events in (None, len(truth))
        assert sum(reader.stats.dropped.values()) == 0
        events = chunks[0]
        assert (events.x.dtype, events.y.dtype, events.t.dtype, events.p.dtype) == ("u2", "u2", "i8", "u1")


@pytest.mark.parametrize("name", RECORDINGS)
def test_packets_decode_to_truth(data: Path, name: str) -> None:
    reader, truth = load(data, name)
    with reader:
        packets = list(reader.packets(packet_us=1000))
    assert {packet.encoding for packet in packets} == {reader.encoding}
    assert np.all(np.diff([packet.seq for packet in packets]) == 1)
    found = decoded(packets)
    if name.startswith("bag_evt3"):  # stamps are host times there, and the loops count from the recording's start
        found.t += truth.t[0] - found.t[0]
    assert_same(found, truth, "evt21" in name)


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize(("start", "duration"), [(0, 3000), (2000, None), (777, 4321)])
def test_part_of_a_recording(data: Path, name: str, start: int, duration: int | None) -> None:
    reader, truth = load(data, name)
    lo = truth.t[0] + start
    hi = lo + duration if duration is not None else 1 << 62
    expected = truth[(truth.t >= lo) & (truth.t < hi)]
    with reader:
        assert_same(all_events(reader, start, duration), expected, "evt21" in name)
        packets = list(reader.packets(start, duration))
    if name.startswith("bag"):
        return  # whole messages
    if len(expected) == 0:
        assert not packets or len(decoded(packets)) == 0
        return
    found = decoded(packets)
    assert_same(found[(found.t >= lo) & (found.t < hi)], expected, "evt21" in name)
    if name not in NATIVE or name == "evt3":
        assert len(found) == len(expected)


def test_start_of_a_bag_loses_no_event(data: Path) -> None:
    reader, truth = load(data, "bag_evt3_gen41")
    with reader:
        packets = list(reader.packets(100_000, 200_000))
    found = decoded(packets)
    found.t -= packet_epoch_us(packets[0])
    lo, hi = truth.t[0] + 100_000, truth.t[0] + 300_000
    assert_same(found[(found.t >= lo) & (found.t < hi)], truth[(truth.t >= lo) & (truth.t < hi)])
    assert truth.t[0] < found.t[0] <= lo + 20_000
    assert len(packets) < 60


@pytest.mark.parametrize("name", NATIVE)
def test_raw_packets_are_the_files_bytes(data: Path, name: str) -> None:
    reader, _ = load(data, name)
    payload = b"".join(bytes(packet.events) for packet in reader.packets(packet_us=300))
    assert reader.path.read_bytes().endswith(payload)
    header = parse_header(reader.path.read_bytes(), blank_required=True)
    assert len(payload) == reader.path.stat().st_size - header.size


def test_raw_packets_last_packet_us(data: Path) -> None:
    reader, truth = load(data, "evt3")
    packets = list(reader.packets(packet_us=500))
    assert len(packets) == -(-(int(truth.t[-1] - truth.t[0]) + 1) // 500)
    assert [packet.stamp_ns // 1000 for packet in packets] == [int(truth.t[0]) + 500 * k for k in range(len(packets))]
    assert reader.duration_us == pytest.approx(8801, abs=16)


@pytest.mark.parametrize("encoding", ["evt3", "libcaer", "mono"])
@pytest.mark.parametrize("name", ["evt2", "dat", "bag_libcaer"])
def test_encoded_anew(data: Path, name: str, encoding: str) -> None:
    reader, truth = load(data, name)
    with reader:
        packets = list(reader.packets(packet_us=1000, encoding=encoding))
    assert {packet.encoding for packet in packets} == {encoding}
    found = decoded(packets)
    if name == "bag_libcaer" and reader.encoding == encoding:
        found.t += truth.t[0] - found.t[0]
    assert_same(found, truth)


@pytest.mark.parametrize("name", ["bag_libcaer", "bag_libcaer_cmp", "bag_mono", "bag_evt3_gen31"])
def test_bag_times_in_nanoseconds(data: Path, name: str) -> None:
    file, truth, *_, per_us, _ = RECORDINGS[name]
    with np.load(data / truth) as z, open_events(data / file) as reader:
        parts = list(reader.chunks_ns())  # type: ignore[attr-defined]
        assert [len(part) for part in parts] == z["n_per_msg"].tolist()
        found = Events.concatenate(parts)
        np.testing.assert_array_equal(found.t, z["t"] * (1000 // per_us))
        np.testing.assert_array_equal(found.x, z["x"])


def test_triggers_are_counted(data: Path) -> None:
    with open_events(data / "bag_evt3_gen31_sqlite3") as reader:
        all_events(reader)
        assert reader.stats.triggers == 1216


# -------------------------------------------------------------------------------------------------- geometry


def raw_file(path: Path, header: str, words: bytes = b"\x00\x80\x00\x60\x05\x00\x03\x28") -> Path:
    """A RAW file; the default words are one EVT3 event at (3, 5), t = 0, ON."""
    path.write_bytes(header.encode() + words)
    return path


def test_geometry_from_header_parameter_and_default(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.raw", "% evt 3.0\n% geometry 320x240\n% end\n")
    reader = open_events(path, sensor_size=(64, 48))
    assert (reader.width, reader.height) == (320, 240)
    assert "ignored" in reader.notices[0]
    raw_file(path, "% evt 3.0\n")
    reader = open_events(path, sensor_size=(64, 48))
    assert (reader.width, reader.height, reader.metadata["geometry_source"]) == (64, 48, "parameter")
    reader = open_events(path)
    assert (reader.width, reader.height) == (1280, 720)
    assert "no geometry" in reader.notices[0]
    assert_same(
        all_events(reader),
        Events(np.array([3], "u2"), np.array([5], "u2"), np.array([0]), np.array([1], "u1")),
    )


def test_data_that_begins_like_a_header_line(tmp_path: Path) -> None:
    words = np.array([0x2025, 0x8000, 0x6000, 0x0005, 0x2803, 0x0A0A], "<u2").tobytes()  # begins with "% "
    reader = open_events(raw_file(tmp_path / "a.raw", "% evt 3.0\n", words))
    assert len(all_events(reader)) == 1
    assert parse_header(b"% evt 3.0\n% end\n% evt 2.0\n", blank_required=True).fields == {"evt": "3.0"}


def test_cut_raw_file_says_so(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.raw"
    path.write_bytes((data / "evt3_gen41_1280x720.raw").read_bytes()[:100_001])
    with open_events(path) as reader:
        assert any("cut" in notice for notice in reader.notices)
        assert 30_000 < len(all_events(reader)) < 40_000


def test_evt3_wraps_and_long_silence(tmp_path: Path) -> None:
    t = np.array([5, 16_000_000, 17_000_000, 45_000_000, 45_000_001, 45_000_001 + 90_000_000], np.int64)
    n = len(t)
    events = Events(np.arange(n, dtype="u2"), np.full(n, 7, "u2"), t, np.ones(n, "u1"))
    write_raw(tmp_path / "a.raw", [events], 640, 480)
    with open_events(tmp_path / "a.raw") as reader:
        assert_same(all_events(reader), events)
        assert_same(all_events(reader, 30_000_000, 20_000_000), events[3:5])
        first = next(reader.packets(30_000_000))
        assert packet_epoch_us(first) == 2 << 24
    decoder = PacketDecoder()
    found = [decoder.decode(p).events.copy() for p in packets_from_chunks([events], 640, 480, packet_us=20_000)]
    assert_same(Events.concatenate(found), events)
    assert decoder.counters.resets == 0


# -------------------------------------------------------------------------------------------------- DAT


def dat_file(path: Path, t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, kind: int = 0x0C) -> Path:
    records = np.stack([t & 0xFFFFFFFF, x | y << 14 | p << 28], 1).astype("<u4")
    path.write_bytes(b"% Version 2\n% Height 480\n% Width 640\n" + bytes([kind, 8]) + records.tobytes())
    return path


def test_dat_cd_and_wrap(tmp_path: Path) -> None:
    t = np.array([2**32 - 100, 2**32 - 1, 2**32 + 5, 2**33 - 2**31 - 9, 2**33 - 20, 2**33 + 7], np.int64)
    x, y, p = np.arange(6), np.arange(6) * 7, np.array([0, 1, 1, 0, 1, 1])
    with open_events(dat_file(tmp_path / "a.dat", t, x, y, p)) as reader:
        assert (reader.width, reader.height, reader.n_events) == (640, 480, 6)
        assert_same(all_events(reader), Events(x.astype("u2"), y.astype("u2"), t, p.astype("u1")))
        assert len(all_events(reader, 106, 5)) == 0
        assert all_events(reader, 105, 1).x.tolist() == [2]


def test_dat_outside_the_sensor_is_counted(tmp_path: Path) -> None:
    path = dat_file(tmp_path / "a.dat", np.arange(3), np.array([1, 900, 2]), np.array([1, 1, 500]), np.ones(3, int))
    with open_events(path) as reader:
        assert len(all_events(reader)) == 1
        assert reader.stats.dropped["out_of_sensor"] == 2


# -------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize(
    ("file", "layout", "first"),
    [("m3ed", "m3ed", 0), ("dsec", "dsec", 49_599_300_523), ("mvsec_processed", "mvsec-processed", 0)],
)
def test_golden_layouts(shared: Path, file: str, layout: str, first: int) -> None:
    path = shared / "golden" / "f3" / f"h5_{file}_tiny.h5"
    with open_events(path) as reader, h5py.File(path) as raw:
        group = raw["events"] if layout == "dsec" else raw[next(iter(raw))]["left"]
        group = group.get("events", group) if layout == "mvsec-processed" else group
        events = all_events(reader)
        assert reader.metadata["layout"] == layout
        np.testing.assert_array_equal(events.t, group["t"][()].astype(np.int64) + first)
        np.testing.assert_array_equal(events.p, group["p"][()] > 0)
        np.testing.assert_array_equal(events.x, group["x"][()])


def events_h5(path: Path, t: np.ndarray, **extra: object) -> Path:
    with h5py.File(path, "w") as file:
        n = len(t)
        for name, values in (("x", np.arange(n) % 640), ("y", np.arange(n) % 480), ("p", np.arange(n) % 2)):
            file[f"events/{name}"] = values.astype("u2")
        file["events/t"] = t
        for name, value in extra.items():
            file[name] = value
    return path


def test_tartanair_nanoseconds(tmp_path: Path) -> None:
    t = np.arange(0, 50_000_000, 12_345, dtype=np.int64)
    index = np.searchsorted(t, np.arange(50) * 1_000_000)
    with open_events(events_h5(tmp_path / "a.h5", t, ms_to_idx=index)) as reader:
        assert (reader.metadata["layout"], reader.width, reader.height) == ("tartanair", 640, 640)
        np.testing.assert_array_equal(all_events(reader).t, t // 1000)
    index = np.searchsorted(t, np.arange(50_000)[:40_000:100] * 1000)
    with open_events(events_h5(tmp_path / "b.h5", t // 1000, ms_to_idx=index)) as reader:
        assert reader.metadata["layout"] == "dsec"


def test_rectification(data: Path, tmp_path: Path) -> None:
    with open_events(data / "dsec_layout_gen31_640x480" / "events.h5") as reader:
        events = next(reader.chunks())
        table = reader.rectify_map  # type: ignore[attr-defined]
        np.testing.assert_array_equal(reader.rectify(events), table[events.y, events.x])  # type: ignore[attr-defined]
    with open_events(data / "dsec_layout_gen31_640x480" / "events.h5", rectify=True) as rectified:
        moved = all_events(rectified)
        expected = np.rint(table[events.y, events.x])
        inside = (expected >= 0).all(1) & (expected[:, 0] < 640) & (expected[:, 1] < 480)
        np.testing.assert_array_equal(moved.x, expected[inside, 0])
        np.testing.assert_array_equal(moved.y, expected[inside, 1])
        assert rectified.stats.dropped["outside_rectified"] == np.count_nonzero(~inside)
    alone = tmp_path / "events.h5"
    shutil.copy(data / "dsec_layout_gen31_640x480" / "events.h5", alone)
    with open_events(alone) as reader:
        assert reader.rectify_map is None  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"rectify_map\.h5"):
        open_events(alone, rectify=True)
    with pytest.raises(InputError, match="expected a DSEC file"):
        open_events(data / "evt3_gen41_1280x720.raw", rectify=True)


def test_no_events_is_not_an_error(tmp_path: Path) -> None:
    write_m3ed_h5(tmp_path / "a.h5", [], 64, 48)
    with open_events(tmp_path / "a.h5") as reader:
        assert (reader.width, reader.height, reader.n_events, reader.t_first_us) == (64, 48, 0, None)
        assert list(reader.chunks()) == list(reader.packets()) == []


def test_sensors_beyond_evt3_go_out_as_mono(tmp_path: Path) -> None:
    n = 100
    t = np.arange(n, dtype=np.int64) * 1000 + 123
    events = Events((np.arange(n) * 30).astype("u2"), (np.arange(n) * 20).astype("u2"), t, np.ones(n, "u1"))
    write_m3ed_h5(tmp_path / "a.h5", [events], 3000, 2000)
    with open_events(tmp_path / "a.h5") as reader:
        assert reader.encoding == "mono"
        assert_same(decoded(list(reader.packets())), events)
        with pytest.raises(InputError, match="at most 2048x2048"):
            next(reader.packets(encoding="evt3"))


# -------------------------------------------------------------------------------------------------- errors


def check_only_input_errors(path: Path) -> None:
    """Whatever the bytes are: reading works or raises InputError with reason and remedy."""
    found: InputError | None = None
    try:
        with open_events(path) as reader:
            for _ in reader.chunks():
                pass
            for _ in reader.packets(packet_us=100_000):
                pass
            assert reader.duration_us is None or reader.duration_us >= 0
    except InputError as error:
        found = error
    assert found is None or (path.name in str(found) and found.remedy)


def test_missing_empty_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file.*gone\.raw"):
        open_events(tmp_path / "gone.raw")
    path = tmp_path / "a.raw"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="found an empty file"):
        open_events(path)
    path.write_bytes(b"\x00\x01\x02\x03 no recording")
    with pytest.raises(InputError, match="unknown content"):
        open_events(path)
    with pytest.raises(InputError, match="no storage file"):
        open_events(tmp_path)
    with pytest.raises(InputError, match="sensor size"):
        open_events(path, sensor_size=(0, 5))


@pytest.mark.parametrize(
    ("header", "words", "found"),
    [
        ("% evt 3.0\n% end\n", b"", "found 0 bytes"),
        ("% evt 4.0\n% end\n", b"1234", "found evt 4.0"),
        ("% format EVT4;height=720;width=1280\n% end\n", b"1234", "found format EVT4"),
        ("% date today\n% end\n", b"1234", "neither a format nor an evt line"),
    ],
)
def test_raw_errors(tmp_path: Path, header: str, words: bytes, found: str) -> None:
    with pytest.raises(InputError, match=found):
        open_events(raw_file(tmp_path / "a.raw", header, words))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"% Version 2\n", "type and size bytes missing"),
        (b"% Version 2\n\x0e\x08" + bytes(16), "bytes 0e 08"),
        (b"% Version 2\n\x0c\x10" + bytes(16), "bytes 0c 10"),
        (b"% Version 2\n\x0c\x08" + bytes(7), "found 7 bytes"),
        (b"% Version 1\n\x00\x08" + bytes(16), "version 1"),
    ],
)
def test_dat_errors(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.dat").write_bytes(content)
    with pytest.raises(InputError, match=found):
        open_events(tmp_path / "a.dat")


def test_wrong_extension_does_not_matter(data: Path, tmp_path: Path) -> None:
    for name, suffix in (("m3ed", ".raw"), ("evt3", ".h5"), ("dat", ".bin")):
        target = tmp_path / f"{name}{suffix}"
        shutil.copy(data / RECORDINGS[name][0], target)
        with open_events(target) as reader:
            assert len(all_events(reader)) == len(load(data, name)[1])
    shutil.copy(data / "dvxplorer_lite_320x240.aedat4", tmp_path / "a.dat")
    with pytest.raises(InputError, match=r"named \.aedat4.*rename the file"):
        open_events(tmp_path / "a.dat")
    shutil.copy(data / "bag_mono_sqlite3" / "bag_mono_sqlite3_0.db3", tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"expected a bag file named \.mcap or \.db3"):
        open_events(tmp_path / "a.h5")


def test_hdf5_errors(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes((data / "m3ed_layout_gen41_1280x720.h5").read_bytes()[:100_000])
    with pytest.raises(InputError, match="complete HDF5 file"):
        open_events(path)
    with pytest.raises(InputError, match="expected camera 'right', found 'left'"):
        open_events(data / "m3ed_layout_gen41_1280x720.h5", camera="right")
    with h5py.File(path, "w") as file:
        file["other/stuff"] = np.zeros((3, 2))
    with pytest.raises(InputError, match=r"found /other/stuff \(3, 2\)"):
        open_events(path)
    events_h5(path, np.arange(5))
    with h5py.File(path, "a") as file:
        del file["events/p"]
    with pytest.raises(InputError, match="missing p"):
        open_events(path)
    with h5py.File(path, "a") as file:
        file["events/p"] = np.zeros(4)
    with pytest.raises(InputError, match="one equal length"):
        open_events(path)
    with h5py.File(path, "a") as file:
        del file["events/p"]
        file["events/p"] = np.zeros(5)
    with pytest.raises(InputError, match="expected integers"):
        open_events(path)
    with h5py.File(path, "w") as file:
        file["davis/left/events"] = np.full((4, 4), np.nan)
    with pytest.raises(InputError, match="finite times"):
        open_events(path)


def test_aedat4_without_its_library(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dv_processing", None)
    with pytest.raises(InputError, match="python -m pip install dv-processing"):
        open_events(data / "dvxplorer_lite_320x240.aedat4")


def packet(seq: int = 0, **changes: object) -> Packet:
    words = np.array([0x8000, 0x6000, 5, 0x2803], "<u2")
    return replace(Packet(1_000_000 * (seq + 1), "cam", 64, 48, seq, 0, "evt3", False, words.view("u1")), **changes)  # type: ignore[arg-type]


def test_bag_topics(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    from f3_ros.events.readers.bag_types import EVENT_PACKET, event_typestore

    store = event_typestore()
    header = store.types["std_msgs/msg/Header"](
        stamp=store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id="c"
    )
    message = store.types[EVENT_PACKET](
        header=header, height=48, width=64, seq=0, time_base=0, encoding="evt3", is_bigendian=False,
        events=packet().events,
    )  # fmt: skip
    with Writer(tmp_path / "two", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in ("/left", "/right"):
            connection = writer.add_connection(topic, EVENT_PACKET, typestore=store)
            writer.write(connection, 1, store.serialize_cdr(message, EVENT_PACKET))
        text = writer.add_connection("/text", "std_msgs/msg/Header", typestore=store)
        writer.write(text, 1, store.serialize_cdr(header, "std_msgs/msg/Header"))
        writer.write(connection, 2, b"\x00\x01\x00\x00 nonsense")
    with pytest.raises(InputError, match="found several event topics among /left"):
        open_events(tmp_path / "two")
    with pytest.raises(InputError, match=r"found /left.*/text \(std_msgs/msg/Header\).*choose one of /left, /right"):
        open_events(tmp_path / "two", topic="/text")
    with open_events(tmp_path / "two", topic="/right") as reader:
        assert len(all_events(reader)) == 1
        assert next(iter(reader.packets())).frame_id == "c"
        assert reader.stats.dropped["malformed_messages"] >= 1
    with Writer(tmp_path / "none", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        text = writer.add_connection("/text", "std_msgs/msg/Header", typestore=store)
        writer.write(text, 1, store.serialize_cdr(header, "std_msgs/msg/Header"))
    with pytest.raises(InputError, match="found no event topic among /text"):
        open_events(tmp_path / "none")
    write_packet_bag(tmp_path / "empty", [])
    with pytest.raises(InputError, match="found none in"):
        open_events(tmp_path / "empty")


def test_bag_survives_strange_packets(tmp_path: Path) -> None:
    packets = [packet(0), packet(3), packet(4, encoding="nonsense"), packet(5, is_bigendian=True), packet(6)]
    write_packet_bag(tmp_path / "a.mcap", packets)
    with open_events(tmp_path / "a.mcap") as reader:
        assert len(all_events(reader)) == 3
        assert reader.stats.dropped["lost_packets"] == 2
        assert len(list(reader.packets())) == 5


@pytest.mark.parametrize("broken", ["{", "a: 1\n", "rosbag2_bagfile_information:\n  version: 99\n", "\x00\x01"])
def test_bag_with_broken_metadata(data: Path, tmp_path: Path, broken: str) -> None:
    shutil.copytree(data / "bag_mono_sqlite3", tmp_path / "bag")
    (tmp_path / "bag").chmod(0o755)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    (tmp_path / "bag" / "metadata.yaml").write_text(broken)
    with pytest.raises(InputError, match="expected a readable rosbag2"):
        open_events(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with open_events(tmp_path / "bag") as reader:  # the storage alone is enough
        assert len(all_events(reader)) == 100


# -------------------------------------------------------------------------------------------------- fuzz


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_header_bytes(tail: bytes, blank_required: bool) -> None:
    for content in (tail, b"% evt 3.0\n" + tail, b"% format EVT3;height=1;width=" + tail + b"\n% geometry x\n"):
        header = parse_header(content, blank_required=blank_required)
        assert 0 <= header.size <= len(content)
        geometry = header.geometry()
        assert geometry is None or min(geometry) >= 1


@pytest.mark.parametrize("name", ["evt3", "evt2", "evt21_imx636", "dat", "aedat4", "m3ed", "mvsec", "dsec"])
def test_mutated_files(data: Path, tmp_path: Path, name: str) -> None:
    source = data / RECORDINGS[name][0]
    content = source.read_bytes()[:40_000] if name in (*NATIVE, "dat") else source.read_bytes()
    rng = np.random.default_rng(3)
    path = tmp_path / source.name
    for k in range(25):
        changed = np.frombuffer(content, np.uint8).copy()
        if k % 3 == 0:
            changed = changed[: rng.integers(0, len(changed))]
        else:  # metadata sits at the start, and for some at the end
            reach = 600 if k % 3 == 1 else len(changed)
            if name == "aedat4":  # damage inside compressed blocks can hang the vendor's library; see the reader
                reach = 60
            where = rng.integers(0, min(reach, len(changed)), rng.integers(1, 40))
            changed[where] = rng.integers(0, 256, len(where))
        path.write_bytes(changed.tobytes())
        check_only_input_errors(path)


@pytest.mark.parametrize("name", ["bag_mono", "bag_libcaer_cmp", "bag_evt3_gen41"])
def test_mutated_bags(data: Path, tmp_path: Path, name: str) -> None:
    source = next(file for file in (data / RECORDINGS[name][0]).iterdir() if file.suffix in (".mcap", ".db3"))
    content = source.read_bytes()
    rng = np.random.default_rng(4)
    path = tmp_path / source.name
    for k in range(20):
        changed = np.frombuffer(content, np.uint8).copy()
        if k % 3 == 0:
            changed = changed[: rng.integers(0, len(changed))]
        else:
            reach = 2000 if k % 3 == 1 else len(changed)
            where = rng.integers(0, min(reach, len(changed)), rng.integers(1, 60))
            changed[where] = rng.integers(0, 256, len(where))
        path.write_bytes(changed.tobytes())
        check_only_input_errors(path)
