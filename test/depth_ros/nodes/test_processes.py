# SPDX-License-Identifier: Apache-2.0
"""play_topics -> depth_node -> record_topics as separate processes over real DDS: the offline numbers, clean ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ros_processes import Process, bag_topic

pytest.importorskip("rclpy", reason="rclpy is not installed")

Start = Callable[..., Process]


def test_a_bag_played_to_the_node_and_recorded_equals_offline(
    start: Start,
    stand_in: Callable[..., Path],
    pictures: dict[str, np.ndarray],
    image_bag: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from aot_runtime.frames import open_frames
    from depth_ros.pipeline import ImageDepthPipeline

    artifact = stand_in(kind="metric", max_depth=10.0)
    images = [pictures[name] for name in ("tum", "redwood", "tum")]
    bag = image_bag(images, camera=(525.0, 525.0, 319.5, 239.5), period_ns=400_000_000)
    topics = ("/depth/depth", "/depth/depth/camera_info")
    recorder = start("f3_ros.recorder", *topics, "-o", str(tmp_path / "out"))
    node = start("depth_ros.node", "--ros-args", "-p", f"artifact:={artifact}")
    for topic in topics:
        recorder.wait_for(f"recording {topic}")
    time.sleep(0.5)
    remap = ("-r", "/camera/image_rect:=/depth/image", "-r", "/camera/camera_info:=/depth/camera_info")
    player = start("aot_runtime.ros.bag_player", str(bag), "--ros-args", *remap)
    assert "done: 6 messages" in player.done()
    time.sleep(1.0)
    node.end()
    assert "/depth/depth: 3 messages" in recorder.end(), node.log.read_text()
    pipeline = ImageDepthPipeline(artifact)
    recorded = list(bag_topic(tmp_path / "out", "/depth/depth"))
    for frame, msg in zip(open_frames([bag]), recorded):
        assert np.asarray(msg.data).tobytes() == pipeline.process(frame.load()).depth.tobytes()
        assert msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec == frame.stamp_ns
    infos = list(bag_topic(tmp_path / "out", "/depth/depth/camera_info"))
    assert [info.header.stamp for info in infos] == [msg.header.stamp for msg in recorded]


@pytest.mark.parametrize("module", ["depth_ros.node", "aot_runtime.ros.bag_player", "depth_ros.offline"])
def test_help_needs_no_parameters(module: str, start: Start) -> None:
    assert "usage: " in start(module, "--help").done()


def test_node_without_artifact_lives_until_it_is_ended(start: Start) -> None:
    node = start("depth_ros.node")
    node.wait_for("cannot configure: expected an artifact")
    node.end()
