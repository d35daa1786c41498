# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.flow_pictures import _paint, draw_flow, flow_overlay, flow_picture, flow_scale, flow_wheel, scale_wheel


@pytest.fixture(scope="module")
def viz(shared: Path) -> Any:
    with np.load(shared / "golden" / "f3" / "f3_viz.npz") as archive:
        return {key: archive[key] for key in archive.files}


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """The README's bound: exact up to one grey level in half a per cent of the pixels."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_flow_picture_is_the_official_one(viz: Any) -> None:
    flow = viz["in::flow_B2HW"][0]
    assert_close(flow_picture(flow), viz["out::flow_viz_bgr"])
    assert_close(flow_picture(flow, norm=True), viz["out::flow_viz_norm_bgr"])


def test_overlay_is_the_official_one(viz: Any) -> None:
    mask = viz["out::events_plot_as_written_bgr"].any(axis=2)
    assert_close(flow_overlay(flow_picture(viz["in::flow_B2HW"][0]), mask), viz["out::flow_viz_overlay_bgr"])


def test_wheel_is_the_official_one(viz: Any) -> None:
    found, expected = flow_wheel(40, 30), viz["out::color_wheel_40x30_bgr"]
    assert_close(found[:, :32], expected[:, :32])
    # The OpenCV that wrote the golden file rounds in the columns that no longer fill its vectors.
    away = np.meshgrid(np.linspace(-20, 20, 40), np.linspace(-15, 15, 30))
    magnitude, angle = cv2.cartToPolar(*away)
    value = cv2.normalize(magnitude, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    painted = _paint((angle * 180 / np.pi / 2).astype(np.uint8), value)
    assert np.array_equal(found, painted.astype(np.uint8))
    assert_close(np.rint(painted[:, 32:]), expected[:, 32:])


def test_directions_and_displacements_of_the_fixed_scale() -> None:
    flow = np.array([[4.0, -4.0, 0.0, 2.0, 9.0, np.nan], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])[:, None]
    right, left, still, slow, fast, invalid = draw_flow(flow, 4.0)[0].tolist()
    assert right == [0, 0, 255]
    assert left == [255, 255, 0]
    assert still == [255, 255, 255]
    assert slow == [128, 128, 255]
    assert fast == [0, 0, 191]
    assert invalid == [0, 0, 0]


def test_a_colour_means_one_displacement_in_every_picture() -> None:
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(2, 8, 9))
    other = np.concatenate([flow, 50 * rng.normal(size=(2, 8, 9))], axis=1)
    assert np.array_equal(draw_flow(flow, 3.0), draw_flow(other, 3.0)[:8])


def test_scale_fits_the_flow() -> None:
    flow = np.zeros((2, 10, 100), np.float32)
    assert flow_scale(flow) == 1.0
    flow[0] = 3.0
    flow[0, 0, 0] = 1e6
    flow[1, 0, 1] = np.nan
    assert flow_scale(flow) == pytest.approx(3.0)
    assert flow_scale(np.full((2, 2, 2), np.nan)) == 1.0
    assert np.array_equal(draw_flow(flow), draw_flow(flow, 3.0))


def test_legend() -> None:
    flow = np.zeros((2, 240, 320))
    picture = draw_flow(flow, 5.0, legend=True)
    assert np.array_equal(picture[-60:, :60], scale_wheel(60, 5.0))
    assert (picture[:-60] == 255).all()
    wheel = scale_wheel(40, 5.0)
    assert not wheel[0, 0].any()  # outside the disc
    assert (wheel[20, 20] > 240).all()  # at rest
    assert wheel[20, 39].argmax() == 2  # red to the right
    assert (draw_flow(flow[:, :20, :20], 5.0, legend=True) == 255).all()  # no room for one


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"\(2, H, W\)"):
        flow_picture(np.zeros((3, 4, 2)))
    with pytest.raises(InputError, match="above 0"):
        draw_flow(np.zeros((2, 4, 4)), 0.0)
