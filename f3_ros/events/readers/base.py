# SPDX-License-Identifier: Apache-2.0
"""What every reader of recorded events offers, and what the array-like files (HDF5, DAT, AEDAT4) share.

A reader yields the same recording in two forms:

* `chunks()`: decoded events with absolute sensor time, exactly as the file states them;
* `packets()`: `Packet`s as a camera driver would publish them. Raw files and bags keep their native words; every
  other file is encoded (EVT3 by default), so that one path serves replay and offline processing.

`start_us` and `duration_us` of both count from the recording's first event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.packetize import packets_from_chunks
from f3_ros.events.types import Events, Packet

DEFAULT_CHUNK = 1_000_000
_LATEST_US = 1 << 53  # 285 years; no clock counts that far


@dataclass
class ReadStats:
    """What the last `chunks()` iteration met.

    Attributes:
        triggers: external trigger edges.
        dropped: words or events that were left out, by cause.
    """

    triggers: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class EventReader(ABC):
    """A recording of events.

    Attributes:
        path: the file or bag folder.
        format: short name of the container, e.g. "raw", "dat", "hdf5 m3ed", "rosbag2 mcap".
        width, height: sensor size in pixels.
        encoding: encoding of the packets that `packets()` yields by default.
        n_events: number of events if the container states it, else None.
        metadata: what the container says about itself; `metadata["notices"]` lists assumptions made while reading.
        stats: drops and triggers counted by the last `chunks()`.
    """

    format: str = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.width = 0
        self.height = 0
        self.encoding = "evt3"
        self.n_events: int | None = None
        self.metadata: dict[str, Any] = {"notices": []}
        self.stats = ReadStats()
        self.closed = False

    # ------------------------------------------------------------------------------------------ to implement

    @property
    @abstractmethod
    def t_first_us(self) -> int | None:
        """Sensor time of the first event; None if the recording has no event."""

    @property
    @abstractmethod
    def duration_us(self) -> int | None:
        """Approximate length, good enough for a progress bar; None if only a full pass could tell."""

    @abstractmethod
    def chunks(
        self, start_us: int = 0, duration_us: int | None = None, *, max_events: int = DEFAULT_CHUNK
    ) -> Iterator[Events]:
        """Decoded events in file order, at most `max_events` at a time, in memory of their own.

        Args:
            start_us: skip this much of the recording, counted from its first event.
            duration_us: read this much after the start (half-open interval); None reads to the end.
            max_events: upper bound of the length of one chunk.

        Raises:
            InputError: the file turns out to be damaged, or an argument is negative.
        """

    @abstractmethod
    def packets(
        self,
        start_us: int = 0,
        duration_us: int | None = None,
        packet_us: int = 4000,
        *,
        encoding: str | None = None,
    ) -> Iterator[Packet]:
        """The recording as packets; see the module's docstring.

        Args:
            start_us, duration_us: as in `chunks`, but rounded to whole words (raw) or whole messages (bag).
            packet_us: sensor time per packet; bags keep their own messages instead.
            encoding: None for the native words (raw, bag) or EVT3 (others); else "evt3", "libcaer" or "mono".
        """

    # ------------------------------------------------------------------------------------------ shared

    @property
    def t_last_us(self) -> int | None:
        """Sensor time of the last event, where it is cheap to know; else None."""
        return None

    @property
    def notices(self) -> list[str]:
        """Assumptions that were made while opening the file, for people."""
        return list(self.metadata["notices"])

    def notice(self, text: str) -> None:
        """Record an assumption; each text once."""
        if text not in self.metadata["notices"]:
            self.metadata["notices"].append(text)

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        self.closed = True

    def __enter__(self) -> EventReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _range(self, start_us: int, duration_us: int | None) -> tuple[int, int | None]:
        """Absolute [start, end) of a relative range; `end` is None for "to the end"."""
        if start_us < 0 or (duration_us is not None and duration_us < 0):
            raise InputError(
                f"expected start_us >= 0 and duration_us >= 0, found {start_us} and {duration_us}",
                "count both from the recording's first event",
            )
        first = self.t_first_us or 0
        return first + start_us, None if duration_us is None else first + start_us + duration_us

    def _in_sensor(self, events: Events) -> Events:
        """The events inside the sensor and of this era; the others are counted as "out_of_sensor" and "bad_time"."""
        if len(events) and max(-int(events.t.min()), int(events.t.max())) > _LATEST_US:
            good = (events.t >= -_LATEST_US) & (events.t <= _LATEST_US)
            self.stats.dropped["bad_time"] += int(np.count_nonzero(~good))
            events = events[good]
        if len(events) == 0:
            return events
        ok = (events.x < self.width) & (events.y < self.height)
        n_bad = len(events) - int(np.count_nonzero(ok))
        if n_bad == 0:
            return events
        self.stats.dropped["out_of_sensor"] += n_bad
        return events[ok]

    def _transcoded(self, start_us: int, duration_us: int | None, packet_us: int, encoding: str) -> Iterator[Packet]:
        """Packets encoded anew from the decoded events."""
        chunks = self.chunks(start_us, duration_us, max_events=DEFAULT_CHUNK)
        return packets_from_chunks(
            chunks, self.width, self.height, encoding=encoding, packet_us=packet_us, source=self.path
        )


class ArrayReader(EventReader):
    """Base of files that hold events as arrays; a subclass only yields time-filtered blocks."""

    @abstractmethod
    def _blocks(self, start: int, end: int | None, max_events: int) -> Iterator[Events]:
        """Events from absolute time `start` on; may overshoot at both ends, `chunks` cuts exactly."""

    def _choose_encoding(self) -> None:
        """EVT3 has 11-bit coordinates; larger sensors go out as mono (15 and 16 bits)."""
        if self.width > 2048 or self.height > 2048:
            self.encoding = "mono"
            self.notice(f"sensor {self.width}x{self.height} exceeds EVT3's 2048 pixels: packets are encoded as mono")

    def chunks(
        self, start_us: int = 0, duration_us: int | None = None, *, max_events: int = DEFAULT_CHUNK
    ) -> Iterator[Events]:
        start, end = self._range(start_us, duration_us)
        self.stats = ReadStats()
        if self.t_first_us is None:
            return
        for block in self._blocks(start, end, max_events):
            kept = self._in_sensor(cut_time(block, start if start_us > 0 else None, end))
            if len(kept):
                yield kept

    def packets(
        self,
        start_us: int = 0,
        duration_us: int | None = None,
        packet_us: int = 4000,
        *,
        encoding: str | None = None,
    ) -> Iterator[Packet]:
        return self._transcoded(start_us, duration_us, packet_us, encoding or self.encoding)


def cut_time(events: Events, start: int | None, end: int | None) -> Events:
    """The events with start <= t < end; a bound of None is open. Returns `events` itself if nothing is cut."""
    if len(events) == 0 or (start is None and end is None):
        return events
    keep = np.ones(len(events), bool)
    if start is not None:
        keep &= events.t >= start
    if end is not None:
        keep &= events.t < end
    return events if keep.all() else events[keep]
