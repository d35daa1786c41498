# SPDX-License-Identifier: Apache-2.0
"""Keypoints of aliked_node through real rclpy: official ones, real images of any size, limits, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from keypoint_clouds import rows_of
from ros_images import PERIOD_NS, START_NS, Camera, rgb_message
from sensor_msgs.msg import Image, PointCloud2, PointField

from aliked_ros.clouds import keypoint_rows
from aliked_ros.pipeline import AlikedPipeline
from aot_runtime.ros.messages import image_view, stamp_to_ns

Images = Callable[[str], np.ndarray]
Maker = Callable[..., Any]


@pytest.mark.parametrize(
    ("variant", "case", "suffix"),
    [
        ("t16", "crop_th02", ".pt2"),
        ("n32", "crop_th02", ".onnx"),
        pytest.param("n16rot", "tum_k1000", ".pt2", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_official_keypoints_come_out(
    variant: str, case: str, suffix: str, ros: Any, aliked: Maker, network: Maker, aliked_golden: Maker
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    golden = aliked_golden(variant, case)
    threshold = golden.meta["scores_th"] if golden.meta["mode"] == "threshold" else 0.0
    node = aliked(artifact=network(variant, case, suffix), threshold=float(threshold))
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    Camera(ros, node).send(rgb_message(golden.image))
    assert ros.until(lambda: clouds)
    arrays = golden.arrays
    wanted = arrays["keypoints"].astype(np.float64)
    found = rows_of(clouds[0], arrays["descriptors"].shape[1])
    assert clouds[0].width == len(found) == len(wanted)
    # Neighbours in the order differ by as little as 3e-8: match by place, with the limits of golden/aliked/README.md.
    distance = np.linalg.norm(wanted[:, None] - np.stack([found["x"], found["y"]], axis=1)[None], axis=2)
    index, nearest = distance.argmin(1), distance.min(1)
    same = nearest < 0.05
    assert same.mean() >= 0.998
    assert nearest[same].max() <= 1e-3
    assert np.abs(found["score"][index][same] - arrays["scores"][same]).max() <= 2e-4
    cosine = (found["descriptor"][index][same].astype(np.float64) * arrays["descriptors"][same]).sum(1)
    assert cosine.min() >= 0.99
    assert (cosine >= 0.9999).mean() >= 0.995


def test_cloud_says_what_its_bytes_are(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    Camera(ros, node).send(rgb_message(crops[0], 3))
    assert ros.until(lambda: clouds)
    cloud = clouds[0]
    fields = [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields]
    float32 = PointField.FLOAT32
    assert fields == [
        ("x", 0, float32, 1),
        ("y", 4, float32, 1),
        ("score", 8, float32, 1),
        ("descriptor", 12, float32, 64),
    ]
    assert (cloud.point_step, cloud.row_step) == (4 * 67, 4 * 67 * cloud.width)
    assert (cloud.height, len(cloud.data), cloud.is_dense) == (1, cloud.row_step, True)
    assert stamp_to_ns(cloud.header.stamp) == START_NS + 3 * PERIOD_NS
    assert cloud.header.frame_id == "camera_optical"
    rows = rows_of(cloud)
    np.testing.assert_allclose(np.linalg.norm(rows["descriptor"], axis=1), 1, atol=1e-5)
    assert ((rows["x"] > -0.5) & (rows["x"] < 159.5) & (rows["y"] > -0.5) & (rows["y"] < 119.5)).all()


def test_real_images_of_any_size_give_the_pipelines_bytes(
    ros: Any, aliked: Maker, network: Maker, read_image: Images
) -> None:
    node = aliked(frame_id="left_eye")
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    pipeline = AlikedPipeline(network())
    names = ("tum_1311868169.163498.png", "kitti_000100.png", "piazza_san_marco_1.jpg")
    for index, name in enumerate(names):
        image = read_image(name)
        camera.send(rgb_message(image, index, encoding=("rgb8", "bgr8")[index % 2]))
        assert ros.until(lambda n=index + 1: len(clouds) == n)
        result = pipeline.process(image)
        assert len(result) > 50
        assert clouds[-1].data.tobytes() == keypoint_rows(result).tobytes()
        assert clouds[-1].header.frame_id == "left_eye"
        assert result.keypoints[:, 0].max() > 0.7 * image.shape[1], "in pixels of the image, not of the artifact"
    assert node.health.drops() == {}


def test_images_of_another_size_can_be_refused(
    ros: Any, aliked: Maker, crops: list[np.ndarray], read_image: Images
) -> None:
    node = aliked(resize="never")
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    camera.send(rgb_message(read_image("kitti_000100.png")))
    assert node.health.drops() == {"bad_image": 1}
    reason = node.health.report().values["last error receive"]
    assert "expected images of 160x120 as the artifact takes, found 1241x376" in reason
    assert "--width 1241 --height 376" in reason
    assert not clouds
    camera.send(rgb_message(crops[0], 1))
    assert ros.until(lambda: clouds)


def test_threshold_and_number_of_keypoints(ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray]) -> None:
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    every = AlikedPipeline(network()).process(crops[0])
    peaks = every.peak_scores
    assert (np.diff(peaks) <= 0).all()
    assert len(every) > 100
    limit = float(peaks[40])  # the 41st is not above it

    def keypoints(**values: Any) -> bytes:
        clouds.clear()
        node = aliked(**values)
        Camera(ros, node).send(rgb_message(crops[0]))
        assert ros.until(lambda: clouds)
        ros.remove(node)
        return bytes(clouds[0].data)

    rows = keypoint_rows(every)
    assert keypoints() == rows.tobytes()
    assert keypoints(threshold=limit) == rows[:40].tobytes()
    assert keypoints(max_keypoints=25) == rows[:25].tobytes()
    assert keypoints(threshold=limit, max_keypoints=60) == rows[:40].tobytes()
    assert keypoints(max_keypoints=300) == rows.tobytes()


def test_images_without_keypoints_give_empty_clouds(
    ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray]
) -> None:
    node = aliked(track=True, threshold=0.2)
    clouds, tracks = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    shown = ros.listen(Image, "/aliked/image_keypoints")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks") and node.wanted("image_keypoints"))
    pipeline = AlikedPipeline(network(), threshold=0.2)
    images = [np.full((120, 160, 3), grey, np.uint8) for grey in (0, 128, 255)]
    images += [crops[0], np.full((1, 1, 3), 200, np.uint8), crops[0]]
    for index, image in enumerate(images):
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(clouds) == len(tracks) == len(shown) == len(images))
    for cloud, image in zip(clouds, images):
        assert cloud.data.tobytes() == keypoint_rows(pipeline.process(image)).tobytes()
        assert [field.name for field in cloud.fields] == ["x", "y", "score", "descriptor"]
    assert [cloud.width > 0 for cloud in clouds] == [False, False, False, True, False, True]
    assert [cloud.width for cloud in tracks] == [0] * len(images)
    assert all(cloud.is_dense for cloud in clouds)
    assert node.health.drops() == {}


def test_picture_is_drawn_while_subscribed(
    ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import aliked_ros.node
    from aliked_ros.pictures import keypoints_picture

    made: list[int] = []
    monkeypatch.setattr(aliked_ros.node, "keypoints_picture", lambda *a: (made.append(1), keypoints_picture(*a))[1])
    node = aliked()
    camera = Camera(ros, node)
    camera.send(rgb_message(crops[0]))
    assert node.health.count("publish") == 1
    assert not made
    shown, clouds = ros.listen(Image, "/aliked/image_keypoints"), ros.listen(PointCloud2, "/aliked/keypoints")
    assert ros.until(lambda: node.wanted("image_keypoints") and node.wanted("keypoints"))
    camera.send(rgb_message(crops[0], 1))
    assert ros.until(lambda: shown and clouds)
    assert shown[0].header == clouds[0].header
    assert shown[0].encoding == "bgr8"
    result = AlikedPipeline(network()).process(crops[0])
    expected = keypoints_picture(crops[0][:, :, ::-1], result.keypoints, result.scores)
    np.testing.assert_array_equal(image_view(shown[0]), expected)
    assert (expected != crops[0][:, :, ::-1]).any()


def test_two_cameras_by_remapping(ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray]) -> None:
    pipeline = AlikedPipeline(network())
    nodes, clouds, cameras = [], [], []
    for side in ("left", "right"):
        remap = ["--ros-args", "-r", f"__node:=aliked_{side}", "-r", f"~/image:=/{side}/image_raw"]
        nodes.append(aliked(cli_args=remap))
        clouds.append(ros.listen(PointCloud2, f"/aliked_{side}/keypoints"))
        cameras.append(Camera(ros, nodes[-1], topic=f"/{side}/image_raw"))
    for camera, image in zip(cameras, crops):
        camera.send(rgb_message(image))
    assert ros.until(lambda: all(clouds))
    for arrived, image in zip(clouds, crops):
        (cloud,) = arrived
        assert cloud.data.tobytes() == keypoint_rows(pipeline.process(image)).tobytes()
