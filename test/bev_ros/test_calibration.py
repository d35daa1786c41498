# SPDX-License-Identifier: Apache-2.0
"""Rigs: what is refused, what a file may say, what counts for the hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bev_rigs import looking, ring

from aot_runtime.errors import InputError
from aot_runtime.transforms import to_parts
from bev_ros.calibration import CameraCalibration, Rig, read_rig, write_rig

MATRIX = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
POSE = looking(0.3, (1.0, 0.2, 1.5))
NAN = np.where(np.eye(4) > 0, np.nan, 0.0)


def camera(**changes: Any) -> CameraCalibration:
    told: dict[str, Any] = {"name": "a", "width": 640, "height": 480, "matrix": MATRIX, "sensor_to_ego": POSE}
    return CameraCalibration(**(told | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name"),
        ({"width": 0}, "width"),
        ({"height": 480.5}, "height"),
        ({"height": True}, "height"),
        ({"matrix": np.eye(4)}, "shape (3, 3)"),
        ({"matrix": NAN[:3, :3]}, "finite"),
        ({"matrix": np.zeros((3, 3))}, "focal lengths above 0"),
        ({"matrix": MATRIX * 2}, "[0, 0, 1]"),
        ({"matrix": MATRIX.T}, "[0, 0, 1]"),
        ({"matrix": [["a"] * 3] * 3}, "numbers"),
        ({"sensor_to_ego": POSE[:3]}, "shape (4, 4)"),
        ({"sensor_to_ego": NAN}, "finite"),
        ({"sensor_to_ego": np.zeros((4, 4))}, "a rotation and a translation"),
        ({"sensor_to_ego": np.diag([1.0, 1, -1, 1])}, "right-handed"),
        ({"sensor_to_ego": np.diag([1.01, 1, 1, 1])}, "length 1"),
        ({"sensor_to_ego": POSE.T}, "last row"),
        ({"distortion": (0.1, float("inf"))}, "finite"),
        ({"distortion": ("a",)}, "numbers"),
    ],
)
def test_what_is_no_camera_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        camera(**changes)
    assert message in str(caught.value)


def test_matrices_are_copies_that_stay() -> None:
    given = POSE.copy()
    one = camera(sensor_to_ego=given)
    given[0, 3] = 9
    assert one.sensor_to_ego[0, 3] == POSE[0, 3]
    with pytest.raises(ValueError, match="read-only"):
        one.matrix[0, 0] = 1


def test_the_lens() -> None:
    assert not camera().camera.rays_bend
    bent = camera(distortion=(-0.1, 0, 0, 0, 0), model="plumb_bob").camera
    assert bent.rays_bend
    np.testing.assert_array_equal(bent.intrinsics, MATRIX)


def test_rigs_have_cameras_of_different_names() -> None:
    with pytest.raises(InputError, match="different names"):
        Rig(())
    with pytest.raises(InputError, match="different names"):
        Rig((camera(), camera()))
    rig = ring(3)
    assert rig.ordered(rig.names[::-1]).names == rig.names[::-1]
    with pytest.raises(InputError, match="found 'b'"):
        rig.camera("b")
    with pytest.raises(InputError, match="found 'b'"):
        rig.moved({"b": np.eye(4)})


def test_the_hash_is_of_what_the_rig_says() -> None:
    rig = ring(3)
    unit = Rig((CameraCalibration("a", 2, 1, np.eye(3), np.eye(4)),))
    # The same on every machine and in every run.
    text = (
        '{"cameras":[{"distortion":[],"height":1,"matrix":[[1.0,0.0,0.0],[0.0,1.0,0.0],[0.0,0.0,1.0]],"model":"",'
        '"name":"a","sensor_to_ego":[[1.0,0.0,0.0,0.0],[0.0,1.0,0.0,0.0],[0.0,0.0,1.0,0.0],[0.0,0.0,0.0,1.0]],'
        '"width":2}],"frame":"base_link","schema":1}'
    )
    assert unit.hash == hashlib.sha256(text.encode()).hexdigest()
    assert ring(3).hash == rig.hash
    minus_zero = replace(unit.cameras[0], sensor_to_ego=np.where(np.eye(4) == 0, -0.0, np.eye(4)))
    assert Rig((minus_zero,)).hash == unit.hash
    others = [
        rig.ordered(rig.names[::-1]),
        rig.ordered(rig.names[:2]),
        replace(rig, frame="ego"),
        replace(rig, cameras=(replace(rig.cameras[0], width=1601), *rig.cameras[1:])),
        rig.moved(
            {rig.names[0]: np.nextafter(rig.cameras[0].sensor_to_ego, np.array([[9.0] * 4] * 3 + [[0, 0, 0, 1]]))}
        ),
    ]
    assert len({rig.hash, *(other.hash for other in others)}) == len(others) + 1


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_files_keep_every_digit(tmp_path: Path, suffix: str) -> None:
    rig = Rig((*ring(2), camera(distortion=(-0.1, 1e-17, 0.3, 0, 0), model="plumb_bob")), frame="ego")
    path = tmp_path / f"rig{suffix}"
    write_rig(rig, path)
    assert read_rig(path).hash == rig.hash


def test_what_a_person_writes(tmp_path: Path) -> None:
    translation, quaternion = to_parts(POSE)
    path = tmp_path / "rig.yaml"
    path.write_text(
        f"""
cameras:
- name: a
  width: 640
  height: 480
  intrinsics: [500, 500, 320, 240]
  translation: {translation.tolist()}
  rotation: {quaternion.tolist()}
"""
    )
    (one,) = read_rig(path)
    np.testing.assert_array_equal(one.matrix, MATRIX)
    np.testing.assert_allclose(one.sensor_to_ego, POSE, atol=1e-12)


def entry(**changes: Any) -> dict[str, Any]:
    told = camera().to_json() | changes
    return {key: value for key, value in told.items() if value is not None}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "list `cameras`"),
        ({"cameras": {}}, "list `cameras`"),
        ({"cameras": []}, "one or more cameras"),
        ({"cameras": [entry()], "schema": 2}, "schema 1"),
        ({"cameras": [entry()], "rig": 2}, "found rig"),
        ({"cameras": [3]}, "found 3"),
        ({"cameras": [entry(lens=3)]}, "found lens"),
        ({"cameras": [entry(width=None)]}, "expected width"),
        ({"cameras": [entry(matrix=None)]}, "`matrix` or `intrinsics`"),
        ({"cameras": [entry(intrinsics=[1, 1, 1, 1])]}, "found both"),
        ({"cameras": [entry(matrix=[[1, 2], [3]])]}, "numbers of shape"),
        ({"cameras": [entry(sensor_to_ego=None)]}, "`sensor_to_ego`"),
        ({"cameras": [entry(sensor_to_ego=None, translation=[0, 0, 0])]}, "`sensor_to_ego`"),
        ({"cameras": [entry(sensor_to_ego=None, translation=[0, 0, 0], rotation=[0, 0, 0, 2])]}, "length 1"),
        ({"cameras": [entry(distortion=["x"])]}, "numbers"),
        ({"cameras": [entry(distortion=True)]}, "a list as distortion"),
        ({"cameras": [entry(model=3)]}, "distortion model"),
        ({"cameras": [entry()], "frame": 3}, "name of a frame"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path: Path, told: Any, message: str) -> None:
    for path, text in ((tmp_path / "r.json", json.dumps(told)), (tmp_path / "r.yaml", yaml.safe_dump(told))):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_rig(path)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: ["), ("a.txt", ""), ("a.json", None)])
def test_unreadable_files_are_refused_by_name(tmp_path: Path, name: str, text: str | None) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_rig(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="yaml"):
        write_rig(ring(1), tmp_path / "a.txt")
