# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow, EventWindower, WindowConfig, thinning_indices


def at(*times: int) -> Events:
    n = len(times)
    return Events(
        np.arange(n, dtype=np.uint16), np.zeros(n, np.uint16), np.array(times, np.int64), np.zeros(n, np.uint8)
    )


def spans(windows: list[EventWindow]) -> list[tuple[int, int, list[int]]]:
    return [(window.start_us, window.end_us, window.events.t.tolist()) for window in windows]


def hundred(**fields: object) -> EventWindower:
    return EventWindower(WindowConfig(duration_us=100, **fields))  # type: ignore[arg-type]


# Time


def test_windows_lie_on_multiples_and_are_half_open():
    windower = hundred()
    assert windower.push(at(250, 299), 299) == []
    windows = windower.push(at(300, 399, 400), 400)
    assert spans(windows) == [(200, 300, [250, 299]), (300, 400, [300, 399])]
    assert [window.complete for window in windows] == [False, True]  # the stream began inside the first
    assert [window.n_received for window in windows] == [2, 2]
    assert windower.pending == 1


def test_a_stream_that_begins_on_a_boundary_is_complete_from_there():
    windower = hundred()
    assert [window.complete for window in windower.push(at(200, 250), 300)] == [True]
    windower = hundred()
    windower.push(Events.empty(), 200)
    assert [window.complete for window in windower.push(at(250), 300)] == [True]


def test_time_closes_windows_without_events():
    windower = hundred()
    assert windower.push(Events.empty(), None) == []
    assert windower.push(Events.empty(), 200) == []
    assert spans(windower.push(Events.empty(), 410)) == [(200, 300, []), (300, 400, [])]
    assert windower.counters.windows == 2


def test_without_a_time_the_newest_event_tells_it():
    assert spans(hundred().push(at(10, 120), None)) == [(0, 100, [10])]


def test_sliding_windows_overlap():
    windower = hundred(stride_us=50)
    windows = windower.push(at(0, 49, 50, 99, 100, 149, 150), 200)
    assert spans(windows) == [(0, 100, [0, 49, 50, 99]), (50, 150, [50, 99, 100, 149]), (100, 200, [100, 149, 150])]
    assert all(window.complete for window in windows)
    assert windower.pending == 1


def test_stride_above_duration_leaves_events_out_and_counts_them():
    windower = hundred(stride_us=300)
    windows = windower.push(at(10, 150, 299, 310, 450), 650)
    assert spans(windows) == [(0, 100, [10]), (300, 400, [310])]
    assert windower.counters.dropped["between_windows"] == 3


def test_late_events_are_dropped_and_counted_but_small_steps_are_sorted_in():
    windower = hundred()
    windower.push(at(10, 90, 110), 110)
    windows = windower.push(at(105, 99, 150, 130, 210), 210)
    assert spans(windows) == [(100, 200, [105, 110, 130, 150])]
    assert windower.counters.dropped["late"] == 1


def test_lateness_waits_for_stragglers():
    windower = hundred(lateness_us=20)
    assert windower.push(at(10, 110), 115) == []
    assert spans(windower.push(at(95, 125), 125)) == [(0, 100, [10, 95])]
    assert windower.counters.dropped["late"] == 0


def test_events_beyond_the_packets_own_time_are_dropped():
    windower = hundred(max_backstep_us=1000)
    windower.push(at(10, 500_000_000, 50), 60)
    assert windower.counters.dropped["future"] == 1
    assert spans(windower.push(Events.empty(), 100)) == [(0, 100, [10, 50])]


def test_a_gap_makes_the_windows_it_touches_incomplete():
    windower = hundred()
    windower.push(at(0), 50)
    windows = windower.push(at(130, 160), 450, gap=True)
    assert [(window.start_us, window.complete) for window in windows] == [
        (0, False), (100, False), (200, True), (300, True),
    ]  # fmt: skip
    assert windower.counters.incomplete == 2
    windows = windower.push(Events.empty(), 800, gap=True)
    assert [window.complete for window in windows] == [False] * 4


def test_a_gap_at_the_end_of_a_window_spares_it():
    windower = hundred()
    windower.push(at(0), 99)
    assert [w.complete for w in windower.push(at(100), 100)] == [True]
    assert [w.complete for w in windower.push(at(250), 300, gap=True)] == [False, False]


def test_time_that_goes_back_starts_anew():
    windower = hundred(max_backstep_us=1000)
    windower.push(at(50_000, 50_010), 50_010)
    windows = windower.push(at(310), 400)
    assert spans(windows) == [(300, 400, [310])]
    assert windower.counters.resets == 1
    assert windower.counters.dropped["reset"] == 2


def test_a_little_back_is_tolerated():
    windower = hundred()
    windower.push(at(0, 120), 120)
    assert windower.push(at(115), 115) == []
    assert spans(windower.push(Events.empty(), 200)) == [(100, 200, [115, 120])]


def test_long_silence_is_skipped_and_counted():
    windower = hundred(max_empty_windows=5)
    windower.push(at(10), 50)
    windows = windower.push(at(10_000_010), 10_000_100)
    assert spans(windows) == [(0, 100, [10]), (10_000_000, 10_000_100, [10_000_010])]
    assert windower.counters.skipped_windows == 99_999
    assert len(windower.push(Events.empty(), 10_000_600)) == 5
    assert windower.push(Events.empty(), 20_000_000) == []
    assert spans(windower.push(at(20_000_001), 20_000_100)) == [(20_000_000, 20_000_100, [20_000_001])]


def test_flush_puts_out_what_is_pending():
    windower = hundred()
    windower.push(at(10, 120, 350), 360)
    windows = windower.flush()
    assert spans(windows) == [(300, 400, [350])]
    assert not windows[0].complete
    assert windower.flush() == []
    assert hundred().flush() == []
    windower.push(at(380, 410), 420)
    assert windower.counters.dropped["late"] == 1


def test_reset_drops_what_is_pending():
    windower = hundred()
    windower.push(at(10, 20), 20)
    windower.reset()
    assert windower.pending == 0
    assert windower.counters.dropped["reset"] == 2
    assert windower.flush() == []


def test_the_buffer_is_bounded():
    windower = EventWindower(WindowConfig(duration_us=1_000_000, max_buffered_events=100))
    windower.push(at(0), 0)
    for i in range(10):
        windower.push(at(*range(i * 30, i * 30 + 30)), i * 30 + 30)
    assert windower.pending == 100
    assert windower.counters.dropped["buffer_full"] == 201
    window = windower.push(Events.empty(), 1_000_000)[0]
    assert not window.complete
    assert window.n_received == 100


def test_windows_keep_their_events_when_the_stream_goes_on():
    windower = hundred(stride_us=50)
    kept, copies = [], []
    rng = np.random.default_rng(0)
    for i in range(200):
        times = np.sort(rng.integers(i * 40, i * 40 + 40, 300))
        for window in windower.push(at(*times.tolist()), i * 40 + 39):
            kept.append(window)
            copies.append(window.events.t.copy())
    assert len(kept) > 100
    for window, copy in zip(kept, copies):
        np.testing.assert_array_equal(window.events.t, copy)


# Count and hybrid


def test_count_windows():
    windower = EventWindower(WindowConfig(mode="count", count=3))
    windows = windower.push(at(5, 6, 6, 6, 9, 11, 30), 40)
    assert spans(windows) == [(5, 7, [5, 6, 6]), (6, 12, [6, 9, 11])]
    assert [window.complete for window in windows] == [True, True]
    assert windower.push(Events.empty(), 10_000) == []
    tail = windower.flush()
    assert spans(tail) == [(30, 31, [30])]
    assert not tail[0].complete


def test_count_windows_slide():
    windower = EventWindower(WindowConfig(mode="count", count=4, count_stride=2))
    assert spans(windower.push(at(1, 2, 3, 4, 5, 6), 6)) == [(1, 5, [1, 2, 3, 4]), (3, 7, [3, 4, 5, 6])]


def test_count_windows_over_a_gap_are_incomplete():
    windower = EventWindower(WindowConfig(mode="count", count=2))
    windower.push(at(1, 2, 3), 3)
    assert [window.complete for window in windower.push(at(90, 91, 92), 92, gap=True)] == [False, True]


def test_hybrid_windows_close_by_time_or_count():
    windower = EventWindower(WindowConfig(mode="hybrid", duration_us=100, count=3))
    windows = windower.push(at(0, 10, 20, 30, 150), 310)
    assert spans(windows) == [(0, 21, [0, 10, 20]), (20, 100, [30]), (100, 200, [150]), (200, 300, [])]
    assert all(window.complete for window in windows)
    assert spans(windower.push(at(399, 399, 399), 400)) == [(300, 400, [399, 399, 399])]
    windower.push(at(450), 460)
    assert spans(windower.flush()) == [(400, 500, [450])]


def test_hybrid_skips_long_silence():
    windower = EventWindower(WindowConfig(mode="hybrid", duration_us=100, count=3, max_empty_windows=2))
    windower.push(at(10), 50)
    assert spans(windower.push(at(100_050), 100_100)) == [(10, 100, [10]), (100_000, 100_100, [100_050])]
    assert windower.counters.skipped_windows == 999


# Thinning


def test_thinning_is_even_and_deterministic():
    windower = EventWindower(WindowConfig(duration_us=1000, max_events=10))
    window = windower.push(at(*range(1000)), 1000)[0]
    assert window.events.t.tolist() == list(range(0, 1000, 100))
    assert window.n_received == 1000
    assert window.complete
    assert windower.counters.dropped["thinned"] == 990


def test_random_thinning_depends_on_seed_and_window_only():
    def run(seed: int, start: int) -> list[int]:
        config = WindowConfig(duration_us=1000, max_events=100, thinning="random", seed=seed)
        windower = EventWindower(config)
        if start == 0:
            windower.push(at(*range(1000)), 999)
        return windower.push(at(*range(1000, 2000)), 2000)[-1].events.t.tolist()

    assert run(1, 0) == run(1, 1000)
    assert run(1, 0) != run(2, 0)
    assert run(1, 0) == sorted(set(run(1, 0)))


@given(st.integers(1, 3_000_000), st.integers(1, 1000))
def test_linspace_indices_are_those_of_the_reference(n, limit):
    found = thinning_indices(n, limit)
    if n <= limit:
        assert found.tolist() == list(range(n))
    else:
        assert len(found) == limit
        assert found.tolist() == np.linspace(0, n, limit, endpoint=False).astype(np.uint64).tolist()
        exact = np.arange(limit, dtype=np.int64) * n // limit
        assert np.abs(found - exact).max() <= 1  # one off where the product of floats lies just below an integer
        assert (np.diff(found) > 0).all()


def test_random_indices_favour_no_part():
    counts = np.zeros(100)
    for seed in range(300):
        counts[thinning_indices(100, 30, "random", seed)] += 1
    assert abs(counts[:50].sum() - counts[50:].sum()) < 600
    assert counts.min() > 50


# The whole way


def test_windows_do_not_depend_on_the_packets(raw_file):
    from f3_ros.events.codecs import make_decoder

    events = make_decoder("evt3", 1280, 720).decode(raw_file("evt3_gen41_1280x720.raw"))
    expected = None
    for seed, pieces in ((0, 1), (1, 10), (2, 500)):
        windower = EventWindower(WindowConfig(duration_us=1000, max_events=20_000))
        cuts = np.sort(np.random.default_rng(seed).integers(0, len(events), pieces))
        windows = []
        for a, b in itertools.pairwise([0, *cuts.tolist(), len(events)]):
            windows += windower.push(events[a:b], None)
        windows += windower.flush()
        assert len(windows) == 10
        assert sum(window.n_received for window in windows) == len(events)
        found = [
            (w.start_us, w.end_us, w.complete, w.n_received, w.events.t.tobytes(), w.events.x.tobytes())
            for w in windows
        ]
        assert expected is None or found == expected
        expected = found


@pytest.mark.parametrize(
    ("name", "windows", "events"),
    [
        ("bag_evt3_gen31_sqlite3", 32, 46_365),
        ("bag_evt3_gen41_sqlite3", 36, 49_316),
        ("bag_libcaer_dvxplorer_sqlite3", 21, 66_737),
        ("bag_libcaer_cmp_davis346_mcap", 11, 106_570),
        ("bag_mono_sqlite3", 1, 100),
    ],
)
def test_bags_lose_no_event(name, windows, events, bag_packets):
    decoder, windower = PacketDecoder(), EventWindower()
    found = []
    for packet in bag_packets(name):
        decoded = decoder.decode(packet)
        found += windower.push(decoded.events, decoded.time_us, decoded.gap)
    found += windower.flush()
    assert len(found) == windows
    assert sum(window.n_received for window in found) == events
    assert all(window.complete for window in found[1:-1])
    assert sum(windower.counters.dropped.values()) == 0


pushes = st.lists(
    st.tuples(st.lists(st.integers(-50, 400), max_size=20), st.integers(-30, 400), st.booleans()), max_size=25
)


@settings(max_examples=200, deadline=None)
@given(pushes, st.sampled_from(["time", "count", "hybrid"]), st.sampled_from([30, 100, 250]), st.integers(0, 40))
def test_every_event_is_in_one_window_or_counted(steps, mode, stride, lateness):
    config = WindowConfig(
        mode=mode, duration_us=100, stride_us=max(stride, 100), count=7, lateness_us=lateness, max_buffered_events=60,
        max_empty_windows=3, max_backstep_us=200,
    )  # fmt: skip
    windower = EventWindower(config)
    windows, now, given_events = [], 1000, 0
    for offsets, step, gap in steps:
        now += step
        given_events += len(offsets)
        windows += windower.push(at(*(now - offset for offset in offsets)), now, gap)
        assert windower.pending <= 60
    windows += windower.flush()
    for window in windows:
        assert (np.diff(window.events.t) >= 0).all()
        assert len(window.events) == 0 or window.start_us <= window.events.t[0]
        assert len(window.events) == 0 or window.events.t[-1] < window.end_us
    assert sum(w.n_received for w in windows) + sum(windower.counters.dropped.values()) == given_events
    assert windower.counters.windows == len(windows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "speed"}, "mode out of time, count, hybrid, found 'speed'"),
        ({"thinning": "first"}, "thinning out of linspace, random"),
        ({"duration_us": 0}, "positive duration_us, found 0"),
        ({"stride_us": -1}, "positive stride_us"),
        ({"lateness_us": -1}, "lateness_us of at least 0"),
        ({"mode": "count", "count": 10, "max_buffered_events": 5}, "max_buffered_events of at least count 10"),
    ],
)
def test_bad_configurations_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        WindowConfig(**fields)


def test_bins_of_the_default():
    assert WindowConfig().bins == 20
