# SPDX-License-Identifier: Apache-2.0
"""play_topics -> bev_node -> record_topics as processes over real DDS: the extractor's features, clean ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rig_bags import write_rig_bag
from ros_processes import Process, bag_topic

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

Start = Callable[..., Process]
CAMERAS = ("front", "left", "rear")


def node_arguments(artifact: Path, *more: str) -> list[str]:
    remap = [
        f"~/{name}/{ours}:=/sensors/{name}/{theirs}"
        for name in CAMERAS
        for ours, theirs in (("image", "image_rect"), ("camera_info", "camera_info"))
    ]
    values = [f"model:={artifact}", f"cameras:=[{', '.join(CAMERAS)}]", *more]
    return ["--ros-args", *(word for value in values for word in ("-p", value))] + [
        word for rule in remap for word in ("-r", rule)
    ]


def test_a_bag_played_to_the_node_and_recorded_equals_the_pipelines(
    start: Start, bev_artifact: Path, tmp_path: Path
) -> None:
    from bev_ros.pipeline import BevPipeline
    from bev_ros.sources import open_source

    recording = write_rig_bag(tmp_path / "bag", cameras=CAMERAS, size=(160, 90), count=4, period_ns=400_000_000)
    recorder = start("f3_ros.recorder", "/bev/bev_features", "-o", str(tmp_path / "out"))
    node = start("bev_ros.node", *node_arguments(bev_artifact, "missing_cameras:=skip", "tf_timeout:=2.0"))
    recorder.wait_for("recording /bev/bev_features")
    time.sleep(1.0)
    player = start("aot_runtime.ros.bag_player", str(recording.path))
    assert "done:" in player.done()
    time.sleep(1.0)
    node.end()
    assert "/bev/bev_features: 4 messages" in recorder.end(), node.log.read_text()
    recorded = {
        f"{msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec:019d}": np.asarray(msg.data)
        for msg in bag_topic(tmp_path / "out", "/bev/bev_features")
    }
    source = open_source(recording.path)
    with BevPipeline(bev_artifact) as pipeline:
        for token in source.tokens("all"):
            sample = source.sample("all", token)
            expected = pipeline.process({name: load() for name, load in sample.images.items()}, sample.rig).features
            assert recorded.pop(token).tobytes() == np.ascontiguousarray(expected.transpose(1, 2, 0)).tobytes()
    assert not recorded


def test_images_of_another_type_are_not_taken(start: Start, bev_artifact: Path, tmp_path: Path) -> None:
    recording = write_rig_bag(tmp_path / "bag", cameras=CAMERAS, size=(160, 90), count=2)
    recorder = start("f3_ros.recorder", "/diagnostics", "-o", str(tmp_path / "out"))
    node = start("bev_ros.node", *node_arguments(bev_artifact, "image_transport:=compressed"))
    recorder.wait_for("recording /diagnostics")
    start("aot_runtime.ros.bag_player", str(recording.path)).done()
    time.sleep(1.5)
    assert node.alive
    assert "Traceback" not in node.end()
    recorder.end()
    statuses = [status for msg in bag_topic(tmp_path / "out", "/diagnostics") for status in msg.status]
    values = [{pair.key: pair.value for pair in status.values} for status in statuses]
    text = "/sensors/front/image_rect carries sensor_msgs/msg/Image, not sensor_msgs/msg/CompressedImage"
    assert any(text in told.get("camera front", "") for told in values)
    assert values[-1]["count receive"] == "0"
    assert "no input yet" in statuses[-1].message


def test_node_without_a_model_lives_until_it_is_ended(start: Start) -> None:
    node = start("bev_ros.node")
    node.wait_for("cannot configure: expected the parameter 'model', or 'image_model'")
    node.end()
