# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Plays topics of a rosbag2 without ros2cli: command `play_topics`, the counterpart of `record_topics`.

Messages are published as they were recorded, undecoded, at the pace at which they were received. What was latched when
it was recorded is latched again, and CameraInfo and /tf_static always (not every recorder keeps the QoS), so that who
subscribes late knows the camera too.
"""

from __future__ import annotations

import argparse
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from aot_runtime.bags import bag_messages, open_bag
from aot_runtime.errors import AotError, InputError
from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.node import run_node

_DEPTH = 10
_TICK_NS = 10_000_000
_SETTLE_S = 1.0
_LATCHED_TYPES = ("sensor_msgs/msg/CameraInfo",)


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    Attributes:
        topics: which; empty: all whose message package is installed.
        rate: speed relative to the recording.
        loop: start again at the end, until stopped.
        clock: publish the recorded time on /clock, at least every 10 ms of wall time.
        stamps: header stamps "recorded", or "now" (types that begin with a header).
        start, duration: seconds to skip, and to play (0: to the end).
        wait: wait until somebody subscribes; `wait_timeout` seconds at most (0: for ever).
    """

    topics: tuple[str, ...] = ()
    rate: float = 1.0
    loop: bool = False
    clock: bool = False
    stamps: str = "recorded"
    start: float = 0.0
    duration: float = 0.0
    wait: bool = True
    wait_timeout: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise InputError(f"expected a rate above 0, found {self.rate}")
        if self.stamps not in ("recorded", "now"):
            raise InputError(f"expected stamps to be recorded or now, found '{self.stamps}'")
        if self.clock and self.stamps == "now":
            raise InputError("expected recorded stamps with a clock, found stamps now", "leave out one of both")


@dataclass(frozen=True)
class _Topic:
    publisher: Any
    has_header: bool


class BagPlayer(Node):
    """Publishes a bag from a thread of its own; `exit_code` is set when it has finished.

    Attributes:
        counts: messages published, by topic.

    Raises:
        InputError: the bag cannot be read, a topic is not in it, or a message type is not installed or differs.
    """

    def __init__(self, bag: Path, options: PlayOptions, **kwargs: Any) -> None:
        super().__init__("play_topics", **kwargs)
        self.exit_code: int | None = None
        self.counts: Counter[str] = Counter()
        self.loops = 0
        self._bag = bag
        self._options = options
        self._stop = threading.Event()
        self._topics: dict[str, _Topic] = {}
        with open_bag(bag) as reader:
            self._begin_ns = int(reader.start_time) + round(options.start * 1e9)
            for connection in self._choose(list(reader.connections)):
                self._add(connection)
        self._end_ns = self._begin_ns + round(options.duration * 1e9) if options.duration else None
        self._clock_out: Any = None
        if options.clock:
            from rosgraph_msgs.msg import Clock

            self._clock_out = self.create_publisher(Clock, "/clock", _DEPTH)
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self._thread.start()

    # -- what to play --------------------------------------------------------------------------------------------------

    def _choose(self, connections: list[Any]) -> list[Any]:
        listing = ", ".join(f"{c.topic} ({c.msgtype})" for c in connections) or "no topics"
        missing = [topic for topic in self._options.topics if topic not in {c.topic for c in connections}]
        if missing:
            raise InputError(f"expected the topic {missing[0]}, found {listing} in {self._bag}", "choose one of those")
        if self._options.topics:
            return [c for c in connections if c.topic in self._options.topics]
        known = []
        for connection in connections:
            try:
                _message_type(connection.msgtype, connection.topic)
            except InputError as error:
                self.get_logger().warning(f"{connection.topic} is not played: {error}")
            else:
                known.append(connection)
        if not known:
            raise InputError(f"expected topics of installed message types, found {listing} in {self._bag}")
        return known

    def _add(self, connection: Any) -> None:
        """A publisher for one topic of the bag; several connections of a topic share it."""
        topic, told = connection.topic, connection.ext
        if topic in self._topics:
            return
        if told.serialization_format not in ("", "cdr"):
            raise InputError(
                f"expected messages serialised as cdr, found {told.serialization_format} on {topic} in {self._bag}"
            )
        kind = _message_type(connection.msgtype, topic)
        latched = (
            connection.msgtype in _LATCHED_TYPES
            or topic.endswith("/tf_static")
            or any(profile.durability.name == "TRANSIENT_LOCAL" for profile in told.offered_qos_profiles)
        )
        depth = max([_DEPTH, *(min(profile.depth, 1000) for profile in told.offered_qos_profiles)])
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        publisher = self.create_publisher(kind, topic, qos)
        self._check_definition(publisher.topic_name, connection)
        fields = list(kind.get_fields_and_field_types().values())
        self._topics[topic] = _Topic(publisher, bool(fields) and fields[0] == "std_msgs/Header")

    def _check_definition(self, topic: str, connection: Any) -> None:
        """Recorded bytes mean nothing under another definition of the same name; both carry a hash since Iron."""
        for info in self.get_publishers_info_by_topic(topic):
            installed = str(getattr(info, "topic_type_hash", ""))
            recorded = str(connection.digest)
            if info.node_name != self.get_name() or not (installed.startswith("RIHS") and recorded.startswith("RIHS")):
                continue
            if installed != recorded:
                raise InputError(
                    f"expected {connection.msgtype} as it was recorded ({recorded[:19]}...), found another definition "
                    f"installed ({installed[:19]}...) for {connection.topic} in {self._bag}",
                    "install the version of the message package that recorded the bag",
                )

    # -- the playing thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            code = self._play() if self._wait_for_subscribers() else 1
        except AotError as error:
            self.get_logger().error(str(error))
            code = 2
        except Exception as error:
            code = 0
            if not self._stop.is_set():  # at shutdown the publishers vanish under the thread
                self.get_logger().error(f"playing failed: {type(error).__name__}: {error}")
                code = 2
        self.exit_code = code

    def _wait_for_subscribers(self) -> bool:
        """Waits for one subscriber, then a moment for the other topics, since discovery takes its time for each."""
        if not self._options.wait:
            return True
        begin = told = time.monotonic()
        first = None
        while not self._stop.wait(0.02):
            now = time.monotonic()
            silent = [topic for topic, item in self._topics.items() if not item.publisher.get_subscription_count()]
            if not silent:
                return not self._stop.wait(0.1)
            if len(silent) < len(self._topics):
                first = first or now
                if now - first > _SETTLE_S:
                    self.get_logger().info(f"nobody subscribes to {', '.join(silent)}")
                    return True
            limit = self._options.wait_timeout
            if first is None and limit and now - begin > limit:
                self.get_logger().error(f"expected a subscriber of {', '.join(silent)}, found none after {limit} s")
                return False
            if now - told > 5:
                told = now
                self.get_logger().info(f"waiting for a subscriber of {', '.join(silent)}")
        return False

    def _play(self) -> int:
        begin = time.monotonic()
        while not self._stop.is_set():
            before = self.counts.total()
            self._play_once()
            if self.counts.total() == before and not self._stop.is_set():
                raise InputError(
                    f"expected messages in the chosen part of {self._bag}, found none", "check --start and the topics"
                )
            self.loops += 1
            if not self._options.loop:
                break
        if self._stop.is_set():
            return 0
        for item in self._topics.values():  # a publisher that vanishes at once takes its last messages with it
            item.publisher.wait_for_all_acked(Duration(seconds=2))
        self._stop.wait(0.3)
        seconds = max(time.monotonic() - begin, 1e-9)
        self.get_logger().info(f"done: {self.counts.total()} messages in {seconds:.1f} s, {self.loops} loop(s)")
        return 0

    def _play_once(self) -> None:
        with open_bag(self._bag) as reader:
            anchor_ns = time.monotonic_ns()
            first_ns = None
            for connection, stamp_ns, raw in bag_messages(
                reader, self._bag, self._topics, self._begin_ns, self._end_ns
            ):
                first_ns = stamp_ns if first_ns is None else first_ns
                if not self._wait_until(stamp_ns, first_ns, anchor_ns):
                    return
                item = self._topics[connection.topic]
                data = bytes(raw)
                if self._options.stamps == "now" and item.has_header:
                    data = with_stamp(data, self.get_clock().now().nanoseconds)
                self._tick(stamp_ns)
                item.publisher.publish(data)
                self.counts[connection.topic] += 1

    def _wait_until(self, stamp_ns: int, first_ns: int, anchor_ns: int) -> bool:
        """Waits for a recorded time; False if the player is to stop."""
        due_ns = anchor_ns + int((stamp_ns - first_ns) / self._options.rate)
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            pause_ns = min(left_ns, _TICK_NS) if self._clock_out is not None else left_ns
            if self._stop.wait(pause_ns * 1e-9):
                return False
            if left_ns > pause_ns:
                self._tick(stamp_ns - int((left_ns - pause_ns) * self._options.rate))
        return not self._stop.is_set()

    def _tick(self, now_ns: int) -> None:
        if self._clock_out is not None:
            from rosgraph_msgs.msg import Clock

            self._clock_out.publish(Clock(clock=ns_to_stamp(now_ns)))

    def destroy_node(self) -> None:
        """Ends the playing thread first."""
        self._stop.set()
        self._thread.join(5.0)
        super().destroy_node()


def with_stamp(data: bytes, now_ns: int) -> bytes:
    """A serialised message that begins with a std_msgs/Header, with another stamp.

    CDR: four bytes that tell the byte order (bit 0 of the second: little endian), then sec (int32), nanosec (uint32).
    """
    order = "<" if data[1] & 1 else ">"
    return data[:4] + struct.pack(f"{order}iI", *divmod(now_ns, 1_000_000_000)) + data[12:]


def _message_type(name: str, topic: str) -> Any:
    """The Python class of a message type.

    Raises:
        InputError: its package is not installed, or has no such message.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"expected the message type {name} of {topic}, found none installed",
            f"install the ROS package {package}, or leave the topic out",
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="play_topics",
        description="Plays topics of a rosbag2 (sqlite3, mcap) without ros2cli.",
        epilog="Topics are remapped as for any node: play_topics BAG --ros-args -r /camera/image:=/depth/image",
    )
    parser.add_argument("bag", type=Path, help="folder of the bag, or a .mcap or .db3 file")
    parser.add_argument("topics", nargs="*", help="topics to play; all if none is given")
    parser.add_argument("--rate", type=float, default=1.0, help="speed relative to the recording")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--clock", action="store_true", help="publish the recorded time on /clock, for use_sim_time")
    parser.add_argument("--stamps", choices=("recorded", "now"), default="recorded", help="header stamps")
    parser.add_argument("--start", type=float, default=0.0, help="seconds to skip")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds to play; 0: to the end")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until somebody subscribes")
    parser.add_argument("--wait-timeout", type=float, default=0.0, help="give up waiting after this [s]; 0: never")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command `play_topics`: exit status 0 done, 1 no subscriber came, 2 the bag or an argument is of no use."""
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--ros-args") if "--ros-args" in given else len(given)
    told = _parser().parse_args(given[:split])

    def make() -> BagPlayer:
        options = PlayOptions(
            topics=tuple(told.topics),
            rate=told.rate,
            loop=told.loop,
            clock=told.clock,
            stamps=told.stamps,
            start=told.start,
            duration=told.duration,
            wait=not told.no_wait,
            wait_timeout=told.wait_timeout,
        )
        return BagPlayer(told.bag, options)

    return run_node(make, given[split:])


if __name__ == "__main__":
    sys.exit(main())
