# SPDX-License-Identifier: Apache-2.0
"""depth_node through real rclpy: real pictures, geometry, malformed input, time, lifecycle, diagnostics."""

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
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from aot_runtime.ros.messages import image_view, ns_to_stamp, stamp_to_ns, to_image
from aot_runtime.ros.qos import image_input_qos, latched_qos
from depth_ros.pipeline import ImageDepthPipeline

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000


def rgb_message(image: np.ndarray, index: int = 0, frame: str = "camera_optical", encoding: str = "rgb8") -> Image:
    header = Header(stamp=ns_to_stamp(START_NS + index * PERIOD_NS), frame_id=frame)
    return to_image(image if encoding == "rgb8" else np.ascontiguousarray(image[:, :, ::-1]), encoding, header)


def info_message(width: int, height: int, focal: float = 500.0, index: int = 0) -> CameraInfo:
    matrix = [focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        header=Header(stamp=ns_to_stamp(START_NS + index * PERIOD_NS), frame_id="camera_optical"),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=matrix,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
    )


class Camera:
    """Publishes to the node, each image only once the one before is done."""

    def __init__(self, ros: Any, node: Any, kind: Any = Image) -> None:
        self._ros = ros
        self._node = node
        self._images = ros.publisher(kind, "/depth/image", image_input_qos(10))
        self._infos = ros.publisher(CameraInfo, "/depth/camera_info", image_input_qos(10))

    def info(self, msg: CameraInfo) -> None:
        before = self._node._infos._latest
        self._infos.publish(msg)
        assert self._ros.until(lambda: self._node._infos._latest is not before)

    def send(self, msg: Any) -> None:
        before = self._node.health.count("receive")
        self._images.publish(msg)
        assert self._ros.until(lambda: self._node.health.count("receive") > before and self._node._worker.idle)
        self._ros.spin(0.05)


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


# -- outputs -----------------------------------------------------------------------------------------------------------


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


def test_compressed_images(ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray]) -> None:
    import cv2

    node = depth(image_transport="compressed")
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node, CompressedImage)
    image = pictures["room"]
    msg = CompressedImage(header=rgb_message(image).header, format="png")
    msg.data.frombytes(cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes())
    camera.send(msg)
    assert ros.until(lambda: depths)
    assert depths[0].data.tobytes() == node._pipeline.process(image).depth.tobytes()
    broken = CompressedImage(header=msg.header, format="jpeg")
    broken.data.frombytes(b"\xff\xd8 no picture")
    camera.send(broken)
    camera.send(CompressedImage(header=msg.header, format="jpeg"))
    assert node.health.drops() == {"bad_image": 2}
    camera.send(msg)
    assert ros.until(lambda: len(depths) == 2)


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


# -- bad input, time, load ---------------------------------------------------------------------------------------------


def test_malformed_images_are_counted_and_the_node_lives_on(
    ros: Any, depth: Callable[..., Any], pictures: dict[str, np.ndarray]
) -> None:
    node = depth()
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    good = pictures["room"]

    def changed(**fields: Any) -> Image:
        msg = rgb_message(good)
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
    assert not depths
    assert node.health.state == "active"
    camera.send(rgb_message(good))
    assert ros.until(lambda: depths)
    assert node.health.count("receive") == len(bad) + 2


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
    process = node._pipeline.process
    monkeypatch.setattr(node._pipeline, "process", lambda *a: (time.sleep(0.3), process(*a))[1])
    depths = ros.listen(Image, "/depth/relative_depth")
    images = ros.publisher(Image, "/depth/image", image_input_qos(20))
    image = np.zeros((30, 40, 3), np.uint8)
    n = 10
    for index in range(n):
        images.publish(rgb_message(image, index))
        ros.until(lambda k=index + 1: node.health.count("receive") == k)
    assert node.health.count("receive") == n
    assert ros.until(lambda: node._worker.idle)
    ros.spin(0.1)
    drops = node.health.drops()["image_queue_full"]
    assert drops >= n - 4
    assert len(depths) == n - drops
    assert stamp_to_ns(depths[-1].header.stamp) == START_NS + (n - 1) * PERIOD_NS


def test_late_images_are_dropped_by_age(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(max_input_age=5.0)
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    image = np.zeros((30, 40, 3), np.uint8)
    camera.send(rgb_message(image))  # stamped in 2023
    assert node.health.drops() == {"late": 1}
    fresh = rgb_message(image)
    fresh.header.stamp = ns_to_stamp(node.now_ns())
    camera.send(fresh)
    assert ros.until(lambda: len(depths) == 1)


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
    from rosgraph_msgs.msg import Clock

    node = depth(use_sim_time=True, max_input_age=10.0)
    clock = ros.publisher(Clock, "/clock")
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = Camera(ros, node)
    image = np.zeros((30, 40, 3), np.uint8)

    def at(second: int) -> None:
        clock.publish(Clock(clock=ns_to_stamp(START_NS + second * 10**9)))
        assert ros.until(lambda: node.now_ns() == START_NS + second * 10**9)

    at(1)
    camera.send(rgb_message(image))
    assert ros.until(lambda: len(depths) == 1)
    at(100)
    camera.send(rgb_message(image))
    assert node.health.drops()["late"] == 1
    before = node.health.drops().get("time_jump_ros", 0)
    at(0)
    assert ros.until(lambda: node.health.drops().get("time_jump_ros", 0) == before + 1)
    camera.send(rgb_message(image))
    assert ros.until(lambda: len(depths) == 2)


# -- lifecycle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["none", "missing", "not_an_artifact", "family", "features", "bad_transport", "bad_points", "bad_device"]
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    case: str, ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path], tmp_path: Path
) -> None:
    wrong, reason = {
        "none": ({"artifact": ""}, "the parameter 'artifact' empty"),
        "missing": ({"artifact": str(tmp_path / "none.pt2")}, "none.pt2"),
        "not_an_artifact": ({"artifact": str(tmp_path / "text.pt2")}, "text.pt2"),
        "family": ({"artifact": str(stand_in(family="flow"))}, "expected an artifact of the family depth, found flow"),
        "features": ({"artifact": str(stand_in(input="f3_features"))}, "found one for f3_features"),
        "bad_transport": (
            {"image_transport": "theora"},
            "expected image_transport to be raw or compressed, found 'theora'",
        ),
        "bad_points": ({"points": "yes"}, "expected points to be off or xyz or xyzrgb, found 'yes'"),
        "bad_device": ({"device": "abacus"}, "abacus"),
    }[case]
    (tmp_path / "text.pt2").write_text("no model")
    node = depth(active=False, **wrong)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    assert reason in node.health.warnings["lifecycle"]
    good = {"artifact": str(stand_in()), "image_transport": "raw", "points": "off", "device": "cpu"}
    assert all(r.successful for r in node.set_parameters([Parameter(k, value=good[k]) for k in wrong]))
    node.trigger_configure()
    node.trigger_activate()
    assert node.health.state == "active"


def test_every_transition_twice_with_data_in_between(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(autostart=False, active=False)
    depths = ros.listen(Image, "/depth/relative_depth")
    camera = None
    for round_ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        camera = camera or Camera(ros, node)
        assert ros.until(lambda: node.wanted("relative_depth") and node.count_publishers("/depth/image"))
        ros.spin(0.3)
        camera.send(rgb_message(np.zeros((30, 40, 3), np.uint8), round_))
        assert ros.until(lambda n=round_ + 1: len(depths) == n)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
        assert not node.outputs
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    node.trigger_configure()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


def test_allow_list_admits_and_refuses(
    ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path], tmp_path: Path
) -> None:
    from aot_runtime.files import sha256_file

    (tmp_path / "allowed").write_text(f"{sha256_file(stand_in())}  x.pt2\n")
    (tmp_path / "others").write_text(f"{'0' * 64}  other.pt2\n")
    ros.remove(depth(allow_list=tmp_path / "allowed"))
    node = depth(active=False, allow_list=tmp_path / "others")
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"


# -- parameters --------------------------------------------------------------------------------------------------------


def test_depth_yaml_holds_every_parameter_with_its_default(ros: Any, depth: Callable[..., Any]) -> None:
    import yaml

    from aot_runtime.ros.resources import share_path

    node = depth(active=False, artifact="")
    hidden = ("use_sim_time", "start_type_description_service", "qos_overrides")
    declared = {name: node.value(name) for name in node._parameters if not name.startswith(hidden)}
    text = share_path("config/depth.yaml").read_text(encoding="utf-8")
    assert declared == yaml.safe_load(text)["/**"]["ros__parameters"]
    for name in declared:
        assert node.describe_parameter(name).description, name


@pytest.mark.parametrize(
    ("name", "value"), [("num_threads", 257), ("max_range", -1.0), ("focal_baseline", -1.0), ("max_input_age", 4000.0)]
)
def test_values_out_of_range_are_refused(name: str, value: float, ros: Any, depth: Callable[..., Any]) -> None:
    from rclpy.exceptions import InvalidParameterValueException

    with pytest.raises(InvalidParameterValueException):
        depth(active=False, **{name: value})
