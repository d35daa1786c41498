# SPDX-License-Identifier: Apache-2.0
"""What aliked_node takes and bears: encodings, malformed images, a failing model, overload, late images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_images import (
    Camera,
    check_late_images,
    check_malformed_images,
    check_overload,
    malformed_pngs,
    png_message,
    rgb_message,
)
from sensor_msgs.msg import CompressedImage, PointCloud2

from aliked_ros.clouds import keypoint_rows
from aliked_ros.pipeline import AlikedPipeline
from aot_runtime.ros.messages import to_image

Maker = Callable[..., Any]


def test_malformed_images_are_counted_and_the_node_lives_on(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    check_malformed_images(ros, node, ros.listen(PointCloud2, "/aliked/keypoints"), crops[0])


def test_compressed_images(ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(image_transport="compressed")
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node, CompressedImage)
    msg = png_message(crops[0])
    for broken in malformed_pngs(msg.header):
        camera.send(broken)
    assert node.health.drops() == {"bad_image": 2}
    camera.send(msg)
    assert ros.until(lambda: clouds)
    assert clouds[0].data.tobytes() == keypoint_rows(AlikedPipeline(network()).process(crops[0])).tobytes()


def test_grey_and_alpha_and_16_bits_and_padded_rows(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    grey = np.ascontiguousarray(crops[0][:, :, 0])
    three = np.repeat(grey[:, :, None], 3, axis=2)
    header = rgb_message(crops[0]).header
    messages = [
        to_image(three, "rgb8", header),
        to_image(grey, "mono8", header),
        to_image(np.dstack([three, np.zeros_like(grey)]), "rgba8", header),
        to_image(grey.astype(np.uint16) << 8, "mono16", header),
    ]
    padded = to_image(np.ascontiguousarray(np.pad(three, ((0, 0), (0, 7), (0, 0)))), "rgb8", header)
    padded.width = 160
    for msg in (*messages, padded):
        camera.send(msg)
    assert ros.until(lambda: len(clouds) == 5)
    assert len({cloud.data.tobytes() for cloud in clouds}) == 1
    assert clouds[0].width > 50


def test_a_failing_model_costs_an_image_and_is_reported(
    ros: Any, aliked: Maker, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = aliked(diagnostics_period=0.1)
    node.health.stall_s = 0.3
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    camera = Camera(ros, node)

    def fail(**tensors: Any) -> None:
        raise RuntimeError("the device is gone")

    def error() -> str:
        status = reports[-1].status[0] if reports else DiagnosticStatus()
        return status.message if status.level == DiagnosticStatus.ERROR else ""

    with monkeypatch.context() as patch:
        patch.setattr(node._pipeline.model, "run", fail)
        for index in range(100):
            camera.send(rgb_message(crops[0], index))
            if error():
                break
    text = "input arrives but nothing is published: stuck at infer (RuntimeError: the device is gone)"
    assert error() == text
    assert node.health.drops() == {"image_failed": node.health.count("receive")}
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera.send(rgb_message(crops[0], 200))
    assert ros.until(lambda: clouds)


def test_overload_keeps_the_latest_image(
    ros: Any, aliked: Maker, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = aliked()
    check_overload(ros, node, ros.listen(PointCloud2, "/aliked/keypoints"), crops[0], monkeypatch)


def test_late_images_are_dropped_by_age(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(max_input_age=5.0)
    check_late_images(ros, node, ros.listen(PointCloud2, "/aliked/keypoints"), crops[0])
