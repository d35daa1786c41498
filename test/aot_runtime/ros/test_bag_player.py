# SPDX-License-Identifier: Apache-2.0
"""play_topics: the recorded bytes at the recorded pace, latching, /clock, loops, remapping, and what it refuses."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig_bags import write_rig_bag

pytest.importorskip("rclpy", reason="rclpy is not installed")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from aot_runtime.errors import InputError
from aot_runtime.ros.bag_player import BagPlayer, PlayOptions, with_stamp
from aot_runtime.ros.messages import image_view, ns_to_stamp, stamp_to_ns
from aot_runtime.ros.qos import image_input_qos, latched_qos

START_NS = 1_700_000_000_000_000_000
IMAGE, INFO = "/camera/image_rect", "/camera/camera_info"


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(5)]


class Stage:
    """A listener and players that spin together."""

    def __init__(self, rclpy: Any) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.executor = SingleThreadedExecutor()
        self.nodes: list[Any] = []
        self.listener = self.add(rclpy.create_node("listener"))

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def listen(self, kind: Any, topic: str, qos: Any = 100) -> list[Any]:
        got: list[Any] = []
        self.listener.create_subscription(kind, topic, got.append, qos)
        return got

    def play(self, bag: Path, cli_args: list[str] | None = None, **options: Any) -> Any:
        return self.add(BagPlayer(bag, PlayOptions(**options), cli_args=cli_args))

    def until(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not condition():
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def finish(self, player: Any) -> int:
        assert self.until(lambda: player.exit_code is not None)
        self.until(lambda: False, 0.1)
        return int(player.exit_code)

    def close(self) -> None:
        for node in self.nodes:
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()


@pytest.fixture
def stage(ros: object) -> Any:
    made = Stage(ros)
    yield made
    made.close()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_arrive_as_recorded_at_the_recorded_pace(
    storage: str, stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]
) -> None:
    bag = image_bag(images, storage=storage, camera=(500.0, 501.0, 4.0, 3.0))
    got, infos = stage.listen(Image, IMAGE, image_input_qos(10)), stage.listen(CameraInfo, INFO)
    begin = time.monotonic()
    player = stage.play(bag)
    assert stage.finish(player) == 0
    assert time.monotonic() - begin > 0.2  # 5 images, 50 ms apart
    assert [stamp_to_ns(msg.header.stamp) for msg in got] == [START_NS + n * 50_000_000 for n in range(5)]
    for msg, image in zip(got, images):
        np.testing.assert_array_equal(image_view(msg), image)
        assert (msg.encoding, msg.header.frame_id) == ("rgb8", "camera_optical")
    assert [list(info.k[:6]) for info in infos] == [[500.0, 0.0, 4.0, 0.0, 501.0, 3.0]] * 5
    assert player.counts == {IMAGE: 5, INFO: 5}
    assert player.loops == 1


def test_rate_start_and_duration(stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]) -> None:
    bag = image_bag(images, period_ns=1_000_000_000)
    got = stage.listen(Image, IMAGE)
    assert stage.finish(stage.play(bag, rate=50.0, start=0.9, duration=2.5)) == 0
    # From 0.9 s on for 2.5 s: the images at 1, 2 and 3 s; the first at once.
    assert [stamp_to_ns(msg.header.stamp) - START_NS for msg in got] == [1_000_000_000, 2_000_000_000, 3_000_000_000]


def test_loop_plays_again_until_stopped(stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]) -> None:
    got = stage.listen(Image, IMAGE)
    player = stage.play(image_bag(images), rate=20.0, loop=True)
    assert stage.until(lambda: player.loops >= 2 and len(got) >= 11)
    assert player.exit_code is None
    stamps = [stamp_to_ns(msg.header.stamp) for msg in got[:10]]
    assert stamps[5:] == stamps[:5]


def test_clock_is_the_recorded_time_and_ticks_between_messages(
    stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]
) -> None:
    from rosgraph_msgs.msg import Clock

    ticks = stage.listen(Clock, "/clock")
    got = stage.listen(Image, IMAGE)
    assert stage.finish(stage.play(image_bag(images, period_ns=100_000_000), clock=True)) == 0
    times = [stamp_to_ns(tick.clock) for tick in ticks]
    assert times == sorted(times)
    assert {stamp_to_ns(msg.header.stamp) for msg in got} <= set(times)
    assert len(times) > 15  # 0.4 s in steps of 10 ms, with room for a busy machine
    assert times[0] == START_NS
    assert times[-1] == START_NS + 400_000_000


def test_stamps_now(stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]) -> None:
    got = stage.listen(Image, IMAGE)
    assert stage.finish(stage.play(image_bag(images), rate=20.0, stamps="now")) == 0
    assert all(abs(time.time() - stamp_to_ns(msg.header.stamp) * 1e-9) < 60 for msg in got)
    np.testing.assert_array_equal(image_view(got[3]), images[3])


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_stamp_is_replaced_in_either_byte_order(byte_order: str) -> None:
    msg = Image(width=3, height=2, encoding="mono8", step=3)
    msg.header.stamp = ns_to_stamp(START_NS)
    msg.header.frame_id = "eye"
    raw = serialize_message(msg)
    if byte_order == "<":
        changed = deserialize_message(with_stamp(raw, START_NS + 5), Image)
        msg.header.stamp = ns_to_stamp(START_NS + 5)
        assert changed == msg
    else:
        big = b"\x00\x00\x00\x00" + struct.pack(">iI", 1, 2) + b"rest"
        assert with_stamp(big, 3 * 10**9 + 4) == b"\x00\x00\x00\x00" + struct.pack(">iI", 3, 4) + b"rest"


def test_recorded_latching_reaches_late_subscribers(
    stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]
) -> None:
    bag = image_bag(images, camera=(500.0, 500.0, 4.0, 3.0), latched_info=True)
    got = stage.listen(Image, IMAGE)
    player = stage.play(bag, rate=0.5)
    assert stage.until(lambda: player.counts[IMAGE] >= 1)
    late = stage.listen(CameraInfo, INFO, latched_qos())
    assert stage.until(lambda: late), "camera_info was published once, before this subscription"
    assert late[0].k[0] == 500.0
    assert stage.finish(player) == 0
    assert (len(got), player.counts[INFO]) == (5, 1)


def test_static_transforms_are_latched_whatever_the_recorder_kept_of_it(stage: Stage, tmp_path: Path) -> None:
    from tf2_msgs.msg import TFMessage

    bag = write_rig_bag(tmp_path / "bag", cameras=("front",), count=2).path  # without any QoS
    listener = stage.listen(TFMessage, "/tf_static", latched_qos())
    player = stage.play(bag)
    assert stage.finish(player) == 0
    assert [transform.child_frame_id for msg in listener for transform in msg.transforms] == ["front_optical"]


def test_only_chosen_topics_under_other_names(
    stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]
) -> None:
    bag = image_bag(images, camera=(500.0, 500.0, 4.0, 3.0), other_topics=True)
    got, chatter = stage.listen(Image, "/depth/image"), stage.listen(String, "/chatter")
    arguments = ["--ros-args", "-r", f"{IMAGE}:=/depth/image"]
    player = stage.play(bag, arguments, rate=20.0, topics=(IMAGE,))
    assert stage.finish(player) == 0
    assert len(got) == 5
    assert not chatter
    assert set(player.counts) == {IMAGE}


def test_waits_for_a_subscriber_and_gives_up_in_time(
    stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray]
) -> None:
    bag = image_bag(images)
    player = stage.play(bag)
    assert not stage.until(lambda: player.counts, 0.5)
    got = stage.listen(Image, IMAGE)
    assert stage.finish(player) == 0
    assert len(got) == 5
    stage.listener.destroy_subscription(next(iter(stage.listener.subscriptions)))
    alone = stage.play(bag, wait_timeout=0.2)
    assert stage.finish(alone) == 1
    assert not alone.counts
    assert stage.finish(stage.play(bag, wait=False, rate=20.0)) == 0


def test_types_that_are_not_installed_are_left_out_or_refused(
    stage: Stage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("int32 n\n", "rare_msgs/msg/Thing"))
    bag = tmp_path / "bag"
    with Writer(bag, version=9) as writer:
        rare = writer.add_connection("/rare", "rare_msgs/msg/Thing", typestore=store)
        writer.write(rare, START_NS, store.serialize_cdr(store.types["rare_msgs/msg/Thing"](3), "rare_msgs/msg/Thing"))
        text = writer.add_connection("/text", "std_msgs/msg/String", typestore=store)
        writer.write(
            text, START_NS, store.serialize_cdr(store.types["std_msgs/msg/String"]("a"), "std_msgs/msg/String")
        )
    got = stage.listen(String, "/text")
    assert stage.finish(stage.play(bag)) == 0
    assert [msg.data for msg in got] == ["a"]
    assert "/rare is not played: expected the message type rare_msgs/msg/Thing" in capfd.readouterr().err
    with pytest.raises(InputError, match="install the ROS package rare_msgs, or leave the topic out"):
        BagPlayer(bag, PlayOptions(topics=("/rare",)))


def test_another_definition_of_the_same_name_is_refused(stage: Stage, tmp_path: Path) -> None:
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    probe = stage.listener.create_publisher(String, "/probe", 1)
    hashes = [str(getattr(i, "topic_type_hash", "")) for i in stage.listener.get_publishers_info_by_topic("/probe")]
    assert probe
    if not hashes[0].startswith("RIHS"):
        pytest.skip("this RMW tells no type hashes")
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("int32 n\nstring data\n", "std_msgs/msg/String"))
    with Writer(tmp_path / "bag", version=9) as writer:
        text = writer.add_connection("/text", "std_msgs/msg/String", typestore=store)
        raw = store.serialize_cdr(store.types["std_msgs/msg/String"](1, "a"), "std_msgs/msg/String")
        writer.write(text, START_NS, raw)
    with pytest.raises(InputError, match="found another definition installed"):
        BagPlayer(tmp_path / "bag", PlayOptions())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rate": 0.0}, "expected a rate above 0"),
        ({"rate": float("nan")}, "expected a rate above 0"),
        ({"stamps": "later"}, "expected stamps to be recorded or now"),
        ({"stamps": "now", "clock": True}, "expected recorded stamps with a clock"),
    ],
)
def test_unusable_options_say_why(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        PlayOptions(**options)


def test_unusable_bags_say_why(
    stage: Stage, image_bag: Callable[..., Path], images: list[np.ndarray], tmp_path: Path
) -> None:
    bag = image_bag(images)
    with pytest.raises(InputError, match=r"expected the topic /nothing, found /camera/image_rect \(sensor_msgs"):
        BagPlayer(bag, PlayOptions(topics=("/nothing",)))
    with pytest.raises(InputError, match="found nothing at"):
        BagPlayer(tmp_path / "none", PlayOptions())
    (tmp_path / "broken.mcap").write_bytes(b"no bag at all")
    with pytest.raises(InputError, match="expected a readable rosbag2"):
        BagPlayer(tmp_path / "broken.mcap", PlayOptions())
    beyond = stage.play(bag, start=1000.0, wait=False)
    assert stage.finish(beyond) == 2


def test_the_command_and_its_exit_codes(image_bag: Callable[..., Path], images: list[np.ndarray]) -> None:
    bag = image_bag(images)
    root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF", "PYTHONPATH": str(root)}
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "aot_runtime.ros.bag_player", *arguments]
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=60, check=False)

    done = command(str(bag), "--no-wait", "--rate", "10", "--ros-args", "-r", f"{IMAGE}:=/other")
    assert done.returncode == 0, done.stderr
    assert "done: 5 messages" in done.stderr
    assert command(str(bag), "--wait-timeout", "0.2").returncode == 1
    wrong = command(str(bag), "/nothing")
    assert wrong.returncode == 2
    assert "error: expected the topic /nothing" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "play_topics" in command("--help").stdout
