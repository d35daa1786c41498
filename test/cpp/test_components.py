# SPDX-License-Identifier: Apache-2.0
"""The C++ components beside the Python nodes: both get the same messages and must publish the same.

They exist only where the C++ package was built with rclcpp (no wheel has it): these tests skip elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from component_checks import numbers, same_but_for_data, same_numbers, same_picture
from ros_images import info_message, malformed_images, png_message, rgb_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from small_artifacts import small_aliked, small_depth

from aot_runtime.ros.qos import image_input_qos
from cpp_nodes import NEEDS_COMPONENTS, CppNode, SharedSession

pytest_plugins = ["cpp_nodes"]  # the fixture shared_ros
pytestmark = NEEDS_COMPONENTS

DEPTH_OUTPUTS = {"depth": Image, "depth/camera_info": CameraInfo, "points": PointCloud2, "depth_image": Image}
ALIKED_OUTPUTS = {"keypoints": PointCloud2, "image_keypoints": Image, "tracks": PointCloud2, "image_tracks": Image}


class Pair:
    """A Python node and a C++ node on the same inputs, and what they publish.

    Args:
        ros: the session.
        kind: executable of both.
        node_class: the Python node.
        inputs: private topics that both are to share, by remapping them to global ones of the same name.
        outputs: private topics and their types.
        values: parameters of both.
    """

    def __init__(
        self,
        ros: SharedSession,
        kind: str,
        node_class: Any,
        inputs: tuple[str, ...],
        outputs: dict[str, Any],
        **values: Any,
    ) -> None:
        remap = [part for topic in inputs for part in ("-r", f"~/{topic}:=/{topic}")]
        self.ros = ros
        self.python = ros.start(node_class, cli_args=["--ros-args", "-r", "__node:=py", *remap], **values)
        self.cpp: CppNode = ros.start_cpp(kind, "cpp", True, *remap, **values)
        self.got = {name: (ros.listen(t, f"/py/{name}"), ros.listen(t, f"/cpp/{name}")) for name, t in outputs.items()}
        assert ros.all_connected()

    def publisher(self, kind: Any, topic: str) -> Any:
        """A publisher that both nodes hear."""
        publisher = self.ros.publisher(kind, topic, image_input_qos(10))
        assert self.ros.until(lambda: publisher.get_subscription_count() == 2)
        self.ros.spin(0.3)
        return publisher

    def wait(self, count: int, names: tuple[str, ...] = ()) -> None:
        """Until both have published so many messages on each of the topics (all by default)."""
        topics = [self.got[name] for name in names or self.got]
        assert self.ros.until(lambda: all(len(one) >= count for both in topics for one in both)), (
            {name: [len(one) for one in both] for name, both in self.got.items()},
            self.cpp.log(),
        )


@pytest.fixture(scope="module")
def photo(shared: Path) -> np.ndarray:
    """A real image, (120, 160, 3) uint8 RGB."""
    import cv2

    image = cv2.imread(str(shared / "data" / "images" / "tum_1311868169.163498.png"))
    return np.ascontiguousarray(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)[:, :, ::-1])


@pytest.fixture
def depth_pair(shared_ros: SharedSession, artifact_cache: Path) -> Callable[..., Pair]:
    def make(**values: Any) -> Pair:
        from depth_ros.node import DepthNode

        given = {"artifact": small_depth(artifact_cache, max_depth=20.0), **values}
        return Pair(shared_ros, "depth_node", DepthNode, ("image", "camera_info"), DEPTH_OUTPUTS, **given)

    return make


@pytest.fixture
def aliked_pair(shared_ros: SharedSession, artifact_cache: Path, shared: Path) -> Callable[..., Pair]:
    def make(**values: Any) -> Pair:
        from aliked_ros.node import AlikedNode

        given = {"artifact": small_aliked(artifact_cache, shared), "track": True, **values}
        outputs = {name: kind for name, kind in ALIKED_OUTPUTS.items() if given["track"] or "track" not in name}
        return Pair(shared_ros, "aliked_node", AlikedNode, ("image",), outputs, **given)

    return make


def check_depth(pair: Pair, index: int) -> None:
    """The messages of this image agree."""
    for name, (python, cpp) in pair.got.items():
        if name == "depth/camera_info":
            assert python[index] == cpp[index]
            continue
        same_but_for_data(python[index], cpp[index])
        if name == "depth_image":
            same_picture(python[index], cpp[index], colours=4)
        elif name == "points":
            shape = (-1, 4)
            a, b = numbers(python[index]).reshape(shape), numbers(cpp[index]).reshape(shape)
            np.testing.assert_allclose(a[:, :3], b[:, :3], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(a[:, 3].view(np.uint32), b[:, 3].view(np.uint32))
        else:
            same_numbers(python[index], cpp[index], 1e-5)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_depth_of_images(depth_pair: Callable[..., Pair], photo: np.ndarray, encoding: str) -> None:
    pair = depth_pair()
    images = pair.publisher(Image, "/image")
    pair.publisher(CameraInfo, "/camera_info").publish(info_message(160, 120))
    pair.ros.spin(0.5)
    for index in range(2):
        images.publish(rgb_message(np.roll(photo, 9 * index, axis=1), index, encoding=encoding))
        pair.wait(index + 1)
        check_depth(pair, index)


def test_depth_with_a_raw_camera_and_on_the_networks_grid(depth_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = depth_pair(rectified=False, output_resolution="grid", max_range=15.0)
    info = info_message(160, 120, focal=150.0)
    info.d = [-0.2, 0.05, 0.001, -0.002, 0.0]
    images = pair.publisher(Image, "/image")
    pair.publisher(CameraInfo, "/camera_info").publish(info)
    pair.ros.spin(0.5)
    images.publish(rgb_message(photo))
    pair.wait(1)
    check_depth(pair, 0)


def test_compressed_images(depth_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = depth_pair(image_transport="compressed", frame_id="other")
    pair.publisher(CompressedImage, "/image").publish(png_message(photo))
    pair.wait(1, ("depth", "depth_image"))
    python, cpp = (one[0] for one in pair.got["depth"])
    same_but_for_data(python, cpp)
    assert cpp.header.frame_id == "other"
    same_numbers(python, cpp, 1e-5)


def test_keypoints_and_tracks(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair(min_similarity=0.7, max_step=30.0)
    images = pair.publisher(Image, "/image")
    for index in range(3):
        images.publish(rgb_message(np.roll(photo, 3 * index, axis=1), index))
        pair.wait(index + 1)
        for name in ("keypoints", "tracks"):
            python, cpp = (one[index] for one in pair.got[name])
            same_but_for_data(python, cpp)
            step = python.point_step // 4
            a, b = numbers(python).reshape(-1, step), numbers(cpp).reshape(-1, step)
            count = 5 if name == "tracks" else step  # the last three fields of a track are numbers of uint32
            np.testing.assert_allclose(a[:, :count], b[:, :count], atol=1e-5, rtol=1e-5)
            np.testing.assert_array_equal(a[:, count:].view(np.uint32), b[:, count:].view(np.uint32))
        assert pair.got["keypoints"][0][index].width == 150
        for name in ("image_keypoints", "image_tracks"):
            same_picture(*(one[index] for one in pair.got[name]), colours=2)
    assert pair.got["tracks"][1][2].width > 20


def test_malformed_images_are_counted_alike(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair(track=False)
    images = pair.publisher(Image, "/image")
    bad = malformed_images(photo)
    for count, msg in enumerate(bad, 1):
        images.publish(msg)
        assert pair.ros.until(lambda n=count: pair.cpp.drops.get("bad_image") == n), (msg.encoding, pair.cpp.drops)
    stamp = rgb_message(photo)
    stamp.header.stamp.nanosec = 2 * 10**9
    images.publish(stamp)
    assert pair.ros.until(lambda: "bad_stamp" in pair.cpp.drops and "bad_stamp" in pair.python.health.drops())
    assert pair.cpp.drops == pair.python.health.drops() == {"bad_image": len(bad), "bad_stamp": 1}
    images.publish(rgb_message(photo))
    pair.wait(1)
    assert "expected" in pair.cpp.told["last error receive"]


def test_an_image_that_may_not_be_resized_is_refused(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair(track=False, resize="never")
    images = pair.publisher(Image, "/image")
    images.publish(rgb_message(photo[:, :120].copy()))
    assert pair.ros.until(lambda: pair.cpp.drops == {"bad_image": 1} == pair.python.health.drops()), pair.cpp.told
    images.publish(rgb_message(photo))
    pair.wait(1)


def test_reports_have_the_same_keys(depth_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = depth_pair()
    pair.publisher(Image, "/image").publish(rgb_message(photo))
    pair.wait(1, ("depth",))
    assert pair.ros.until(lambda: "finite outputs [%]" in pair.cpp.told)
    python = pair.python.health.report().values
    assert pair.cpp.told.keys() == python.keys()
    exact = ("state", "artifact", "artifact sha256", "model", "precision", "device", "weights", "image -> depth [px]")
    assert {key: pair.cpp.told[key] for key in exact} == {key: python[key] for key in exact}
    assert pair.cpp.status.hardware_id == "cpu"


def parameters_of(ros: SharedSession, node: str) -> dict[str, tuple[Any, Any]]:
    """Descriptor and value of all parameters of a node, by name; without those of rclcpp and rclpy themselves."""
    from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters

    def ask(kind: Any, service: str, request: Any) -> Any:
        client = ros.listener.create_client(kind, f"/{node}/{service}")
        assert ros.until(client.service_is_ready)
        future = client.call_async(request)
        assert ros.until(future.done)
        return future.result()

    own = ("use_sim_time", "start_type_description_service", "qos_overrides")
    listed = ask(ListParameters, "list_parameters", ListParameters.Request()).result.names
    names = sorted(name for name in listed if not name.startswith(own))
    described = ask(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)).descriptors
    values = ask(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    return {name: (descriptor, value) for name, descriptor, value in zip(names, described, values)}


@pytest.mark.parametrize("kind", ["f3_node", "depth_node", "aliked_node"])
def test_parameters_are_described_alike(shared_ros: SharedSession, kind: str) -> None:
    family = kind.removesuffix("_node")
    module = __import__(f"{family}_ros.node", fromlist=["node"])
    node_class = getattr(module, {"f3": "F3Node", "depth": "DepthNode", "aliked": "AlikedNode"}[family])
    arguments = ["--ros-args", "-r", "__node:=py"]
    shared_ros.start(node_class, active=False, cli_args=arguments, autostart=False, diagnostics_period=0.1)
    cpp = shared_ros.start_cpp(kind, "cpp", False, autostart=False)
    assert shared_ros.until(lambda: cpp.told)
    python, other = parameters_of(shared_ros, "py"), parameters_of(shared_ros, "cpp")
    assert python.keys() == other.keys()
    for name, (descriptor, value) in python.items():
        found, cpp_value = other[name]
        if not found.type:  # rclcpp leaves the type of a dynamically typed descriptor open
            found.type = descriptor.type
        found.dynamic_typing = descriptor.dynamic_typing
        assert (found, cpp_value) == (descriptor, value), name


@pytest.mark.parametrize("kind", ["f3_node", "depth_node", "aliked_node"])
def test_a_missing_artifact_leaves_the_node_alive_with_a_reason(shared_ros: SharedSession, kind: str) -> None:
    node = shared_ros.start_cpp(kind, "cpp", False, artifact="/nowhere/model.pt2")
    assert shared_ros.until(lambda: node.status is not None and "cannot configure" in node.status.message), node.log()
    assert node.status.level == b"\x02"
    assert "/nowhere/model.pt2" in node.status.message
    assert node.told["state"] == "unconfigured"
    assert not node.transition("configure")
    assert node.set("artifact", "").successful
    assert not node.transition("configure")
    assert shared_ros.until(lambda: "the parameter 'artifact' empty" in node.status.message)
    assert not node.transition("activate")  # impossible from here
    assert node.alive
    assert node.end() == 0


def test_life_cycle_over_services(depth_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = depth_pair()
    images = pair.publisher(Image, "/image")
    refused = pair.cpp.set("max_range", 3.0)
    assert not refused.successful
    assert refused.reason == "max_range is read when the node is configured; it is active: clean it up"
    for label, state in (("deactivate", "inactive"), ("cleanup", "unconfigured")):
        assert pair.cpp.transition(label)
        assert pair.ros.until(lambda s=state: pair.cpp.told["state"] == s)
    assert pair.cpp.set("max_range", 3.0).successful
    assert not pair.cpp.set("max_range", -1.0).successful
    assert pair.cpp.transition("configure")
    assert pair.cpp.transition("activate")
    assert pair.ros.until(lambda: images.get_subscription_count() == 2)
    pair.ros.spin(0.5)
    images.publish(rgb_message(photo))
    assert pair.ros.until(lambda: pair.got["depth"][1])
    assert not (numbers(pair.got["depth"][1][0]) > 3.0).any()
    assert pair.cpp.transition("shutdown")
    assert pair.cpp.end() == 0


def test_images_that_come_too_fast_are_dropped_and_counted(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair(track=False)
    images = pair.publisher(Image, "/image")
    n = 40
    for index in range(n):
        images.publish(rgb_message(photo, index))
        pair.ros.spin(0.002)

    def accounted() -> bool:
        told = pair.cpp.told
        return int(told["count receive"]) == int(told["count publish"]) + pair.cpp.drops.get("image_queue_full", 0) > 0

    assert pair.ros.until(accounted)
    assert pair.cpp.drops.keys() <= {"image_queue_full"}
    # The newest image is always among those that were processed.
    last = pair.got["keypoints"][1][-1].header.stamp
    assert last == rgb_message(photo, n - 1).header.stamp
    assert len(pair.got["keypoints"][1]) == int(pair.cpp.told["count publish"])


def test_a_jump_back_in_time_starts_tracks_anew(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair()
    images = pair.publisher(Image, "/image")
    for count, index in enumerate((100, 101, 0, 1), 1):
        images.publish(rgb_message(photo, index))
        pair.wait(count)
    widths = [[msg.width for msg in one] for one in pair.got["tracks"]]
    assert widths[0] == widths[1]
    assert widths[1][0] == widths[1][2] == 0
    assert widths[1][1] > 0
    assert widths[1][3] > 0
    assert pair.ros.until(lambda: pair.cpp.drops == {"time_jump_back": 1})
    assert pair.python.health.drops() == {"time_jump_back": 1}


def test_late_images_are_dropped(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    pair = aliked_pair(track=False, max_input_age=5.0)
    images = pair.publisher(Image, "/image")
    images.publish(rgb_message(photo))  # stamped in 2023
    assert pair.ros.until(lambda: pair.cpp.drops == {"late": 1} == pair.python.health.drops())
    fresh = rgb_message(photo)
    fresh.header.stamp = pair.ros.listener.get_clock().now().to_msg()
    images.publish(fresh)
    pair.wait(1)


@pytest.mark.parametrize("kind", ["f3_node", "depth_node", "aliked_node"])
def test_a_parameter_out_of_range_ends_the_command_with_a_reason(shared_ros: SharedSession, kind: str) -> None:
    node = shared_ros.start_cpp(kind, "cpp", False, num_threads=-1)
    assert shared_ros.until(lambda: not node.alive)
    assert node.end_status == 2
    assert "num_threads" in node.log()
    assert "keep to the documented range" in node.log()


def test_simulated_time_that_goes_back_is_counted(aliked_pair: Callable[..., Pair], photo: np.ndarray) -> None:
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    pair = aliked_pair(track=False, use_sim_time=True)
    clock = pair.publisher(Clock, "/clock")
    for second in (100, 101, 40):
        clock.publish(Clock(clock=Time(sec=second)))
        pair.ros.spin(0.5)
    assert pair.ros.until(lambda: pair.cpp.drops == {"time_jump_ros": 1} == pair.python.health.drops())
    pair.publisher(Image, "/image").publish(rgb_message(photo))
    pair.wait(1)
