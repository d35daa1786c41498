# SPDX-License-Identifier: Apache-2.0
"""The grid: its bounds, its rules, where cells lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aot_runtime.errors import InputError
from bev_ros.grid import RULES, BevGrid

NUSCENES: dict[str, Any] = {"x": (-51.2, 51.2, 0.8), "y": (-51.2, 51.2, 0.8), "z": (-5.0, 3.0, 8.0)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["small", "zbins", "all_out", "one_cell"])
def test_indices_of_the_goldens(shared: Path, name: str, rule: str) -> None:
    golden = load_file(shared / "golden" / "bev" / f"pool_{name}.safetensors")
    x, y, z = (tuple(row) for row in golden["bounds"].tolist())
    grid = BevGrid(x, y, z, rule)
    wanted = golden[f"index_{rule}"]
    inside = ((wanted >= 0) & (wanted < grid.counts)).all(-1, keepdims=True)
    np.testing.assert_array_equal(grid.cell_of(golden["points"]), np.where(inside, wanted, -1))


def test_counts_are_rounded() -> None:
    grid = BevGrid(**NUSCENES)
    assert (grid.nx, grid.ny, grid.nz) == (128, 128, 1)
    assert BevGrid((-50, 50, 1), (-30, 30, 0.1), (-10, 10, 20)).shape == (600, 100)


def test_the_two_rules_differ_in_one_strip() -> None:
    bounds: Any = ((0, 4, 1), (-2, 2, 1), (-1, 1, 2))
    points = [
        (-0.5, 0, 0),
        (-1.0, 0, 0),
        (0.0, 0, 0),
        (3.999, 1.999, 0.999),
        (4.0, 0, 0),
        (2, -2.5, -2.9),
        (2, 0, -3.0),
    ]
    trunc, floor = (BevGrid(*bounds, rule).cell_of(points)[:, 0].tolist() for rule in RULES)
    assert trunc == [0, -1, 0, 3, -1, 2, -1]
    assert floor == [-1, -1, 0, 3, -1, -1, -1]


def test_rows_are_y_and_columns_are_x() -> None:
    grid = BevGrid((0, 30, 10), (-20, 20, 10), (-1, 1, 1), "floor")
    # Ten metres ahead, fifteen to the left, upper half.
    assert grid.cell_of((12, 15, 0.5)).tolist() == [1, 3, 1]
    assert int(grid.flat_cell_of((12, 15, 0.5))) == 3 * 3 + 1
    assert int(grid.flat_cell_of((12, 15, 0.5), keep_z=True)) == 1 * 4 * 3 + 3 * 3 + 1
    x, y, z = grid.centres()
    assert (x.tolist(), y.tolist(), z.tolist()) == ([5, 15, 25], [-15, -5, 5, 15], [-0.5, 0.5])
    np.testing.assert_array_equal(grid.position_of([(15, 15), (0, -20)]), [(1, 3), (-0.5, -0.5)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e300])
def test_points_that_are_no_points_are_outside(value: float) -> None:
    assert BevGrid(**NUSCENES).cell_of([(value, 0, 0), (0, value, 0), (0, 0, value)]).tolist() == [[-1, -1, -1]] * 3


def test_json_round_trip() -> None:
    grid = BevGrid(**NUSCENES, rule="floor")
    assert BevGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (-50, 50.5, 1)}, "multiple of the step"),
        ({"x": (0, 0.3, 1)}, "multiple of the step"),
        ({"y": (1, 1, 1)}, "low < high"),
        ({"y": (-1, 1, 0)}, "step above 0"),
        ({"y": (-1, 1, -1)}, "step above 0"),
        ({"z": (-1, np.nan, 1)}, "finite"),
        ({"z": (-1, 1)}, "(low, high, step)"),
        ({"z": "abc"}, "(low, high, step)"),
        ({"rule": "round"}, "trunc or floor"),
    ],
)
def test_impossible_grids_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        BevGrid(**(NUSCENES | change))
    assert message in str(caught.value)


@pytest.mark.parametrize("told", [{}, [], {"x": [0, 1, 1], "y": [0, 1, 1], "z": [0, 1, 1], "w": 1}, None])
def test_malformed_json_is_refused(told: Any) -> None:
    with pytest.raises(InputError, match="grid"):
        BevGrid.from_json(told)
