# SPDX-License-Identifier: Apache-2.0
"""Units, validity and resolution of published depth and flow, on cases with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.types import Events
from f3_ros.head_outputs import (
    HeadOptions,
    HeadOutputs,
    depth_topic,
    describe_heads,
    event_mask,
    finish_depth,
    finish_flow,
    seen_by_sensor,
)
from f3_ros.heads import HeadInfo

FRAME = (41, 21)
GRID = (21, 11)  # every second pixel of the frame
NAN = np.float32(np.nan)


def info(kind: str, **values: Any) -> HeadInfo:
    return HeadInfo("flow" if kind == "flow" else "depth", (GRID[1], GRID[0]), 8, kind, **values)


def events(*pixels: tuple[int, int]) -> Events:
    x, y = (np.array([pixel[axis] for pixel in pixels], np.uint16) for axis in (0, 1))
    return Events(x, y, np.arange(len(pixels), dtype=np.int64), np.ones(len(pixels), np.uint8))


def test_relative_depth_is_published_as_it_is() -> None:
    raw = np.arange(GRID[0] * GRID[1], dtype=np.float32).reshape(GRID[1], GRID[0])
    raw[2, 3], raw[4, 5] = np.inf, np.nan
    depth = finish_depth(raw, info("relative"), FRAME, FRAME, HeadOptions())
    assert depth.dtype == np.float32
    assert np.argwhere(np.isnan(depth)).tolist() == [[2, 3], [4, 5]]
    valid = np.isfinite(raw)
    np.testing.assert_array_equal(depth[valid], raw[valid])  # zero, the farthest, stays


def test_metres_and_disparity() -> None:
    raw = np.array([[0.5, 2.0, 0.0], [-1.0, np.nan, 4.0]], np.float32)
    frame = (3, 2)
    metric = finish_depth(raw, info("metric"), frame, frame, HeadOptions())
    np.testing.assert_array_equal(metric, np.array([[0.5, 2.0, NAN], [NAN, NAN, 4.0]], np.float32))
    disparity = info("disparity", focal_baseline=123.78)
    metres = finish_depth(raw, disparity, frame, frame, HeadOptions())
    expected = np.float32(123.78) / np.array([[0.5, 2.0, NAN], [NAN, NAN, 4.0]], np.float32)
    np.testing.assert_array_equal(metres, expected)
    assert metres.dtype == np.float32


def test_disparity_without_a_baseline_stays_disparity() -> None:
    """As depth_ros.pipeline has it: nobody can tell metres, and no number is invalid but what is not finite."""
    raw = np.array([[0.5, 2.0, 0.0], [-1.0, np.nan, 4.0]], np.float32)
    depth = finish_depth(raw, info("disparity"), (3, 2), (3, 2), HeadOptions())
    np.testing.assert_array_equal(depth, raw)


def test_disparity_becomes_metres_after_the_resize() -> None:
    """Halfway between disparities 1 and 3 lies disparity 2, not the mean of the depths."""
    raw = np.array([[1.0, 3.0], [1.0, 3.0]], np.float32)
    depth = finish_depth(raw, info("disparity", focal_baseline=6.0), (3, 3), (3, 3), HeadOptions("sensor"))
    np.testing.assert_allclose(depth, np.broadcast_to([6.0, 3.0, 2.0], (3, 3)), rtol=1e-6)


def test_what_a_small_sensor_does_not_see_is_invalid() -> None:
    """A 21x11 sensor in the middle of a 41x21 frame: columns 10..30, rows 5..15; every second of them on the grid."""
    sensor = (21, 11)
    seen = seen_by_sensor(GRID, FRAME, sensor)
    assert np.flatnonzero(seen.any(axis=0)).tolist() == list(range(5, 16))
    assert np.flatnonzero(seen.any(axis=1)).tolist() == list(range(3, 8))
    depth = finish_depth(np.ones((GRID[1], GRID[0]), np.float32), info("relative"), FRAME, sensor, HeadOptions())
    np.testing.assert_array_equal(np.isfinite(depth), seen)
    _, valid = finish_flow(
        np.ones((2, GRID[1], GRID[0]), np.float32), events(), FRAME, sensor, HeadOptions(flow_mask="dense")
    )
    np.testing.assert_array_equal(valid, seen)


def test_events_mark_the_nearest_pixel_of_the_grid() -> None:
    some = events((0, 0), (40, 20), (7, 9), (10, 4))
    mask = event_mask(some, GRID, FRAME, FRAME)
    # 7 / 2 and 9 / 2 round half to even: 4 and 4.
    assert sorted(map(tuple, np.argwhere(mask).tolist())) == [(0, 0), (2, 5), (4, 4), (10, 20)]
    centred = event_mask(events((0, 0), (20, 10)), GRID, FRAME, (21, 11))
    assert sorted(map(tuple, np.argwhere(centred).tolist())) == [(2, 5), (8, 15)]
    own = event_mask(some, FRAME, FRAME, FRAME, "sensor")
    assert sorted(map(tuple, np.argwhere(own).tolist())) == [(0, 0), (4, 10), (9, 7), (20, 40)]
    assert not event_mask(events((41, 0), (0, 21)), GRID, FRAME, FRAME).any(), "pixels that the sensor does not have"


def test_a_sensor_larger_than_the_frame_is_cut() -> None:
    """A 61x31 sensor reaches ten columns and five rows beyond the 41x21 frame on every side."""
    some = events((0, 0), (60, 30), (10, 5), (50, 25), (9, 5))
    mask = event_mask(some, GRID, FRAME, (61, 31))
    assert sorted(map(tuple, np.argwhere(mask).tolist())) == [(0, 0), (10, 20)]
    raw = np.ones((2, GRID[1], GRID[0]), np.float32)
    _, valid = finish_flow(raw, some, FRAME, (61, 31), HeadOptions("sensor", "events"))
    assert sorted(map(tuple, np.argwhere(valid).tolist())) == [(5, 10), (25, 50)]


@pytest.mark.parametrize("resolution", ["grid", "sensor"])
def test_flow_is_nan_without_events_and_in_pixels_of_its_image(resolution: Any) -> None:
    raw = np.stack([np.full((11, 21), 3.0), np.full((11, 21), -1.0)]).astype(np.float32)
    some = events((4, 2), (30, 10))
    flow, valid = finish_flow(raw, some, FRAME, FRAME, HeadOptions(resolution))
    published = HeadOutputs(dense_flow=flow, flow_valid=valid).flow
    assert published is not None
    scale, places = (1, [(1, 2), (5, 15)]) if resolution == "grid" else (2, [(2, 4), (10, 30)])
    size = GRID if resolution == "grid" else FRAME
    assert published.shape == (size[1], size[0], 2)
    assert published.dtype == np.float32
    assert sorted(map(tuple, np.argwhere(np.isfinite(published).all(axis=2)).tolist())) == places
    assert np.isnan(published).any(axis=2).sum() == size[0] * size[1] - 2
    np.testing.assert_allclose(published[places[0]], [3.0 * scale, -1.0 * scale], rtol=1e-6)
    dense, everywhere = finish_flow(raw, some, FRAME, FRAME, HeadOptions(resolution, "dense"))
    assert everywhere.all()
    np.testing.assert_array_equal(dense, flow)
    raw[0, 1, 2] = np.inf
    _, valid = finish_flow(raw, some, FRAME, FRAME, HeadOptions())
    assert not valid[1, 2]


def test_names_say_what_values_mean() -> None:
    assert depth_topic(info("relative")) == "relative_depth"
    assert depth_topic(info("metric")) == depth_topic(info("disparity", focal_baseline=2.0)) == "depth"
    assert depth_topic(info("disparity")) == "relative_depth"
    assert describe_heads({"depth": info("disparity")}) == {"depth_meaning": "disparity in pixels, larger is nearer"}
    told = describe_heads({"depth": info("disparity", focal_baseline=2.0)})
    assert told == {"depth_meaning": "metres, focal_baseline / disparity"}
    told = describe_heads({"depth": info("metric"), "flow": info("flow", interval_us=50_000)})
    assert told["depth_meaning"] == "metres"
    assert told["flow_interval_us"] == "50000"
    assert describe_heads({}) == {}


def test_unknown_choices_are_named() -> None:
    with pytest.raises(InputError, match="expected output_resolution to be grid or sensor, found 'full'"):
        HeadOptions("full")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected flow_mask to be events or dense, found 'none'"):
        HeadOptions(flow_mask="none")  # type: ignore[arg-type]
    assert HeadOutputs().flow is None
