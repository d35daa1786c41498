# SPDX-License-Identifier: Apache-2.0
"""Trimaps, masks, probabilities and depth as guidance: what each may look like, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aot_runtime.errors import InputError
from vitmatte_ros.guidance import GuidanceOptions, Guide
from vitmatte_ros.trimap import (
    BACKGROUND,
    FOREGROUND,
    UNKNOWN,
    TrimapCoding,
    counts_of,
    trimap_from_depth,
    trimap_from_mask,
    trimap_from_probability,
)

SIZE = (60, 80)


def disc(inside: float = 1.0, outside: float = 0.0) -> np.ndarray:
    canvas = np.full(SIZE, outside, np.float32)
    return np.asarray(cv2.circle(canvas, (40, 30), 18, inside, -1))


def guide(**options: object) -> Guide:
    return Guide(GuidanceOptions(**options))  # type: ignore[arg-type]


def test_each_kind_is_what_trimap_makes_of_it() -> None:
    trimap = trimap_from_mask(disc(), 4, 4)
    np.testing.assert_array_equal(guide().trimap(trimap, SIZE), trimap)
    np.testing.assert_array_equal(guide(kind="mask", inner=4, outer=4).trimap(disc().astype(bool), SIZE), trimap)
    np.testing.assert_array_equal(guide(kind="mask").trimap(disc().astype(np.uint8), SIZE), trimap_from_mask(disc()))
    soft = cv2.GaussianBlur(disc(), (0, 0), 2)
    np.testing.assert_array_equal(guide(kind="probability").trimap(soft, SIZE), trimap_from_probability(soft))
    depth = disc(0.8, 3.0)
    np.testing.assert_array_equal(
        guide(kind="depth", near=1.0, far=2.0).trimap(depth, SIZE), trimap_from_depth(depth, 1.0, 2.0)
    )


def test_bytes_and_millimetres() -> None:
    soft = cv2.GaussianBlur(disc(), (0, 0), 2)
    as_bytes = np.rint(soft * 255).astype(np.uint8)
    assert np.mean(guide(kind="probability").trimap(as_bytes, SIZE) != trimap_from_probability(soft)) < 0.01
    depth = disc(0.8, 3.0)
    wanted = trimap_from_depth(depth, 1.0, 2.0)
    millimetres = np.rint(depth * 1000).astype(np.uint16)
    np.testing.assert_array_equal(guide(kind="depth", near=1.0, far=2.0).trimap(millimetres, SIZE), wanted)


def test_class_ids() -> None:
    ids = disc(7, 3).astype(np.uint8)
    wanted = trimap_from_mask(ids == 7)
    np.testing.assert_array_equal(guide(kind="mask", class_ids=(7, 9)).trimap(ids, SIZE), wanted)
    assert (guide(kind="mask", class_ids=(9,)).trimap(ids, SIZE) == BACKGROUND).all()


def test_another_coding() -> None:
    coded = np.where(disc() > 0, 1, 0).astype(np.uint8)
    coded[28:32] = 2
    trimap = guide(coding=TrimapCoding(0, 2, 1)).trimap(coded, SIZE)
    assert (trimap[30] == UNKNOWN).all()
    assert trimap[20, 40] == FOREGROUND


def test_another_size_must_be_allowed() -> None:
    mask = disc().astype(np.uint8)
    with pytest.raises(InputError) as caught:
        guide(kind="mask").trimap(mask, (120, 160))
    assert "expected a mask of the image's 160x120 pixels, found 80x60" in str(caught.value)
    large = guide(kind="mask", inner=4, outer=4, resize=True).trimap(mask, (120, 160))
    np.testing.assert_array_equal(large[::2, ::2], trimap_from_mask(mask, 4, 4))


def test_old_guidance_is_less_certain() -> None:
    mask = disc().astype(np.uint8)
    fresh, old = (guide(kind="mask").trimap(mask, SIZE, extra_width=width) for width in (0, 5))
    assert counts_of(old)["unknown"] > 1.5 * counts_of(fresh)["unknown"]
    certain = old != UNKNOWN
    np.testing.assert_array_equal(old[certain], fresh[certain])


def test_smoothing_over_a_sequence_and_reset() -> None:
    smooth = guide(smoothing=0.5)
    off, on = np.full(SIZE, BACKGROUND, np.uint8), np.full(SIZE, BACKGROUND, np.uint8)
    on[:10, :10] = FOREGROUND
    assert smooth.trimap(off, SIZE)[0, 0] == BACKGROUND
    assert smooth.trimap(on, SIZE)[0, 0] == UNKNOWN
    smooth.reset()
    assert smooth.trimap(on, SIZE)[0, 0] == FOREGROUND


@pytest.mark.parametrize(
    ("options", "guidance", "said"),
    [
        ({}, np.zeros((60, 80, 3), np.uint8), "expected a trimap of one channel"),
        ({}, np.zeros((0, 80), np.uint8), "expected a trimap of one channel"),
        ({}, np.zeros(SIZE, np.float32), "uint8, found (60, 80) float32"),
        ({}, np.resize(np.array([0, 1, 2], np.uint8), SIZE), "found the values 0, 1, 2"),
        ({"kind": "mask"}, np.zeros(SIZE, np.float32), "expected a mask of integers, found float32"),
        ({"kind": "probability"}, np.full(SIZE, 255, np.float32), "expected probabilities of 0 .. 1, found 255"),
        ({"kind": "probability"}, np.zeros(SIZE, np.int32), "as float or uint8, found int32"),
        ({"kind": "depth"}, np.zeros(SIZE, np.uint8), "float metres or uint16 millimetres, found uint8"),
    ],
)
def test_what_is_refused(options: dict[str, object], guidance: np.ndarray, said: str) -> None:
    with pytest.raises(InputError) as caught:
        guide(**options).trimap(guidance, SIZE)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"kind": "chroma"}, {"low": 0.9, "high": 0.1}, {"near": 0.0}, {"near": 2.0, "far": 1.0}]
)
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        GuidanceOptions(**options)  # type: ignore[arg-type]
