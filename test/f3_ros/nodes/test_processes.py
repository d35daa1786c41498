# SPDX-License-Identifier: Apache-2.0
"""The commands as separate processes over real DDS: same features as offline, clean ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

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


def start(
    module: str, environment: dict[str, str], *arguments: str, stderr: Any = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def wait_for(text: str, log: Path, timeout_s: float = 40.0) -> None:
    """Waits until a process has written this."""
    deadline = time.monotonic() + timeout_s
    while text not in log.read_text():
        assert time.monotonic() < deadline, f"expected {text!r}, found {log.read_text()!r}"
        time.sleep(0.05)


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Sends the signal; returns what the process said, which must hold no traceback, after exit code 0."""
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in (err or "")
    return out + (err or "")


def test_replay_node_record_features_and_offline_agree(
    environment: dict[str, str], micro_f3: Path, shared: Path, tmp_path: Path
) -> None:
    from f3_ros.offline import run_file
    from f3_ros.parameters import stream_config
    from f3_ros.pipeline import F3Pipeline

    file = shared / "data" / "events" / "bag_evt3_gen41_sqlite3"
    pipeline = F3Pipeline(micro_f3)
    expected = [result.features for _, result in run_file(file, pipeline, stream_config(pipeline, {}))]
    log = tmp_path / "recorder.log"
    with log.open("w") as stderr:
        recorder = start("f3_ros.recorder", environment, "/f3/features", "-o", str(tmp_path / "bag"), stderr=stderr)
    node = start("f3_ros.node", environment, "--ros-args", "-p", f"artifact:={micro_f3}")
    arguments = ["-p", f"file:={file}", "-p", "rate:=0.0", "-p", "stamps:=recorded", "-p", "wait_timeout:=40.0"]
    arguments += ["-r", "~/events:=/f3/events", "-r", "~/processed_seq:=/f3/processed_seq"]
    # The node's publishers exist before it takes packets; a recorder that joins later would miss the first windows.
    wait_for("recording /f3/features", log)
    time.sleep(0.5)
    player = start("f3_ros.replay_node", environment, "--ros-args", *arguments)
    try:
        _, told = player.communicate(timeout=60)
        assert player.returncode == 0, told
        assert "done: 60 packets" in told
        time.sleep(1.0)  # the open window closes by wall time
        node_said = end(node, signal.SIGTERM)
        assert "random weights" in node_said
        recorder_said = end(recorder) + log.read_text()
        assert f"/f3/features: {len(expected)} messages" in recorder_said, (told, node_said, recorder_said)
    finally:
        for process in (player, node, recorder):
            if process.poll() is None:
                process.kill()
                process.communicate()
    features = read_features(tmp_path / "bag")
    assert len(features) == len(expected)
    for live, offline in zip(features, expected):
        assert live.tobytes() == offline.tobytes()


def read_features(bag: Path) -> list[np.ndarray]:
    """(C, H, W) arrays from /f3/features of a bag."""
    from rosbags.rosbag2 import Reader

    from f3_ros.events.readers.bag_types import event_typestore

    store, features = event_typestore(), []
    with Reader(bag) as reader:
        connections = [c for c in reader.connections if c.topic == "/f3/features"]
        for connection, _, raw in reader.messages(connections):
            image: Any = store.deserialize_cdr(raw, connection.msgtype)
            pixels = np.asarray(image.data).view(np.float32).reshape(image.height, image.width, -1)
            features.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return features


@pytest.mark.parametrize("module", ["f3_ros.node", "f3_ros.replay_node"])
def test_help_needs_no_parameters(module: str, environment: dict[str, str]) -> None:
    out, err = start(module, environment, "--help").communicate(timeout=30)
    assert out.startswith("usage: ")
    assert not err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["file:=none.raw"], "none.raw"),
        (["file:=none.raw", "rate:=1"], "give a double as 1.0"),
        (["file:=none.raw", "rate:=-1.0"], "rate"),
    ],
    ids=["missing_file", "int_for_double", "out_of_range"],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    arguments: list[str], reason: str, environment: dict[str, str]
) -> None:
    given = [part for argument in arguments for part in ("-p", argument)]
    process = start("f3_ros.replay_node", environment, "--ros-args", *given)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "error: " in err
    assert reason in err
    assert "Traceback" not in err


def test_node_without_artifact_lives_until_it_is_ended(environment: dict[str, str]) -> None:
    node = start("f3_ros.node", environment)
    time.sleep(3.0)
    assert node.poll() is None
    assert "cannot configure: expected an artifact" in end(node)
