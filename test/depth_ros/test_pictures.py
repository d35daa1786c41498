# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from depth_ros.pictures import COLOURS, colour_depth, grey_depth, limits_of, percentile_limits


@pytest.fixture(scope="module")
def viz(shared: Path) -> Any:
    with np.load(shared / "golden" / "f3" / "f3_viz.npz") as archive:
        return {key: archive[key] for key in archive.files}


def test_grey_depth_is_the_official_one(viz: Any) -> None:
    assert np.array_equal(grey_depth(viz["in::depth"]), viz["out::depth_colored_gray"])


def test_colour_depth_is_the_official_one(viz: Any) -> None:
    picture = colour_depth(viz["in::depth"], kind="disparity")
    assert np.array_equal(picture[..., ::-1], viz["out::disparity_magma_rgb"])


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_colours_are_matplotlibs(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the tables are compared with those of matplotlib")
    expected = matplotlib.colormaps[name](np.arange(256, dtype=np.uint8))[:, :3] * 255
    assert np.array_equal(COLOURS[name], expected.astype(np.uint8))


def test_colours_of_each_kind_and_invalid_pixels() -> None:
    depth = np.array([[1.0, 2.0, 3.0], [np.nan, np.inf, 2.5]], np.float32)
    mask = np.array([[True, True, True], [True, True, False]])
    metric = colour_depth(depth, mask, "metric")
    assert metric[0, 0].tolist() == [127, 0, 0]  # near is dark blue
    assert metric[0, 2].tolist() == [0, 0, 127]  # far is dark red
    assert not metric[1].any()
    assert colour_depth(depth, mask, "relative")[0, 2].tolist() == COLOURS["magma"][255][::-1].tolist()
    assert np.array_equal(colour_depth(depth, mask, "metric", colours="magma"), colour_depth(depth, mask))


def test_limits_give_the_same_colour_in_every_picture() -> None:
    near = colour_depth(np.array([[1.0, 4.0]]), kind="metric", limits=(0, 10))
    far = colour_depth(np.array([[4.0, 90.0]]), kind="metric", limits=(0, 10))
    assert np.array_equal(near[0, 1], far[0, 0])
    assert far[0, 1].tolist() == COLOURS["jet"][255][::-1].tolist()  # beyond the limit: its colour


def test_percentiles_ignore_outliers_and_invalid_values() -> None:
    depth = np.arange(1001, dtype=np.float32)[None]
    depth[0, 0] = np.nan
    depth[0, 1000] = 1e9
    low, high = percentile_limits(depth)
    assert 15 < low < 25
    assert 975 < high < 985
    assert percentile_limits(depth, np.zeros_like(depth, bool)) == (0.0, 0.0)


def test_degenerate_depths() -> None:
    assert not grey_depth(np.full((2, 3), 7.0)).any()
    assert not grey_depth(np.full((2, 3), np.nan)).any()
    assert not colour_depth(np.full((2, 3), np.nan)).any()
    assert limits_of(np.zeros((1, 1)), np.zeros((1, 1), bool)) == (0.0, 0.0)
    constant = colour_depth(np.full((2, 3), 7.0))
    assert (constant == COLOURS["magma"][0][::-1]).all()
    assert grey_depth(np.array([[0, 1], [2, 4]])).tolist() == [[0, 63], [127, 255]]


def test_mistakes_are_named() -> None:
    image = np.zeros((2, 3))
    with pytest.raises(InputError, match="relative, disparity, metric"):
        colour_depth(image, kind="stereo")
    with pytest.raises(InputError, match="magma, jet"):
        colour_depth(image, colours="rainbow")
    with pytest.raises(InputError, match=r"mask \(2, 3\)"):
        colour_depth(image, np.ones((3, 2), bool))
    with pytest.raises(InputError, match=r"\(H, W\)"):
        grey_depth(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="limits"):
        colour_depth(image, limits=(3, 1))
