# SPDX-License-Identifier: Apache-2.0
"""Numbers that describe a recording: what `events info` prints and `events plot` draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from f3_ros.events.readers.base import EventReader

_MS = 1000


@dataclass
class Summary:
    """What one pass over a recording finds.

    Attributes:
        path, format, encoding: of the reader.
        width, height: sensor size in pixels.
        n_events: events inside the sensor.
        n_on: those of positive polarity.
        n_triggers: external trigger edges.
        t_first_us, t_last_us: sensor time of the first and the newest event; None without events.
        duration_us: their difference.
        rate_per_s: events per second over the duration.
        per_ms: events per millisecond: mean, p50, p99 and max over all milliseconds, quiet ones included, and the
            fraction of quiet ones.
        time_steps_back: events earlier than the one before.
        dropped: what was left out, by cause.
        notices: assumptions made while reading.
        metadata: what the container says about itself.
    """

    path: str
    format: str
    encoding: str
    width: int
    height: int
    n_events: int = 0
    n_on: int = 0
    n_triggers: int = 0
    t_first_us: int | None = None
    t_last_us: int | None = None
    duration_us: int = 0
    rate_per_s: float = 0.0
    per_ms: dict[str, float] = field(default_factory=dict)
    time_steps_back: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def summarise(
    reader: EventReader,
    start_us: int = 0,
    duration_us: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Read a recording once.

    Args:
        start_us, duration_us: the part of it, as in `EventReader.chunks`.
        progress: called with the sensor time [us] since the start that has been read.

    Raises:
        InputError: the file turns out to be damaged.
    """
    out = Summary(str(reader.path), reader.format, reader.encoding, reader.width, reader.height)
    counter = MillisecondCounter()
    newest = previous = 0
    for events in reader.chunks(start_us, duration_us):
        if out.t_first_us is None:
            out.t_first_us = newest = previous = int(events.t[0])
        out.n_events += len(events)
        out.n_on += int(np.count_nonzero(events.p))
        out.time_steps_back += int(np.count_nonzero(np.diff(events.t, prepend=previous) < 0))
        previous = int(events.t[-1])
        newest = max(newest, int(events.t.max()))
        counter.add(events.t - out.t_first_us)
        if progress is not None:
            progress(newest - out.t_first_us)
    if out.t_first_us is not None:
        out.t_last_us, out.duration_us = newest, newest - out.t_first_us
        out.rate_per_s = out.n_events / max(out.duration_us, 1) * 1e6
        out.per_ms = counter.statistics(out.duration_us)
    out.n_triggers = reader.stats.triggers
    out.dropped = {cause: int(n) for cause, n in sorted(reader.stats.dropped.items()) if n}
    out.notices = reader.notices
    out.metadata = {key: value for key, value in reader.metadata.items() if key != "notices"}
    return out


class MillisecondCounter:
    """Events per millisecond, in memory that grows with the busy milliseconds only."""

    def __init__(self) -> None:
        self._index: list[np.ndarray] = []
        self._count: list[np.ndarray] = []

    def add(self, t: np.ndarray) -> None:
        """Count events at times `t` [us]."""
        index, count = np.unique(t // _MS, return_counts=True)
        if self._index and len(index) and self._index[-1][-1] == index[0]:
            self._count[-1][-1] += count[0]
            index, count = index[1:], count[1:]
        if len(index):
            self._index.append(index)
            self._count.append(count)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(busy milliseconds in rising order, events in each)."""
        if not self._index:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        index, place = np.unique(np.concatenate(self._index), return_inverse=True)
        return index, np.bincount(place, np.concatenate(self._count)).astype(np.int64)

    def statistics(self, duration_us: int) -> dict[str, float]:
        """mean, p50, p99, max and the fraction of quiet milliseconds over `duration_us`."""
        counts = np.sort(self.counts()[1])
        total = max(duration_us // _MS + 1, len(counts))
        quiet = total - len(counts)

        def quantile(q: float) -> float:
            """The smallest count that a fraction `q` of all milliseconds does not exceed."""
            place = int(np.ceil(q * total)) - 1 - quiet
            return float(counts[place]) if place >= 0 else 0.0

        return {
            "mean": float(counts.sum()) / total,
            "p50": quantile(0.5),
            "p99": quantile(0.99),
            "max": float(counts[-1]) if len(counts) else 0.0,
            "quiet_fraction": quiet / total,
        }
