# SPDX-License-Identifier: Apache-2.0
"""play_topics -> aliked_node -> record_topics as separate processes over real DDS: the pipeline's bytes, clean ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A domain of its own on this machine only."""
    coordinator = pytest.importorskip("domain_coordinator", reason="domain_coordinator is not installed")
    with coordinator.domain_id() as domain:
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
        yield env


class Process:
    """A command whose output goes to a file, so that it can be waited for."""

    def __init__(self, log: Path, environment: dict[str, str], module: str, *arguments: str) -> None:
        self.log = log
        with log.open("w") as out:
            command = [sys.executable, "-m", module, *arguments]
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert time.monotonic() < end, f"expected {text!r}, found {self.log.read_text()!r}"
            time.sleep(0.05)

    def done(self) -> str:
        """What it said, once it has ended by itself or by SIGINT, with exit status 0 and no traceback."""
        assert self._process.wait(60) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        return self.log.read_text()

    def interrupt(self) -> str:
        self._process.send_signal(signal.SIGINT)
        return self.done()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def test_a_bag_played_to_the_node_and_recorded_equals_the_pipeline(
    environment: dict[str, str],
    network: Callable[..., Path],
    crops: list[np.ndarray],
    image_bag: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from aliked_ros.clouds import keypoint_rows, track_rows
    from aliked_ros.pipeline import AlikedPipeline
    from aliked_ros.tracking import Tracker

    bag = image_bag(crops, topic="/camera/image_raw", period_ns=400_000_000)
    (tmp_path / "logs").mkdir()

    def start(module: str, *arguments: str) -> Process:
        return Process(tmp_path / "logs" / module, environment, module, *arguments)

    topics = ("/aliked/keypoints", "/aliked/tracks")
    parameters = ("-p", f"artifact:={network()}", "-p", "track:=true", "-p", "threshold:=0.2")
    processes = [recorder := start("f3_ros.recorder", *topics, "-o", str(tmp_path / "out"))]
    try:
        processes.append(node := start("aliked_ros.node", "--ros-args", *parameters))
        for topic in topics:
            recorder.wait_for(f"recording {topic}")
        time.sleep(0.5)
        remap = ("-r", "/camera/image_raw:=/aliked/image")
        processes.append(player := start("aot_runtime.ros.bag_player", str(bag), "--ros-args", *remap))
        assert "done: 4 messages" in player.done()
        time.sleep(1.0)
        node.interrupt()
        assert "/aliked/keypoints: 4 messages" in recorder.interrupt(), node.log.read_text()
    finally:
        for process in processes:
            process.kill()
    pipeline, tracker = AlikedPipeline(network(), threshold=0.2), Tracker()
    clouds, tracks = (list(_messages(tmp_path / "out", topic)) for topic in topics)
    assert len(clouds) == len(tracks) == len(crops)
    for cloud, track, image in zip(clouds, tracks, crops):
        result = pipeline.process(image)
        assert np.asarray(cloud.data).tobytes() == keypoint_rows(result).tobytes()
        assert np.asarray(track.data).tobytes() == track_rows(tracker.update(result, image.shape[:2])).tobytes()
        assert cloud.header.stamp == track.header.stamp


def _messages(bag: Path, topic: str) -> Iterator:
    from aot_runtime.bags import bag_messages, open_bag, standard_typestore

    store = standard_typestore()
    with open_bag(bag) as reader:
        for connection, _, raw in bag_messages(reader, bag, {topic}):
            yield store.deserialize_cdr(raw, connection.msgtype)


@pytest.mark.parametrize("command", ["node", "offline"])
def test_help_needs_no_parameters(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    told = Process(tmp_path / "log", environment, f"aliked_ros.{command}", "--help").done()
    assert f"usage: aliked_{command}" in told


def test_node_without_artifact_lives_until_it_is_ended(environment: dict[str, str], tmp_path: Path) -> None:
    node = Process(tmp_path / "log", environment, "aliked_ros.node")
    try:
        node.wait_for("cannot configure: expected an artifact")
        node.interrupt()
    finally:
        node.kill()
