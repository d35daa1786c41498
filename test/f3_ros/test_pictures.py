# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from aot_runtime.pca import PcaBasis, pca_picture
from f3_ros.pictures import (
    event_picture,
    feature_norm_picture,
    grey_picture,
    prediction_picture,
)


@pytest.fixture(scope="module")
def viz(shared: Path) -> Any:
    with np.load(shared / "golden" / "f3" / "f3_viz.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def features(viz: Any) -> np.ndarray:
    """(C, H, W) float32."""
    return np.ascontiguousarray(viz["in::feat_HWC"].astype(np.float32).transpose(2, 0, 1))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """The README's bound: exact up to one grey level in half a per cent of the pixels."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_event_picture_is_the_official_one(viz: Any) -> None:
    events = viz["in::events"]
    x, y = np.rint(events[:, 0] * 48), np.rint(events[:, 1] * 36)
    assert np.array_equal(event_picture(x, y, events[:, 3], 48, 36), viz["out::events_plot_as_written_bgr"])


def test_event_picture_last_event_wins_and_outsiders_are_left_out() -> None:
    picture = event_picture(np.array([1, 1, 9, -1]), np.array([0, 0, 0, 0]), np.array([1, 0, 1, 1]), 3, 2)
    assert picture[0, 1].tolist() == [0, 0, 255]
    assert picture.sum() == 255
    assert not event_picture(*np.zeros((3, 0)), 3, 2).any()


def test_pca_pictures_are_the_official_ones(viz: Any, features: np.ndarray) -> None:
    picture = pca_picture(features)
    # Both official pictures hold the same bytes; component 1 lands in the first channel. A sign may flip.
    for channel in range(3):
        expected = viz["out::f3_feat_pca_bgr"][..., channel]
        found = picture[..., channel]
        assert_close(found, expected) if found[0, 0] == expected[0, 0] else assert_close(255 - found, expected)
    assert np.array_equal(viz["out::f3_feat_pca_bgr"], viz["out::viz_pca_rgb"])


def test_feature_norm_is_the_official_one(viz: Any, features: np.ndarray) -> None:
    assert_close(feature_norm_picture(features), viz["out::viz_featnorm_gray"])


def test_prediction_picture_is_the_official_one(viz: Any) -> None:
    found = prediction_picture(viz["in::pred_voxels_BWHT"][0])
    assert_close(found, viz["out::time_weighted_bgr"][0])


def test_a_basis_keeps_colours_from_frame_to_frame(features: np.ndarray) -> None:
    basis = PcaBasis.fit(features)
    assert np.array_equal(basis.paint(features), pca_picture(features))
    mirrored = PcaBasis(basis.mean, -basis.components, basis.deviation, basis.low, basis.high)
    noisy = features + 0.01 * np.random.default_rng(0).standard_normal(features.shape).astype(np.float32)
    following = PcaBasis.fit(noisy, previous=mirrored)
    assert ((following.components * mirrored.components).sum(1) > 0.9).all()
    # Values beyond the range of the basis saturate instead of wrapping around.
    assert basis.paint(10 * features).max() == 255


def test_degenerate_fields() -> None:
    assert not pca_picture(np.zeros((8, 4, 5), np.float32)).any()
    two = pca_picture(np.random.default_rng(0).random((2, 6, 5)))
    assert two.shape == (6, 5, 3)
    assert not two[..., 2].any()
    broken = np.random.default_rng(0).random((4, 6, 5))
    broken[0, 0, 0] = np.nan
    assert pca_picture(broken).shape == (6, 5, 3)
    assert grey_picture(np.full((2, 2), np.inf)).tolist() == [[0, 0], [0, 0]]
    assert grey_picture(np.array([[0.0, np.nan], [1.0, 2.0]])).tolist() == [[0, 0], [127, 255]]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(InputError, match=r"\(C, H, W\)"):
        pca_picture(np.zeros((4, 5)))
    with pytest.raises(InputError, match="8 channels"):
        PcaBasis.fit(np.random.default_rng(0).random((8, 4, 4))).paint(np.zeros((7, 4, 4)))
