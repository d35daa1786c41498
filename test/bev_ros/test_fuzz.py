# SPDX-License-Identifier: Apache-2.0
"""Files that say anything, rigs that look anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bev_rigs import looking, ring
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from bev_ros.calibration import CameraCalibration, Rig, read_rig
from bev_ros.geometry import Frustum, lifts
from bev_ros.grid import BevGrid
from bev_ros.table_cache import TableCache
from bev_ros.tables import build_tables

FRUSTUM = Frustum((16, 24), 8, (1.0, 9.0, 2.0))
GRID = BevGrid((-6.0, 6.0, 1.5), (-5.0, 5.0, 1.0), (-2.0, 2.0, 4.0))
PER_TEST = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
ANYTHING = st.recursive(LEAVES, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(max_size=5), s, max_size=4))
KEYS = ("schema", "frame", "cameras")
CAMERA_KEYS = (*ring(1).cameras[0].to_json(), "intrinsics", "translation", "rotation")


@PER_TEST
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".json", ".yaml"]))
def test_any_bytes(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rig{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match="rig"):
        read_rig(path)


@PER_TEST
@given(key=st.sampled_from(KEYS), camera_key=st.sampled_from(CAMERA_KEYS), value=ANYTHING, inside=st.booleans())
def test_any_value_anywhere(key: str, camera_key: str, value: Any, inside: bool, tmp_path: Path) -> None:
    """It is a rig, or an error that names the file."""
    told = ring(2).to_json()
    if inside:
        told["cameras"][1][camera_key] = value
    else:
        told[key] = value
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(told))
    said = ""
    try:
        read_rig(path)
    except InputError as error:
        said = str(error)
    assert not said or str(path) in said


@PER_TEST
@given(data=st.data())
def test_any_damage_to_kept_tables(data: st.DataObject, tmp_path: Path) -> None:
    rig = ring(2, 64, 48, 40.0)
    wanted = TableCache(FRUSTUM, GRID, folder=tmp_path).get(rig)
    (path,) = tmp_path.iterdir()
    good = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(good[: data.draw(st.integers(0, len(good)))])
    found = TableCache(FRUSTUM, GRID, folder=tmp_path).find(rig)
    for name in ("ranks_feat", "ranks_depth", "offsets"):
        np.testing.assert_array_equal(getattr(found.tables, name), getattr(wanted, name))
    assert (found.origin == "built") == bool(found.problem)


@PER_TEST
@given(
    yaw=st.floats(-4, 4),
    pitch=st.floats(-1.5, 1.5),
    roll=st.floats(-3, 3),
    place=st.tuples(*[st.floats(-8, 8)] * 3),
    focal=st.floats(5, 500),
    rule=st.sampled_from(["trunc", "floor"]),
    keep_z=st.booleans(),
)
def test_any_pose(yaw: float, pitch: float, roll: float, place: Any, focal: float, rule: str, keep_z: bool) -> None:
    """Against every point by itself, but for those on a border, where rounding decides."""
    grid = BevGrid(GRID.x, GRID.y, (-2.0, 2.0, 1.0), rule)
    matrix = np.array([[focal, 0, 30], [0, focal, 25], [0, 0, 1]])
    rig = Rig((CameraCalibration("a", 64, 48, matrix, looking(yaw, place, pitch, roll)),))
    points = lifts(rig, FRUSTUM)[0].points(FRUSTUM.points()).reshape(-1, 3)
    wanted = grid.flat_cell_of(points, keep_z=keep_z)
    tables = build_tables(rig, FRUSTUM, grid, keep_z=keep_z)
    found = np.full(len(points), -1)
    found[tables.ranks_depth] = tables.ranks_bev
    cells = (points - grid.low) / grid.step
    clear = (np.abs(cells - np.round(cells)) > 1e-9).all(1)
    np.testing.assert_array_equal(found[clear], wanted[clear])
    assert (np.diff(tables.offsets) >= 0).all()
