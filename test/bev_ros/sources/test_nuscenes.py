# SPDX-License-Identifier: Apache-2.0
"""Key frames of nuScenes' format: poses, splits, images, and what is said when something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nuscenes_folder import NuScenesFolder, camera_to_ego, ego_to_world, token_of, write_nuscenes

from aot_runtime.errors import InputError
from bev_ros.sources.nuscenes import CAMERAS, NuScenesSource


@pytest.fixture
def folder(tmp_path: Path) -> NuScenesFolder:
    """Two scenes of three samples, three cameras."""
    return write_nuscenes(tmp_path / "data", cameras=CAMERAS[:3])


def test_all_key_frames_with_their_images(folder: NuScenesFolder) -> None:
    source = NuScenesSource(folder.root)
    tokens = source.tokens("all")
    assert tokens == sorted(token for scene in folder.tokens.values() for token in scene)
    for token in tokens:
        sample = source.sample("all", token)
        assert (sample.token, sample.split, sample.scene) == (
            token,
            "all",
            next(n for n, t in folder.tokens.items() if token in t),
        )
        assert sample.rig.names == tuple(sample.images) == CAMERAS[:3]
        for channel, load in sample.images.items():
            np.testing.assert_array_equal(load(), folder.images[token, channel])
            camera = sample.rig.camera(channel)
            assert (camera.width, camera.height) == (64, 36)
            np.testing.assert_array_equal(camera.matrix, folder.matrix)


def test_poses_are_brought_to_the_lidars_moment(folder: NuScenesFolder) -> None:
    """A point that a camera sees lies in the world where the vehicle of the camera's own moment has it."""
    token = folder.tokens["scene-0001"][1]
    sample = NuScenesSource(folder.root).sample("all", token)
    lidar_us = folder.stamps_us[token, "LIDAR_TOP"]
    assert sample.stamp_ns == lidar_us * 1000
    np.testing.assert_allclose(sample.ego_pose, ego_to_world(lidar_us), atol=1e-12)
    point = np.array([1.0, -0.5, 7.0, 1.0])
    for channel, yaw in folder.yaws.items():
        in_world = ego_to_world(folder.stamps_us[token, channel]) @ camera_to_ego(yaw) @ point
        pose = sample.rig.camera(channel).sensor_to_ego
        np.testing.assert_allclose(sample.ego_pose @ pose @ point, in_world, atol=1e-9)
        moved = np.linalg.norm((pose - camera_to_ego(yaw))[:3, 3])
        assert 0.05 < moved < 0.4  # 8 m/s for 12 to 36 ms


def test_without_motion_compensation_poses_are_those_of_the_calibration(folder: NuScenesFolder) -> None:
    source = NuScenesSource(folder.root, motion_compensation=False)
    sample = source.sample("all", folder.tokens["scene-0002"][0])
    for channel, yaw in folder.yaws.items():
        np.testing.assert_allclose(sample.rig.camera(channel).sensor_to_ego, camera_to_ego(yaw), atol=1e-12)
    assert source.identity != NuScenesSource(folder.root).identity


def test_without_lidar_the_camera_nearest_to_the_sample_is_the_reference(tmp_path: Path) -> None:
    folder = write_nuscenes(tmp_path / "data", cameras=CAMERAS[:2], lidar=False)
    token = folder.tokens["scene-0001"][0]
    sample = NuScenesSource(folder.root).sample("all", token)
    assert sample.stamp_ns == folder.stamps_us[token, CAMERAS[0]] * 1000
    first, second = (camera.sensor_to_ego for camera in sample.rig)
    np.testing.assert_allclose(first, camera_to_ego(folder.yaws[CAMERAS[0]]), atol=1e-9)
    assert np.abs(second - camera_to_ego(folder.yaws[CAMERAS[1]])).max() > 0.05


def test_splits_are_scenes_by_name(folder: NuScenesFolder) -> None:
    source = NuScenesSource(folder.root)
    assert source.splits() == ("all", "v1.0-mini", "train", "val")
    assert source.tokens("train") == sorted(folder.tokens["scene-0001"])
    assert source.tokens("val") == sorted(folder.tokens["scene-0002"])
    assert source.tokens("v1.0-mini") == source.tokens("all")
    with pytest.raises(InputError, match="expected a token of the split val"):
        source.sample("val", folder.tokens["scene-0001"][0])
    with pytest.raises(InputError, match=r"expected a split among all, v1\.0-mini, train, val, found 'test'"):
        source.tokens("test")


def test_a_splits_file_for_more_scenes_than_there_are(folder: NuScenesFolder, tmp_path: Path) -> None:
    """The official lists name all scenes of all versions."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"few": ["scene-0002", "scene-0900"], "test": ["scene-0901"]}))
    source = NuScenesSource(folder.root, splits_file=file)
    assert source.splits() == ("all", "v1.0-mini", "few")
    assert source.tokens("few") == sorted(folder.tokens["scene-0002"])
    assert source.warnings == ["1 of the 2 scenes of the split few are not in v1.0-mini"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected splits as JSON"),
        ("[]", "found a list"),
        ('{"all": []}', "names other than 'all'"),
        ('{"../x": []}', "expected a split of at most"),
        ('{"a": "scene-0001"}', "expected a list of scene names for the split 'a'"),
    ],
)
def test_malformed_splits_are_named(folder: NuScenesFolder, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        NuScenesSource(folder.root, splits_file=file)
    assert "mine.json" in str(caught.value)


def test_cameras_as_told_in_their_order(folder: NuScenesFolder) -> None:
    source = NuScenesSource(folder.root, cameras=["CAM_FRONT_RIGHT", "CAM_FRONT"])
    sample = source.sample("all", source.tokens("all")[0])
    assert sample.rig.names == tuple(sample.images) == ("CAM_FRONT_RIGHT", "CAM_FRONT")
    with pytest.raises(InputError, match="CAM_FRONT_LEFT, CAM_FRONT_RIGHT, found CAM_BACK"):
        NuScenesSource(folder.root, cameras=["CAM_BACK"])


def test_the_version_is_found_or_asked_for(folder: NuScenesFolder) -> None:
    assert NuScenesSource(folder.tables).tokens("all") == NuScenesSource(folder.root).tokens("all")
    (folder.root / "v1.0-other").mkdir()
    for table in folder.tables.iterdir():
        (folder.root / "v1.0-other" / table.name).write_bytes(table.read_bytes())
    with pytest.raises(InputError, match=r"found v1\.0-mini, v1\.0-other"):
        NuScenesSource(folder.root)
    assert NuScenesSource(folder.root, version="v1.0-other").splits()[1] == "v1.0-other"
    with pytest.raises(InputError, match=r"expected the version v1\.0-test"):
        NuScenesSource(folder.root, version="v1.0-test")


@pytest.mark.parametrize("table", ["scene", "sample", "sensor", "calibrated_sensor", "ego_pose"])
def test_a_missing_table_is_named(folder: NuScenesFolder, table: str) -> None:
    (folder.tables / f"{table}.json").unlink()
    with pytest.raises(InputError, match=f"expected the table {table}.json"):
        NuScenesSource(folder.root)


def test_a_missing_or_wrong_image_concerns_only_itself(folder: NuScenesFolder) -> None:
    source = NuScenesSource(folder.root)
    token = folder.tokens["scene-0001"][0]
    files = sorted((folder.root / "samples" / "CAM_FRONT").glob("scene-0001*"))
    files[0].unlink()
    files[1].write_bytes(b"no image")
    files[2].write_bytes(next((folder.root / "samples" / "CAM_FRONT").glob("scene-0002*")).read_bytes()[:-100])
    sample = source.sample("all", token)
    assert sample.images["CAM_FRONT_LEFT"]().shape == (36, 64, 3)
    with pytest.raises(InputError, match=f"the sample {token}, found no file .*CAM_FRONT__"):
        sample.images["CAM_FRONT"]()
    with pytest.raises(InputError, match="that OpenCV reads"):
        source.sample("all", folder.tokens["scene-0001"][1]).images["CAM_FRONT"]()


def test_an_image_of_another_size_is_refused(folder: NuScenesFolder) -> None:
    import cv2

    token = folder.tokens["scene-0001"][0]
    file = next(iter(sorted((folder.root / "samples" / "CAM_FRONT").glob("scene-0001*"))))
    cv2.imwrite(str(file), np.zeros((18, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"expected 64x36 pixels .*found 32x18"):
        NuScenesSource(folder.root).sample("all", token).images["CAM_FRONT"]()


def _drop(table: str, of: Callable[[str], str]) -> Callable[[NuScenesFolder, str], None]:
    def change(folder: NuScenesFolder, token: str) -> None:
        folder.write(table, [record for record in folder.read(table) if record["token"] != of(token)])

    return change


def _set(table: str, of: Callable[[str], str], field: str, value: object) -> Callable[[NuScenesFolder, str], None]:
    def change(folder: NuScenesFolder, token: str) -> None:
        records = folder.read(table)
        for record in records:
            if record["token"] == of(token):
                record[field] = value
        folder.write(table, records)

    return change


def _front(token: str) -> str:
    return token_of(token, "CAM_FRONT", True)


_CALIBRATION = token_of("calibration", "scene-0001", "CAM_FRONT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _drop("sample_data", _front),
            "expected a key frame of CAM_FRONT for the sample TOKEN, found none in .*sample_data",
        ),
        (_drop("ego_pose", _front), f"expected the ego pose {'[0-9a-f]' * 32} of samples/CAM_FRONT/.*ego_pose.json"),
        (
            _set("ego_pose", _front, "rotation", [0, 0, 0, 0]),
            "quaternion of length 1.* length 0 in the record .* of .*ego_pose",
        ),
        (
            _set("calibrated_sensor", lambda _: _CALIBRATION, "camera_intrinsic", []),
            f"expected shape .*the record {_CALIBRATION} of .*calibrated_sensor.json for samples/CAM_FRONT/",
        ),
    ],
)
def test_what_a_sample_lacks_is_named_and_the_others_work(
    folder: NuScenesFolder, change: Callable[[NuScenesFolder, str], None], message: str
) -> None:
    token = folder.tokens["scene-0001"][1]
    change(folder, token)
    source = NuScenesSource(folder.root)
    assert token in source.tokens("all")
    with pytest.raises(InputError, match=message.replace("TOKEN", token)):
        source.sample("all", token)
    source.sample("all", folder.tokens["scene-0002"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("sample", lambda token: token, "scene_token", "gone"), "expected the scene gone of the sample TOKEN"),
        (_set("sample_data", _front, "sample_token", "gone"), "expected the sample gone of the record"),
        (
            _set("sample_data", _front, "timestamp", "late"),
            "expected a whole number as 'timestamp', found 'late' in the record",
        ),
        (_set("ego_pose", _front, "translation", [1, 2]), "expected 3 and 4 numbers in the record"),
        (lambda folder, _: folder.write("sample", [{"token": "a"}]), "the field 'scene_token' in the record a"),
        (lambda folder, _: folder.write("sample", [{"token": "../a", "scene_token": "x"}]), "expected a token of at"),
        (lambda folder, _: folder.write("sample", {"token": "a"}), "expected a JSON list of records"),
        (lambda folder, _: folder.write("sample", [1]), "expected records .JSON objects., found 1"),
    ],
)
def test_broken_tables_are_named(
    folder: NuScenesFolder, change: Callable[[NuScenesFolder, str], None], message: str
) -> None:
    token = folder.tokens["scene-0001"][1]
    change(folder, token)
    with pytest.raises(InputError, match=message.replace("TOKEN", token)) as caught:
        NuScenesSource(folder.root)
    assert ".json" in str(caught.value)


def test_a_table_that_is_cut_off_is_named(folder: NuScenesFolder) -> None:
    file = folder.tables / "ego_pose.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(InputError, match=r"near .* in .*ego_pose.json; copy the file again"):
        NuScenesSource(folder.root)
