# SPDX-License-Identifier: Apache-2.0
"""Packets to windows with stamps, without ROS: totals, jumps, policies, filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.filters import HotPixelMask
from f3_ros.events.readers import open_events
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import WindowConfig
from f3_ros.stream import MAX_FILTERED_PIXELS, EventStreamProcessor, StreamConfig, StreamWindow

STAMP_NS = 1_700_000_000_000_000_000


def mono(seq: int, times_us: list[int], *, stamp_ns: int | None = None, size: tuple[int, int] = (64, 48)) -> Packet:
    """A packet of the encoding "mono" (absolute times) with one event per time, all at pixel (3, 2)."""
    base = min(times_us)
    words = np.array([(2 << 48) | (3 << 32) | (t - base) * 1000 for t in times_us], "<u8")
    stamp = STAMP_NS + base * 1000 if stamp_ns is None else stamp_ns
    return Packet(stamp, "eye", *size, seq, base * 1000, "mono", False, words.view(np.uint8))


def run(processor: EventStreamProcessor, packets: list[Packet]) -> list[StreamWindow]:
    closed = [window for packet in packets for window in processor.push(packet)]
    return closed + processor.flush()


def shape(windows: list[StreamWindow]) -> list[tuple[int, int]]:
    return [(w.window.start_us, len(w.window.events)) for w in windows]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("bag_evt3_gen31_sqlite3", 1), ("bag_libcaer_dvxplorer_sqlite3", 1000), ("bag_libcaer_cmp_davis346_mcap", 1000)],
)
def test_windows_hold_exactly_the_truth(name: str, unit: int, shared: Path) -> None:
    file = shared / "data" / "events" / name
    truth = np.load(file / "truth.npz")
    processor = EventStreamProcessor(StreamConfig(window=WindowConfig(max_events=None)))
    with open_events(file) as reader:
        windows = run(processor, list(reader.packets()))
    events = Events.concatenate([w.window.events for w in windows])
    order = np.argsort(truth["t"] // unit, kind="stable")
    for field in ("x", "y", "p"):
        np.testing.assert_array_equal(getattr(events, field), truth[field][order])
    np.testing.assert_array_equal(events.t, (truth["t"] // unit)[order])
    assert all(w.window.end_us - w.window.start_us == 20_000 for w in windows)
    stamps = [w.stamp_ns for w in windows]
    assert stamps == sorted(stamps)
    # A window's stamp is the ROS time of its end: between the stamps of the packets around it, up to a packet's length.
    assert all(abs(w.stamp_ns - w.input_stamp_ns) < 50_000_000 for w in windows[:-1])


def test_stamp_is_the_ros_time_of_the_windows_end() -> None:
    processor = EventStreamProcessor(StreamConfig())
    windows = run(processor, [mono(k, [4000 * k], stamp_ns=STAMP_NS + 4_000_000 * k + 3_000_000) for k in range(11)])
    assert shape(windows) == [(0, 5), (20_000, 5), (40_000, 1)]
    assert [w.stamp_ns - STAMP_NS for w in windows] == [23_000_000, 43_000_000, 63_000_000]
    assert [w.window.complete for w in windows] == [True, True, False]
    assert windows[0].frame_id == "eye"


def test_stamps_that_jump_back_close_the_window_and_start_anew() -> None:
    processor = EventStreamProcessor(StreamConfig())
    loop = [mono(k, [2_000_000 + 4000 * k]) for k in range(53)]  # 212 ms: more than is taken for disorder
    windows = run(processor, loop + loop)
    once = [(2_000_000 + 20_000 * k, 5) for k in range(10)] + [(2_200_000, 3)]
    assert shape(windows) == once * 2
    assert [w.stamp_ns for w in windows[:11]] == [w.stamp_ns for w in windows[11:]]
    assert processor.drops() == {"time_jump_back": 1}


def test_small_steps_back_are_disorder_not_a_new_stream() -> None:
    processor = EventStreamProcessor(StreamConfig())
    packets = [mono(k, [2_000_000 + 4000 * (k % 3)]) for k in range(6)]
    assert shape(run(processor, packets)) == [(2_000_000, 6)]
    assert "time_jump_back" not in processor.drops()


def test_incomplete_windows_are_dropped_and_counted_if_asked() -> None:
    processor = EventStreamProcessor(StreamConfig(incomplete="drop"))
    windows = run(processor, [mono(k, [4000 * k]) for k in range(26) if k != 7])
    assert shape(windows) == [(0, 5), (40_000, 5), (60_000, 5), (80_000, 5)]
    assert processor.drops() == {"lost_packets": 1, "incomplete_window": 2}
    assert processor.windows == 6


def test_another_sensor_size_is_another_stream() -> None:
    processor = EventStreamProcessor(StreamConfig(refractory_us=10))
    windows = run(processor, [mono(0, [100]), mono(1, [4100], size=(32, 32))])
    assert [(w.width, w.height) for w in windows] == [(64, 48), (32, 32)]


def test_filters_count_what_they_take(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[2, 3] = True
    HotPixelMask(mask).save(tmp_path / "hot.npz")
    hot = EventStreamProcessor(StreamConfig(hot_pixel_mask=str(tmp_path / "hot.npz")))
    run(hot, [mono(0, [0, 10])])
    assert hot.removed() == {"hot_pixel_events": 2}
    other = EventStreamProcessor(StreamConfig(hot_pixel_mask=str(tmp_path / "hot.npz")))
    assert shape(run(other, [mono(0, [0, 10], size=(65, 48))])) == [(0, 2)]
    assert other.drops() == {"hot_pixel_mask_of_other_size": 1}
    refractory = EventStreamProcessor(StreamConfig(refractory_us=1000))
    assert shape(run(refractory, [mono(0, [0, 500, 1000, 1900]), mono(1, [2000])])) == [(0, 3)]
    assert refractory.removed() == {"refractory_events": 2}
    noise = EventStreamProcessor(StreamConfig(noise_us=1000))
    run(noise, [mono(0, [0, 500])])
    assert noise.removed() == {"noise_events": 2}
    with pytest.raises(InputError, match=r"none\.npz"):
        EventStreamProcessor(StreamConfig(hot_pixel_mask=str(tmp_path / "none.npz")))


def test_filters_do_not_take_gigabytes_for_a_corrupt_size() -> None:
    processor = EventStreamProcessor(StreamConfig(refractory_us=10, noise_us=10))
    side = 1 << 16
    assert side * side > MAX_FILTERED_PIXELS
    assert shape(run(processor, [mono(0, [0], size=(side, side))])) == [(0, 1)]


def test_thinning_is_no_loss() -> None:
    processor = EventStreamProcessor(StreamConfig(window=WindowConfig(max_events=3)))
    windows = run(processor, [mono(0, list(range(10)))])
    assert [(len(w.window.events), w.window.n_received) for w in windows] == [(3, 10)]
    assert (processor.drops(), processor.removed()) == ({}, {"thinned": 7})


def test_reset_forgets_the_stream_but_not_the_counts() -> None:
    processor = EventStreamProcessor(StreamConfig())
    processor.push(mono(0, [0, 10]))
    processor.push(mono(5, [4000]))
    processor.reset()
    assert processor.flush() == []
    assert processor.drops()["lost_packets"] == 4
    assert processor.drops()["reset"] == 3
    assert shape(run(processor, [mono(0, [7])])) == [(0, 1)]
    assert processor.drops()["lost_packets"] == 4
