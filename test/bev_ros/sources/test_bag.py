# SPDX-License-Identifier: Apache-2.0
"""Sets of images of bags of all kinds: which belong together, where the cameras are, and what is said when not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nuscenes_folder import camera_to_ego, ego_to_world
from rig_bags import START_NS, YAWS, write_rig_bag

from aot_runtime.errors import InputError
from aot_runtime.undistort import Undistorter
from bev_ros.calibration import CameraCalibration, Rig, write_rig
from bev_ros.sources.bag import BagFrames, BagSource
from bev_ros.sources.matching import Matching

_MS = 1_000_000


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "rosbag1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_sets_with_images_and_poses(tmp_path: Path, storage: str, compressed: bool) -> None:
    path = tmp_path / ("drive.bag" if storage == "rosbag1" else "drive")
    bag = write_rig_bag(path, storage=storage, compressed=compressed)
    source = BagSource(path)
    assert source.splits() == ("all", "drive")
    tokens = source.tokens("all")
    # the set's stamp is that of its newest picture: the rear camera's
    assert tokens == [f"{START_NS + i * 100 * _MS + 16 * _MS:019d}" for i in range(5)]
    assert source.warnings == []
    for number, token in enumerate(tokens):
        sample = source.sample("drive", token)
        assert (sample.token, sample.split, sample.scene) == (token, "drive", "drive")
        assert tuple(sample.images) == sample.rig.names == ("front", "left", "rear")
        reference = START_NS + number * 100 * _MS + 16 * _MS
        assert sample.stamp_ns == reference
        # odom is linear in between 20 ms here
        np.testing.assert_allclose(sample.ego_pose, ego_to_world(reference // 1000), atol=1e-4)
        for name, load in sample.images.items():
            np.testing.assert_array_equal(load(), bag.images[name, number])
            np.testing.assert_array_equal(sample.rig.camera(name).matrix, bag.matrix)
            then = ego_to_world(bag.stamps_ns[name, number] // 1000)
            expected = np.linalg.inv(ego_to_world(reference // 1000)) @ then @ camera_to_ego(YAWS[name])
            np.testing.assert_allclose(sample.rig.camera(name).sensor_to_ego, expected, atol=3e-4)
    source.close()


def test_without_a_fixed_frame_poses_count_as_if_the_vehicle_stood_still(tmp_path: Path) -> None:
    moving = BagSource(write_rig_bag(tmp_path / "a").path)
    for source in (
        BagSource(write_rig_bag(tmp_path / "b", odom=False).path),
        BagSource(tmp_path / "a", frames=BagFrames(fixed="")),
    ):
        assert source.identity != moving.identity
        assert "motion" in source.warnings[-1]
        sample = source.sample("all", source.tokens("all")[1])
        assert sample.ego_pose is None
        for name in sample.rig.names:
            np.testing.assert_allclose(sample.rig.camera(name).sensor_to_ego, camera_to_ego(YAWS[name]), atol=1e-9)


def test_any_order_and_again_gives_the_same(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", count=12)
    source = BagSource(bag.path)
    tokens = source.tokens("all")
    for index in (3, 3, 11, 0, 7, 2, 1, 8, 4, 9, 10, 5, 6):
        sample = source.sample("all", tokens[index])
        for name, load in sample.images.items():
            np.testing.assert_array_equal(load(), bag.images[name, index])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_one_thread_after_another(tmp_path: Path, storage: str) -> None:
    """As the extractor does it: samples are asked for in a thread of its own."""
    bag = write_rig_bag(tmp_path / "drive", storage=storage, count=6)
    source = BagSource(bag.path)
    for index, token in enumerate(source.tokens("all")):
        with ThreadPoolExecutor(1) as pool:
            sample = pool.submit(source.sample, "all", token).result()
        np.testing.assert_array_equal(sample.images["rear"](), bag.images["rear", index])
    source.close()


def test_in_order_the_bag_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by one of two shards, which leaves out every other set."""
    from bev_ros.sources import bag_cursor

    bag = write_rig_bag(tmp_path / "drive", count=12)
    source = BagSource(bag.path)
    opened = []
    plain = bag_cursor.open_bag
    monkeypatch.setattr(bag_cursor, "open_bag", lambda *a, **k: opened.append(a) or plain(*a, **k))
    for token in source.tokens("all")[1::2]:
        source.sample("all", token)
    assert len(opened) == 1


def test_a_missing_image_is_a_missing_camera_only_if_allowed(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", without={("left", 2)})
    strict = BagSource(bag.path)
    assert len(strict.tokens("all")) == 4
    assert strict.warnings == ["of 14 images and their transforms: 2 unmatched"]
    lenient = BagSource(bag.path, matching=Matching(required=("front",), patience_ns=50 * _MS))
    samples = [lenient.sample("all", token) for token in lenient.tokens("all")]
    assert [tuple(sample.images) for sample in samples] == [("front", "left", "rear")] * 2 + [("front", "rear")] + [
        ("front", "left", "rear")
    ] * 2
    assert samples[2].rig.names == ("front", "rear")
    for name in ("front", "rear"):
        np.testing.assert_array_equal(samples[2].images[name](), bag.images[name, 2])
    assert lenient.identity != strict.identity


def test_least_and_interval_thin_out(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", without={("left", 2), ("rear", 2)})
    source = BagSource(bag.path, matching=Matching(required=(), patience_ns=50 * _MS, least=2))
    assert len(source.tokens("all")) == 4
    assert "too_few_cameras" in source.warnings[0]
    source = BagSource(bag.path, matching=Matching(interval_ns=200 * _MS))
    assert source.tokens("all") == [f"{START_NS + ms * _MS:019d}" for ms in (16, 316)]


def test_distorted_images_are_undistorted(tmp_path: Path) -> None:
    bent = (-0.2, 0.05, 0.001, -0.001, 0.0)
    bag = write_rig_bag(tmp_path / "drive", topic="image_raw", distortion=bent)
    source = BagSource(bag.path)
    sample = source.sample("all", source.tokens("all")[0])
    for name, load in sample.images.items():
        camera = sample.rig.camera(name)
        assert camera.distortion == ()
        np.testing.assert_array_equal(camera.matrix, bag.matrix)
        told = CameraCalibration(name, 64, 36, bag.matrix, np.eye(4), bent, "plumb_bob")
        image = bag.images[name, 0]
        np.testing.assert_array_equal(load(), Undistorter(told.camera, 64, 36).image(image))
        assert (load() != image).mean() > 0.2
    rectified = BagSource(bag.path, frames=BagFrames(rectified=True))
    sample = rectified.sample("all", rectified.tokens("all")[0])
    np.testing.assert_array_equal(sample.images["front"](), bag.images["front", 0])
    assert rectified.identity != source.identity


def test_a_calibration_file_takes_the_place_of_infos_and_transforms(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", infos=(), static=False)
    cameras = [
        CameraCalibration(name, 64, 36, bag.matrix, camera_to_ego(YAWS[name])) for name in ("rear", "front", "left")
    ]
    write_rig(Rig(tuple(cameras)), tmp_path / "rig.yaml")
    source = BagSource(bag.path, frames=BagFrames(calibration=tmp_path / "rig.yaml"))
    full = BagSource(write_rig_bag(tmp_path / "full").path)
    for token in full.tokens("all"):
        sample, expected = source.sample("all", token), full.sample("all", token)
        assert sample.rig.names == ("rear", "front", "left")
        for name in sample.rig.names:
            pose = sample.rig.camera(name).sensor_to_ego
            np.testing.assert_allclose(pose, expected.rig.camera(name).sensor_to_ego, atol=1e-9)
            np.testing.assert_array_equal(sample.images[name](), expected.images[name]())


def test_what_a_set_lacks_is_said_and_nothing_is_dropped(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", static=False)
    source = BagSource(bag.path)
    assert len(source.tokens("all")) == 5
    with pytest.raises(InputError, match=r"transform of 'front_optical'.*for the camera 'front' of the set 15"):
        source.sample("all", source.tokens("all")[0])
    bag = write_rig_bag(tmp_path / "infos", infos=("front",))
    source = BagSource(bag.path, cameras=("front", "left"))
    with pytest.raises(InputError, match="expected camera_info for 64x36 pixels, found none, for the camera 'left'"):
        source.sample("all", source.tokens("all")[0])


def test_odometry_that_ends_early_fails_the_last_sets_only(tmp_path: Path) -> None:
    source = BagSource(write_rig_bag(tmp_path / "drive", count=4).path)
    source._index.transforms.clear(START_NS + 250 * _MS)
    tokens = source.tokens("all")
    for token in tokens[:3]:
        source.sample("all", token)
    with pytest.raises(InputError, match=f"'odom' <- 'base_link' at .*the newest .* before it.*of the set {tokens[3]}"):
        source.sample("all", tokens[3])


def test_cameras_by_name_and_by_topic(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive")
    source = BagSource(bag.path, cameras=("back=/sensors/rear/image_rect", "front"))
    sample = source.sample("all", source.tokens("all")[0])
    assert sample.rig.names == ("back", "front")
    np.testing.assert_array_equal(sample.images["back"](), bag.images["rear", 0])
    for cameras, message in (
        (("roof",), "image topic of the camera 'roof', found image topics /sensors/front/image_rect, /sensors/left"),
        (("front=/nowhere",), "expected an image topic /nowhere"),
        (("front", "front"), "expected different cameras"),
        (("front", "other=/sensors/front/image_rect"), "topic of its own"),
    ):
        with pytest.raises(InputError, match=message):
            BagSource(bag.path, cameras=cameras)


def test_no_cameras_with_calibration_is_said(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive", infos=())
    with pytest.raises(InputError, match="expected image topics with camera_info beside them"):
        BagSource(bag.path)


def test_unknown_splits_and_tokens(tmp_path: Path) -> None:
    source = BagSource(write_rig_bag(tmp_path / "drive").path)
    with pytest.raises(InputError, match="expected a split among all, drive, found 'train'"):
        source.tokens("train")
    with pytest.raises(InputError, match="expected a token of the split all"):
        source.sample("all", "1")


def test_a_damaged_bag_is_an_input_error(tmp_path: Path) -> None:
    bag = write_rig_bag(tmp_path / "drive.bag", storage="rosbag1")
    data = bag.path.read_bytes()
    bag.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="expected a readable rosbag1"):
        BagSource(bag.path)
    bag = write_rig_bag(tmp_path / "two")
    file = next(bag.path.glob("*.mcap"))
    data = bytearray(file.read_bytes())
    data[: len(data) // 2] = b"\0" * (len(data) // 2)
    file.write_bytes(data)
    with pytest.raises(InputError, match="expected a readable rosbag2"):
        BagSource(bag.path)


def test_sets_are_those_of_a_synchroniser_without_a_clock(tmp_path: Path) -> None:
    """Pictures further apart than the slop are in no set."""
    bag = write_rig_bag(tmp_path / "drive", stagger_ns=30 * _MS)
    assert len(BagSource(bag.path, matching=Matching(slop_ns=60 * _MS)).tokens("all")) == 5
    apart = BagSource(bag.path, matching=Matching(slop_ns=20 * _MS))
    assert apart.tokens("all") == []
    assert apart.warnings[0].startswith("of 15 images")
