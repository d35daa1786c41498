# SPDX-License-Identifier: Apache-2.0
"""Plain folders: samples as JSON, with a common calibration or without, and every malformed field by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nuscenes_folder import camera_to_ego

from aot_runtime.errors import InputError
from aot_runtime.undistort import Undistorter
from bev_ros.calibration import CameraCalibration, Rig, write_rig
from bev_ros.sources.folder import FolderSource

_MATRIX = np.array([[30.0, 0, 15.5], [0, 30.0, 9.5], [0, 0, 1]])
_POSE = camera_to_ego(20.0)


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 32, 3), np.uint8)


def _write(root: Path, token: str, **told: Any) -> None:
    (root / "samples").mkdir(parents=True, exist_ok=True)
    (root / "samples" / f"{token}.json").write_text(json.dumps(told))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cameras in calibration.yaml, three samples in two splits."""
    cameras = [CameraCalibration(name, 32, 20, _MATRIX, camera_to_ego(yaw)) for name, yaw in (("b", 0.0), ("a", 90.0))]
    write_rig(Rig(tuple(cameras)), tmp_path / "calibration.yaml")
    for number, split in enumerate(("train", "train", "val")):
        for camera in "ab":
            cv2.imwrite(str(tmp_path / f"{camera}{number}.png"), _image(10 * number + ord(camera))[:, :, ::-1])
        told = {camera: {"image": f"{camera}{number}.png"} for camera in "ab"}
        _write(tmp_path, f"t{number}", stamp_ns=10**18 + number, cameras=told, split=split, scene=f"s{number}")
    return tmp_path


def test_samples_with_a_common_calibration(root: Path) -> None:
    source = FolderSource(root)
    assert source.splits() == ("all", "train", "val")
    assert source.tokens("all") == ["t0", "t1", "t2"]
    assert source.tokens("train") == ["t0", "t1"]
    assert not source.warnings
    sample = source.sample("val", "t2")
    assert (sample.token, sample.split, sample.scene, sample.stamp_ns) == ("t2", "val", "s2", 10**18 + 2)
    assert sample.ego_pose is None
    assert sample.rig.names == ("b", "a")  # the calibration's order
    for camera in "ab":
        np.testing.assert_array_equal(sample.images[camera](), _image(20 + ord(camera)))
    assert sample.rig.hash == Rig(tuple(sample.rig.cameras)).hash


def test_samples_that_bring_their_calibration(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), _image(1)[:, :, ::-1])
    bent = [-0.2, 0.02, 0.0, 0.0]
    camera = {
        "image": "x.png",
        "matrix": _MATRIX.tolist(),
        "sensor_to_ego": _POSE.tolist(),
        "distortion": bent,
        "model": "plumb_bob",
    }
    pose = np.eye(4)
    pose[0, 3] = 5.0
    _write(tmp_path, "one", stamp=12.5, cameras={"x": camera}, ego_pose=pose.tolist())
    sample = FolderSource(tmp_path).sample("all", "one")
    assert sample.stamp_ns == 12_500_000_000
    np.testing.assert_array_equal(sample.ego_pose, pose)
    told = sample.rig.camera("x")
    assert (told.width, told.height, told.distortion) == (32, 20, ())
    np.testing.assert_array_equal(told.sensor_to_ego, _POSE)
    lens = Undistorter(CameraCalibration("x", 32, 20, _MATRIX, _POSE, tuple(bent), "plumb_bob").camera, 32, 20)
    np.testing.assert_array_equal(sample.images["x"](), lens.image(_image(1)))
    assert (sample.images["x"]() != _image(1)).any()


def test_a_sample_overrides_what_is_common(root: Path) -> None:
    told = {
        "a": {"image": "a0.png", "translation": [1, 2, 3], "rotation": [0, 0, 0, 1]},
        "b": {"image": "b0.png", "intrinsics": [31, 32, 15, 9]},
    }
    _write(root, "t0", stamp=1, cameras=told)
    rig = FolderSource(root).sample("all", "t0").rig
    np.testing.assert_array_equal(rig.camera("a").sensor_to_ego[:3, 3], [1, 2, 3])
    np.testing.assert_array_equal(rig.camera("a").matrix, _MATRIX)
    np.testing.assert_array_equal(rig.camera("b").matrix, [[31, 0, 15], [0, 32, 9], [0, 0, 1]])
    np.testing.assert_allclose(rig.camera("b").sensor_to_ego, camera_to_ego(0.0))


def test_a_camera_without_an_image_stays_in_the_rig(root: Path) -> None:
    _write(root, "t0", stamp=1, cameras={"a": {"image": "a0.png"}, "b": None})
    _write(root, "t1", stamp=1, cameras={"a": {"image": "a0.png"}})
    for token in ("t0", "t1"):
        sample = FolderSource(root).sample("all", token)
        assert tuple(sample.images) == ("a",)
        assert sample.rig.names == ("b", "a")


def test_cameras_and_splits_as_told(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"few": ["s2", "s0"]}))
    source = FolderSource(root, cameras=["a"], splits_file=file)
    assert source.splits() == ("all", "few", "train", "val")
    assert source.tokens("few") == ["t0", "t2"]
    assert source.sample("few", "t0").rig.names == ("a",)
    assert source.identity != FolderSource(root).identity
    with pytest.raises(InputError, match="expected the camera c, found a, b in"):
        FolderSource(root, cameras=["c"]).sample("all", "t0")
    with pytest.raises(InputError, match="expected a split among all, few"):
        source.tokens("test")
    with pytest.raises(InputError, match="expected a token of the split few, found 't1'"):
        source.sample("few", "t1")


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected samples .samples/\*.json., found none"):
        FolderSource(tmp_path)


_GOOD = {"image": "a0.png"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"cameras": {"a": _GOOD}}, "either 'stamp' in seconds or 'stamp_ns'"),
        ({"cameras": {"a": _GOOD}, "stamp": 1, "stamp_ns": 1}, "either 'stamp'"),
        ({"cameras": {"a": _GOOD}, "stamp_ns": 1.5}, "either 'stamp'"),
        ({"cameras": {"a": _GOOD}, "stamp": "now"}, "found 'now'"),
        ({"cameras": {"a": _GOOD}, "stamp": True}, "found True"),
        ({"cameras": {"a": _GOOD}, "stamp": -1}, "from 1970 on"),
        ({"cameras": {"a": _GOOD}, "stamp": float("nan")}, "from 1970 on"),
        ({"stamp": 1}, "expected 'cameras'"),
        ({"stamp": 1, "cameras": []}, "expected 'cameras'"),
        ({"stamp": 1, "cameras": {"a": None}}, "an image of some camera, found none"),
        ({"stamp": 1, "cameras": {"a": "a0.png"}}, "for the camera 'a', found 'a0.png'"),
        ({"stamp": 1, "cameras": {"a": {"image": 3}}}, "for the camera 'a'"),
        ({"stamp": 1, "cameras": {"a": _GOOD | {"matrix": [[1]]}}}, "shape .3, 3. of the matrix of camera 'a'"),
        ({"stamp": 1, "cameras": {"a": _GOOD | {"sensor_to_ego": "x"}}}, "sensor_to_ego of camera 'a'"),
        ({"stamp": 1, "cameras": {"a": _GOOD | {"colour": "red"}}}, "found colour"),
        ({"stamp": 1, "cameras": {"c": _GOOD}}, "of camera 'c', found"),
        ({"stamp": 1, "cameras": {"a": _GOOD}, "ego_pose": [1]}, "ego_pose in"),
        ({"stamp": 1, "cameras": {"a": _GOOD | {"distortion": [1.0], "model": "fov"}}}, "distortion model"),
    ],
)
def test_malformed_fields_are_named(root: Path, told: dict[str, Any], message: str) -> None:
    _write(root, "t1", **told)
    source = FolderSource(root)
    with pytest.raises(InputError, match=message) as caught:
        source.sample("all", "t1")
    assert "t1.json" in str(caught.value)
    source.sample("all", "t0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a sample as JSON"),
        ("[]", "found a list"),
        ('{"stamp": 1, "cams": {}}', "found 'cams'"),
        ('{"stamp": 1, "scene": 3}', "name of a scene"),
    ],
)
def test_what_cannot_be_read_belongs_to_every_split(root: Path, text: str, message: str) -> None:
    (root / "samples" / "t0.json").write_text(text)
    source = FolderSource(root)
    assert source.tokens("val") == ["t0", "t2"]
    assert source.warnings == ["1 samples cannot be read, among them t0"]
    with pytest.raises(InputError, match=message):
        source.sample("val", "t0")


@pytest.mark.parametrize("split", ["all", "../up", 3])
def test_splits_that_cannot_be(root: Path, split: object) -> None:
    _write(root, "t1", stamp=1, cameras={"a": _GOOD}, split=split)
    source = FolderSource(root)
    assert "t1" in source.tokens("val")
    with pytest.raises(InputError, match="split"):
        source.sample("val", "t1")


def test_missing_and_resized_images(root: Path) -> None:
    (root / "a0.png").unlink()
    cv2.imwrite(str(root / "b0.png"), np.zeros((4, 4, 3), np.uint8))
    sample = FolderSource(root).sample("all", "t0")
    with pytest.raises(InputError, match=r"expected an image of 'a' of .*t0\.json, found no file"):
        sample.images["a"]()
    with pytest.raises(InputError, match=r"expected 32x20 pixels .*found 4x4"):
        sample.images["b"]()
