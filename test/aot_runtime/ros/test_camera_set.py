# SPDX-License-Identifier: Apache-2.0
"""Several cameras as one input: what belongs together, what is missing and why, and time that goes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from ros_cameras import CameraRig
from ros_images import PERIOD_NS, START_NS, SimulatedTime, malformed_images, malformed_pngs, png_message, rgb_message
from ros_session import Session, ros

from aot_runtime.errors import InputError
from aot_runtime.ros.camera_set import CAMERA_STAGES, CameraMatch, CameraSet
from aot_runtime.ros.model_node import ModelNode

__all__ = ["ros"]
NAMES = ("left", "front", "right")
SIZE = (160, 120)


class Node(ModelNode):
    """Collects matches."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("rig", CAMERA_STAGES, **kwargs)
        self.options: dict[str, Any] = {}
        self.matches: list[CameraMatch] = []
        self.jumps: list[int | None] = []
        self.work: Callable[[CameraMatch], None] = self.matches.append

    def activate_family(self) -> None:
        defaults = {"slop_ns": 10_000_000, "patience_ns": 100_000_000, "on_jump": self.jumps.append}
        self._cameras = CameraSet(self, NAMES, lambda match: self.work(match), **{**defaults, **self.options})
        self.health.add_details(self._cameras.details)

    def deactivate_family(self) -> None:
        self._cameras.close()
        self.health.forget_sources()


@pytest.fixture
def start(ros: Session) -> Callable[..., tuple[Node, CameraRig]]:
    """start(**options of CameraSet): an active node and its cameras, whose camera_info it has."""

    def make(info: bool = True, parameters: dict[str, Any] | None = None, **options: Any) -> tuple[Node, CameraRig]:
        node = ros.start(Node, False, autostart=False, **(parameters or {}))
        node.options = options
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active", node.health.warnings
        rig = CameraRig(ros, node, NAMES, compressed=options.get("transport") == "compressed")
        if info:
            rig.infos(*SIZE)
        return node, rig

    return make


def picture(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """One colour, with channels that tell their order."""
    return np.full((size[1], size[0], 3), (value, value + 1, value + 2), np.uint8)


def all_pictures(value: int) -> dict[str, np.ndarray]:
    return {name: picture(value + 10 * index) for index, name in enumerate(NAMES)}


def test_images_of_an_instant_come_together_with_their_cameras(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    rig.send(all_pictures(3), 0, {"left": 4_000_000, "right": -4_000_000})
    assert ros.until(lambda: node.matches)
    (match,) = node.matches
    assert tuple(match.items) == NAMES
    assert (match.missing, match.reasons, match.resized) == ((), {}, ())
    assert match.epoch == 0
    for index, (name, item) in enumerate(match.items.items()):
        assert item.name == name
        assert np.array_equal(item.image, picture(3 + 10 * index))
        assert item.frame_id == f"{name}_optical"
        assert item.size == SIZE
        assert item.camera.matrix[0, 0] == 100
    assert match.items["left"].stamp_ns == START_NS + 4_000_000
    assert abs(match.stamp_ns - START_NS) <= 4_000_000
    assert node.health.drops() == {}
    assert node.health.count("receive") == 3
    assert node.health.count("match") == 1
    assert "cameras" not in node.health.warnings


def test_the_camera_stays_the_same_object_while_its_calibration_does(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    for index in range(3):
        if index == 1:
            rig.infos(*SIZE)
        if index == 2:
            rig.infos(*SIZE, focal=200)
        rig.send(all_pictures(3), index)
        assert ros.until(lambda n=index + 1: len(node.matches) == n)
    cameras = [match.items["front"].camera for match in node.matches]
    assert cameras[0] is cameras[1]
    assert cameras[2].matrix[0, 0] == 200


def test_a_camera_that_is_silent_is_missing_after_the_patience(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    rig.send({name: image for name, image in all_pictures(3).items() if name != "front"})
    assert ros.until(lambda: node.matches)
    (match,) = node.matches
    assert tuple(match.items) == ("left", "right")
    assert match.missing == ("front",)
    assert "no image in time" in match.reasons["front"]
    assert "missing cameras: front (no image in time)" in node.health.warnings["cameras"]
    assert "no image on /rig/front/image yet" in node.health.report().values["camera front"]
    rig.send(all_pictures(3), 1)
    assert ros.until(lambda: len(node.matches) == 2)
    assert not node.matches[1].missing
    assert "cameras" not in node.health.warnings


def test_silence_is_explained(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = start(info=False)
    assert "no image on /rig/left/image yet" in node._cameras.details()["camera left"]
    other = SimpleNamespace(topic_type="sensor_msgs/msg/CompressedImage")
    monkeypatch.setattr(node, "get_publishers_info_by_topic", lambda topic: [other])  # of another process
    told = node._cameras.details()["camera left"]
    assert told.startswith("/rig/left/image carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image")
    monkeypatch.setattr(node, "get_publishers_info_by_topic", lambda topic: [])
    assert node._cameras.details()["camera left"].startswith("nobody publishes /rig/left/image")


def test_cameras_that_begin_after_a_silence_are_not_missing(
    ros: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aot_runtime.ros.camera_set._SILENT_S", 0.2)
    node, rig = start(patience_ns=5_000_000_000)
    told: list[str] = []
    monkeypatch.setattr(node, "warn_throttled", lambda key, text: told.append(text))
    for index in range(2):
        ros.spin(0.4)
        rig.send({"left": picture(1)}, index)
        assert ros.until(lambda n=3 * index + 1: node.health.count("receive") == n)
        node._cameras._poll()
        rig.send({"front": picture(1), "right": picture(1)}, index)
        assert ros.until(lambda n=index + 1: len(node.matches) == n)
    assert not told
    for index in range(2, 100):
        rig.send({"left": picture(1)}, index)
        ros.spin(0.05)
        if told:
            break
    assert "missing cameras: front (no image)" in told[0]


def test_too_few_cameras_and_required_ones(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(required=("front",), least=2)
    rig.send({"front": picture(1)})
    assert ros.until(lambda: node.health.drops().get("too_few_cameras"))
    rig.send({"left": picture(1), "right": picture(1)}, 1)
    assert ros.until(lambda: node.health.drops().get("sync_unmatched") == 2)
    assert not node.matches
    rig.send({"front": picture(1), "right": picture(2)}, 2)
    assert ros.until(lambda: node.matches)
    assert node.matches[0].missing == ("left",)


def test_without_a_required_camera_diagnostics_name_it(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(required=("front",))
    node.health.stall_s = 0.5
    index = 0
    while "front" not in node.health.warnings.get("cameras", "") and index < 200:
        rig.send({"left": picture(1), "right": picture(1)}, index)
        ros.spin(0.02)
        index += 1
    report = node.health.report()
    assert "missing cameras: front (no image)" in node.health.warnings["cameras"]
    assert "stuck at match (missing cameras: front" in report.message


def test_malformed_images_are_missing_alone(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    good = all_pictures(3)
    bad = malformed_images(good["front"])
    for index, message in enumerate(bad):
        message.header = rgb_message(good["front"], index).header
        rig.send({name: good[name] for name in ("left", "right")}, index)
        rig.publish("front", message)
        assert ros.until(lambda n=index + 1: len(node.matches) == n)
    assert node.health.drops() == {"bad_image": len(bad)}
    for match in node.matches:
        assert match.missing == ("front",)
    assert "found 'rgb9'" in node.matches[0].reasons["front"]
    stamp = rgb_message(good["front"])
    stamp.header.stamp.nanosec = 2 * 10**9
    rig.publish("front", stamp)
    assert ros.until(lambda: node.health.drops().get("bad_stamp") == 1)
    rig.send(good, len(bad))
    assert ros.until(lambda: len(node.matches) == len(bad) + 1)
    assert not node.matches[-1].missing


def test_compressed_images(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(transport="compressed")
    broken = malformed_pngs(rgb_message(picture(3)).header)[0]
    for name in NAMES:
        rig.publish(name, broken if name == "left" else png_message(picture(3)))
    assert ros.until(lambda: node.matches)
    assert node.matches[0].missing == ("left",)
    assert np.array_equal(node.matches[0].items["front"].image, picture(3))
    assert node.health.drops() == {"bad_image": 1}


def test_no_camera_info_says_so_in_diagnostics(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(info=False)
    rig.info("front", np.diag([100.0, 100, 1]), *SIZE)
    rig.info("left", np.zeros((3, 3)), *SIZE)
    rig.info("right", np.diag([100.0, 100, 1]), 320, 240)
    rig.send(all_pictures(3))
    assert ros.until(lambda: node.matches)
    assert tuple(node.matches[0].items) == ("front",)
    reasons = node.matches[0].reasons
    assert "found K = 0" in reasons["left"]
    assert "expected camera_info for 160x120 pixels, found one for 320x240" in reasons["right"]
    assert node.health.drops() == {"no_camera_info": 2}
    values = node.health.report().values
    assert "found K = 0" in values["camera left"]
    assert "K = 0" in values["last error match"]


def test_cameras_that_need_no_calibration(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(info=False, calibrated=False)
    rig.info("front", np.diag([100.0, 100, 1]), *SIZE)
    rig.send(all_pictures(3))
    assert ros.until(lambda: node.matches)
    assert {name: item.camera is None for name, item in node.matches[0].items.items()} == {
        "left": True,
        "front": False,
        "right": True,
    }


def test_a_change_of_size_is_told_and_takes_its_own_camera_info(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    rig.send(all_pictures(3))
    assert ros.until(lambda: len(node.matches) == 1)
    half = {**all_pictures(3), "front": picture(3, (80, 60))}
    rig.send(half, 1)
    assert ros.until(lambda: len(node.matches) == 2)
    assert node.matches[1].missing == ("front",)
    assert "for 80x60 pixels, found one for 160x120" in node.matches[1].reasons["front"]
    rig.info("front", np.diag([50.0, 50, 1]), 80, 60)
    rig.send(half, 2)
    assert ros.until(lambda: len(node.matches) == 3)
    assert node.matches[2].resized == ("front",)
    assert node.matches[2].items["front"].camera.matrix[0, 0] == 50
    rig.send(half, 3)
    assert ros.until(lambda: len(node.matches) == 4)
    assert node.matches[3].resized == ()


def test_stamps_that_go_back_start_anew(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    for n, index in enumerate((0, 10, 20)):
        rig.send(all_pictures(index), index)
        assert ros.until(lambda n=n + 1: len(node.matches) == n)
    rig.send({"left": picture(1)}, 21)  # waits for its partners, which never come
    ros.until(lambda: node.health.count("receive") == 10)
    rig.send(all_pictures(1), 0)
    assert ros.until(lambda: len(node.matches) == 4)
    assert node.matches[3].stamp_ns == START_NS
    assert not node.matches[3].missing
    assert node.matches[3].epoch > node.matches[2].epoch
    assert START_NS in node.jumps
    drops = node.health.drops()
    assert drops["time_jump_back"] >= 1
    assert drops["sync_cleared"] >= 1
    assert set(drops) == {"time_jump_back", "sync_cleared"}


def test_ros_time_that_goes_back_starts_anew(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(parameters={"use_sim_time": True})
    clock = SimulatedTime(ros, node)
    clock.set(10)
    rig.send(all_pictures(1), 5)
    assert ros.until(lambda: len(node.matches) == 1)
    clock.set_back(2)
    assert node.jumps == [None, None] or node.jumps[-1] is None
    rig.send(all_pictures(1), 1)
    assert ros.until(lambda: len(node.matches) == 2)
    assert node.matches[1].epoch > node.matches[0].epoch


def test_late_images_are_dropped(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start(parameters={"max_input_age": 5.0})
    rig.send(all_pictures(1))  # stamped in 2023
    assert ros.until(lambda: node.health.drops().get("late") == 3)
    rig.done()
    assert not node.matches


def test_the_newest_set_waits_and_the_others_are_counted(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()
    node.work = lambda match: (time.sleep(0.2), node.matches.append(match))[0]
    n = 12
    for index in range(n):
        rig.send(all_pictures(1), index)
        assert ros.until(lambda k=3 * index + 3: node.health.count("receive") == k)
    assert ros.until(lambda: node._cameras.idle)
    dropped = node.health.drops()["match_queue_full"]
    assert dropped >= n - 5
    assert len(node.matches) == n - dropped
    assert node.matches[-1].stamp_ns == START_NS + (n - 1) * PERIOD_NS


def test_what_fails_is_counted_and_the_thread_lives_on(ros: Any, start: Callable[..., Any]) -> None:
    node, rig = start()

    def refuse(match: CameraMatch) -> None:
        raise InputError("expected better, found this")

    def fail(match: CameraMatch) -> None:
        raise ZeroDivisionError("oops")

    for index, work in enumerate((refuse, fail, node.matches.append)):
        node.work = work
        rig.send(all_pictures(1), index)
        assert ros.until(lambda k=index + 1: node.health.count("match") == k)
        rig.done()
    assert node.health.drops() == {"bad_match": 1, "match_failed": 1}
    assert len(node.matches) == 1
    assert node.health.report().values["last error infer"] == "ZeroDivisionError: oops"


def test_deactivation_leaves_nothing_behind(ros: Any, start: Callable[..., Any]) -> None:
    import threading

    node, rig = start()
    rig.send(all_pictures(1))
    assert ros.until(lambda: node.matches)
    node.trigger_deactivate()
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    assert node.count_subscribers("/rig/left/image") == 0
    node.trigger_activate()
    assert ros.until(lambda: node.count_publishers("/rig/left/image"))
    ros.spin(0.2)
    rig.infos(*SIZE)
    rig.send(all_pictures(1), 1)
    assert ros.until(lambda: len(node.matches) == 2)


def test_a_topic_of_another_type_leaves_nothing_half_open(ros: Any) -> None:
    import threading

    from sensor_msgs.msg import CompressedImage

    publisher = ros.listener.create_publisher(CompressedImage, "/rig/right/image", 1)
    node = ros.start(Node, False, autostart=False)
    node.deactivate_family = lambda: None  # there is no set to close
    node.trigger_configure()
    node.trigger_activate()
    assert "cannot activate: RCLError" in node.health.warnings["lifecycle"]
    assert node.count_subscribers("/rig/left/image") == 0
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    ros.listener.destroy_publisher(publisher)
    del node.deactivate_family
    node.trigger_activate()
    assert node.health.state == "active"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"least": 4}, "1 to 3 cameras, found 4"),
        ({"patience_ns": 0}, "more than 0 s"),
        ({"required": ("rear",)}, "rear"),
        ({"slop_ns": -1}, "slop_ns >= 0"),
    ],
)
def test_options_that_make_no_sense(ros: Any, options: dict[str, Any], reason: str) -> None:
    node = ros.start(Node, False, autostart=False)
    node.options = options
    node.trigger_configure()
    node.deactivate_family = lambda: None
    node.trigger_activate()
    assert reason in node.health.warnings["lifecycle"]


@pytest.mark.parametrize("names", [(), ("a", "a"), ("1",), ("a/b",), ("",)])
def test_names_that_are_no_topics(names: tuple[str, ...]) -> None:
    from aot_runtime.ros.camera_set import check_names

    with pytest.raises(InputError, match="camera names"):
        check_names(names)
