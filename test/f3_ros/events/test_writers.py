# SPDX-License-Identifier: Apache-2.0
"""Writers: M3ED's layout and its index rule, bags that read back, RAW; nothing half-written under the final name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from f3_ros.events.readers import open_events
from f3_ros.events.types import Events, Packet
from f3_ros.events.writers import M3edWriter, write_m3ed_h5, write_packet_bag, write_raw


def events_at(t: np.ndarray) -> Events:
    n = len(t)
    k = np.arange(n)
    return Events((k % 640).astype("u2"), (k % 480).astype("u2"), np.asarray(t, np.int64), (k % 2).astype("u1"))


def parts(events: Events, size: int) -> Iterator[Events]:
    for lo in range(0, len(events), size):
        yield events[lo : lo + size]


def test_m3ed_layout_equals_the_real_one(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "events" / "m3ed_layout_gen41_1280x720.h5"
    with open_events(source) as reader:
        n = write_m3ed_h5(tmp_path / "a.h5", reader.chunks(max_events=1000), reader.width, reader.height)
    with h5py.File(source) as old, h5py.File(tmp_path / "a.h5") as new:
        a, b = old["prophesee/left"], new["prophesee/left"]
        assert n == len(a["t"])
        for name in ("x", "y", "t", "p", "ms_map_idx"):
            assert b[name].dtype == a[name].dtype
            np.testing.assert_array_equal(b[name], a[name])
        for name in ("x", "y", "t", "p"):
            assert (b[name].compression, b[name].chunks) == ("lzf", (40_000,))
        np.testing.assert_array_equal(b["calib/resolution"], [1280, 720])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-40, 5000), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(0, 3_000_000_000),
)
def test_index_rule(tmp_path_factory: pytest.TempPathFactory, steps: list[int], size: int, first: int) -> None:
    t = np.maximum(first + np.cumsum(steps), first)
    path = tmp_path_factory.mktemp("index") / "a.h5"
    with h5py.File(path, "w") as file:
        writer = M3edWriter(file, 640, 480)
        for part in parts(events_at(t), size):
            writer.append(part)
            writer.flush()
        writer.finish()
        group = file["prophesee/left"]
        stored = group["t"][()]
        assert group.attrs["t_offset_us"] % 1_000_000 == 0
        np.testing.assert_array_equal(stored + group.attrs["t_offset_us"], t)
        index = group["ms_map_idx"][()]
        assert len(index) == stored[-1] // 1000
        expected = [int(np.flatnonzero(stored >= 1000 * k)[0]) for k in range(len(index))]
        assert index.tolist() == expected


@pytest.mark.parametrize("first", [0, 37, 14_224_870, 1_744_227_144_732_712])
def test_times_survive(tmp_path: Path, first: int) -> None:
    events = events_at(first + np.arange(0, 2_500_000, 1713))
    write_m3ed_h5(tmp_path / "a.h5", parts(events, 100), 640, 480, camera="right")
    with open_events(tmp_path / "a.h5", camera="right") as reader:
        found = Events.concatenate(list(reader.chunks()))
        for name in ("x", "y", "t", "p"):
            np.testing.assert_array_equal(getattr(found, name), getattr(events, name))
        assert reader.t_last_us == events.t[-1]


def test_garbage_times_and_failures_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="within 28 hours"):
        write_m3ed_h5(tmp_path / "a.h5", [events_at(np.array([0, 1 << 50]))], 640, 480)

    def failing() -> Iterator[Events]:
        yield events_at(np.arange(10))
        raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        write_m3ed_h5(tmp_path / "a.h5", failing(), 640, 480)
    with pytest.raises(InputError, match="stop"):
        write_raw(tmp_path / "a.raw", failing(), 640, 480)
    with pytest.raises(InputError, match="2048x2048"):
        write_raw(tmp_path / "a.raw", [], 4096, 480)
    assert list(tmp_path.iterdir()) == []


def packets(n: int, **changes: int) -> Iterator[Packet]:
    payload = np.array([0x8000, 0x6000, 5, 0x2803], "<u2").view("u1")
    for k in range(n):
        yield Packet(10**18 + k * 1_000_000, "cam", 64, 48, 7 + k, 3, "evt3", False, payload)


@pytest.mark.parametrize(("name", "storage"), [("bag", "mcap"), ("bag", "sqlite3"), ("a.mcap", "mcap"), ("a.db3", "")])
def test_bag_round_trip(tmp_path: Path, name: str, storage: str) -> None:
    path = tmp_path / name
    assert write_packet_bag(path, packets(5), storage=storage, topic="/cam/events") == 5
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with open_events(path) as reader:
        assert reader.metadata["topic"] == "/cam/events"
        for found, expected in zip(reader.packets(), packets(5), strict=True):
            assert bytes(found.events) == bytes(expected.events)
            for field in ("stamp_ns", "frame_id", "width", "height", "seq", "time_base", "encoding", "is_bigendian"):
                assert getattr(found, field) == getattr(expected, field), field


def test_real_bag_copies_exactly(shared: Path, tmp_path: Path) -> None:
    with open_events(shared / "data" / "events" / "bag_evt3_gen41_sqlite3") as reader:
        old = list(reader.packets())
        write_packet_bag(tmp_path / "copy", reader.packets(), storage="mcap")
    with open_events(tmp_path / "copy") as reader:
        new = list(reader.packets())
    assert [(p.stamp_ns, p.seq, bytes(p.events)) for p in new] == [(p.stamp_ns, p.seq, bytes(p.events)) for p in old]


def test_bag_is_never_half_written_nor_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    write_packet_bag(path, packets(2))
    with pytest.raises(InputError, match="existing"):
        write_packet_bag(path, packets(3))

    def failing() -> Iterator[Packet]:
        yield from packets(1)
        raise InputError("stop")

    for target in (path, tmp_path / "b.mcap"):
        with pytest.raises(InputError, match="stop"):
            write_packet_bag(target, failing(), overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["bag"]
    with open_events(path) as reader:
        assert len(list(reader.packets())) == 2
    write_packet_bag(path, packets(3), overwrite=True, storage="sqlite3")
    with open_events(path) as reader:
        assert len(list(reader.packets())) == 3
    with pytest.raises(InputError, match="storage out of"):
        write_packet_bag(tmp_path / "c", packets(1), storage="zip")
    with pytest.raises(InputError, match="stamps from zero"):
        write_packet_bag(tmp_path / "c", [Packet(-1, "", 1, 1, 0, 0, "evt3", False, b"")])
