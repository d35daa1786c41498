# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from depth_ros.metrics import aligned_depth, eval_depth, eval_disparity, fit_disparity, near_errors, valid_depth


@pytest.fixture(scope="module")
def viz(shared: Path) -> Any:
    with np.load(shared / "golden" / "f3" / "f3_viz.npz") as archive:
        return {key: archive[key] for key in archive.files}


def test_the_official_numbers(viz: Any) -> None:
    prediction, truth = viz["in::metric_pred"], viz["in::metric_target"]
    # They were computed in float32.
    for evaluate, name in ((eval_depth, "depth"), (eval_disparity, "disparity")):
        expected = json.loads(str(viz[f"out::eval_{name}_json"]))
        assert evaluate(prediction, truth) == pytest.approx(expected, rel=2e-6)


def test_a_perfect_prediction() -> None:
    truth = np.linspace(0.5, 40, 100)
    best = eval_depth(truth, truth)
    assert [best.pop(name) for name in ("d1", "d2", "d3")] == [1, 1, 1]
    assert set(best.values()) == {0}
    assert set(eval_disparity(truth, truth).values()) == {0}


def test_a_constant_factor_has_known_errors() -> None:
    truth = np.random.default_rng(0).uniform(1, 30, (4, 5))
    found = eval_depth(1.3 * truth, truth)
    assert (found["d1"], found["d2"], found["d3"]) == (0, 1, 1)
    assert found["abs_rel"] == pytest.approx(0.3)
    assert found["sq_rel"] == pytest.approx(0.09)
    assert found["rmse_log"] == pytest.approx(np.log(1.3))
    assert found["log10"] == pytest.approx(np.log10(1.3))
    assert found["silog"] == pytest.approx(np.log(1.3) * 0.5**0.5)


def test_a_constant_shift_has_known_errors() -> None:
    truth = np.array([5.0, 12.0, 25.0, 35.0])
    found = near_errors(truth + np.array([1.0, 2.0, 3.0, 4.0]), truth)
    assert found == pytest.approx({"mae_10": 1.0, "mae_20": 1.5, "mae_30": 2.0})
    assert np.isnan(near_errors(truth[3:], truth[3:])["mae_30"])
    disparity = eval_disparity(truth + 2.5, truth)
    assert (disparity["1pe"], disparity["2pe"], disparity["3pe"]) == (100, 100, 0)
    assert disparity["rmse"] == pytest.approx(2.5)
    assert np.isfinite(eval_disparity(np.zeros(3), truth[:3])["rmse_log"])


@pytest.mark.parametrize("how", ["least_squares", "median"])
def test_a_scaled_and_shifted_disparity_is_perfect_after_alignment(how: str) -> None:
    truth = np.random.default_rng(1).uniform(1, 30, (20, 30))
    relative = 37.0 / truth + 4.0
    truth_with_holes = truth.copy()
    truth_with_holes[:3] = np.inf
    truth_with_holes[3:5] = np.nan
    truth_with_holes[5] = 0.0
    np.testing.assert_allclose(aligned_depth(relative, truth_with_holes, how), truth, rtol=1e-9)
    assert fit_disparity(relative, 1 / truth, how) == pytest.approx((1 / 37, -4 / 37))


def test_least_squares_is_numpys() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert fit_disparity(x, y) == pytest.approx(np.polyfit(x, y, 1))


def test_the_median_ignores_an_outlier_that_moves_least_squares() -> None:
    truth = np.linspace(1, 10, 400)
    relative = 2 / truth
    relative[-1] = 1e3
    errors = {
        how: eval_depth(aligned_depth(relative, truth, how)[:-1], truth[:-1])["abs_rel"]
        for how in ("least_squares", "median")
    }
    assert errors["median"] < 0.01 < 0.5 < errors["least_squares"]


def test_the_fit_uses_the_mask_and_far_stays_finite() -> None:
    truth = np.linspace(2, 8, 40).reshape(4, 10)
    relative = 1 / truth
    relative[0] = 5.0
    mask = np.ones((4, 10), bool)
    mask[0] = False
    assert aligned_depth(relative, truth, mask=mask)[1:] == pytest.approx(truth[1:])
    far = aligned_depth(np.array([[0.5, 0.25, -1.0]]), np.array([[2.0, 4.0, np.nan]]))
    assert far[0, 2] == pytest.approx(1000)


def test_valid_pixels() -> None:
    prediction = np.array([1.0, np.nan, 1.0, 0.0, 1.0, 1.0, 1.0])
    truth = np.array([1.0, 1.0, np.inf, 1.0, -1.0, np.nan, 50.0])
    assert valid_depth(prediction, truth).tolist() == [True, False, False, False, False, False, True]
    assert valid_depth(prediction, truth, 20.0).sum() == 1


def test_mistakes_are_named() -> None:
    ones = np.ones(3)
    with pytest.raises(InputError, match=r"\(3,\)"):
        eval_depth(np.ones(4), ones)
    with pytest.raises(InputError, match=r"\(3,\)"):
        valid_depth(np.ones(4), ones)
    with pytest.raises(InputError, match="found none"):
        eval_disparity(ones[:0], ones[:0])
    with pytest.raises(InputError, match="above 0"):
        eval_depth(np.array([1.0, 0.0, 1.0]), ones)
    with pytest.raises(InputError, match="above 0"):
        eval_depth(ones, np.array([1.0, np.nan, 1.0]))
    with pytest.raises(InputError, match="varies"):
        fit_disparity(ones, np.arange(3.0))
    with pytest.raises(InputError, match="least_squares or median"):
        fit_disparity(ones, ones, "best")
    with pytest.raises(InputError, match="to align"):
        aligned_depth(ones, np.full(3, np.nan))
