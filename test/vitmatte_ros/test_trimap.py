# SPDX-License-Identifier: Apache-2.0
"""Trimaps: codings, what is made of masks, probabilities and depth, and smoothing over time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from vitmatte_ros.trimap import (
    BACKGROUND,
    FOREGROUND,
    UNKNOWN,
    TrimapCoding,
    TrimapSmoother,
    auto_radius,
    counts_of,
    trimap_from_depth,
    trimap_from_mask,
    trimap_from_probability,
    widen_unknown,
)


def grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return np.asarray(image)


def disc(size: int = 200, radius: int = 60) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return np.asarray(x**2 + y**2 < radius**2)


# -- codings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "percent"), [("bulb", [90.1, 8.8, 1.1]), ("retriever", [38.8, 14.7, 46.6])])
def test_the_real_trimaps(shared: Path, name: str, percent: list[float]) -> None:
    pixels = grey(shared / "data" / "matting" / f"{name}_trimap.png")
    trimap = TrimapCoding().decode(pixels)
    np.testing.assert_array_equal(trimap, pixels)
    counts = counts_of(trimap)
    assert list(counts) == ["background", "unknown", "foreground"]
    assert [round(100 * n / trimap.size, 1) for n in counts.values()] == percent


def test_antialiased_and_jpeg_trimaps_snap_to_the_nearest(shared: Path) -> None:
    clean = grey(shared / "data" / "matting" / "retriever_trimap.png")
    blurred = cv2.GaussianBlur(clean, (0, 0), 1.0)
    _, data = cv2.imencode(".jpg", clean, [cv2.IMWRITE_JPEG_QUALITY, 60])
    for unclean in (blurred, cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)):
        assert len(np.unique(unclean)) > 20
        trimap = TrimapCoding().decode(unclean)
        assert set(np.unique(trimap)) == {BACKGROUND, UNKNOWN, FOREGROUND}
        assert np.mean(trimap != clean) < 0.01


def test_thresholds_between_the_codes() -> None:
    ramp = np.repeat(np.array([[0, 63, 64, 65, 128, 191, 192, 255]], np.uint8), 1, axis=0)
    wide = np.concatenate([np.full((9, 8), 128, np.uint8), ramp])
    assert TrimapCoding().decode(wide)[-1].tolist() == [0, 0, 0, 128, 128, 128, 255, 255]


def test_another_coding_declared() -> None:
    ids = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    assert TrimapCoding(0, 2, 1).decode(ids).tolist() == [[0, 255, 128], [128, 255, 0]]
    assert TrimapCoding.parse("0,2,1") == TrimapCoding(0, 2, 1)
    assert str(TrimapCoding()) == "0,128,255"


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([0, 1, 2], "0,128,255"),
        ([0, 1], "0,128,255"),
        ([0, 128, 255], "0,1,2"),
        ([0, 50, 90, 180, 210], "0,128,255"),
        ([10, 200], "0,1,2"),
    ],
)
def test_a_coding_that_was_not_declared(values: list[int], coding: str) -> None:
    pixels = np.resize(np.array(values, np.uint8), (20, 20))
    with pytest.raises(InputError) as caught:
        TrimapCoding.parse(coding).decode(pixels, "~/trimap")
    assert f"expected ~/trimap in the coding {coding}" in str(caught.value)
    assert f"found the values {values[0]}, {values[1]}" in str(caught.value)
    assert "declare its coding" in caught.value.remedy


@pytest.mark.parametrize("value", [0, 128, 255])
def test_one_class_alone_is_a_trimap(value: int) -> None:
    pixels = np.full((4, 5), value, np.uint8)
    np.testing.assert_array_equal(TrimapCoding().decode(pixels), pixels)


@pytest.mark.parametrize("text", ["0,128", "a,b,c", "0,0,255", "0,128,256", ""])
def test_a_coding_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="expected a trimap coding"):
        TrimapCoding.parse(text)


@pytest.mark.parametrize(("shape", "kind"), [((2, 2, 3), "u1"), ((2, 2), "f4"), ((0, 2), "u1")])
def test_pixels_that_are_no_plane_of_bytes(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(InputError, match=r"\(height, width\) uint8"):
        TrimapCoding().decode(np.zeros(shape, kind))


# -- from masks --------------------------------------------------------------------------------------------------------


def test_a_mask_is_eroded_and_dilated() -> None:
    trimap = trimap_from_mask(disc(), inner=5, outer=9)
    y, x = np.mgrid[:200, :200] - 99.5
    r = np.hypot(x, y)
    assert (trimap[r < 53] == FOREGROUND).all()
    assert (trimap[(r > 57) & (r < 67)] == UNKNOWN).all()
    assert (trimap[r > 71] == BACKGROUND).all()


def test_radii_follow_the_size_of_the_object() -> None:
    assert auto_radius(disc(200, 20)) == 4
    assert auto_radius(np.ones((500, 500))) == 10
    assert auto_radius(np.ones((3000, 3000))) == 40
    np.testing.assert_array_equal(trimap_from_mask(disc()), trimap_from_mask(disc(), 4, 4))


def test_thin_parts_stay_unknown_and_the_border_is_no_edge() -> None:
    mask = np.zeros((60, 60), bool)
    mask[30, :] = True
    trimap = trimap_from_mask(mask, 3, 3)
    assert (trimap[30] == UNKNOWN).all()
    assert (trimap_from_mask(np.ones((60, 60)), 3, 3) == FOREGROUND).all()
    assert (trimap_from_mask(np.zeros((60, 60)), 3, 3) == BACKGROUND).all()


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_a_trimap_never_contradicts_its_mask(inner: int, outer: int, seed: int) -> None:
    noise = np.random.default_rng(seed).random((40, 50), np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 3) > 0.5
    trimap = trimap_from_mask(mask, inner, outer)
    assert mask[trimap == FOREGROUND].all()
    assert not mask[trimap == BACKGROUND].any()


def test_a_probability() -> None:
    soft = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (5, 1))
    trimap = trimap_from_probability(soft, 0.1, 0.9, widen=0)
    assert trimap[0, [9, 11, 89, 91]].tolist() == [BACKGROUND, UNKNOWN, UNKNOWN, FOREGROUND]
    assert trimap_from_probability(soft, 0.1, 0.9, widen=3)[0, [6, 7, 93, 94]].tolist() == [0, 128, 128, 255]
    hard = np.tile(np.repeat(np.float32([0, 1]), 10), (5, 1))
    assert trimap_from_probability(hard, widen=0)[0, 8:12].tolist() == [0, 128, 128, 255]
    soft[0, 0] = np.nan
    assert trimap_from_probability(soft)[0, 0] == UNKNOWN


def test_depth() -> None:
    depth = np.full((40, 60), 4.0, np.float32)
    depth[10:30, 20:40] = 1.0
    depth[0, 0] = np.nan
    depth[39, 59] = 0.0
    depth[35, 5] = 2.0
    trimap = trimap_from_depth(depth, near=1.5, far=3.0, edge_width=3)
    assert trimap[20, 30] == FOREGROUND
    assert trimap[2, 55] == BACKGROUND
    assert trimap[0, 0] == trimap[39, 59] == trimap[35, 5] == UNKNOWN
    assert trimap[20, 14:27].tolist() == [0, 0, 0] + [128] * 6 + [255] * 4


def test_depth_edges_within_the_background_do_not_matter() -> None:
    depth = np.full((40, 60), 4.0, np.float32)
    depth[:, 30:] = 8.0
    assert (trimap_from_depth(depth, 1.5, 3.0) == BACKGROUND).all()


def test_a_slanted_plane_has_no_false_edges() -> None:
    plane = np.tile(np.linspace(1.0, 5.0, 400, dtype=np.float32), (30, 1))
    trimap = trimap_from_depth(plane, 2.0, 2.5)
    assert counts_of(trimap)["unknown"] < 0.15 * trimap.size


def test_widening() -> None:
    trimap = np.zeros((1, 11), np.uint8)
    trimap[0, 5] = UNKNOWN
    assert widen_unknown(trimap, 2)[0].tolist() == [0, 0, 0, 128, 128, 128, 128, 128, 0, 0, 0]
    np.testing.assert_array_equal(widen_unknown(np.zeros((3, 3), np.uint8), 5), 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: trimap_from_mask(np.zeros((2, 2, 2))),
        lambda: trimap_from_mask(np.ones((3, 3)), inner=-1),
        lambda: trimap_from_probability(np.ones((3, 3)), 0.9, 0.1),
        lambda: trimap_from_depth(np.ones((3, 3)), 3.0, 1.0),
        lambda: widen_unknown(np.zeros((2, 2), np.uint8), -1),
        lambda: TrimapSmoother(weight=0),
        lambda: TrimapSmoother(enter=0.4, leave=0.3),
    ],
)
def test_arguments_that_make_no_sense(call) -> None:
    with pytest.raises(InputError, match="expected"):
        call()


# -- over time ---------------------------------------------------------------------------------------------------------


def test_flicker_becomes_unknown_and_steady_pixels_certain() -> None:
    smoother = TrimapSmoother()
    on = np.full((4, 4), FOREGROUND, np.uint8)
    flickering = on.copy()
    flickering[0, 0] = BACKGROUND
    last = None
    for n in range(40):
        last = smoother.smooth(on if n % 2 else flickering)
    assert last is not None
    assert last[0, 0] == UNKNOWN
    assert (last.reshape(-1)[1:] == FOREGROUND).all()
    for _ in range(5):
        last = smoother.smooth(on)
    assert (last == FOREGROUND).all()
    assert smoother.resets == 0


def test_a_single_wrong_frame_does_not_turn_a_pixel_over() -> None:
    smoother = TrimapSmoother(weight=0.25)
    calm = np.zeros((4, 4), np.uint8)
    wrong = calm.copy()
    wrong[1, 1] = FOREGROUND
    smoother.smooth(calm)
    assert smoother.smooth(wrong)[1, 1] == BACKGROUND
    assert smoother.smooth(calm)[1, 1] == BACKGROUND


def test_another_scene_or_size_starts_anew() -> None:
    smoother = TrimapSmoother()
    smoother.smooth(np.zeros((4, 4), np.uint8))
    assert (smoother.smooth(np.full((4, 4), FOREGROUND, np.uint8)) == FOREGROUND).all()
    assert smoother.smooth(np.zeros((5, 4), np.uint8)).shape == (5, 4)
    assert smoother.resets == 2
    smoother.reset()
    smoother.smooth(np.full((5, 4), FOREGROUND, np.uint8))
    assert smoother.resets == 2
