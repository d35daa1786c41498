# SPDX-License-Identifier: Apache-2.0
"""aliked_node through real rclpy: official keypoints, real images, tracks, malformed input, time, lifecycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from aliked_ros.clouds import TRACK_ROW, keypoint_row, keypoint_rows, track_rows
from aliked_ros.pipeline import AlikedPipeline
from aliked_ros.tracking import Tracker
from aot_runtime.ros.messages import image_view, ns_to_stamp, stamp_to_ns, to_image
from aot_runtime.ros.qos import image_input_qos

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000
DIM = 64  # of t16's descriptors
Images = Callable[[str], np.ndarray]
Maker = Callable[..., Any]


def rgb_message(image: np.ndarray, index: int = 0, frame: str = "camera_optical", encoding: str = "rgb8") -> Image:
    header = Header(stamp=ns_to_stamp(START_NS + index * PERIOD_NS), frame_id=frame)
    return to_image(image if encoding == "rgb8" else np.ascontiguousarray(image[:, :, ::-1]), encoding, header)


class Camera:
    """Publishes to a node, each image only once the one before is done."""

    def __init__(self, ros: Any, node: Any, kind: Any = Image, topic: str = "/aliked/image") -> None:
        self._ros = ros
        self._node = node
        self._images = ros.publisher(kind, topic, image_input_qos(10))

    def send(self, msg: Any) -> None:
        before = self._node.health.count("receive")
        self._images.publish(msg)
        assert self._ros.until(lambda: self._node.health.count("receive") > before and self._node._worker.idle)
        self._ros.spin(0.05)


def rows_of(cloud: PointCloud2, dim: int = DIM) -> np.ndarray:
    return np.frombuffer(cloud.data, keypoint_row(dim))


def tracks_of(cloud: PointCloud2) -> np.ndarray:
    return np.frombuffer(cloud.data, TRACK_ROW)


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


# -- keypoints ---------------------------------------------------------------------------------------------------------


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


# -- pictures and tracks -----------------------------------------------------------------------------------------------


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


def test_tracks_follow_a_moving_view(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    from aliked_ros.pictures import tracks_picture

    node = aliked(track=True, max_step=15.0, ratio=0.95, threshold=0.2)
    clouds, found = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    shown = ros.listen(Image, "/aliked/image_tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks") and node.wanted("image_tracks"))
    for index, image in enumerate(crops):
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(clouds) == len(found) == len(shown) == len(crops))
    assert found[0].width == 0
    assert [field.name for field in found[0].fields] == list(TRACK_ROW.names or ())
    for before, cloud, track, picture, image in zip(clouds, clouds[1:], found[1:], shown[1:], crops[1:]):
        rows, now, old = tracks_of(track), rows_of(cloud), rows_of(before)
        assert track.header == cloud.header == picture.header
        assert len(rows) >= 50
        np.testing.assert_array_equal(rows["x"], now["x"][rows["index"]])
        np.testing.assert_array_equal(rows["y"], now["y"][rows["index"]])
        places = {(x, y) for x, y in zip(old["x"], old["y"])}
        assert all((x, y) in places for x, y in zip(rows["previous_x"], rows["previous_y"]))
        step = np.stack([rows["x"] - rows["previous_x"], rows["y"] - rows["previous_y"]], axis=1)
        assert (np.linalg.norm(step - [-8, -5], axis=1) < 1).mean() >= 0.9
        assert (rows["similarity"] >= 0.75).all()
        was = np.stack([rows["previous_x"], rows["previous_y"]], axis=1)
        here = np.stack([rows["x"], rows["y"]], axis=1)
        np.testing.assert_array_equal(image_view(picture), tracks_picture(image[:, :, ::-1], was, here))
    second, last = tracks_of(found[1]), tracks_of(found[3])
    assert set(second["length"]) == {2}
    kept = np.isin(last["id"], second["id"])
    assert kept.sum() >= 20, "tracks through all four images"
    assert (last["length"][kept] == 4).all()
    assert len(set(last["id"])) == len(last)


def test_jumps_in_time_and_other_sizes_break_tracks(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(track=True)
    found = ros.listen(PointCloud2, "/aliked/tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks"))
    smaller = np.ascontiguousarray(crops[0][:100])
    steps = [(crops[0], 10), (crops[0], 11), (crops[0], 1), (crops[0], 2), (smaller, 3), (smaller, 4)]
    for image, index in steps:
        camera.send(rgb_message(image, index))
    assert ros.until(lambda: len(found) == len(steps))
    assert [cloud.width > 50 for cloud in found] == [False, True, False, True, False, True]
    assert [cloud.width for cloud in found[::2]] == [0, 0, 0]
    assert node.health.drops() == {"time_jump_back": 1}


def test_no_tracks_unless_asked_for(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    assert "/aliked/tracks" not in dict(node.get_publisher_names_and_types_by_node("aliked", ""))
    ros.remove(node)
    node = aliked(track=True)
    camera = Camera(ros, node)
    camera.send(rgb_message(crops[0]))
    assert node.health.report().values["tracks"] == "nobody subscribes"
    found = ros.listen(PointCloud2, "/aliked/tracks")
    assert ros.until(lambda: node.wanted("tracks"))
    for index in (1, 2):
        camera.send(rgb_message(crops[0], index))
    assert ros.until(lambda: len(found) == 2)
    assert found[0].width == 0, "the first image that is tracked has none before it"
    assert node.health.report().values["tracks"] == str(found[1].width)


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


# -- bags --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"compressed": True, "storage": "sqlite3"}])
def test_a_bag_played_to_the_node_gives_the_pipelines_bytes(
    options: dict[str, Any],
    ros: Any,
    aliked: Maker,
    network: Maker,
    image_bag: Callable[..., Path],
    read_image: Images,
) -> None:
    from aot_runtime.ros.bag_player import BagPlayer, PlayOptions

    images = [read_image(f"tum_{stamp}.png") for stamp in ("1311868169.163498", "1311868170.063469")]
    topic = "/camera/image_raw/compressed" if "compressed" in options else "/camera/image_raw"
    bag = image_bag(images, topic=topic, period_ns=PERIOD_NS, **options)
    transport = "compressed" if "compressed" in options else "raw"
    node = aliked(track=True, image_transport=transport, threshold=0.2)
    clouds, found = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    assert ros.until(lambda: node.wanted("tracks"))
    # Slow enough for each image to be done before the next one comes.
    player = ros.add(BagPlayer(bag, PlayOptions(rate=0.05), cli_args=["--ros-args", "-r", f"{topic}:=/aliked/image"]))
    assert ros.until(lambda: player.exit_code is not None)
    assert ros.until(lambda: len(found) == len(images))
    assert player.exit_code == 0
    assert node.health.drops() == {}
    pipeline, tracker = AlikedPipeline(network(), threshold=0.2), Tracker()
    for index, (cloud, track, image) in enumerate(zip(clouds, found, images)):
        result = pipeline.process(image)
        assert cloud.data.tobytes() == keypoint_rows(result).tobytes()
        assert track.data.tobytes() == track_rows(tracker.update(result, image.shape[:2])).tobytes()
        assert stamp_to_ns(cloud.header.stamp) == START_NS + index * PERIOD_NS
        assert cloud.header.frame_id == "camera_optical"
    assert found[1].width >= 30


# -- bad input, time, load ---------------------------------------------------------------------------------------------


def test_malformed_images_are_counted_and_the_node_lives_on(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked()
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)

    def changed(**fields: Any) -> Image:
        msg = rgb_message(crops[0])
        for name, value in fields.items():
            setattr(msg, name, value)
        return msg

    bad = [
        changed(encoding="rgb9"),
        changed(encoding=""),
        changed(width=0),
        changed(height=0),
        changed(height=2**32 - 1),
        changed(step=1),
        changed(step=2**32 - 1),
        changed(encoding="32FC1", step=160 * 4),
        changed(encoding="bayer_rggb8", width=159),
        changed(encoding="yuv422", step=300),
        Image(header=changed().header),
    ]
    for msg in bad:
        camera.send(msg)
    assert node.health.drops() == {"bad_image": len(bad)}
    stamp = changed()
    stamp.header.stamp.nanosec = 2 * 10**9
    camera.send(stamp)
    assert node.health.drops()["bad_stamp"] == 1
    assert not clouds
    assert node.health.state == "active"
    camera.send(rgb_message(crops[0]))
    assert ros.until(lambda: clouds)
    assert node.health.count("receive") == len(bad) + 2


def test_compressed_images(ros: Any, aliked: Maker, network: Maker, crops: list[np.ndarray]) -> None:
    import cv2

    node = aliked(image_transport="compressed")
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node, CompressedImage)
    msg = CompressedImage(header=rgb_message(crops[0]).header, format="png")
    msg.data.frombytes(cv2.imencode(".png", np.ascontiguousarray(crops[0][:, :, ::-1]))[1].tobytes())
    broken = CompressedImage(header=msg.header, format="jpeg")
    broken.data.frombytes(b"\xff\xd8 no picture")
    camera.send(broken)
    camera.send(CompressedImage(header=msg.header, format="jpeg"))
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
    process = node._pipeline.process
    monkeypatch.setattr(node._pipeline, "process", lambda *a: (time.sleep(0.3), process(*a))[1])
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    images = ros.publisher(Image, "/aliked/image", image_input_qos(20))
    n = 10
    for index in range(n):
        images.publish(rgb_message(crops[0], index))
        ros.until(lambda k=index + 1: node.health.count("receive") == k)
    assert node.health.count("receive") == n
    assert ros.until(lambda: node._worker.idle)
    ros.spin(0.1)
    drops = node.health.drops()["image_queue_full"]
    assert drops >= n - 4
    assert len(clouds) == n - drops
    assert stamp_to_ns(clouds[-1].header.stamp) == START_NS + (n - 1) * PERIOD_NS


def test_late_images_are_dropped_by_age(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(max_input_age=5.0)
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    camera.send(rgb_message(crops[0]))  # stamped in 2023
    assert node.health.drops() == {"late": 1}
    fresh = rgb_message(crops[0])
    fresh.header.stamp = ns_to_stamp(node.now_ns())
    camera.send(fresh)
    assert ros.until(lambda: len(clouds) == 1)


def test_simulated_time_that_jumps_back(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    from rosgraph_msgs.msg import Clock

    node = aliked(use_sim_time=True, track=True)
    clock = ros.publisher(Clock, "/clock")
    found = ros.listen(PointCloud2, "/aliked/tracks")
    camera = Camera(ros, node)
    assert ros.until(lambda: node.wanted("tracks"))

    def at(second: int) -> None:
        clock.publish(Clock(clock=ns_to_stamp(START_NS + second * 10**9)))
        assert ros.until(lambda: node.now_ns() == START_NS + second * 10**9)

    at(10)
    camera.send(rgb_message(crops[0], 0))
    camera.send(rgb_message(crops[0], 1))
    before = node.health.drops().get("time_jump_ros", 0)
    at(0)
    assert ros.until(lambda: node.health.drops().get("time_jump_ros", 0) == before + 1)
    camera.send(rgb_message(crops[0], 2))
    assert ros.until(lambda: len(found) == 3)
    assert [cloud.width > 50 for cloud in found] == [False, True, False]


def test_diagnostics_name_the_artifact_and_count(
    ros: Any, aliked: Maker, network: Maker, altered: Maker, crops: list[np.ndarray]
) -> None:
    node = aliked(diagnostics_period=0.2)
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    for index in range(3):
        camera.send(rgb_message(crops[index], index))
    assert ros.until(lambda: len(clouds) == 3)
    reports.clear()
    assert ros.until(lambda: reports)
    status = reports[-1].status[0]
    told = values_of(status)
    assert (status.name, status.level, status.hardware_id) == ("aliked", DiagnosticStatus.OK, "cpu")
    assert told["artifact"] == network().name
    assert told["model"] == "aliked aliked-t16"
    assert told["weights"].startswith("aliked-t16.pth (")
    assert (told["count receive"], told["count infer"], told["count publish"]) == ("3", "3", "3")
    assert told["finite outputs [%]"] == "100"
    assert told["image -> network [px]"] == "160x120 -> 160x120"
    assert told["keypoints"] == str(clouds[-1].width)
    assert "tracks" not in told
    assert float(told["latency from receive p99 [ms]"]) > 0
    ros.remove(node)
    node = aliked(artifact=altered(random=True))
    assert "random weights" in node.health.warnings["weights"]


# -- lifecycle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        "none",
        "missing",
        "not_an_artifact",
        "family",
        "no_top_k",
        "too_many",
        "bad_transport",
        "bad_resize",
        "bad_device",
    ],
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    case: str, ros: Any, aliked: Maker, network: Maker, altered: Maker, tmp_path: Path
) -> None:
    make: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
        "none": lambda: ({"artifact": ""}, "the parameter 'artifact' empty"),
        "missing": lambda: ({"artifact": str(tmp_path / "none.onnx")}, "none.onnx"),
        "not_an_artifact": lambda: ({"artifact": str(tmp_path / "text.pt2")}, "text.pt2"),
        "family": lambda: (
            {"artifact": str(altered(family="depth"))},
            "expected an artifact of the family aliked, found depth",
        ),
        "no_top_k": lambda: (
            {"artifact": str(altered(top_k=None))},
            "expected width, height, top_k and descriptor_dim",
        ),
        "too_many": lambda: (
            {"max_keypoints": 301},
            "expected max_keypoints from 0 to 300, the artifact's top_k, found 301",
        ),
        "bad_transport": lambda: (
            {"image_transport": "theora"},
            "expected image_transport to be raw or compressed, found 'theora'",
        ),
        "bad_resize": lambda: ({"resize": "crop"}, "expected resize to be fit or never, found 'crop'"),
        "bad_device": lambda: ({"device": "abacus"}, "abacus"),
    }
    (tmp_path / "text.pt2").write_text("no model")
    wrong, reason = make[case]()
    node = aliked(active=False, **wrong)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    assert reason in node.health.warnings["lifecycle"]
    assert node._pipeline is None
    good = {
        "artifact": str(network()),
        "image_transport": "raw",
        "resize": "fit",
        "device": "cpu",
        "max_keypoints": 0,
    }
    assert all(r.successful for r in node.set_parameters([Parameter(k, value=good[k]) for k in wrong]))
    node.trigger_configure()
    node.trigger_activate()
    assert node.health.state == "active"


def test_every_transition_twice_with_data_in_between(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(autostart=False, active=False, track=True)
    clouds, found = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    camera = None
    for round_ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        camera = camera or Camera(ros, node)
        assert ros.until(lambda: node.wanted("tracks") and node.count_publishers("/aliked/image"))
        ros.spin(0.3)
        camera.send(rgb_message(crops[0], round_))
        assert ros.until(lambda n=round_ + 1: len(clouds) == n and len(found) == n)
        assert found[-1].width == 0, "activation starts tracks anew"
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
        assert not node.outputs
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    node.trigger_configure()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


def test_allow_list_admits_and_refuses(ros: Any, aliked: Maker, network: Maker, tmp_path: Path) -> None:
    from aot_runtime.files import sha256_file

    (tmp_path / "allowed").write_text(f"{sha256_file(network())}  x.pt2\n")
    (tmp_path / "others").write_text(f"{'0' * 64}  other.pt2\n")
    ros.remove(aliked(allow_list=tmp_path / "allowed"))
    node = aliked(active=False, allow_list=tmp_path / "others")
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"


# -- parameters --------------------------------------------------------------------------------------------------------


def test_aliked_yaml_holds_every_parameter_with_its_default(ros: Any, aliked: Maker) -> None:
    import yaml

    from aot_runtime.ros.resources import share_path

    node = aliked(active=False, artifact="")
    hidden = ("use_sim_time", "start_type_description_service", "qos_overrides")
    declared = {name: node.value(name) for name in node._parameters if not name.startswith(hidden)}
    text = share_path("config/aliked.yaml").read_text(encoding="utf-8")
    assert declared == yaml.safe_load(text)["/**"]["ros__parameters"]
    for name in declared:
        assert node.describe_parameter(name).description, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_threads", 257), ("threshold", 1.0), ("max_keypoints", -1), ("ratio", 0.0), ("min_similarity", 2.0)],
)
def test_values_out_of_range_are_refused(name: str, value: float, ros: Any, aliked: Maker) -> None:
    from rclpy.exceptions import InvalidParameterValueException

    with pytest.raises(InvalidParameterValueException):
        aliked(active=False, **{name: value})
