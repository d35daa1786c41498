# SPDX-License-Identifier: Apache-2.0
"""What depth_node takes and bears: encodings, malformed images, overload, late images, time that jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_checks import values_of
from ros_images import (
    Camera,
    SimulatedTime,
    check_late_images,
    check_malformed_images,
    check_overload,
    info_message,
    malformed_pngs,
    png_message,
    rgb_message,
)
from sensor_msgs.msg import CompressedImage, Image

from aot_runtime.ros.messages import to_image


def test_malformed_images_are_counted_and_the_node_lives_on(
    ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray]
) -> None:
    node = depth()
    check_malformed_images(ros, node, ros.listen(Image, "/depth/relative_depth"), pictures["room"])


def test_compressed_images(ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray]) -> None:
    node = depth(image_transport="compressed")
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node, CompressedImage)
    msg = png_message(pictures["room"])
    camera.send(msg)
    assert ros.until(lambda: depths)
    assert depths[0].data.tobytes() == node._pipeline.process(pictures["room"]).depth.tobytes()
    for broken in malformed_pngs(msg.header):
        camera.send(broken)
    assert node.health.drops() == {"bad_image": 2}
    camera.send(msg)
    assert ros.until(lambda: len(depths) == 2)


def test_images_that_never_fit_are_an_error_that_names_the_stage(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(diagnostics_period=0.1)
    node.health.stall_s = 0.3
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    camera = Camera(ros, node)

    def error() -> str:
        status = reports[-1].status[0] if reports else DiagnosticStatus()
        return status.message if status.level == DiagnosticStatus.ERROR else ""

    for index in range(100):
        msg = rgb_message(np.zeros((8, 8, 3), np.uint8), index)
        msg.encoding = "rgb9"
        camera.send(msg)
        if error():
            break
    assert "input arrives but nothing is published: stuck at infer" in error()
    status = reports[-1].status[0]
    assert "found 'rgb9'" in values_of(status)["last error receive"]


def test_grey_and_alpha_and_16_bits(ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray]) -> None:
    node = depth()
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    grey = np.ascontiguousarray(pictures["kitti"][:, :, 0])
    header = rgb_message(pictures["room"]).header
    alpha = np.dstack([pictures["kitti"], np.zeros_like(grey)])
    for array, encoding in (
        (grey, "mono8"),
        (alpha, "rgba8"),
        (grey.astype(np.uint16) << 8, "mono16"),
        (pictures["kitti"], "rgb8"),
    ):
        camera.send(to_image(array, encoding, header))
    assert ros.until(lambda: len(depths) == 4)
    assert len({msg.data.tobytes() for msg in depths}) == 1


def test_overload_keeps_the_latest_image(ros: Any, depth: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    node = depth()
    image = np.zeros((30, 40, 3), np.uint8)
    check_overload(ros, node, ros.listen(Image, "/depth/relative_depth"), image, monkeypatch)


def test_late_images_are_dropped_by_age(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(max_input_age=5.0)
    check_late_images(ros, node, ros.listen(Image, "/depth/relative_depth"), np.zeros((30, 40, 3), np.uint8))


def test_stamps_that_jump_back_are_counted_and_forget_old_cameras(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth()
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    camera.info(info_message(40, 30, 100.0, index=0))
    camera.info(info_message(40, 30, 200.0, index=50))
    image = np.zeros((30, 40, 3), np.uint8)
    for index in (0, 50, 0):  # a bag that loops
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(depths) == 3)
    assert node.health.drops() == {"time_jump_back": 1}
    assert node._infos.source == "latest"


def test_simulated_time_that_jumps_back(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(use_sim_time=True, max_input_age=10.0)
    time = SimulatedTime(ros, node)
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    image = np.zeros((30, 40, 3), np.uint8)
    time.set(1)
    camera.send(rgb_message(image))
    assert ros.until(lambda: len(depths) == 1)
    time.set(100)
    camera.send(rgb_message(image))
    assert node.health.drops()["late"] == 1
    time.set_back(0)
    camera.send(rgb_message(image))
    assert ros.until(lambda: len(depths) == 2)
