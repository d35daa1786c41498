# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call"
# (rclpy is typed in part only)
"""Publishes any recording of events as EventPackets, as a camera driver would: command `replay_node`.

Topics: publishes `~/events` (event_camera_msgs/EventPacket) and, if asked, `/clock`; with rate 0 it subscribes to
`~/processed_seq` (std_msgs/UInt64), on which the consumer acknowledges what it has processed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt64

from aot_runtime.errors import AotError, InputError
from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.node import describe, run_node
from aot_runtime.ros.qos import events_qos, overridable
from f3_ros.event_messages import event_packet_type, message_from_packet
from f3_ros.events.types import Packet
from f3_ros.pacing import LockStep, RealTime

USAGE = """\
usage: replay_node --ros-args -p file:=RECORDING [-p rate:=1.0] [-p loop:=false] [-r "~/events:=/f3/events"] ...

Publishes a recording (Prophesee .raw, .dat, .aedat4, HDF5 in M3ED/DSEC/MVSEC layout, rosbag2) as
event_camera_msgs/EventPacket on ~/events. rate 0 goes as fast as the consumer acknowledges on ~/processed_seq:
    replay_node --ros-args -p file:=FILE -p rate:=0.0 -r "~/events:=/f3/events" -r "~/processed_seq:=/f3/processed_seq"
All parameters with their meaning: config/replay.yaml
"""

_PARAMETERS: tuple[tuple[str, Any, str, tuple[float, float] | None], ...] = (
    ("file", "", "The recording: a file, or the folder of a rosbag2.", None),
    ("topic", "", "Which topic of a bag; empty: its only event topic.", None),
    ("camera", "left", "Which camera of a file with two.", None),
    ("sensor_width", 0, "Columns of the sensor if the file does not say; 0: by the file.", (0, 8192)),
    ("sensor_height", 0, "Rows of the sensor if the file does not say; 0: by the file.", (0, 8192)),
    ("rate", 1.0, "Speed relative to the recording; 0: as fast as the consumer acknowledges.", (0.0, 1000.0)),
    ("start", 0.0, "Seconds to skip at the start of the recording.", (0.0, 1e6)),
    ("duration", 0.0, "Seconds to play; 0: to the end.", (0.0, 1e6)),
    ("loop", False, "Start again at the end; sequence numbers go on.", None),
    ("packet_us", 4000, "Sensor time per packet [us] where the file has no packets of its own.", (100, 1_000_000)),
    ("stamps", "now", "Header stamps: the time of publishing, or those of the recording.", None),
    ("loop_stamps", "continue", "Recorded stamps in a later loop: continue after the first, or restart.", None),
    ("publish_clock", False, "Publish /clock from recorded stamps (needs stamps: recorded).", None),
    ("frame_id", "", "Frame of the packets; empty: as recorded.", None),
    ("reliable", False, "Publish reliably instead of best effort as drivers do.", None),
    ("wait_for_subscribers", 1, "Wait until so many subscribe before starting; 0: do not wait.", (0, 100)),
    ("wait_timeout", 0.0, "Stop waiting after this [s], with exit code 1; 0: wait for ever.", (0.0, 1e6)),
    ("max_in_flight", 8, "Rate 0: packets that may be unacknowledged.", (1, 1000)),
    ("ack_timeout", 10.0, "Rate 0: after so many seconds without acknowledgement fall back to real time.", (0.1, 1e4)),
    ("exit_when_done", True, "End the process (exit code 0) at the end of the recording.", None),
    ("progress", True, "Show progress: a bar on a terminal, a log line every 2 s elsewhere.", None),
)

_CHOICES = {"camera": ("left", "right"), "stamps": ("now", "recorded"), "loop_stamps": ("continue", "restart")}
PROCESSED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Of `~/processed_seq`: the last acknowledgement also reaches who subscribes late."""


class ReplayNode(Node):
    """Publishes a recording from a thread of its own; `exit_code` is set when it has finished.

    Raises:
        InputError: a parameter or the file is not usable; the message says why.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("replay", **kwargs)
        for name, default, text, limits in _PARAMETERS:
            low, high = limits or (None, None)
            choices = " or ".join(_CHOICES.get(name, ()))
            descriptor = describe(text, low=low, high=high, read_only=True, constraints=choices)
            self.declare_parameter(name, default, descriptor)
        self.exit_code: int | None = None
        self.packets = 0
        self.bytes = 0
        self.loops = 0
        self.done = threading.Event()
        self._stop = threading.Event()
        self._check_parameters()
        self._reader = self._open()
        self._publisher = self.create_publisher(
            event_packet_type(),
            "~/events",
            events_qos(reliable=self._value("reliable")),
            qos_overriding_options=overridable(),
        )
        self._clock_publisher: Any = None
        if self._value("publish_clock"):
            from rosgraph_msgs.msg import Clock

            self._clock_publisher = self.create_publisher(Clock, "/clock", 10)
        self._lock_step: LockStep | None = None
        if self._value("rate") == 0.0:
            self._lock_step = LockStep(self._value("max_in_flight"))
            self._acknowledgements = self.create_subscription(
                UInt64, "~/processed_seq", self._on_processed, PROCESSED_QOS
            )
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check_parameters(self) -> None:
        for name, allowed in _CHOICES.items():
            if self._value(name) not in allowed:
                raise InputError(f"expected {name} to be {' or '.join(allowed)}, found '{self._value(name)}'")
        if self._value("publish_clock") and self._value("stamps") != "recorded":
            raise InputError("expected stamps: recorded with publish_clock, found stamps: now", "set stamps:=recorded")
        if not self._value("file"):
            raise InputError("expected a recording, found no file", "set it with: --ros-args -p file:=RECORDING")

    def _open(self) -> Any:
        from f3_ros.events.readers import open_events

        size = (self._value("sensor_width"), self._value("sensor_height"))
        reader = open_events(
            Path(self._value("file")).expanduser(),
            topic=self._value("topic") or None,
            camera=self._value("camera"),
            sensor_size=size if all(size) else None,
        )
        for notice in reader.metadata.get("notices", ()):
            self.get_logger().warning(notice)
        self.get_logger().info(f"{reader.path}: {reader.width}x{reader.height}, {reader.encoding}")
        return reader

    def _on_processed(self, msg: UInt64) -> None:
        if self._lock_step is not None:
            self._lock_step.acknowledge(msg.data)

    def destroy_node(self) -> None:
        """Ends the publishing thread first."""
        self._stop.set()
        self._thread.join(5.0)
        self._reader.close()
        super().destroy_node()

    # -- the publishing thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        code = 0
        try:
            code = self._play() if self._wait_for_subscribers() else 1
        except AotError as error:
            self.get_logger().error(str(error))
            code = 2
        except Exception as error:
            if not self._stop.is_set():  # at shutdown the publisher vanishes under the thread
                self.get_logger().error(f"replay failed: {type(error).__name__}: {error}")
                code = 2
        self.done.set()
        if self._value_or("exit_when_done", True) or code:
            self.exit_code = code

    def _value_or(self, name: str, default: Any) -> Any:
        """A parameter, also while the node is being destroyed."""
        return self.get_parameter_or(name).value if self.has_parameter(name) else default

    def _wait_for_subscribers(self) -> bool:
        wanted, limit = self._value("wait_for_subscribers"), self._value("wait_timeout")
        if not wanted:
            return True
        acks = self.resolve_topic_name("~/processed_seq")
        start = time.monotonic()
        told = start
        while not self._stop.wait(0.02):
            count = self._publisher.get_subscription_count()
            # With lock-step the way back must stand as well, or the first acknowledgements are lost.
            if count >= wanted and (
                self._lock_step is None or self.count_publishers(acks) or time.monotonic() - start > 5
            ):
                return not self._stop.wait(0.1)
            now = time.monotonic()
            if limit and now - start > limit:
                topic = self._publisher.topic_name
                self.get_logger().error(f"expected {wanted} subscribers of {topic}, found {count} after {limit} s")
                return False
            if now - told > 5:
                told = now
                self.get_logger().info(f"waiting for {wanted} subscribers of {self._publisher.topic_name} ({count})")
        return False

    def _play(self) -> int:
        pace = RealTime(self._value("rate") or 1.0)
        begin = time.monotonic()
        seq_offset = stamp_offset = 0
        with self._progress() as progress:
            while not self._stop.is_set():
                first = last = None
                for packet in self._packets():
                    first = first or packet
                    last = packet
                    if not self._publish(packet, pace, seq_offset, stamp_offset):
                        break
                    progress.show(packet.stamp_ns - first.stamp_ns, self.packets, self.bytes)
                if last is None or first is None:
                    raise InputError(
                        f"expected packets in the chosen part of {self._reader.path}, found none", "check start"
                    )
                self.loops += 1
                if not self._value("loop"):
                    break
                pace.restart()
                seq_offset += last.seq - first.seq + 1
                if self._value("loop_stamps") == "continue":
                    stamp_offset += last.stamp_ns - first.stamp_ns + self._value("packet_us") * 1000
        if self._stop.is_set():
            return 0
        if self._lock_step is not None and not self._lock_step.wait(self._value("ack_timeout"), all_done=True):
            self.get_logger().warning(f"{self._lock_step.forget()} packets were never acknowledged")
        seconds = max(time.monotonic() - begin, 1e-9)
        self.get_logger().info(
            f"done: {self.packets} packets, {self.bytes / 1e6:.1f} MB in {seconds:.1f} s, {self.loops} loop(s)"
        )
        # Fast DDS sends asynchronously; a publisher that vanishes at once takes its last messages with it.
        self._stop.wait(0.3)
        return 0

    def _packets(self) -> Iterator[Packet]:
        duration = self._value("duration")
        packets: Iterator[Packet] = self._reader.packets(
            start_us=round(self._value("start") * 1e6),
            duration_us=round(duration * 1e6) if duration else None,
            packet_us=self._value("packet_us"),
        )
        return packets

    def _publish(self, packet: Packet, pace: RealTime, seq_offset: int, stamp_offset: int) -> bool:
        """Waits until the packet may go, and publishes it; False if the node is to stop."""
        if self._lock_step is not None:
            if not self._wait_for_acknowledgement(self._lock_step):
                return False
        else:
            while (left := pace.due_ns(packet.stamp_ns) - time.monotonic_ns()) > 0:
                if self._stop.wait(left * 1e-9):
                    return False
        if self._stop.is_set():
            return False
        recorded = packet.stamp_ns + stamp_offset
        stamp = recorded if self._value("stamps") == "recorded" else self.get_clock().now().nanoseconds
        msg = message_from_packet(
            packet, stamp_ns=stamp, seq=packet.seq + seq_offset, frame_id=self._value("frame_id") or None
        )
        if self._clock_publisher is not None:
            from rosgraph_msgs.msg import Clock

            self._clock_publisher.publish(Clock(clock=ns_to_stamp(recorded)))
        if self._lock_step is not None:
            self._lock_step.sent(msg.seq)
        self._publisher.publish(msg)
        self.packets += 1
        self.bytes += len(msg.events)
        return True

    def _wait_for_acknowledgement(self, lock_step: LockStep) -> bool:
        """Room for one more packet, or a fall back to real time; False if the node is to stop."""
        waited, limit = 0.0, self._value("ack_timeout")
        while not lock_step.wait(0.1):
            if self._stop.is_set():
                return False
            waited += 0.1
            if waited < limit:
                continue
            lost = lock_step.forget()
            topic = self.resolve_topic_name("~/processed_seq")
            if lock_step.acknowledged:
                self.get_logger().warning(f"{lost} packets were not acknowledged within {limit} s on {topic}; going on")
            else:
                self.get_logger().warning(
                    f"nobody acknowledges packets on {topic} (waited {limit} s): going on in real time; "
                    "remap ~/processed_seq to the consumer's topic, or set rate:=1.0"
                )
                self._lock_step = None
            break
        return True

    def _progress(self) -> _Progress:
        total = self._value("duration") * 1e6 or (self._reader.duration_us or 0) - self._value("start") * 1e6
        return _Progress(self, int(total * 1000) if total > 0 else None, self._value("progress"))


class _Progress:
    """A bar on a terminal, log lines elsewhere."""

    def __init__(self, node: Node, total_ns: int | None, wanted: bool) -> None:
        self._node = node
        self._total_ns = total_ns
        self._wanted = wanted
        self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        if self._wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("replay"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("replay", total=self._total_ns, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, position_ns: int, packets: int, n_bytes: int) -> None:
        """At most every 0.1 s on a bar, every 2 s as a log line."""
        now = time.monotonic()
        if not self._wanted or now - self._told < (0.1 if self._bar is not None else 2.0):
            return
        self._told = now
        text = f"{position_ns / 1e9:.1f} s, {packets} packets, {n_bytes / 1e6:.1f} MB"
        if self._bar is not None:
            self._bar.update(self._task, completed=position_ns, text=text)
        else:
            share = f"{100 * position_ns / self._total_ns:.0f} %, " if self._total_ns else ""
            self._node.get_logger().info(share + text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command `replay_node`."""
    return run_node(ReplayNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
