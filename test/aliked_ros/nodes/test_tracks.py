# SPDX-License-Identifier: Apache-2.0
"""Tracks of aliked_node through real rclpy: a moving view, jumps, bags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from keypoint_clouds import rows_of, tracks_of
from ros_images import PERIOD_NS, START_NS, Camera, SimulatedTime, rgb_message
from sensor_msgs.msg import Image, PointCloud2

from aliked_ros.clouds import TRACK_ROW, keypoint_rows, track_rows
from aliked_ros.pipeline import AlikedPipeline
from aliked_ros.tracking import Tracker
from aot_runtime.ros.messages import image_view, stamp_to_ns

Images = Callable[[str], np.ndarray]
Maker = Callable[..., Any]


def test_tracks_follow_a_moving_view(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    from aliked_ros.pictures import tracks_picture

    node = aliked(track=True, max_step=15.0, ratio=0.95, threshold=0.2)
    clouds, found = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    shown = ros.listen(Image, "/aliked/image_tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks") and node.wanted("image_tracks"))
    for index, image in enumerate(crops):
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(clouds) == len(found) == len(shown) == len(crops))
    assert found[0].width == 0
    assert [field.name for field in found[0].fields] == list(TRACK_ROW.names or ())
    for before, cloud, track, picture, image in zip(clouds, clouds[1:], found[1:], shown[1:], crops[1:]):
        rows, now, old = tracks_of(track), rows_of(cloud), rows_of(before)
        assert track.header == cloud.header == picture.header
        assert len(rows) >= 50
        np.testing.assert_array_equal(rows["x"], now["x"][rows["index"]])
        np.testing.assert_array_equal(rows["y"], now["y"][rows["index"]])
        places = {(x, y) for x, y in zip(old["x"], old["y"])}
        assert all((x, y) in places for x, y in zip(rows["previous_x"], rows["previous_y"]))
        step = np.stack([rows["x"] - rows["previous_x"], rows["y"] - rows["previous_y"]], axis=1)
        assert (np.linalg.norm(step - [-8, -5], axis=1) < 1).mean() >= 0.9
        assert (rows["similarity"] >= 0.75).all()
        was = np.stack([rows["previous_x"], rows["previous_y"]], axis=1)
        here = np.stack([rows["x"], rows["y"]], axis=1)
        np.testing.assert_array_equal(image_view(picture), tracks_picture(image[:, :, ::-1], was, here))
    second, last = tracks_of(found[1]), tracks_of(found[3])
    assert set(second["length"]) == {2}
    kept = np.isin(last["id"], second["id"])
    assert kept.sum() >= 20, "tracks through all four images"
    assert (last["length"][kept] == 4).all()
    assert len(set(last["id"])) == len(last)


def test_jumps_in_time_and_other_sizes_break_tracks(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(track=True)
    found = ros.listen(PointCloud2, "/aliked/tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks"))
    smaller = np.ascontiguousarray(crops[0][:100])
    steps = [(crops[0], 10), (crops[0], 11), (crops[0], 1), (crops[0], 2), (smaller, 3), (smaller, 4)]
    for image, index in steps:
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(found) == len(steps))
    assert [cloud.width > 50 for cloud in found] == [False, True, False, True, False, True]
    assert [cloud.width for cloud in found[::2]] == [0, 0, 0]
    assert node.health.drops() == {"time_jump_back": 1}


def test_no_tracks_unless_asked_for(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    assert "/aliked/tracks" not in dict(node.get_publisher_names_and_types_by_node("aliked", ""))
    ros.remove(node)
    node = aliked(track=True)
    camera = Camera(ros, node)
    camera.send(rgb_message(crops[0]))
    assert node.health.report().values["tracks"] == "nobody subscribes"
    found = ros.listen(PointCloud2, "/aliked/tracks")
    assert ros.until(lambda: node.wanted("tracks"))
    for index in (1, 2):
        camera.send(rgb_message(crops[0], index))
    assert ros.until(lambda: len(found) == 2)
    assert found[0].width == 0, "the first image that is tracked has none before it"
    assert node.health.report().values["tracks"] == str(found[1].width)


def test_simulated_time_that_jumps_back(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(use_sim_time=True, track=True)
    time = SimulatedTime(ros, node)
    found = ros.listen(PointCloud2, "/aliked/tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks"))
    time.set(10)
    camera.send(rgb_message(crops[0], 0))
    camera.send(rgb_message(crops[0], 1))
    time.set_back(0)
    camera.send(rgb_message(crops[0], 2))
    assert ros.until(lambda: len(found) == 3)
    assert [cloud.width > 50 for cloud in found] == [False, True, False]


@pytest.mark.parametrize("options", [{}, {"compressed": True, "storage": "sqlite3"}])
def test_a_bag_played_to_the_node_gives_the_pipelines_bytes(
    options: dict[str, Any],
    ros: Any,
    aliked: Maker,
    network: Maker,
    image_bag: Callable[..., Path],
    read_image: Images,
) -> None:
    from aot_runtime.ros.bag_player import BagPlayer, PlayOptions

    images = [read_image(f"tum_{stamp}.png") for stamp in ("1311868169.163498", "1311868170.063469")]
    topic = "/camera/image_raw/compressed" if "compressed" in options else "/camera/image_raw"
    bag = image_bag(images, topic=topic, period_ns=PERIOD_NS, **options)
    transport = "compressed" if "compressed" in options else "raw"
    node = aliked(track=True, image_transport=transport, threshold=0.2)
    clouds, found = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    assert ros.until(lambda: node.wanted("tracks"))
    # Slow enough for each image to be done before the next one comes.
    player = ros.add(BagPlayer(bag, PlayOptions(rate=0.05), cli_args=["--ros-args", "-r", f"{topic}:=/aliked/image"]))
    assert ros.until(lambda: player.exit_code is not None)
    assert ros.until(lambda: len(found) == len(images))
    assert player.exit_code == 0
    assert node.health.drops() == {}
    pipeline, tracker = AlikedPipeline(network(), threshold=0.2), Tracker()
    for index, (cloud, track, image) in enumerate(zip(clouds, found, images)):
        result = pipeline.process(image)
        assert cloud.data.tobytes() == keypoint_rows(result).tobytes()
        assert track.data.tobytes() == track_rows(tracker.update(result, image.shape[:2])).tobytes()
        assert stamp_to_ns(cloud.header.stamp) == START_NS + index * PERIOD_NS
        assert cloud.header.frame_id == "camera_optical"
    assert found[1].width >= 30
