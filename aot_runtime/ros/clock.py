# SPDX-License-Identifier: Apache-2.0
"""Time: the mapping from a sensor's clock to ROS time, jumps backwards, and the age of inputs. No rclpy here."""

from __future__ import annotations

from collections import Counter

_US = 1000


class SensorClock:
    """Maps the time of a free-running sensor clock [us] to ROS time [ns].

    A packet's header stamp is taken when its first buffer reaches the host, which is after the events were measured by
    a delay that varies from packet to packet but never falls below some minimum. So the offset between the clocks is
    estimated as the lower envelope of (stamp - newest sensor time of the packet): it follows a smaller difference at
    once and rises only as fast as clocks may drift apart (`drift_ppm`). Published times never go back, except after
    `reset()` or a jump. If the difference stays more than `jump_ms` away from the estimate for `patience` packets, or
    falls below it by that much, one of the clocks has jumped and the estimate starts anew (counted in
    `jumps`).
    """

    def __init__(self, *, drift_ppm: float = 100.0, jump_ms: float = 20.0, patience: int = 10) -> None:
        self.jumps = 0
        self._drift = drift_ppm * 1e-6
        self._jump_ns = int(jump_ms * 1e6)
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """Forgets the offset and lets published times go back (after a bag loop or a sensor restart)."""
        self._offset_ns: int | None = None
        self._last_sensor_us = 0
        self._last_published_ns: int | None = None
        self._above = 0

    @property
    def offset_ns(self) -> int | None:
        """ROS time minus sensor time, or None before the first packet."""
        return self._offset_ns

    def update(self, stamp_ns: int, sensor_us: int) -> None:
        """Takes one packet's header stamp and the newest sensor time it carries."""
        difference = stamp_ns - sensor_us * _US
        if self._offset_ns is None:
            self._offset_ns = difference
        elif difference <= self._offset_ns:
            if self._offset_ns - difference > self._jump_ns:
                self._jump(difference)
            self._offset_ns = difference
            self._above = 0
        elif difference - self._offset_ns > self._jump_ns:
            # One late packet is a busy host; many in a row are a clock that jumped.
            self._above += 1
            if self._above >= self._patience:
                self._jump(difference)
        else:
            self._above = 0
            elapsed_ns = max(0, sensor_us - self._last_sensor_us) * _US
            self._offset_ns += min(difference - self._offset_ns, int(elapsed_ns * self._drift))
        self._last_sensor_us = sensor_us

    def _jump(self, difference: int) -> None:
        self.jumps += 1
        self._above = 0
        self._offset_ns = difference

    def to_ros_ns(self, sensor_us: int) -> int | None:
        """ROS time of a sensor time, never less than what was returned before; None before the first packet."""
        if self._offset_ns is None:
            return None
        mapped = max(0, sensor_us * _US + self._offset_ns)
        if self._last_published_ns is not None:
            mapped = max(mapped, self._last_published_ns)
        self._last_published_ns = mapped
        return mapped


class StampGuard:
    """Watches the stamps of one input for jumps backwards (a bag that loops) and for late arrival.

    Args:
        tolerance_ns: steps back up to this are disorder on the way, not a jump.
        max_age_ns: inputs older than this when they arrive are late; 0 switches the check off.
    """

    def __init__(self, *, tolerance_ns: int = 100_000_000, max_age_ns: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self._tolerance_ns = tolerance_ns
        self._max_age_ns = max_age_ns
        self._newest_ns: int | None = None

    def jumped_back(self, stamp_ns: int) -> bool:
        """Whether this stamp lies so far before the newest one that the source must have started anew."""
        newest = self._newest_ns
        if newest is not None and stamp_ns < newest - self._tolerance_ns:
            self._newest_ns = stamp_ns
            self.counts["time_jump_back"] += 1
            return True
        self._newest_ns = stamp_ns if newest is None else max(newest, stamp_ns)
        return False

    def late(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether an input with this stamp is too old to be used now; stamps from the future are never late."""
        if self._max_age_ns and now_ns - stamp_ns > self._max_age_ns:
            self.counts["late"] += 1
            return True
        return False

    def reset(self) -> None:
        """Forgets the newest stamp (ROS time itself jumped)."""
        self._newest_ns = None
