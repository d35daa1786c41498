# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What nodes around one compiled model have in common beyond their life cycle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.qos import QoSProfile

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.diagnostics import artifact_identity
from aot_runtime.ros.messages import stamp_to_ns
from aot_runtime.ros.node import PerceptionNode
from aot_runtime.ros.qos import output_qos, overridable

if TYPE_CHECKING:
    from aot_runtime.compiled_model import CompiledModel

_BACKWARD_JUMP = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)


class Timed(Protocol):
    """An input that came."""

    @property
    def stamp_ns(self) -> int:
        """Its stamp."""
        ...

    @property
    def receive_ns(self) -> int:
        """When it came, by the monotonic clock."""
        ...


@dataclass(frozen=True)
class Arrival:
    """When a message came.

    Attributes:
        stamp_ns: its stamp.
        receive_ns: by the monotonic clock.
        jumped: its stamp lies so far before that of an earlier one that the source must have started anew.
    """

    stamp_ns: int
    receive_ns: int
    jumped: bool


class ModelNode(PerceptionNode):
    """A `PerceptionNode` with outputs by name, an artifact that it introduces, and an eye on ROS time."""

    def __init__(self, name: str, stages: Sequence[str], **kwargs: Any) -> None:
        super().__init__(name, stages, **kwargs)
        self.outputs: dict[str, Any] = {}
        self._jump_handle: Any = None

    def add_output(self, name: str, kind: Any, topic: str = "", qos: QoSProfile | None = None) -> None:
        """Makes the lifecycle publisher `outputs[name]`, on `~/<name>` unless a topic is given."""
        self.outputs[name] = self.create_lifecycle_publisher(
            kind, topic or f"~/{name}", qos or output_qos(), qos_overriding_options=overridable()
        )

    def wanted(self, name: str) -> bool:
        """Whether the output exists and somebody subscribes to it."""
        publisher = self.outputs.get(name)
        return publisher is not None and bool(publisher.get_subscription_count() > 0)

    def remove_outputs(self) -> None:
        """Destroys all publishers that `add_output` made."""
        for publisher in self.outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self.outputs.clear()

    def introduce(self, model: CompiledModel, work: str, prefix: str = "") -> None:
        """Says on the log and in every report which artifact this is and what it does; warns of random weights.

        Args:
            work: what goes in and what comes out.
            prefix: tells a second model's entries from the first one's.
        """
        manifest = model.manifest
        identity = {f"{prefix}{key}": value for key, value in artifact_identity(model).items()}
        self.health.identity = {**self.health.identity, **identity} if prefix else identity
        if self._diagnostics is not None:
            self._diagnostics.hardware_id = str(model.device)
        self.get_logger().info(f"{manifest.family} {manifest.variant} {manifest.precision} on {model.device}: {work}")
        if manifest.checkpoint.is_random:
            text = f"the {prefix}artifact has random weights: its output means nothing"
            self.health.warnings[f"{prefix}weights"] = text
            self.get_logger().warning(text)

    def forget_model(self) -> None:
        """Undoes `introduce`."""
        self.health.identity = {}
        for key in [key for key in self.health.warnings if key.endswith("weights")]:
            del self.health.warnings[key]

    def admit(self, guard: StampGuard, msg: Any) -> Arrival | None:
        """Counts a message with a header, and looks at its stamp.

        Returns:
            None if the stamp is none or too old: rejected or dropped, and counted.
        """
        receive_ns, now_ns = time.monotonic_ns(), self.now_ns()
        try:
            stamp_ns = stamp_to_ns(msg.header.stamp)
        except InputError as error:
            self.health.received()
            self.reject("bad_stamp", error)
            return None
        age_s = (now_ns - stamp_ns) * 1e-9
        self.health.received(age_s)
        if guard.late(stamp_ns, now_ns):
            self.warn_throttled("late", f"input is {age_s:.3f} s old: dropped")
            return None
        return Arrival(stamp_ns, receive_ns, guard.jumped_back(stamp_ns))

    def warm_up(self, run: Callable[[], object]) -> None:
        """Runs the model once, and learns from the time that took how long silence may last before it is an error."""
        begin = time.monotonic()
        run()
        self.health.stall_s = max(3.0, 5 * (time.monotonic() - begin))

    def told_published(self, item: Timed, finite: tuple[int, int]) -> None:
        """Counts an output that was made from an input of these times; see `HealthMonitor.published`."""
        self.health.published(
            latency_from_stamp_s=(self.now_ns() - item.stamp_ns) * 1e-9,
            latency_from_receive_s=(time.monotonic_ns() - item.receive_ns) * 1e-9,
            finite=finite,
        )

    def watch_time(self, jumped: Callable[[], None]) -> None:
        """Calls back, counts and warns when ROS time goes back or changes its source, until `unwatch_time`."""

        def on_jump(jump: Any) -> None:
            self.health.dropped("time_jump_ros", 1)
            self.warn_throttled("time_jump", "ROS time went back or changed its source: the input starts anew")
            jumped()

        self._jump_handle = self.get_clock().create_jump_callback(_BACKWARD_JUMP, post_callback=on_jump)

    def unwatch_time(self) -> None:
        """Undoes `watch_time`."""
        if self._jump_handle is not None:
            self._jump_handle.unregister()
            self._jump_handle = None


def limit_threads(n: int) -> None:
    """Threads of the model on a CPU; 0 leaves them. OpenMP keeps the count per calling thread, so each must call."""
    if n:
        import torch

        torch.set_num_threads(n)
