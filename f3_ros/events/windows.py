# SPDX-License-Identifier: Apache-2.0
"""From a stream of events to windows: by time, by count, or by whichever comes first.

Time windows lie on multiples of the stride in sensor time, so that the same stream gives the same windows wherever one
joins it and however it is cut into packets. They are half-open, [start, end), and close when the sensor time reaches
their end, which time words tell even where nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.codecs.base import EventBuffer
from f3_ros.events.types import Events

MODES = ("time", "count", "hybrid")
THINNINGS = ("linspace", "random")
FAR_PAST = -(1 << 62)
_MAX_GAPS = 64


@dataclass(frozen=True)
class WindowConfig:
    """How to cut a stream into windows.

    Attributes:
        mode: "time" (every `stride_us` the last `duration_us`), "count" (every `count` events), or "hybrid" (as
            "time" without overlap, but closes early when `count` events have come).
        duration_us: length of a time window, microseconds.
        stride_us: distance of time windows, microseconds; None = `duration_us` (no overlap).
        count: events per window in "count" and "hybrid".
        count_stride: events from one "count" window to the next; None = `count` (no overlap).
        bin_us: length of a time bin, microseconds, for those who bin the windows.
        max_events: thin windows with more events than this, evenly; None keeps all.
        thinning: "linspace" (every n-th) or "random" (a sorted random subset that depends on seed and window only).
        seed: for "random".
        max_buffered_events: bound of the memory (13 bytes each); events beyond are dropped and counted.
        max_empty_windows: if the time moves over more empty windows than this in one push, the rest is skipped.
        max_backstep_us: time that goes back by more than this starts a new stream; less is tolerated.
        lateness_us: wait this long for stragglers before a window closes.
    """

    mode: str = "time"
    duration_us: int = 20_000
    stride_us: int | None = None
    count: int = 200_000
    count_stride: int | None = None
    bin_us: int = 1000
    max_events: int | None = 800_000
    thinning: str = "linspace"
    seed: int = 42
    max_buffered_events: int = 8_000_000
    max_empty_windows: int = 50
    max_backstep_us: int = 100_000
    lateness_us: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"expected a window mode out of {', '.join(MODES)}, found {self.mode!r}")
        if self.thinning not in THINNINGS:
            raise InputError(f"expected a thinning out of {', '.join(THINNINGS)}, found {self.thinning!r}")
        positive = ("duration_us", "stride_us", "count", "count_stride", "bin_us", "max_events", "max_buffered_events")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"expected a positive {name}, found {value}")
        for name in ("max_empty_windows", "max_backstep_us", "lateness_us"):
            if getattr(self, name) < 0:
                raise InputError(f"expected {name} of at least 0, found {getattr(self, name)}")
        if self.mode != "time" and self.max_buffered_events < self.count:
            raise InputError(
                f"expected max_buffered_events of at least count {self.count}, found {self.max_buffered_events}"
            )

    @property
    def bins(self) -> int:
        """Time bins per window."""
        return max(1, self.duration_us // self.bin_us)


@dataclass
class EventWindow:
    """Events of one window, ordered by time. The arrays are the window's own: nobody overwrites them.

    Attributes:
        start_us, end_us: sensor time, half-open. A window closed by its count ends one microsecond after its last
            event, and the next one may hold further events of that last microsecond.
        events: t in int64 microseconds.
        complete: no data is known to be missing: the stream covers the window, without gaps.
        n_received: number of events before thinning.
    """

    start_us: int
    end_us: int
    events: Events
    complete: bool
    n_received: int


class WindowCounters:
    """Running totals of an `EventWindower`.

    Attributes:
        windows: windows put out.
        incomplete: those among them with `complete` False.
        events: events given.
        skipped_windows: empty windows that were not put out because the time jumped.
        resets: restarts of the stream.
        dropped: events left out, by cause: "late" (older than a closed window), "future" (beyond the packet's own
            time), "buffer_full", "between_windows" (stride above duration), "thinned", "reset" (pending when the
            stream restarted).
    """

    def __init__(self) -> None:
        self.windows = 0
        self.incomplete = 0
        self.events = 0
        self.skipped_windows = 0
        self.resets = 0
        self.dropped = dict.fromkeys(("late", "future", "buffer_full", "between_windows", "thinned", "reset"), 0)


class EventWindower:
    """Cuts a stream of events into windows; see `WindowConfig`.

    The first window of a stream is incomplete unless the stream starts on its boundary.
    """

    def __init__(self, config: WindowConfig | None = None) -> None:
        self.config = config or WindowConfig()
        self.counters = WindowCounters()
        self._stride = self.config.stride_us or self.config.duration_us
        self._restart()

    def _restart(self) -> None:
        self._buffer = EventBuffer(1 << 12)
        self._head = 0  # first event that a window may still need
        self._capacity_hint = 1 << 12
        self._time: int | None = None
        self._start: int | None = None  # start of the next window
        self._closed = FAR_PAST  # events before this are late
        self._gaps: list[tuple[int, int]] = []

    def reset(self) -> None:
        """Forget the stream: pending events are dropped and counted. The next push starts a new one."""
        self.counters.dropped["reset"] += self.pending
        self.counters.resets += 1
        self._restart()

    @property
    def pending(self) -> int:
        """Events that wait for their window to close."""
        return self._buffer.size - self._head

    def push(self, events: Events, time_us: int | None, gap: bool = False) -> list[EventWindow]:
        """Take the events of one packet; return the windows that closed.

        Args:
            events: t in microseconds; copied.
            time_us: sensor time up to which the stream is known; None = that of the newest event.
            gap: data between the previous push and these events is missing.
        """
        self.counters.events += len(events)
        if time_us is None:
            if len(events) == 0:
                return []
            time_us = int(events.t.max())
        if self._time is not None and time_us < self._time - self.config.max_backstep_us:
            self.reset()
        previous = self._time
        self._time = time_us if previous is None else max(previous, time_us)
        events, in_order = self._admit(events, time_us)
        oldest = int(events.t[0] if in_order else events.t.min()) if len(events) else time_us
        if self._start is None:
            oldest = min(oldest, time_us)
            self._start = oldest // self._stride * self._stride if self.config.mode == "time" else oldest
            self._closed = self._closed if self.config.mode == "count" else self._start
            self._add_gap(FAR_PAST, oldest - 1)
        elif gap and previous is not None:
            self._add_gap(min(previous, oldest), max(previous, oldest))
        self._append(events, in_order)
        windows = self._close()
        self._release(bool(windows))
        return windows

    def flush(self) -> list[EventWindow]:
        """Close the windows that pending events wait for, now. What comes later for them is late."""
        windows = self._close(flush=True)
        self._release(bool(windows))
        return windows

    # Taking events in

    def _admit(self, events: Events, time_us: int) -> tuple[Events, bool]:
        """Drop late and future events; tell whether the rest is in order and follows what is pending."""
        if len(events) == 0:
            return events, True
        last = int(self._buffer.t[self._buffer.size - 1]) if self.pending else FAR_PAST
        latest = time_us + self.config.max_backstep_us
        late, future, in_order = _inspect(events.t, self._closed, latest, last)
        if late or future:
            self.counters.dropped["late"] += late
            self.counters.dropped["future"] += future
            events = events[(events.t >= self._closed) & (events.t <= latest)]
        return events, bool(in_order)

    def _add_gap(self, first: int, last: int) -> None:
        """Note that events of first..last may be missing."""
        self._gaps.append((first, last))
        if len(self._gaps) > _MAX_GAPS:
            (a, b), (c, d) = self._gaps[:2]
            self._gaps[:2] = [(min(a, c), max(b, d))]

    def _append(self, events: Events, in_order: bool) -> None:
        n = len(events)
        space = self.config.max_buffered_events - self.pending
        if n > space:
            self.counters.dropped["buffer_full"] += n - space
            lost = events.t[space:]
            self._add_gap(int(lost.min()), int(lost.max()))
            events = events[:space]
            n = space
        if n == 0:
            return
        buffer = self._buffer
        if buffer.size + n > buffer.capacity:
            buffer = self._move(2 * (self.pending + n))
        a, b = buffer.size, buffer.size + n
        buffer.x[a:b], buffer.y[a:b], buffer.t[a:b], buffer.p[a:b] = events.x, events.y, events.t, events.p
        buffer.size = b
        if not in_order:
            self._sort()

    def _move(self, capacity: int) -> EventBuffer:
        """Go on in new memory with the pending events: windows that were put out keep the old one."""
        pending = self._buffer.view(self._head, self._buffer.size)
        n = len(pending)
        buffer = EventBuffer(max(capacity, n, self._capacity_hint))
        buffer.x[:n], buffer.y[:n], buffer.t[:n], buffer.p[:n] = pending.x, pending.y, pending.t, pending.p
        buffer.size = n
        self._buffer, self._head = buffer, 0
        return buffer

    def _sort(self) -> None:
        pending = self._buffer.view(self._head, self._buffer.size)
        ordered = pending[np.argsort(pending.t, kind="stable")]
        self._buffer = EventBuffer(max(len(ordered), 1))
        self._buffer.x, self._buffer.y, self._buffer.t, self._buffer.p = ordered.x, ordered.y, ordered.t, ordered.p
        self._buffer.size, self._head = len(ordered), 0

    def _release(self, put_out: bool) -> None:
        """Leave the memory to the windows that were put out, if few pending events have to be moved."""
        if self._gaps and self._start is not None:
            self._gaps = [g for g in self._gaps if g[1] >= self._start]
        used = self._buffer.size
        if put_out and used and self.pending <= used // 4:
            self._capacity_hint = max(1 << 12, used + used // 4)
            self._move(2 * self.pending)

    # Putting windows out

    def _close(self, flush: bool = False) -> list[EventWindow]:
        if self._start is None or self._time is None:
            return []
        if self.config.mode == "time":
            return self._close_by_time(flush)
        if self.config.mode == "count":
            return self._close_by_count(flush)
        return self._close_hybrid(flush)

    def _find(self, time_us: int) -> int:
        """Index of the first pending event at or after this time."""
        return self._head + int(np.searchsorted(self._buffer.t[self._head : self._buffer.size], time_us))

    def _oldest_pending(self) -> int | None:
        return int(self._buffer.t[self._head]) if self.pending else None

    def _close_by_time(self, flush: bool) -> list[EventWindow]:
        assert self._start is not None
        assert self._time is not None
        duration, stride = self.config.duration_us, self._stride
        ready = self._time - self.config.lateness_us
        windows: list[EventWindow] = []
        empty = 0
        while (self._start + duration <= ready) if not flush else self.pending > 0:
            start, end = self._start, self._start + duration
            self._skip_between(start)
            last = self._find(end)
            if last == self._head:
                oldest = self._oldest_pending()
                horizon = ready if oldest is None else oldest if flush else min(oldest, ready)
                run = (horizon - end) // stride + 1  # empty windows from here on that end by then
                if flush or empty + run > self.config.max_empty_windows:
                    self.counters.skipped_windows += 0 if flush else run
                    self._advance(start + run * stride, end + (run - 1) * stride)
                    continue
                empty += 1
            windows.append(self._window(start, end, self._head, last))
            self._advance(start + stride, end)
        return windows

    def _advance(self, start: int, closed: int) -> None:
        """The next time window starts at `start`; everything before `closed` is done."""
        self._start = start
        self._closed = max(self._closed, closed)
        self._head = self._find(min(start, closed))
        self._skip_between(start)

    def _skip_between(self, start: int) -> None:
        """Where windows do not touch, drop the pending events before `start`, which no window holds."""
        if self._stride > self.config.duration_us:
            head = self._find(start)
            self.counters.dropped["between_windows"] += head - self._head
            self._head = head

    def _close_by_count(self, flush: bool) -> list[EventWindow]:
        count, stride = self.config.count, self.config.count_stride or self.config.count
        windows: list[EventWindow] = []
        while self.pending >= count or (flush and self.pending):
            last = min(self._head + count, self._buffer.size)
            start, end = int(self._buffer.t[self._head]), int(self._buffer.t[last - 1]) + 1
            windows.append(self._window(start, end, self._head, last, whole=last - self._head == count))
            self._closed = max(self._closed, end - 1)
            if last - self._head < count:
                self._head = self._buffer.size
            else:
                self._head = min(self._head + stride, self._buffer.size)
            self._start = end - 1
        return windows

    def _close_hybrid(self, flush: bool) -> list[EventWindow]:
        assert self._start is not None
        assert self._time is not None
        duration, count = self.config.duration_us, self.config.count
        ready = self._time - self.config.lateness_us
        windows: list[EventWindow] = []
        empty = 0
        while True:
            start = self._start
            cell_end = (start // duration + 1) * duration
            last = self._find(cell_end)
            if last - self._head >= count:
                last = self._head + count
                end = int(self._buffer.t[last - 1]) + 1
                windows.append(self._window(start, end, self._head, last))
                self._head = last
                self._start = self._closed = end - 1  # more events of that microsecond may follow
                continue
            if not (cell_end <= ready or (flush and self.pending)):
                return windows
            if last == self._head:
                oldest = self._oldest_pending()
                horizon = ready if oldest is None else oldest if flush else min(oldest, ready)
                run = (horizon - cell_end) // duration + 1
                if flush or empty + run > self.config.max_empty_windows:
                    self.counters.skipped_windows += 0 if flush else run
                    self._start = self._closed = cell_end + (run - 1) * duration
                    continue
                empty += 1
            if last > self._head or start < cell_end - 1:
                windows.append(self._window(start, cell_end, self._head, last))
            self._head = last
            self._start = self._closed = cell_end

    def _window(self, start: int, end: int, first: int, last: int, whole: bool = True) -> EventWindow:
        """The window of the buffered events first..last, thinned."""
        assert self._time is not None
        events = self._buffer.view(first, last)
        n = last - first
        limit = self.config.max_events
        if limit is not None and n > limit:
            seed = [self.config.seed, abs(start)]
            events = events[thinning_indices(n, limit, self.config.thinning, seed)]
            self.counters.dropped["thinned"] += n - limit
        by_count = self.config.mode != "time" and n == self.config.count
        covered = by_count or end <= self._time
        complete = whole and covered and not any(a < end and b >= start for a, b in self._gaps)
        self.counters.windows += 1
        self.counters.incomplete += not complete
        return EventWindow(start, end, events, complete, n)


def thinning_indices(n: int, limit: int, method: str = "linspace", seed: int | list[int] = 42) -> np.ndarray:
    """Which of `n` events to keep so that `limit` remain, without favouring any part of the window.

    "linspace" is what F3's evaluation loader does (numpy.linspace): floor(i * (n / limit)) in float64.
    "random" is a sorted random subset, as its training loader takes.

    Returns:
        int64 indices, rising; all `n` if there are no more than `limit`.
    """
    if n <= limit:
        return np.arange(n)
    if method == "linspace":
        return np.linspace(0, n, limit, endpoint=False).astype(np.int64)
    chosen = np.random.default_rng(seed).choice(n, limit, replace=False, shuffle=False)
    return np.sort(chosen)


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _inspect(t, oldest, newest, previous):
    """Number of times below `oldest` and above `newest`; whether the others never fall, starting from `previous`."""
    late = 0
    future = 0
    backwards = 0
    for i in range(len(t)):
        late += t[i] < oldest
        future += t[i] > newest
    if late == 0 and future == 0:
        backwards += t[0] < previous
        for i in range(1, len(t)):
            backwards += t[i] < t[i - 1]
        return late, future, backwards == 0
    for i in range(len(t)):
        if t[i] >= oldest and t[i] <= newest:
            backwards += t[i] < previous
            previous = t[i]
    return late, future, backwards == 0
