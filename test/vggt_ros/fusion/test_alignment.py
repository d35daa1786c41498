# SPDX-License-Identifier: Apache-2.0
"""Scale and shift in disparity: accuracy on the room, covariance, gates, smoothing, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_room import Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.alignment import AlignmentLimits, DisparityFit, depth_from_disparity, fit_disparity
from vggt_ros.fusion.smoothing import CameraCalibration, DisparityFilter, SmoothingConfig


def _fit(scale: float, shift: float, sigma: float = 0.005, problem: str = "") -> DisparityFit:
    return DisparityFit(np.array([scale, shift]), np.eye(2) * sigma**2, 0.01, 0.9, 1000, problem)


@pytest.mark.parametrize("frame", range(12))
def test_scale_shift_and_depth_of_the_room_are_found_despite_gross_errors(room: Room, frame: int) -> None:
    relative = room.relative["rel_disparity"][frame].astype(np.float32)
    fit = fit_disparity(relative, room.static_depth[frame])
    assert fit.accepted, fit.problem
    assert fit.parameters[0] == pytest.approx(room.relative["inv_depth_scale"][frame], abs=0.005)
    assert fit.parameters[1] == pytest.approx(room.relative["inv_depth_shift"][frame], abs=0.005)
    depth = depth_from_disparity(relative, fit.parameters)
    error = np.abs(depth - room.frames["depth"][frame])[room.still(frame)]
    assert np.nanmedian(error) <= 0.025


def test_a_fit_without_noise_is_exact_and_the_same_in_every_run() -> None:
    relative = np.random.default_rng(1).uniform(0, 3, (60, 80)).astype(np.float32)
    reference = 1 / (0.3 * relative.astype(np.float64) + 0.2)
    first, second = fit_disparity(relative, reference), fit_disparity(relative, reference)
    np.testing.assert_allclose(first.parameters, [0.3, 0.2], atol=1e-9)
    np.testing.assert_array_equal(first.parameters, second.parameters)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_the_covariance_says_how_far_fits_scatter() -> None:
    random = np.random.default_rng(5)
    limits = AlignmentLimits(independent=10**9)  # the noise here is independent from pixel to pixel
    offsets = []
    for _ in range(60):
        relative = random.uniform(0, 2, (40, 50))
        disparity = 0.5 * relative + 0.1 + random.normal(0, 0.02, relative.shape)
        fit = fit_disparity(relative, 1 / np.clip(disparity, 1e-3, None), limits=limits)
        offsets.append((fit.parameters - [0.5, 0.1]) / np.sqrt(np.diag(fit.covariance)))
    spread = np.std(offsets, axis=0)
    assert ((spread > 0.7) & (spread < 1.4)).all(), spread


def test_pixels_without_weight_do_not_count() -> None:
    relative = np.random.default_rng(2).uniform(0, 2, (40, 50))
    reference = 1 / (0.5 * relative + 0.1)
    reference[:25] = 1 / (0.9 * relative[:25] + 0.4)
    weight = np.ones_like(relative)
    weight[:25] = 0
    fit = fit_disparity(relative, reference, weight)
    np.testing.assert_allclose(fit.parameters, [0.5, 0.1], atol=1e-9)
    assert fit.pixels == 15 * 50


def test_what_cannot_be_fitted_says_why() -> None:
    varied = np.random.default_rng(0).uniform(0, 2, (40, 50))
    depth = 1 / (0.5 * varied + 0.1)
    assert "found 0" in fit_disparity(varied, np.full_like(depth, np.nan)).problem
    assert "found 0" in fit_disparity(np.full_like(varied, np.nan), depth).problem
    assert "one disparity everywhere" in fit_disparity(np.ones_like(varied), depth).problem
    assert "scale above 0" in fit_disparity(-varied, depth).problem
    unrelated = 1 / np.random.default_rng(9).uniform(0.1, 1.1, varied.shape)
    assert not fit_disparity(varied, unrelated).accepted
    assert np.isnan(fit_disparity(np.ones_like(varied), depth).parameters).all()
    with pytest.raises(InputError, match="one size"):
        fit_disparity(varied, depth[:20])


def test_disparity_of_nothing_or_of_infinity_is_no_depth() -> None:
    depth = depth_from_disparity(np.array([[np.nan, np.inf, 0.0, -1.0, 1.0]]), np.array([0.5, 0.0]), range_max=50)
    np.testing.assert_array_equal(depth, [[np.nan, np.nan, np.nan, np.nan, 2.0]])


def test_a_slow_filter_smooths_and_a_fast_one_follows() -> None:
    random = np.random.default_rng(4)
    slow, fast = (DisparityFilter(SmoothingConfig(drift=drift)) for drift in (1e-4, 1.0))
    last = {}
    for _ in range(50):
        scale = 0.5 + random.normal(0, 0.02)
        for name, one in (("slow", slow), ("fast", fast)):
            used, problem = one.update("left", _fit(scale, 0.1, 0.02))
            assert used is not None
            assert not problem
            last[name] = used[0]
    assert last["slow"] == pytest.approx(0.5, abs=0.01)
    assert last["fast"] == pytest.approx(scale, abs=0.002)
    assert slow.cameras["left"].covariance[0, 0] < 0.1 * 0.02**2


def test_an_exponential_average_can_be_asked_for() -> None:
    one = DisparityFilter(SmoothingConfig(average=0.25))
    for scale in (0.5, 0.54, 0.54):
        used, _ = one.update("left", _fit(scale, 0.1, 0.02))
    assert used is not None
    np.testing.assert_allclose(used, [0.5 + 0.04 * (1 - 0.75**2), 0.1], atol=1e-12)


def test_an_outlier_is_rejected_and_a_lasting_change_believed() -> None:
    one = DisparityFilter(SmoothingConfig(drift=0.01, restart_after=3))
    one.update("left", _fit(0.5, 0.1))
    for _ in range(2):
        used, problem = one.update("left", _fit(0.9, 0.4))
        np.testing.assert_array_equal(used, [0.5, 0.1])
        assert "near the last ones" in problem
    used, problem = one.update("left", _fit(0.9, 0.4))
    assert not problem
    np.testing.assert_array_equal(used, [0.9, 0.4])


def test_a_bad_fit_leaves_the_calibration_as_it_was() -> None:
    one = DisparityFilter()
    assert one.update("left", _fit(0.5, 0.1, problem="too few")) == (None, "too few")
    one.update("left", _fit(0.5, 0.1))
    used, problem = one.update("left", _fit(np.nan, np.nan, problem="too few"))
    np.testing.assert_array_equal(used, [0.5, 0.1])
    assert problem == "too few"


def test_calibrations_survive_a_file(tmp_path: Path) -> None:
    one, other = DisparityFilter(), DisparityFilter()
    one.update("left", _fit(0.51, -0.03))
    one.update("front", _fit(1.2, 0.4, 0.1))
    one.save(tmp_path / "calibration.json")
    other.load(tmp_path / "calibration.json")
    assert other.cameras.keys() == {"left", "front"}
    for name in one.cameras:
        np.testing.assert_array_equal(one.cameras[name].parameters, other.cameras[name].parameters)
        np.testing.assert_array_equal(one.cameras[name].covariance, other.cameras[name].covariance)
    other.reset()
    assert not other.cameras


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "aot_perception disparity calibration", "version": 2, "cameras": {}}',
        '{"format": "aot_perception disparity calibration", "version": 1, "cameras": {"a": {"scale": 1}}}',
        '{"format": "aot_perception disparity calibration", "version": 1,'
        ' "cameras": {"a": {"scale": NaN, "shift": 0, "covariance": [[1, 0], [0, 1]]}}}',
        '{"format": "aot_perception disparity calibration", "version": 1,'
        ' "cameras": {"a": {"scale": 1, "shift": 0, "covariance": [[-1, 0], [0, 1]]}}}',
    ],
)
def test_files_that_are_no_calibration_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    one = DisparityFilter(cameras={"b": CameraCalibration(np.ones(2), np.eye(2))})
    with pytest.raises(InputError, match="expected 'aot_perception disparity calibration'"):
        one.load(path)
    assert one.cameras.keys() == {"b"}
