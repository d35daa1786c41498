# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What a node tells about its health on /diagnostics.

`HealthMonitor` collects and judges without ROS and may be fed from any thread; `DiagnosticsPublisher` puts its report
on the topic once a period.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rclpy.node import Node

    from aot_runtime.compiled_model import CompiledModel

OK, WARN, ERROR, STALE = 0, 1, 2, 3  # the levels of diagnostic_msgs/DiagnosticStatus


@dataclass(frozen=True)
class HealthReport:
    """One judgement: the level (as in DiagnosticStatus), one sentence, and values by name."""

    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)


def resident_memory_bytes() -> int:
    """The process's resident memory, bytes; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def count_finite(array: np.ndarray) -> tuple[int, int]:
    """(finite elements, all elements). Looks at each element only if the sum says that one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum(dtype=np.float64)
    return (array.size if np.isfinite(total) else int(np.isfinite(array).sum())), array.size


def artifact_identity(model: CompiledModel) -> dict[str, str]:
    """What diagnostics say about the artifact that a node runs."""
    from aot_runtime.files import sha256_file

    manifest = model.manifest
    checkpoint = manifest.checkpoint
    weights = "random" if checkpoint.is_random else f"{checkpoint.file} ({checkpoint.sha256[:12]})"
    return {
        "artifact": model.path.name,
        "artifact sha256": sha256_file(model.path)[:12],
        "model": f"{manifest.family} {manifest.variant}",
        "precision": manifest.precision,
        "device": str(model.device),
        "weights": weights,
    }


class HealthMonitor:
    """Counts what goes in, through and out of a node, and judges it.

    Args:
        stages: names of the steps an input passes, in order, e.g. ("receive", "decode", "infer", "publish"); the first
            is counted by `received`, the last by `published`, those between by `passed`.
        stall_s: for how long inputs may arrive without an output before that is an error.
        clock: seconds, monotonic; tests pass their own.
    """

    def __init__(
        self, stages: Sequence[str], *, stall_s: float = 3.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if len(stages) < 2:
            raise ValueError(f"expected at least two stages, found {list(stages)}")
        self.stages = tuple(stages)
        self.stall_s = stall_s
        self.state = ""
        self.identity: dict[str, str] = {}
        self.warnings: dict[str, str] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._drops: Counter[str] = Counter()
        self._sources: list[Callable[[], Mapping[str, int]]] = []
        self._details: list[Callable[[], Mapping[str, str]]] = []
        self.restart()

    def restart(self) -> None:
        """Starts the observation anew (an activation): stages count from now, totals of drops stay."""
        with self._lock:
            now = self._clock()
            self._started = now
            self._counts = dict.fromkeys(self.stages, 0)
            self._last: dict[str, float] = {}
            self._first_unanswered: float | None = None
            self._reported = (now, 0, 0)
            self._drops_reported = 0
            self._errors: dict[str, tuple[float, str]] = {}
            self._error_counts: Counter[str] = Counter()
            self._age_s: float | None = None
            self._from_stamp: deque[float] = deque(maxlen=1000)
            self._from_receive: deque[float] = deque(maxlen=1000)
            self._finite = 0
            self._elements = 0

    def received(self, age_s: float | None = None) -> None:
        """One input arrived; `age_s` is the time since its stamp."""
        with self._lock:
            now = self._clock()
            self._count(self.stages[0], now)
            if self._first_unanswered is None:
                self._first_unanswered = now
            if age_s is not None:
                self._age_s = age_s

    def passed(self, stage: str) -> None:
        """Something left an inner stage."""
        with self._lock:
            self._count(stage, self._clock())

    def published(
        self,
        latency_from_stamp_s: float | None = None,
        latency_from_receive_s: float | None = None,
        finite: tuple[int, int] | None = None,
    ) -> None:
        """One output left the node.

        Args:
            latency_from_stamp_s: publish time minus the stamp of the input it was made from.
            latency_from_receive_s: publish time minus the arrival of that input.
            finite: (finite elements, all elements) of the output.
        """
        with self._lock:
            self._count(self.stages[-1], self._clock())
            self._first_unanswered = None
            if latency_from_stamp_s is not None:
                self._from_stamp.append(latency_from_stamp_s)
            if latency_from_receive_s is not None:
                self._from_receive.append(latency_from_receive_s)
            if finite is not None:
                self._finite += finite[0]
                self._elements += finite[1]

    def excused(self) -> None:
        """What came so far needs no output, by the user's wish (a pause)."""
        with self._lock:
            self._first_unanswered = None

    def dropped(self, cause: str, n: int = 1) -> None:
        """Inputs or intermediate results that were thrown away."""
        with self._lock:
            self._drops[cause] += n

    def failed(self, stage: str, reason: str) -> None:
        """A stage raised or refused something; the reason appears when the node stalls there."""
        with self._lock:
            self._errors[stage] = (self._clock(), reason)
            self._error_counts[stage] += 1

    def count_drops_of(self, source: Callable[[], Mapping[str, int]]) -> None:
        """Adds a part that counts drops itself (a worker, a decoder): `source` returns its totals by cause."""
        self._sources.append(source)

    def add_details(self, source: Callable[[], Mapping[str, str]]) -> None:
        """Adds values to every report; `source` is called when the report is made."""
        self._details.append(source)

    def remove_drops_of(self, *sources: Callable[[], Mapping[str, int]]) -> None:
        """Removes parts added with `count_drops_of` (they will be replaced); what they counted stays counted."""
        for source in sources:
            if source in self._sources:
                self._sources.remove(source)
                for cause, n in source().items():
                    self.dropped(cause, n)

    def forget_sources(self) -> None:
        """Removes what `count_drops_of` and `add_details` added; their drops so far stay counted."""
        totals = self.drops()
        with self._lock:
            self._drops = Counter(totals)
            self._sources.clear()
            self._details.clear()

    def drops(self) -> dict[str, int]:
        """Totals by cause, own and of the added sources."""
        with self._lock:
            total = Counter(self._drops)
        for source in list(self._sources):
            total.update(source())
        return {cause: n for cause, n in sorted(total.items()) if n}

    def count(self, stage: str) -> int:
        """How often a stage was passed since the last restart."""
        with self._lock:
            return self._counts[stage]

    def _count(self, stage: str, now: float) -> None:
        self._counts[stage] += 1
        self._last[stage] = now

    def _stuck_stage(self, now: float) -> str:
        """The first stage that passes nothing on although the stage before it does."""
        for stage in self.stages[1:]:
            if now - self._last.get(stage, float("-inf")) > self.stall_s:
                return stage
        return self.stages[-1]

    def report(self) -> HealthReport:
        """Judges the time since the last report."""
        drops = self.drops()
        with self._lock:
            now = self._clock()
            values, level, message = self._judge(now, drops)
        for source in list(self._details):
            values.update(source())
        values.update({f"dropped {cause}": str(n) for cause, n in drops.items()})
        values.update(self.identity)
        values["resident memory [MiB]"] = f"{resident_memory_bytes() / 2**20:.0f}"
        return HealthReport(level, message, values)

    def _judge(self, now: float, drops: dict[str, int]) -> tuple[dict[str, str], int, str]:
        before, inputs_before, outputs_before = self._reported
        inputs, outputs = self._counts[self.stages[0]], self._counts[self.stages[-1]]
        self._reported = (now, inputs, outputs)
        span = max(now - before, 1e-9)
        new_drops = sum(drops.values()) - self._drops_reported
        self._drops_reported = sum(drops.values())
        values = {"state": self.state} if self.state else {}
        values["input rate [Hz]"] = f"{(inputs - inputs_before) / span:.2f}"
        values["output rate [Hz]"] = f"{(outputs - outputs_before) / span:.2f}"
        values.update({f"count {stage}": str(n) for stage, n in self._counts.items()})
        if self._age_s is not None:
            values["input age [ms]"] = f"{self._age_s * 1e3:.2f}"
        for name, latencies in (("stamp", self._from_stamp), ("receive", self._from_receive)):
            if latencies:
                p50, p99 = np.percentile(np.fromiter(latencies, float), (50, 99))
                values[f"latency from {name} p50 [ms]"] = f"{p50 * 1e3:.2f}"
                values[f"latency from {name} p99 [ms]"] = f"{p99 * 1e3:.2f}"
        if self._elements:
            values["finite outputs [%]"] = f"{100.0 * self._finite / self._elements:.4g}"
        for stage, (_, reason) in self._errors.items():
            values[f"last error {stage}"] = reason
            values[f"errors {stage}"] = str(self._error_counts[stage])
        level, message = self._level(now, new_drops)
        return values, level, message

    def _level(self, now: float, new_drops: int) -> tuple[int, str]:
        if self.state and self.state != "active":
            reason = self.warnings.get("lifecycle")
            return (ERROR, f"{self.state}: {reason}") if reason else (WARN, f"the node is {self.state}")
        last_input = self._last.get(self.stages[0])
        if last_input is None:
            waited = now - self._started
            return WARN, f"no input yet, {waited:.0f} s after activation; check the topic name and its QoS"
        waiting_since = self._first_unanswered
        if waiting_since is not None and now - waiting_since > self.stall_s and now - last_input <= self.stall_s:
            stage = self._stuck_stage(now)
            reason = self._errors.get(stage, (0.0, ""))[1]
            text = f"input arrives but nothing is published: stuck at {stage}"
            return ERROR, f"{text} ({reason})" if reason else text
        if now - last_input > self.stall_s:
            return STALE, f"no input for {now - last_input:.1f} s"
        complaints = list(self.warnings.values())
        if new_drops > 0:
            complaints.append(f"{new_drops} dropped since the last report")
        return (WARN, "; ".join(complaints)) if complaints else (OK, "running")


class DiagnosticsPublisher:
    """Publishes a monitor's report as one DiagnosticStatus on /diagnostics.

    Args:
        node: the node whose timer and publisher are used; its name becomes the status's name.
        monitor: what to report.
        period_s: seconds of wall time between reports (also while simulated time stands still).
        hardware_id: e.g. the device the model runs on.
    """

    def __init__(self, node: Node, monitor: HealthMonitor, *, period_s: float = 1.0, hardware_id: str = "") -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.clock import Clock, ClockType

        self._node = node
        self._monitor = monitor
        self.hardware_id = hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = node.create_timer(period_s, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes one report now."""
        from diagnostic_msgs.msg import DiagnosticArray

        report = self._monitor.report()
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [to_status(report, self._node.get_fully_qualified_name().lstrip("/"), self.hardware_id)]
        self._publisher.publish(array)

    def destroy(self) -> None:
        """Removes the timer and the publisher."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)


def to_status(report: HealthReport, name: str, hardware_id: str = "") -> object:
    """The report as `diagnostic_msgs/DiagnosticStatus`."""
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    return DiagnosticStatus(
        level=bytes([report.level]),
        name=name,
        message=report.message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=value) for key, value in report.values.items()],
    )
