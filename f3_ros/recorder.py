# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Records topics into a rosbag2 of mcap storage without ros2cli: command `record_topics`.

Messages are written as they arrive, undecoded, through `rosbags`; `ros2 bag info` and `ros2 bag play` read the result.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from aot_runtime.errors import AotError, InputError
from aot_runtime.ros import transport
from aot_runtime.ros.node import stop_on_signals


class TopicRecorder(Node):
    """Subscribes to topics as soon as they have a type, and writes what arrives.

    Args:
        folder: the bag to make; must not exist.
        topics: full names; a topic that appears later is joined then.

    Attributes:
        counts: messages written, by topic.

    Raises:
        InputError: the folder exists, or rosbags is not installed.
    """

    def __init__(self, folder: Path, topics: Sequence[str], **kwargs: Any) -> None:
        super().__init__("record_topics", **kwargs)
        from f3_ros.events.readers.bag_types import event_typestore

        self._store = event_typestore()
        from rosbags.rosbag2 import StoragePlugin, Writer

        if folder.exists():
            raise InputError(
                f"expected a new folder for the bag, found {folder}", "remove it or choose another --output"
            )
        self.counts: Counter[str] = Counter()
        self.last_message = time.monotonic()
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._closed = False
        self._lock = threading.Lock()
        self._missing = [self.resolve_topic_name(topic) for topic in topics]
        self._discover_timer = self.create_timer(0.1, self._discover)
        self._discover()

    def _discover(self) -> None:
        for topic in list(self._missing):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers and self._subscribe(topic, publishers):
                self._missing.remove(topic)
        if not self._missing:
            self.destroy_timer(self._discover_timer)

    def _subscribe(self, topic: str, publishers: list[Any]) -> bool:
        name = publishers[0].topic_type
        package, _, kind = name.split("/")
        try:
            message_type = getattr(import_module(f"{package}.msg"), kind)
        except (ImportError, AttributeError):
            self.get_logger().error(f"expected the message type {name} of {topic}, found none installed: not recorded")
            return True
        # Ask for no more than every publisher offers, or nothing would arrive.
        offers = [info.qos_profile for info in publishers]
        reliable = all(q.reliability == ReliabilityPolicy.RELIABLE for q in offers)
        latched = all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offers)
        qos = QoSProfile(
            depth=1000,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        if name not in self._store.fielddefs:
            self.get_logger().error(f"expected a standard message type, found {name} on {topic}: not recorded")
            return True
        connection = self._writer.add_connection(topic, name, typestore=self._store)

        def write(raw: bytes) -> None:
            with self._lock:
                if self._closed:
                    return
                self._writer.write(connection, self.get_clock().now().nanoseconds, raw)
                self.counts[topic] += 1
                self.last_message = time.monotonic()

        self.create_subscription(message_type, topic, write, qos, raw=True)
        self.get_logger().info(f"recording {topic} ({name})")
        return True

    def destroy_node(self) -> None:
        """Completes the bag."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._writer.close()
        super().destroy_node()


def main(argv: Sequence[str] | None = None) -> int:
    """Command `record_topics`."""
    parser = argparse.ArgumentParser(prog="record_topics", description=__doc__)
    parser.add_argument("topics", nargs="+", help="full names of topics, e.g. /f3/features")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the bag to make")
    parser.add_argument("--duration", type=float, default=0.0, help="stop after so many seconds; 0: at Ctrl-C")
    parser.add_argument("--until-idle", type=float, default=0.0, help="stop after so many seconds without a message")
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--ros-args") if "--ros-args" in given else len(given)
    arguments = parser.parse_args(given[:split])
    transport.use_shipped_profile()
    rclpy.init(args=given[split:], signal_handler_options=SignalHandlerOptions.NO)
    recorder = None
    executor = SingleThreadedExecutor()
    try:
        with stop_on_signals() as stop:
            recorder = TopicRecorder(arguments.output, arguments.topics)
            executor.add_node(recorder)
            begin = time.monotonic()
            while rclpy.ok() and not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
                now = time.monotonic()
                if arguments.duration and now - begin > arguments.duration:
                    break
                if arguments.until_idle and recorder.counts and now - recorder.last_message > arguments.until_idle:
                    break
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        executor.shutdown()
        if recorder is not None:
            recorder.destroy_node()
        rclpy.try_shutdown()
    if recorder is None:
        return 0
    for topic, n in sorted(recorder.counts.items()):
        print(f"{topic}: {n} messages")
    print(f"{arguments.output}: {sum(recorder.counts.values())} messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
