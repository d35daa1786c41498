# SPDX-License-Identifier: Apache-2.0
"""When to publish the next packet of a recording: by the clock, or by what the consumer has acknowledged."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_LONGEST_PAUSE_NS = 10_000_000_000


class RealTime:
    """Paces packets by their stamps, `rate` times as fast as they were recorded.

    A stamp that goes back, or ahead by more than 10 s, starts a new schedule from "now" (counted in `restarts`).
    """

    def __init__(self, rate: float, clock: Callable[[], int] = time.monotonic_ns) -> None:
        if rate <= 0:
            raise ValueError(f"expected a rate above 0, found {rate}")
        self.restarts = 0
        self._rate = rate
        self._clock = clock
        self._anchor: tuple[int, int] | None = None  # (recorded time, wall time)
        self._last_ns = 0

    def due_ns(self, stamp_ns: int) -> int:
        """The monotonic time at which a packet with this stamp is due."""
        if self._anchor is None or not 0 <= stamp_ns - self._last_ns <= _LONGEST_PAUSE_NS:
            self.restarts += self._anchor is not None
            self._anchor = (stamp_ns, self._clock())
        self._last_ns = stamp_ns
        recorded, wall = self._anchor
        return wall + int((stamp_ns - recorded) / self._rate)

    def restart(self) -> None:
        """The next packet is due at once (a new loop)."""
        self._anchor = None


class LockStep:
    """Lets at most `in_flight` packets be unacknowledged. An acknowledgement covers all packets before it.

    `sent` and `wait` are called by the publishing thread, `acknowledge` by any other.
    """

    def __init__(self, in_flight: int) -> None:
        self.acknowledged = 0
        self._in_flight = in_flight
        self._waiting: deque[int] = deque()
        self._changed = threading.Condition()

    @property
    def outstanding(self) -> int:
        """Packets sent but not acknowledged."""
        return len(self._waiting)

    def sent(self, seq: int) -> None:
        """A packet was published."""
        with self._changed:
            self._waiting.append(seq)

    def acknowledge(self, seq: int) -> None:
        """The consumer is done with packet `seq` and all before; unknown numbers are ignored."""
        with self._changed:
            if seq in self._waiting:
                while self._waiting.popleft() != seq:
                    self.acknowledged += 1
                self.acknowledged += 1
                self._changed.notify_all()

    def wait(self, timeout_s: float, *, all_done: bool = False) -> bool:
        """Waits until another packet may be sent (or until every one is acknowledged); False on timeout."""
        limit = 1 if all_done else self._in_flight
        with self._changed:
            return self._changed.wait_for(lambda: len(self._waiting) < limit, timeout_s)

    def forget(self) -> int:
        """Gives up the packets that nobody acknowledged; returns how many."""
        with self._changed:
            lost = len(self._waiting)
            self._waiting.clear()
            return lost
