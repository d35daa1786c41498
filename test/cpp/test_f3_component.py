# SPDX-License-Identifier: Apache-2.0
"""The C++ F3 component beside f3_node: the same recordings in, the same messages out.

It exists only where the C++ package was built with rclcpp (no wheel has it): these tests skip elsewhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from component_checks import numbers, same_but_for_data, same_numbers, same_picture
from diagnostic_msgs.msg import DiagnosticStatus
from f3_heads import calibration
from ros_session import parameters
from sensor_msgs.msg import CameraInfo, Image

from aot_runtime.ros.qos import image_input_qos
from cpp_nodes import NEEDS_COMPONENTS, CppNode, SharedSession
from f3_ros.node import F3Node
from f3_ros.replay_node import ReplayNode

pytest_plugins = ["cpp_nodes"]  # the fixture shared_ros
pytestmark = NEEDS_COMPONENTS

ROOT = Path(__file__).resolve().parent.parent
RECORDING = "m3ed_layout_gen41_1280x720.h5"  # 0.7 s, evt3
PLAIN = {"features": Image, "event_image": Image, "feature_image": Image, "window_info": DiagnosticStatus}
HEADS = {
    "relative_depth": Image,
    "camera_info": CameraInfo,
    "depth_image": Image,
    "flow": Image,
    "flow_image": Image,
}


def _node_fixtures() -> Any:
    """test/f3_ros/nodes/conftest.py, whose small artifacts serve here too."""
    spec = importlib.util.spec_from_file_location("f3_node_fixtures", ROOT / "f3_ros" / "nodes" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_NODES = _node_fixtures()
micro_f3, tiny_heads = _NODES.micro_f3, _NODES.tiny_heads


class F3Pair:
    """f3_node in this process and the C++ component beside it, which a recording is played to in turn.

    Args:
        ros: the session.
        outputs: private topics and their types.
        values: parameters of both.
    """

    def __init__(self, ros: SharedSession, outputs: dict[str, Any], **values: Any) -> None:
        self.ros = ros
        self.python = ros.start(F3Node, cli_args=["--ros-args", "-r", "__node:=py"], **values)
        self.cpp: CppNode = ros.start_cpp("f3_node", "cpp", True, **values)
        self.got = {name: (ros.listen(t, f"/py/{name}"), ros.listen(t, f"/cpp/{name}")) for name, t in outputs.items()}
        assert ros.all_connected()

    def play(self, file: Path, **values: Any) -> None:
        """Plays a recording to both, to each in lock-step, and waits for everything that comes of it."""
        for name in ("py", "cpp"):
            remap = [part for t in ("events", "processed_seq") for part in ("-r", f"~/{t}:=/{name}/{t}")]
            given: dict[str, Any] = {"file": str(file), "progress": False, "rate": 0.0, "stamps": "recorded"}
            given |= {"reliable": True, **values}
            player = self.ros.add(ReplayNode(cli_args=["--ros-args", *remap], parameter_overrides=parameters(**given)))
            assert self.ros.until(lambda one=player: one.exit_code is not None, 120), self.cpp.log()
            assert player.exit_code == 0
            self.ros.remove(player)
        assert self.ros.until(lambda: all(len(p) == len(c) > 0 for p, c in self.got.values()), 20), self.counts()
        self.ros.spin(0.3)

    def counts(self) -> dict[str, list[int]]:
        """How many messages of each topic came from both."""
        return {name: [len(one) for one in both] for name, both in self.got.items()}

    def both(self, name: str) -> Any:
        """Pairs of messages of one topic."""
        return zip(*self.got[name], strict=True)


@pytest.fixture
def f3_pair(shared_ros: SharedSession, micro_f3: Path) -> Callable[..., F3Pair]:
    def make(outputs: dict[str, Any], **values: Any) -> F3Pair:
        return F3Pair(shared_ros, outputs, artifact=micro_f3, **values)

    return make


def test_features_and_what_windows_were(f3_pair: Callable[..., F3Pair], shared: Path) -> None:
    pair = f3_pair(PLAIN)
    pair.play(shared / "data" / "events" / RECORDING)
    assert len(pair.got["features"][1]) > 5
    for python, cpp in pair.both("features"):
        same_but_for_data(python, cpp)
        assert cpp.encoding == "32FC8"
        same_numbers(python, cpp, 1e-5)
    for python, cpp in pair.both("window_info"):
        assert python == cpp
    for python, cpp in pair.both("event_image"):
        assert python == cpp
    for python, cpp in pair.both("feature_image"):
        same_but_for_data(python, cpp)
        same_picture(python, cpp, colours=2)
    assert pair.cpp.told["count decode"] == str(pair.python.health.count("decode"))
    assert pair.ros.until(lambda: pair.cpp.drops == pair.python.health.drops())


@pytest.mark.parametrize("resolution", ["grid", "sensor"])
def test_depth_and_flow(
    f3_pair: Callable[..., F3Pair], tiny_heads: dict[str, str], shared: Path, resolution: str
) -> None:
    pair = f3_pair({**HEADS, "features": Image}, **tiny_heads, output_resolution=resolution)
    for name in ("py", "cpp"):
        pair.ros.publisher(CameraInfo, f"/{name}/event_camera_info", image_input_qos(10)).publish(
            calibration((1280, 720))
        )
    pair.ros.spin(0.5)
    pair.play(shared / "data" / "events" / RECORDING, duration=0.1)
    for name in ("relative_depth", "flow"):
        for python, cpp in pair.both(name):
            same_but_for_data(python, cpp)
            same_numbers(python, cpp, 1e-5)
    assert np.isnan(numbers(pair.got["flow"][1][0])).any()
    for python, cpp in pair.both("camera_info"):
        for field in ("k", "p", "r", "d"):
            np.testing.assert_allclose(getattr(python, field), getattr(cpp, field), rtol=1e-12, atol=1e-12)
        assert (python.header, python.width, python.height) == (cpp.header, cpp.width, cpp.height)
    for python, cpp in pair.both("depth_image"):
        same_picture(python, cpp, colours=8)
    for python, cpp in pair.both("flow_image"):
        same_picture(python, cpp, colours=255, share=0.02)


@pytest.mark.parametrize(
    "values",
    [
        {"window_mode": "count", "window_count": 5000},
        {"window_mode": "hybrid", "window_count": 1200, "incomplete_windows": "drop"},
        {"window_duration_us": 10_000, "window_stride_us": 5_000, "window_max_events": 500},
        {"refractory_us": 2_000, "noise_us": 3_000, "frame_id": "other"},
    ],
    ids=["count", "hybrid", "overlap", "filters"],
)
def test_windows_are_cut_and_stamped_alike(
    f3_pair: Callable[..., F3Pair], shared: Path, values: dict[str, Any]
) -> None:
    pair = f3_pair({"window_info": DiagnosticStatus, "features": Image}, publish_features="subscribed", **values)
    pair.play(shared / "data" / "events" / RECORDING, duration=0.3)
    for python, cpp in pair.both("window_info"):
        assert python == cpp
    for python, cpp in pair.both("features"):
        same_but_for_data(python, cpp)
        same_numbers(python, cpp, 1e-5)
    removed = {key: value for key, value in pair.python._details().items() if key.startswith("removed")}
    assert pair.ros.until(lambda: {k: v for k, v in pair.cpp.told.items() if k.startswith("removed")} == removed)


def test_reports_have_the_same_keys(f3_pair: Callable[..., F3Pair], tiny_heads: dict[str, str], shared: Path) -> None:
    pair = f3_pair({"features": Image}, **tiny_heads, heads_always=True)
    pair.play(shared / "data" / "events" / RECORDING)
    python = pair.python.health.report().values
    assert pair.ros.until(lambda: pair.cpp.told.keys() == python.keys()), pair.cpp.told.keys() ^ python.keys()
    exact = [key for key in python if "artifact" in key or "weights" in key or "meaning" in key or "flow_" in key]
    assert {key: pair.cpp.told[key] for key in exact} == {key: python[key] for key in exact}
    assert pair.cpp.told["finite depth [%]"] == python["finite depth [%]"] == "100"


def test_a_recording_that_starts_again_starts_the_windows_again(f3_pair: Callable[..., F3Pair], shared: Path) -> None:
    pair = f3_pair({"window_info": DiagnosticStatus})
    for _ in range(2):
        pair.play(shared / "data" / "events" / RECORDING, duration=0.3)
    for python, cpp in pair.both("window_info"):
        assert python == cpp
    assert pair.ros.until(lambda: pair.cpp.drops == pair.python.health.drops())
    assert pair.cpp.drops.get("time_jump_back") == 1


def test_a_sensor_that_is_too_large_is_refused(shared_ros: SharedSession, tmp_path: Path, micro_f3: Path) -> None:
    from event_driver import packet

    from aot_runtime.ros.qos import events_qos
    from f3_ros.event_messages import event_packet_type, message_from_packet

    node = shared_ros.start_cpp("f3_node", "cpp", True, artifact=micro_f3)
    publisher = shared_ros.publisher(event_packet_type(), "/cpp/events", events_qos())
    shared_ros.spin(0.5)
    for seq in range(12):
        publisher.publish(message_from_packet(packet(seq, 4000 * seq, size=(1920, 1080))))
        shared_ros.spin(0.02)
    assert shared_ros.until(lambda: node.drops.get("window_refused", 0) >= 2), node.log()
    assert "expected a sensor of at most 1280x720" in node.told["last error infer"]
    stamp = message_from_packet(packet(12, 48_000))
    stamp.header.stamp.nanosec = 2 * 10**9
    publisher.publish(stamp)
    assert shared_ros.until(lambda: node.drops.get("bad_stamp") == 1)
    assert node.alive


def test_the_open_window_is_closed_when_the_stream_stops(shared_ros: SharedSession, micro_f3: Path) -> None:
    from event_driver import packet

    from aot_runtime.ros.qos import events_qos
    from f3_ros.event_messages import event_packet_type, message_from_packet

    shared_ros.start_cpp("f3_node", "cpp", True, artifact=micro_f3)
    features = shared_ros.listen(Image, "/cpp/features")
    publisher = shared_ros.publisher(event_packet_type(), "/cpp/events", events_qos())
    shared_ros.spin(0.5)
    publisher.publish(message_from_packet(packet(0, 20_000)))
    assert shared_ros.until(lambda: features, 10)
    shared_ros.spin(0.5)
    assert len(features) == 1
