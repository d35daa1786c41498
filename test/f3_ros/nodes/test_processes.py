# SPDX-License-Identifier: Apache-2.0
"""The commands as separate processes over real DDS: same features as offline, clean ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_processes import Process, run_module

pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

Start = Callable[..., Process]


def test_replay_node_record_features_and_offline_agree(
    start: Start, micro_f3: Path, shared: Path, tmp_path: Path
) -> None:
    from f3_ros.offline import run_file
    from f3_ros.parameters import stream_config
    from f3_ros.pipeline import F3Pipeline

    file = shared / "data" / "events" / "bag_evt3_gen41_sqlite3"
    pipeline = F3Pipeline(micro_f3)
    expected = [result.features for _, result in run_file(file, pipeline, stream_config(pipeline, {}))]
    recorder = start("f3_ros.recorder", "/f3/features", "-o", str(tmp_path / "bag"))
    node = start("f3_ros.node", "--ros-args", "-p", f"artifact:={micro_f3}")
    arguments = ["-p", f"file:={file}", "-p", "rate:=0.0", "-p", "stamps:=recorded", "-p", "wait_timeout:=40.0"]
    arguments += ["-r", "~/events:=/f3/events", "-r", "~/processed_seq:=/f3/processed_seq"]
    # The node's publishers exist before it takes packets; a recorder that joins later would miss the first windows.
    recorder.wait_for("recording /f3/features")
    time.sleep(0.5)
    told = start("f3_ros.replay_node", "--ros-args", *arguments).done()
    assert "done: 60 packets" in told
    time.sleep(1.0)  # the open window closes by wall time
    node_said = node.end(signal.SIGTERM)
    assert "random weights" in node_said
    recorder_said = recorder.end()
    assert f"/f3/features: {len(expected)} messages" in recorder_said, (told, node_said)
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
    done = run_module(module, "--help", env=environment)
    assert done.stdout.startswith("usage: ")
    assert not done.stderr


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
    done = run_module("f3_ros.replay_node", "--ros-args", *given, env=environment)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_node_without_artifact_lives_until_it_is_ended(start: Start) -> None:
    node = start("f3_ros.node")
    time.sleep(3.0)
    assert node.alive
    assert "cannot configure: expected an artifact" in node.end()
