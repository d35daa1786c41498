# SPDX-License-Identifier: Apache-2.0
"""Which cells cameras reach, and the picture of a map: forward up, left on the left."""

from __future__ import annotations

import numpy as np
from bev_artifacts import tiny_rig

from bev_ros.config import preset
from bev_ros.preview import UNSEEN, Coverage, Painter, upright
from bev_ros.tables import build_tables


def test_coverage_is_where_the_tables_have_points() -> None:
    config, rig = preset("tiny"), tiny_rig()
    coverage = Coverage(config)
    found = coverage.of(rig)
    lengths = [
        build_tables(rig, config.frustum, config.grid, cameras=(name,)).lengths.reshape(config.grid.shape)
        for name in rig.names
    ]
    np.testing.assert_array_equal(found, sum((one > 0).astype(np.uint8) for one in lengths))
    assert coverage.of(rig) is found
    moved = rig.moved({"left": rig.camera("front").sensor_to_ego})
    assert coverage.of(moved).max() == 2
    assert not np.array_equal(coverage.of(moved), found)


def test_heights_that_are_kept_count_once() -> None:
    config = preset("tiny")
    high = preset(
        "tiny", grid=type(config.grid)(config.grid.x, config.grid.y, (-10.0, 10.0, 5.0), "floor"), keep_z=True
    )
    np.testing.assert_array_equal(Coverage(high).of(tiny_rig()) > 0, Coverage(config).of(tiny_rig()) > 0)


def test_forward_is_up_and_left_is_left() -> None:
    plane = np.zeros((4, 6))
    plane[3, 5] = 1  # far to the left, far ahead
    plane[0, 0] = 2  # far to the right, far behind
    turned = upright(plane)
    assert turned.shape == (6, 4)
    assert (turned[0, 0], turned[5, 3]) == (1, 2)


def test_cells_that_nobody_sees_are_grey_and_do_not_set_the_colours() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(8, 20, 20)).astype(np.float32)
    seen = random.random((20, 20)) < 0.3
    picture = Painter().paint(features, seen)
    assert (picture.shape, picture.dtype) == ((20, 20, 3), np.uint8)
    assert (picture[~upright(seen)] == UNSEEN).all()
    wild = np.where(seen, features, 1e6).astype(np.float32)
    np.testing.assert_array_equal(Painter().paint(wild, seen), picture)
    assert len(np.unique(picture[upright(seen)], axis=0)) > 20


def test_nothing_seen_and_values_that_are_not_finite() -> None:
    features = np.full((8, 4, 6), np.nan, np.float32)
    assert (Painter().paint(features, np.zeros((4, 6), bool)) == UNSEEN).all()
    assert Painter().paint(features, np.ones((4, 6), bool)).shape == (6, 4, 3)


def test_colours_of_a_video_do_not_flip() -> None:
    random = np.random.default_rng(1)
    features = (random.normal(size=(8, 20, 20)) * np.arange(8, 0, -1)[:, None, None]).astype(np.float32)
    seen = np.ones((20, 20), bool)
    painter = Painter()
    first, second = painter.paint(features, seen), painter.paint(features * 1.01, seen)
    assert np.abs(first.astype(int) - second).max() <= 1
