# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from aot_runtime.ros.diagnostics import ERROR, OK, STALE, WARN, HealthMonitor


class FakeTime:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def monitor(time: FakeTime) -> HealthMonitor:
    return HealthMonitor(["receive", "decode", "infer", "publish"], stall_s=3.0, clock=time)


def test_no_input_is_a_warning_then_stale(monitor: HealthMonitor, time: FakeTime) -> None:
    time.now += 1
    report = monitor.report()
    assert report.level == WARN
    assert "no input yet" in report.message
    monitor.received()
    monitor.published()
    time.now += 5
    report = monitor.report()
    assert (report.level, report.message) == (STALE, "no input for 5.0 s")


@pytest.mark.parametrize(("last", "stuck"), [("receive", "decode"), ("decode", "infer"), ("infer", "publish")])
def test_input_without_output_names_the_stage(monitor: HealthMonitor, time: FakeTime, last: str, stuck: str) -> None:
    passed = monitor.stages[1 : monitor.stages.index(last) + 1]
    for _ in range(10):
        monitor.received()
        for stage in passed:
            monitor.passed(stage)
        time.now += 0.5
    monitor.failed(stuck, "expected A, found B")
    report = monitor.report()
    assert report.level == ERROR
    assert report.message == f"input arrives but nothing is published: stuck at {stuck} (expected A, found B)"
    assert report.values[f"errors {stuck}"] == "1"


def test_running_reports_rates_latency_and_finite_share(monitor: HealthMonitor, time: FakeTime) -> None:
    monitor.report()
    for k in range(10):
        time.now += 0.1
        monitor.received(age_s=0.002)
        monitor.passed("decode")
        if k % 2:
            monitor.published(0.010, 0.004, (99, 100))
    report = monitor.report()
    assert (report.level, report.message) == (OK, "running")
    assert report.values["input rate [Hz]"] == "10.00"
    assert report.values["output rate [Hz]"] == "5.00"
    assert report.values["input age [ms]"] == "2.00"
    assert report.values["latency from stamp p99 [ms]"] == "10.00"
    assert report.values["latency from receive p50 [ms]"] == "4.00"
    assert report.values["finite outputs [%]"] == "99"
    assert int(report.values["resident memory [MiB]"]) > 0


def test_drops_by_cause_warn_once(monitor: HealthMonitor) -> None:
    totals = {"seq_gap": 2, "reserved": 0}
    monitor.count_drops_of(lambda: totals)
    monitor.dropped("late", 3)
    monitor.received()
    monitor.published()
    report = monitor.report()
    assert (report.level, report.message) == (WARN, "5 dropped since the last report")
    assert report.values["dropped late"] == "3"
    assert report.values["dropped seq_gap"] == "2"
    assert "dropped reserved" not in report.values
    assert monitor.report().level == OK
    monitor.forget_sources()
    assert monitor.drops() == {"late": 3, "seq_gap": 2}


def test_standing_warnings_and_lifecycle_failure(monitor: HealthMonitor) -> None:
    monitor.warnings["weights"] = "the weights are random"
    monitor.received()
    monitor.published()
    assert monitor.report().message == "the weights are random"
    monitor.state = "unconfigured"
    monitor.warnings["lifecycle"] = "cannot configure: no file"
    report = monitor.report()
    assert (report.level, report.message) == (ERROR, "unconfigured: cannot configure: no file")
