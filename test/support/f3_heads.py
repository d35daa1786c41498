# SPDX-License-Identifier: Apache-2.0
"""For tests of f3_node with heads: what comes of a recording without a node, and playing it to the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from f3_ros.head_outputs import HeadOptions
from f3_ros.offline import published_arrays, run_file
from f3_ros.parameters import stream_config
from f3_ros.perception import PerceptionPipeline

CHANNELS = 8
FRAME = (1280, 720)
DEPTH_GRID, FLOW_GRID = (42, 28), (30, 20)
K = (1000.0, 0.0, 640.0, 0.0, 900.0, 360.0, 0.0, 0.0, 1.0)
RAW = "evt3_gen41_1280x720.raw"


def calibration(sensor: tuple[int, int], k: tuple[float, ...] = K) -> Any:
    """A CameraInfo of the sensor (width, height) with intrinsics `k`."""
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo(width=sensor[0], height=sensor[1], distortion_model="plumb_bob", k=k)
    info.d = [0.1, -0.05, 0.001, 0.002, 0.0]
    info.r = np.eye(3).ravel()
    info.p = (k[0], 0.0, k[2], -50.0, 0.0, k[4], k[5], 0.0, 0.0, 0.0, 1.0, 0.0)
    return info


def expected_of(
    file: Path, artifact: Path, heads: dict[str, str], options: HeadOptions | None = None
) -> list[tuple[Any, dict[str, np.ndarray]]]:
    """(window, what is published of it), without a node."""
    pipeline = PerceptionPipeline.load(artifact, depth=heads.get("depth_artifact"), flow=heads.get("flow_artifact"))
    found = [
        (item, published_arrays(pipeline, item, result, options or HeadOptions()))
        for item, result in run_file(file, pipeline, stream_config(pipeline.f3, {}))
    ]
    pipeline.close()
    return found


def play(ros: Any, replay: Callable[..., Any], file: Path, *streams: list[Any], count: int) -> None:
    """Replays a file in lock-step until each stream holds `count` messages."""
    player = replay(file)
    assert ros.until(lambda: player.exit_code is not None, 60)
    assert player.exit_code == 0
    ros.remove(player)
    assert ros.until(lambda: all(len(stream) >= count for stream in streams), 30), [len(s) for s in streams]
    ros.spin(0.1)
