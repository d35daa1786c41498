# SPDX-License-Identifier: Apache-2.0
"""play_topics -> aliked_node -> record_topics as separate processes over real DDS: the pipeline's bytes, clean ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ros_processes import Process, bag_topic

pytest.importorskip("rclpy", reason="rclpy is not installed")

Start = Callable[..., Process]


def test_a_bag_played_to_the_node_and_recorded_equals_the_pipeline(
    start: Start,
    network: Callable[..., Path],
    crops: list[np.ndarray],
    image_bag: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from aliked_ros.clouds import keypoint_rows, track_rows
    from aliked_ros.pipeline import AlikedPipeline
    from aliked_ros.tracking import Tracker

    bag = image_bag(crops, topic="/camera/image_raw", period_ns=400_000_000)
    topics = ("/aliked/keypoints", "/aliked/tracks")
    parameters = ("-p", f"artifact:={network()}", "-p", "track:=true", "-p", "threshold:=0.2")
    recorder = start("f3_ros.recorder", *topics, "-o", str(tmp_path / "out"))
    node = start("aliked_ros.node", "--ros-args", *parameters)
    for topic in topics:
        recorder.wait_for(f"recording {topic}")
    time.sleep(0.5)
    remap = ("-r", "/camera/image_raw:=/aliked/image")
    player = start("aot_runtime.ros.bag_player", str(bag), "--ros-args", *remap)
    assert "done: 4 messages" in player.done()
    time.sleep(1.0)
    node.end()
    assert "/aliked/keypoints: 4 messages" in recorder.end(), node.log.read_text()
    pipeline, tracker = AlikedPipeline(network(), threshold=0.2), Tracker()
    clouds, tracks = (list(bag_topic(tmp_path / "out", topic)) for topic in topics)
    assert len(clouds) == len(tracks) == len(crops)
    for cloud, track, image in zip(clouds, tracks, crops):
        result = pipeline.process(image)
        assert np.asarray(cloud.data).tobytes() == keypoint_rows(result).tobytes()
        assert np.asarray(track.data).tobytes() == track_rows(tracker.update(result, image.shape[:2])).tobytes()
        assert cloud.header.stamp == track.header.stamp


@pytest.mark.parametrize("command", ["node", "offline"])
def test_help_needs_no_parameters(command: str, start: Start) -> None:
    assert f"usage: aliked_{command}" in start(f"aliked_ros.{command}", "--help").done()


def test_node_without_artifact_lives_until_it_is_ended(start: Start) -> None:
    node = start("aliked_ros.node")
    node.wait_for("cannot configure: expected an artifact")
    node.end()
