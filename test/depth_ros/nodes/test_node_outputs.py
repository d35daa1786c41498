# SPDX-License-Identifier: Apache-2.0
"""What depth_node publishes, through real rclpy: depth of real images, points, pictures, the camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_checks import values_of
from ros_images import PERIOD_NS, START_NS, Camera, info_message, rgb_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from aot_runtime.ros.messages import image_view, stamp_to_ns
from aot_runtime.ros.qos import image_input_qos, latched_qos
from depth_ros.pipeline import ImageDepthPipeline


def test_real_pictures_of_changing_size_give_the_pipelines_depth(
    ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path], pictures: dict[str, np.ndarray]
) -> None:
    node = depth()
    received = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    pipeline = ImageDepthPipeline(stand_in())
    for index, image in enumerate(pictures.values()):
        camera.send(rgb_message(image, index, encoding=("rgb8", "bgr8")[index % 2]))
        assert ros.until(lambda n=index + 1: len(received) == n)
        msg = received[-1]
        assert (msg.height, msg.width, msg.encoding) == (*image.shape[:2], "32FC1")
        assert stamp_to_ns(msg.header.stamp) == START_NS + index * PERIOD_NS
        assert msg.header.frame_id == "camera_optical"
        assert msg.data.tobytes() == pipeline.process(image).depth.tobytes()
    assert node.health.drops() == {}
    topics = dict(node.get_publisher_names_and_types_by_node(node.get_name(), ""))
    assert "/depth/depth" not in topics, "relative depth has no place on a metric topic"
    assert "/depth/points" not in topics


@pytest.mark.parametrize("resolution", ["image", "grid"])
def test_metric_depth_with_camera_and_points(
    resolution: str,
    ros: Any,
    depth: Callable[..., Any],
    stand_in: Callable[..., Path],
    pictures: dict[str, np.ndarray],
) -> None:
    artifact = stand_in(kind="metric", max_depth=10.0)
    node = depth(artifact=artifact, output_resolution=resolution, max_range=6.0)
    depths, infos = ros.listen(Image, "/depth/depth"), ros.listen(CameraInfo, "/depth/depth/camera_info")
    clouds = ros.listen(PointCloud2, "/depth/points")
    camera = Camera(ros, node)
    image = pictures["redwood"]  # 640x480, fx = 525
    camera.info(info_message(640, 480, 525.0))
    camera.send(rgb_message(image))
    assert ros.until(lambda: depths and infos and clouds)
    result = ImageDepthPipeline(artifact, output_resolution=resolution, max_range=6.0).process(
        image, np.array([[525.0, 0, 319.5], [0, 525, 239.5], [0, 0, 1]])
    )
    height, width = result.depth.shape
    assert (height, width) == ((480, 640) if resolution == "image" else (56, 70))
    assert depths[0].data.tobytes() == result.depth.tobytes()
    assert 0 < np.isnan(image_view(depths[0])).mean() < 1, "beyond the range is NaN"
    info, cloud = infos[0], clouds[0]
    assert (info.width, info.height, info.distortion_model) == (width, height, "plumb_bob")
    assert info.header == cloud.header == depths[0].header
    assert result.camera_matrix is not None
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), result.camera_matrix)
    np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:, :3], result.camera_matrix)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (height, width, 16, 16 * width)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb"]
    assert not cloud.is_dense
    points = np.frombuffer(cloud.data, np.float32).reshape(height, width, 4)
    assert points[..., 2].tobytes() == result.depth.tobytes()
    known = result.valid
    projected = points[..., :3][known].astype(np.float64) @ np.reshape(info.k, (3, 3)).T
    rows, columns = np.nonzero(known)
    np.testing.assert_allclose(projected[:, 0] / projected[:, 2], columns, atol=1e-3)
    np.testing.assert_allclose(projected[:, 1] / projected[:, 2], rows, atol=1e-3)
    if resolution == "image":
        bits = np.ascontiguousarray(points[..., 3]).view(np.uint32)
        np.testing.assert_array_equal(bits, image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32))


def test_points_without_colour_and_none(ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path]) -> None:
    artifact = stand_in(kind="disparity", focal_baseline=20.0)
    node = depth(artifact=artifact, points="xyz")
    clouds = ros.listen(PointCloud2, "/depth/points")
    camera = Camera(ros, node)
    camera.info(info_message(140, 112))
    camera.send(rgb_message(np.full((112, 140, 3), 51, np.uint8)))
    assert ros.until(lambda: clouds)
    points = np.frombuffer(clouds[0].data, np.float32).reshape(112, 140, 3)
    np.testing.assert_allclose(points[..., 2], 10.0, rtol=1e-5)  # 20 / (10 * 51 / 255)
    assert clouds[0].is_dense
    ros.remove(node)
    node = depth(artifact=artifact, points="off")
    assert "/depth/points" not in dict(node.get_publisher_names_and_types_by_node("depth", ""))


def test_a_real_network_with_random_weights_warns_and_publishes_metres(
    ros: Any, depth: Callable[..., Any], tiny_dav2: Path, pictures: dict[str, np.ndarray]
) -> None:
    node = depth(artifact=tiny_dav2, diagnostics_period=0.2)
    depths = ros.listen(Image, "/depth/depth")
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    camera = Camera(ros, node)
    for index, name in enumerate(("room", "room2", "room")):
        camera.send(rgb_message(pictures[name], index))
    assert ros.until(lambda: len(depths) == 3)
    first, second, third = (image_view(msg) for msg in depths)
    assert first.shape == (120, 160)
    assert np.isfinite(first).all()
    assert (first > 0).all()
    assert (first < 20).all()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    ros.spin(0.3)
    status = reports[-1].status[0]
    told = values_of(status)
    assert (status.name, status.level, status.hardware_id) == ("depth", DiagnosticStatus.WARN, "cpu")
    assert "random weights" in status.message
    assert told["artifact"] == tiny_dav2.name
    assert told["model"] == "depth depth_anything_v2_tiny"
    assert told["weights"] == "random"
    assert (told["count receive"], told["count infer"], told["count publish"]) == ("3", "3", "3")
    assert told["finite outputs [%]"] == "100"
    assert told["image -> depth [px]"] == "160x120 -> 160x120"
    assert told["camera_info"] == "none"
    assert float(told["latency from receive p99 [ms]"]) > 0


def test_picture_is_made_while_subscribed(
    ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import depth_ros.node
    from depth_ros.pictures import colour_depth

    made: list[int] = []
    monkeypatch.setattr(depth_ros.node, "colour_depth", lambda *a: (made.append(1), colour_depth(*a))[1])
    node = depth(frame_id="left_eye")
    camera = Camera(ros, node)
    camera.send(rgb_message(pictures["room"]))
    assert node.health.count("publish") == 1
    assert not made
    shown, depths = ros.listen(Image, "/depth/depth_image"), ros.listen(Image, "/depth/relative_depth")
    assert ros.until(lambda: node.wanted("depth_image") and node.wanted("relative_depth"))
    camera.send(rgb_message(pictures["room"], 1))
    assert ros.until(lambda: shown and depths)
    assert (shown[0].width, shown[0].height, shown[0].encoding) == (160, 120, "bgr8")
    assert shown[0].header == depths[0].header
    assert shown[0].header.frame_id == "left_eye"
    np.testing.assert_array_equal(image_view(shown[0]), colour_depth(image_view(depths[0]), None, "relative"))


# -- the camera --------------------------------------------------------------------------------------------------------


def test_camera_of_the_images_stamp_else_the_latest(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(output_resolution="grid")
    infos = ros.listen(CameraInfo, "/depth/depth/camera_info")
    camera = Camera(ros, node)
    image = np.zeros((112, 140, 3), np.uint8)
    camera.send(rgb_message(image, 0))
    assert not infos
    assert "no camera_info yet" in node.health.warnings["camera"]
    camera.info(info_message(140, 112, 100.0, index=1))
    camera.info(info_message(140, 112, 200.0, index=2))
    assert node.health.warnings.get("camera") is not None
    for index in (1, 2, 3):
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(infos) == 3)
    assert [info.k[0] for info in infos] == [50.0, 100.0, 100.0]
    assert "camera" not in node.health.warnings
    assert [stamp_to_ns(info.header.stamp) for info in infos] == [START_NS + n * PERIOD_NS for n in (1, 2, 3)]


def test_latched_camera_info_published_before_the_node_was_there(ros: Any, depth: Callable[..., Any]) -> None:
    latched = ros.listener.create_publisher(CameraInfo, "/depth/camera_info", latched_qos())
    latched.publish(info_message(140, 112, 300.0))
    node = depth(output_resolution="grid")
    infos = ros.listen(CameraInfo, "/depth/depth/camera_info")
    assert ros.until(lambda: node._infos.of(0) is not None)
    images = ros.publisher(Image, "/depth/image", image_input_qos(10))
    images.publish(rgb_message(np.zeros((112, 140, 3), np.uint8), 7))
    assert ros.until(lambda: infos)
    assert infos[0].k[0] == 150.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 150}, "expected a camera_info for the image's 140x112 pixels, found one for 150x112"),
        ({"k": [0.0] * 9}, "found K = 0"),
        ({"d": [0.1], "distortion_model": "kb8"}, "found 'kb8'"),
    ],
)
def test_useless_camera_info_means_depth_without_points(
    changes: dict[str, Any], reason: str, ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path]
) -> None:
    node = depth(artifact=stand_in(kind="metric"), rectified=False)
    depths, clouds = ros.listen(Image, "/depth/depth"), ros.listen(PointCloud2, "/depth/points")
    camera = Camera(ros, node)
    useless = info_message(140, 112)
    for name, value in changes.items():
        setattr(useless, name, value)
    camera.info(useless)
    image = np.full((112, 140, 3), 99, np.uint8)
    camera.send(rgb_message(image))
    assert ros.until(lambda: depths)
    assert not clouds
    assert reason in node.health.warnings["camera"]
    camera.info(info_message(140, 112))
    camera.send(rgb_message(image, 1))
    assert ros.until(lambda: clouds)
    assert "camera" not in node.health.warnings
    assert node.health.drops() == {}
