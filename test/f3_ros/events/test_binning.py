# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.binning import (
    CAR_HOOD_ROWS_DSEC,
    TimeIndex,
    centring_offset,
    crop_and_resize,
    deployment_bins,
    deployment_range,
    events_to_tensor,
    occupancy_frames,
    occupancy_grid,
    prediction_events,
    prediction_range,
    thin_for_evaluation,
    training_bins,
    training_range,
    valid_mask,
)
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow

Golden = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    with np.load(shared / "golden" / "f3" / "f3_io.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    return arrays.__getitem__


@pytest.fixture(scope="module")
def recording(shared: Path) -> Callable[[str, str], Events]:
    def read(file: str, group: str) -> Events:
        import h5py

        with h5py.File(shared / "golden" / "f3" / file) as h5:
            x, y, t, p = (h5[group][key][:] for key in "xytp")
        return Events(x, y, t.astype(np.int64), (p > 0).astype(np.uint8))

    return read


@pytest.fixture(scope="module")
def ms_index(shared: Path) -> Callable[[str, str], TimeIndex]:
    def read(file: str, name: str) -> TimeIndex:
        import h5py

        with h5py.File(shared / "golden" / "f3" / file) as h5:
            return TimeIndex(h5[name][:])

    return read


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


M3ED = ("h5_m3ed_tiny.h5", "prophesee/left")


@pytest.mark.parametrize("end_ms", [20, 45, 79])
def test_deployment_rule_is_the_references(end_ms, golden, recording, ms_index):
    events, index = recording(*M3ED), ms_index(M3ED[0], "prophesee/left/ms_map_idx")
    first, last = deployment_range(index, end_ms, 20)
    expected = golden(f"out::deploy_m3ed_time{end_ms}ms")
    end = end_ms * 1000
    assert_equal(events_to_tensor(events[first:last], 1280, 720, 20, end_us=end), expected)
    window = EventWindow(end - 20_000, end, events[first:last], True, last - first)
    assert_equal(events_to_tensor(window, 1280, 720, 20), expected)
    assert_equal(events_to_tensor(window, 1280, 720, 20, with_polarity=False), expected[:, :3])
    # By time alone the same events are found: what lies outside the bins is left out.
    assert_equal(events_to_tensor(events, 1280, 720, 20, end_us=end), expected)


@pytest.mark.parametrize("end_us", [20_000, 45_000, 61_240])
@pytest.mark.parametrize("index_name", ["ms", "50khz"])
def test_training_rule_is_the_references(end_us, index_name, golden, recording, ms_index):
    events = recording(*M3ED)
    fine = TimeIndex(golden("in::m3ed_50khz_left"), 20)
    index = fine if index_name == "50khz" else ms_index(M3ED[0], "prophesee/left/ms_map_idx")
    first, last = training_range(index, end_us, 20_000)
    found = events_to_tensor(events[first:last], 1280, 720, 20, end_us=end_us, rule="training")
    assert_equal(found, golden(f"out::train_m3ed_{index_name}_t0_{end_us}us"))


@pytest.mark.parametrize("start_us", [20_000, 45_000, 61_240])
def test_prediction_window_is_the_references(start_us, golden, recording):
    events = recording(*M3ED)
    first, last = prediction_range(TimeIndex(golden("in::m3ed_50khz_left"), 20), start_us, 15_000)
    assert_equal(prediction_events(events[first:last], start_us), golden(f"out::pred_m3ed_50khz_t0_{start_us}us"))


def test_evaluation_thinning_is_the_references(golden, recording):
    events = recording(*M3ED)
    first, last = training_range(TimeIndex(golden("in::m3ed_50khz_left"), 20), 45_000, 20_000)
    thinned = thin_for_evaluation(events[first:last], 150)
    found = events_to_tensor(thinned, 1280, 720, 20, end_us=45_000, rule="training")
    assert_equal(found, golden("out::train_m3ed_50khz_linspace150_t0_45000us"))


@pytest.mark.parametrize("model_size", [(640, 480), (1280, 720)])
def test_smaller_sensors_are_centred(model_size, golden, recording, ms_index):
    events, index = recording("h5_dsec_tiny.h5", "events"), ms_index("h5_dsec_tiny.h5", "ms_to_idx")
    first, last = training_range(index, 50_000, 20_000)
    found = events_to_tensor(events[first:last], 640, 480, 20, end_us=50_000, rule="training", model_size=model_size)
    name = f"{model_size[0]}x{model_size[1]}"
    assert_equal(found, golden(f"out::train_dsec_ms_target{name}_t0_50000us"))
    mask = valid_mask((640, 480), model_size, CAR_HOOD_ROWS_DSEC)
    assert mask.shape == model_size
    np.testing.assert_array_equal(mask.sum(axis=0), golden(f"out::valid_mask_dsec_target{name}_rowsum"))


def test_mvsec_with_50_bins(golden, recording):
    events = recording("h5_mvsec_processed_tiny.h5", "davis/left/events")
    first, last = training_range(TimeIndex(golden("in::mvsec_50khz_left"), 20), 60_000, 50_000)
    found = events_to_tensor(events[first:last], 346, 260, 50, end_us=60_000, rule="training")
    assert_equal(found, golden("out::train_mvsec_50khz_ctx50ms_t0_60000us"))


def test_grid_and_frames_are_the_references(golden):
    grid = occupancy_grid(golden("in::grid_events"), golden("in::grid_counts"), 64, 36, 20)
    assert grid.shape == (2, 64, 36, 20)
    assert_equal(np.packbits(grid), golden("out::grid_BWHT_packed"))
    assert_equal(occupancy_frames(grid), golden("out::frames_BWH"))


def test_crop_and_resize_is_the_references(golden):
    found, counts = crop_and_resize(
        golden("in::grid_events"),
        golden("in::grid_counts"),
        golden("in::resize_cparams_x0y0x1y1"),
        (64, 36, 20),
        (32, 20),
    )
    assert_equal(found, golden("out::resized_events_to_32x20x20"))
    np.testing.assert_array_equal(counts, golden("out::resized_counts"))


def test_the_rules_differ_at_millisecond_edges_only():
    t = np.arange(20_001, 40_000)
    differs = deployment_bins(t, 40_000) != training_bins(t, 40_000)
    np.testing.assert_array_equal(differs, t % 1000 == 0)
    np.testing.assert_array_equal(deployment_bins(t, 40_000), 40 - t // 1000 - 1)


def test_windows_may_end_anywhere():
    t = np.array([1234, 1233, 235, 234, 5])
    assert deployment_bins(t, 1235).tolist() == [0, 0, 0, 1, 1]


def events_of(n: int, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(0, 700, n).astype(np.uint16), rng.integers(0, 500, n).astype(np.uint16),
        np.sort(rng.integers(-5000, 45_000, n)), rng.integers(0, 2, n).astype(np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize(("rule", "bins_of"), [("deployment", deployment_bins), ("training", training_bins)])
@pytest.mark.parametrize("model_size", [(640, 480), (1280, 720), (346, 260)])
@pytest.mark.parametrize("bin_us", [1000, 500, 333])
def test_the_tensor_is_the_float32_quotients(rule, bins_of, model_size, bin_us):
    events = events_of(5000)
    x, y = centring_offset((640, 480), model_size)
    k = bins_of(events.t, 40_000, bin_us)
    columns = [events.x.astype(int) + x, events.y.astype(int) + y, k, events.p]
    sizes = (*model_size, 20)
    keep = np.logical_and.reduce([(column >= 0) & (column < size) for column, size in zip(columns, sizes)])
    expected = np.stack(
        [c.astype(np.float32) / np.float32(s) for c, s in zip(columns, (*sizes, 1))], axis=1
    )[keep]  # fmt: skip
    found = events_to_tensor(events, 640, 480, 20, end_us=40_000, rule=rule, model_size=model_size, bin_us=bin_us)
    assert 0 < len(found) < 5000
    assert_equal(found, expected)


def test_no_events_give_no_rows():
    found = events_to_tensor(EventWindow(0, 20_000, Events.empty(), True, 0), 640, 480, 20)
    assert found.shape == (0, 4)
    assert found.dtype == np.float32


def test_the_callers_memory_is_used():
    events = events_of(100)
    out = np.full((120, 4), -1, np.float32)
    found = events_to_tensor(events, 640, 480, 20, end_us=40_000, out=out)
    assert np.shares_memory(found, out)
    assert (out[len(found) :] == -1).all()
    assert_equal(found, events_to_tensor(events, 640, 480, 20, end_us=40_000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "newest"}, "rule out of deployment, training, found 'newest'"),
        ({"end_us": None}, "expected the end of the window"),
        ({"out": np.empty((10, 4), np.float32)}, "room for 100 events, found 10"),
        ({"out": np.empty((100, 4))}, r"float32 \(N, 4\) array, found float64"),
        ({"out": np.empty((100, 3), np.float32)}, r"float32 \(N, 4\)"),
        ({"out": np.empty((100, 8), np.float32)[:, ::2]}, "contiguous"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        events_to_tensor(events_of(100), 640, 480, 20, **{"end_us": 40_000, **arguments})


def test_times_outside_the_index_are_refused():
    with pytest.raises(InputError, match="time up to 9000 us, found 20000 us"):
        deployment_range(TimeIndex(np.arange(10)), 20, 20)
    with pytest.raises(InputError, match="found -1000 us"):
        deployment_range(TimeIndex(np.arange(10)), 9, 10)
