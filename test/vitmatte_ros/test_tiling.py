# SPDX-License-Identifier: Apache-2.0
"""Which windows of a large image are computed, and how they fade into each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from vitmatte_ros.tiling import Blend, Window, grown, plan_tiles, unknown_window
from vitmatte_ros.trimap import UNKNOWN


def with_unknown(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A trimap that is unknown in boxes (y, x, height, width)."""
    trimap = np.zeros(shape, np.uint8)
    for box in boxes:
        trimap[Window(*box).slices] = UNKNOWN
    return trimap


def test_the_unknown_region_and_its_margin() -> None:
    trimap = with_unknown((100, 200), (40, 150, 10, 20))
    assert unknown_window(trimap, 0) == Window(40, 150, 10, 20)
    assert unknown_window(trimap, 35) == Window(5, 115, 80, 85)
    assert unknown_window(np.zeros((5, 5), np.uint8), 3) is None


def test_windows_grow_towards_real_pixels() -> None:
    assert grown(Window(90, 0, 10, 10), (100, 100), (30, 40)) == Window(70, 0, 30, 40)
    assert grown(Window(45, 45, 10, 10), (100, 100), (30, 200)) == Window(35, 0, 30, 100)
    assert grown(Window(10, 10, 50, 50), (100, 100), (30, 30)) == Window(10, 10, 50, 50)


def test_an_image_that_fits_is_one_window_without_padding() -> None:
    assert plan_tiles(with_unknown((90, 120), (3, 3, 1, 1)), (96, 128)) == [Window(0, 0, 90, 120)]
    assert plan_tiles(np.full((90, 120), 255, np.uint8), (96, 128)) == []


def test_a_small_object_in_a_large_image_is_one_window() -> None:
    tiles = plan_tiles(with_unknown((1088, 1920), (500, 900, 80, 120)), (512, 512), margin=64)
    assert tiles == [Window(284, 704, 512, 512)]


def test_a_large_object_is_a_grid_without_the_empty_tiles() -> None:
    trimap = with_unknown((1088, 1920), (10, 10, 1060, 20), (10, 1800, 1060, 20))
    tiles = plan_tiles(trimap, (512, 512), overlap=64)
    assert {(tile.height, tile.width) for tile in tiles} == {(512, 512)}
    assert sorted({tile.x for tile in tiles}) == [0, 1884 - 512]
    assert len(tiles) == 6


def test_an_image_larger_in_one_direction() -> None:
    tiles = plan_tiles(np.full((100, 300), UNKNOWN, np.uint8), (128, 128), overlap=32)
    assert tiles == [Window(0, 0, 100, 128), Window(0, 86, 100, 128), Window(0, 172, 100, 128)]


def test_an_overlap_as_large_as_the_tile() -> None:
    with pytest.raises(InputError, match="tile overlap of 0 to 63 pixels, found 64"):
        plan_tiles(np.full((100, 300), UNKNOWN, np.uint8), (64, 128), overlap=64)


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.integers(0, 7),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
)
def test_every_unknown_pixel_is_covered_and_constants_stay_constant(
    shape: tuple[int, int], size: tuple[int, int], overlap: int, margin: int, seed: int
) -> None:
    trimap = np.where(np.random.default_rng(seed).random(shape) > 0.98, UNKNOWN, 0).astype(np.uint8)
    blend = Blend(shape, overlap)
    covered = np.zeros(shape, bool)
    for tile in plan_tiles(trimap, size, overlap=overlap, margin=margin):
        assert tile.height <= size[0]
        assert tile.width <= size[1]
        assert min(tile.y, tile.x) >= 0
        assert tile.y + tile.height <= shape[0]
        assert tile.x + tile.width <= shape[1]
        covered[tile.slices] = True
        blend.add(tile, np.full((tile.height, tile.width), 0.7, np.float32))
    assert covered[trimap == UNKNOWN].all()
    np.testing.assert_allclose(blend.result(np.zeros(shape, np.float32)), np.where(covered, 0.7, 0.0), rtol=1e-5)


def test_tiles_fade_into_each_other() -> None:
    blend = Blend((4, 100), 20)
    blend.add(Window(0, 0, 4, 60), np.zeros((4, 60), np.float32))
    blend.add(Window(0, 40, 4, 60), np.ones((4, 60), np.float32))
    row = blend.result(np.full((4, 100), 9, np.float32))[0]
    assert (row[:40] == 0).all()
    assert (row[60:] == 1).all()
    assert (np.diff(row[39:61]) > 0).all()
    assert row[49] + row[50] == pytest.approx(1)
