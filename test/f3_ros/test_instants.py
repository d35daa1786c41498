# SPDX-License-Identifier: Apache-2.0
"""Events of an instant: the official script's, from every kind of recording, one by one and all in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.binning import events_to_tensor
from f3_ros.events.readers import open_events
from f3_ros.instants import every_instant, instant, time_range_ms

WINDOW_US = 20_000


@pytest.mark.parametrize("time_ms", [20, 45, 79])
def test_the_events_are_the_official_scripts(time_ms: int, shared: Path) -> None:
    golden = shared / "golden" / "f3"
    with np.load(golden / "f3_io.npz") as archive:
        expected = archive[f"out::deploy_m3ed_time{time_ms}ms"]
    with open_events(golden / "h5_m3ed_tiny.h5") as reader:
        one = instant(reader, time_ms, WINDOW_US)
        every = {window.end_us: window for window in every_instant(reader, WINDOW_US, 1)}
    for window in (one, every[time_ms * 1000]):
        np.testing.assert_array_equal(events_to_tensor(window, 1280, 720, 20), expected)
        assert window.complete
    assert (one.start_us, one.end_us, one.n_received) == (time_ms * 1000 - WINDOW_US, time_ms * 1000, len(expected))


def test_the_official_index_gives_the_same_events_of_a_real_recording(shared: Path) -> None:
    import h5py

    path = shared / "data" / "events" / "m3ed_layout_gen41_1280x720.h5"
    with h5py.File(path) as file:
        group = file["prophesee/left"]
        first, last = (int(group["ms_map_idx"][ms]) for ms in (280, 300))
        x, y, p = (group[name][first:last] for name in "xyp")
        k = 300 - group["t"][first:last] // 1000 - 1
    with open_events(path) as reader:
        rows = events_to_tensor(instant(reader, 300, WINDOW_US), 1280, 720, 20)
    expected = np.stack([x, y, k, p], axis=1).astype(np.float32) / np.float32([1280, 720, 20, 1])
    np.testing.assert_array_equal(rows, expected)


def test_times_of_a_dsec_file_count_from_its_offset(shared: Path) -> None:
    import h5py
    import hdf5plugin  # noqa: F401 - the file is compressed with Blosc

    path = shared / "data" / "events" / "dsec_layout_gen31_640x480" / "events.h5"
    with h5py.File(path) as file:
        first, last = (int(file["ms_to_idx"][ms]) for ms in (3, 23))
        t = file["events/t"][first:last].astype(np.int64)
        assert int(file["t_offset"][()]) != 0
    with open_events(path) as reader:
        assert time_range_ms(reader) == (1, 25)
        np.testing.assert_array_equal(instant(reader, 23, WINDOW_US).events.t, t)


@pytest.mark.parametrize(
    ("name", "range_ms"),
    [
        ("evt3_gen41_1280x720.raw", (1, 10)),
        ("dsec_layout_gen31_640x480/events.h5", (1, 25)),
        ("bag_evt3_gen41_sqlite3", (1, 713)),
        ("dvxplorer_lite_320x240.aedat4", (1, 591)),
        ("mvsec_layout_davis346.hdf5", (1, 42)),
        ("ncars_atis.dat", (1, 100)),
    ],
)
def test_one_pass_gives_every_event_once_and_the_same_windows(
    name: str, range_ms: tuple[int, int], shared: Path
) -> None:
    with open_events(shared / "data" / "events" / name) as reader:
        assert time_range_ms(reader) == range_ms
        windows = list(every_instant(reader, WINDOW_US))
        assert sum(len(window.events) for window in windows) == sum(len(events) for events in reader.chunks())
        assert [window.start_us % WINDOW_US for window in windows] == [0] * len(windows)
        for window in windows[::7]:
            same = instant(reader, window.end_us // 1000, WINDOW_US)
            assert (same.start_us, same.end_us, same.n_received) == (window.start_us, window.end_us, window.n_received)
            for field in "xytp":
                np.testing.assert_array_equal(getattr(same.events, field), getattr(window.events, field))


def test_a_stride_overlaps_windows_or_leaves_gaps(shared: Path) -> None:
    with open_events(shared / "golden" / "f3" / "h5_m3ed_tiny.h5") as reader:
        assert [window.end_us for window in every_instant(reader, WINDOW_US, 10)][:4] == [
            20_000,
            30_000,
            40_000,
            50_000,
        ]
        assert [window.end_us for window in every_instant(reader, WINDOW_US, 30)] == [20_000, 50_000, 80_000]
        with pytest.raises(InputError, match="stride of 1 ms or more, found 0"):
            next(every_instant(reader, WINDOW_US, 0))


def test_a_window_at_the_recordings_edge_says_that_it_is_incomplete(shared: Path) -> None:
    with open_events(shared / "golden" / "f3" / "h5_m3ed_tiny.h5") as reader:
        assert not instant(reader, 19, WINDOW_US).complete
        assert instant(reader, 80, WINDOW_US).complete
        late = instant(reader, 81, WINDOW_US)
        assert not late.complete
        assert late.start_us == 61_000
        assert int(late.events.t.min()) >= 61_000
    with open_events(shared / "data" / "events" / "evt3_gen41_1280x720.raw") as reader:
        whole = instant(reader, 10, WINDOW_US)
        assert (len(whole.events), whole.complete) == (219_596, False)
        assert not np.any(np.diff(whole.events.t) < 0)


@pytest.mark.parametrize(
    ("name", "time_ms", "last_ms"),
    [
        *(("golden/f3/h5_m3ed_tiny.h5", time_ms, 80) for time_ms in (-5, 0, 100, 30_000)),
        ("data/events/evt3_gen41_1280x720.raw", 30_000, 10),
    ],
)
def test_a_time_outside_names_the_range(name: str, time_ms: int, last_ms: int, shared: Path) -> None:
    message = f"expected a time of 1 .. {last_ms} ms, found --time_ms {time_ms} for"
    with open_events(shared / name) as reader, pytest.raises(InputError, match=message):
        instant(reader, time_ms, WINDOW_US)


def _m3ed(path: Path, times: list[int]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("prophesee/left")
        for name, kind in (("x", "u2"), ("y", "u2"), ("p", "i1")):
            group[name] = np.ones(len(times), kind)
        group["t"] = np.array(times, np.int64)
    return path


def test_a_window_without_events_and_a_recording_without_events_are_told_apart(tmp_path: Path) -> None:
    with open_events(_m3ed(tmp_path / "gap.h5", [500, 900_000])) as reader:
        with pytest.raises(InputError, match=r"events in the 20 ms before --time_ms 300, .* holds 1 .. 901 ms"):
            instant(reader, 300, WINDOW_US)
        # Windows that hold nothing are left out, however many there are.
        assert [window.end_us for window in every_instant(reader, WINDOW_US)] == [20_000, 920_000]
    with open_events(_m3ed(tmp_path / "empty.h5", [])) as reader:
        with pytest.raises(InputError, match="expected events, found none"):
            instant(reader, 300, WINDOW_US)
        with pytest.raises(InputError, match="expected events, found none"):
            next(every_instant(reader, WINDOW_US))
