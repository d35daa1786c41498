# SPDX-License-Identifier: Apache-2.0
"""Which points of a map go out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vggt_ros.fusion.surface import SurfacePoints
from vggt_ros.point_stream import FIELDS, PointStream


def surface(positions: np.ndarray, weights: np.ndarray | None = None) -> SurfacePoints:
    places = torch.from_numpy(np.asarray(positions, np.float32).reshape(-1, 3))
    colours = torch.tensor([[255.0, 128.4, 0.0]]).expand(len(places), 3)
    weight = torch.ones(len(places)) if weights is None else torch.from_numpy(np.asarray(weights, np.float32))
    return SurfacePoints(places, torch.zeros_like(places), colours, weight)


def test_fields_and_colour() -> None:
    assert FIELDS == ("x", "y", "z", "rgb", "confidence")
    (point,) = PointStream(0.1).whole(surface([[1, 2, 3]], np.array([0.5])))
    assert point[[0, 1, 2, 4]].tolist() == [1, 2, 3, 0.5]
    assert point[3:4].view(np.uint32)[0] == 0xFF8000


def test_an_empty_map() -> None:
    stream = PointStream(0.1)
    assert stream.whole(surface(np.zeros((0, 3)))).shape == (0, 5)
    assert stream.new(surface(np.zeros((0, 3)))).shape == (0, 5)


def test_points_that_are_not_sure_stay() -> None:
    points = PointStream(0.1, min_confidence=0.5).whole(surface([[0, 0, 0], [1, 1, 1]], np.array([0.4, 0.5])))
    assert points[:, 0].tolist() == [1]


def test_a_limit_takes_points_evenly_and_counts_the_others() -> None:
    stream = PointStream(0.1, max_points=5)
    line = np.linspace(0, 8, 9)[:, None] * [1, 0, 0]
    assert stream.whole(surface(line))[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert stream.left_out == 4
    # What was left out is new the next time.
    assert stream.new(surface(line))[:, 0].tolist() == [1, 3, 5, 7]
    assert stream.new(surface(line)).shape == (0, 5)
    assert stream.left_out == 0


def test_new_is_what_lies_where_nothing_lay() -> None:
    stream = PointStream(0.1)
    stream.whole(surface([[0.05, 0, 0], [-0.05, 0, 0]]))
    # Within the same cube it is not new; beyond zero there is another cube.
    assert len(stream.new(surface([[0.09, 0, 0], [-0.01, 0.01, 0]]))) == 0
    assert stream.new(surface([[0.05, 0, 0], [0.15, 0, 0]]))[:, 0] == pytest.approx([0.15])
    # The cube left of zero was empty meanwhile.
    assert stream.new(surface([[-0.05, 0, 0], [0.05, 0, 0]]))[:, 0] == pytest.approx([-0.05])


def test_points_too_far_for_a_number_of_their_own_do_no_harm() -> None:
    stream = PointStream(1e-3)
    far = surface([[1e9, 0, 0], [-1e9, 0, 0], [0, 0, 0]])
    assert len(stream.new(far)) == 3
    assert len(stream.new(far)) == 0
