# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from aot_runtime.ros.clock import SensorClock, StampGuard

START_NS = 1_700_000_000_000_000_000


def test_offset_is_the_lower_envelope_of_jittered_arrivals() -> None:
    rng = np.random.default_rng(1)
    clock = SensorClock()
    # Sensor time starts at 0 when host time is START_NS; packets arrive 1 ms late at least, 5.4 ms at most.
    for k in range(1, 1000):
        sensor_us = 4000 * k
        delay_ns = int(1e6 + rng.uniform(0, 4.4e6))
        clock.update(START_NS + sensor_us * 1000 + delay_ns, sensor_us)
    assert clock.offset_ns is not None
    assert 0.95e6 <= clock.offset_ns - START_NS <= 1.4e6
    assert clock.jumps == 0


def test_slow_drift_is_followed() -> None:
    clock = SensorClock()
    for k in range(1, 5000):
        sensor_us = 4000 * k
        clock.update(START_NS + int(sensor_us * 1000 * (1 + 50e-6)), sensor_us)
    expected = START_NS + int(4999 * 4_000_000 * 50e-6)
    assert clock.offset_ns is not None
    assert abs(clock.offset_ns - expected) < 1000


def test_published_times_never_go_back_unless_reset() -> None:
    clock = SensorClock()
    assert clock.to_ros_ns(0) is None
    clock.update(START_NS + 5_000_000, 0)
    first = clock.to_ros_ns(1000)
    clock.update(START_NS, 0)  # an earlier arrival lowers the offset by 5 ms
    assert clock.to_ros_ns(1000) == first
    clock.reset()
    clock.update(START_NS, 0)
    assert clock.to_ros_ns(1000) == START_NS + 1_000_000


def test_one_late_packet_is_no_jump_but_many_are() -> None:
    clock = SensorClock(patience=10)
    for k in range(20):
        clock.update(START_NS + 4_000_000 * k, 4000 * k)
    clock.update(START_NS + 4_000_000 * 20 + 50_000_000, 4000 * 20)
    assert (clock.jumps, clock.offset_ns) == (0, START_NS)
    for k in range(21, 31):
        clock.update(START_NS + 4_000_000 * k + 50_000_000, 4000 * k)
    assert (clock.jumps, clock.offset_ns) == (1, START_NS + 50_000_000)


def test_sensor_jump_forward_is_counted() -> None:
    clock = SensorClock()
    clock.update(START_NS, 0)
    clock.update(START_NS + 4_000_000, 1_004_000)
    assert clock.jumps == 1


def test_stamp_guard_tells_jumps_from_disorder() -> None:
    guard = StampGuard(tolerance_ns=100)
    assert [guard.jumped_back(t) for t in (1000, 950, 1200, 1100, 1099, 1150)] == [False] * 4 + [True, False]
    assert guard.counts["time_jump_back"] == 1
    guard.reset()
    assert not guard.jumped_back(0)


def test_stamp_guard_age_limit() -> None:
    guard = StampGuard(max_age_ns=10)
    assert not guard.late(100, 110)
    assert guard.late(100, 111)
    assert not guard.late(100, 50)
    assert guard.counts["late"] == 1
    assert not StampGuard().late(0, 10**18)
