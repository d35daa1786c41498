# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.flow_metrics import MVSEC_ROWS, eval_flow, valid_flow


@pytest.fixture(scope="module")
def viz(shared: Path) -> Any:
    with np.load(shared / "golden" / "f3" / "f3_viz.npz") as archive:
        return {key: archive[key] for key in archive.files}


def test_the_official_numbers(viz: Any) -> None:
    prediction, truth = (viz[f"in::flow_{name}_BHW2"][0].transpose(2, 0, 1) for name in ("pred", "gt"))
    # They were computed in float32.
    assert eval_flow(prediction, truth) == pytest.approx(json.loads(str(viz["out::eval_flow_json"])), rel=2e-6)


def test_a_constant_shift_has_known_errors() -> None:
    truth = np.random.default_rng(0).normal(size=(2, 6, 7))
    shift = np.array([1.5, 2.0])[:, None, None]
    found = eval_flow(truth + shift, truth)
    assert found["aepe"] == pytest.approx(2.5)
    assert (found["1pe"], found["2pe"], found["3pe"]) == (100, 100, 0)
    assert max(eval_flow(truth, truth).values()) == pytest.approx(0, abs=1e-5)


def test_angles_are_those_of_unit_time() -> None:
    zero, right, down = np.zeros((2, 1)), np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    assert eval_flow(right, zero)["aae"] == pytest.approx(45)
    assert eval_flow(right, down)["aae"] == pytest.approx(60)
    assert eval_flow(1e9 * right, -1e9 * right)["aae"] == pytest.approx(180)


def test_half_of_the_pixels_wrong() -> None:
    truth = np.ones((2, 2, 10))
    prediction = truth.copy()
    prediction[0, 0] += 10
    assert eval_flow(prediction, truth)["3pe"] == 50
    valid = np.zeros((2, 10), bool)
    valid[1] = True
    assert eval_flow(prediction, truth, valid)["aepe"] == 0


def test_valid_pixels() -> None:
    truth = np.ones((2, 4, 3))
    truth[:, 0, 0] = 0  # unknown
    truth[1, 0, 1] = 0  # moves along x only
    truth[0, 1, 1] = np.nan
    valid = valid_flow(truth)
    assert valid.sum() == 10
    assert valid[0].tolist() == [False, True, True]
    events = np.zeros((4, 3), np.uint8)
    events[:2] = 255
    assert valid_flow(truth, events).sum() == 4
    assert valid_flow(truth, events, rows=1).sum() == 2
    mvsec = valid_flow(np.ones((2, 260, 346)), rows=MVSEC_ROWS)
    assert mvsec[192].all()
    assert not mvsec[193:].any()


def test_mistakes_are_named() -> None:
    flow = np.zeros((2, 3, 4))
    with pytest.raises(InputError, match="one shape"):
        eval_flow(flow, flow[:, :2])
    with pytest.raises(InputError, match="found none"):
        eval_flow(flow, flow, np.zeros((3, 4), bool))
    with pytest.raises(InputError, match="finite"):
        eval_flow(flow + np.nan, flow)
    with pytest.raises(InputError, match="mask of events"):
        valid_flow(flow, np.ones((4, 3)))
