# SPDX-License-Identifier: Apache-2.0
"""The events of one instant of a recording, or of every instant, by the deployment rule (reference f3.md 1.1).

An instant is named in whole milliseconds of the **file's own time**: what `ms_map_idx` counts in M3ED files, time since
`t_offset` in DSEC files. Containers whose clock starts anywhere (raw, DAT, AEDAT4, bags, unprocessed MVSEC) count from
the millisecond of their first event. The window of the instant `time_ms` with T milliseconds is
[time_ms - T, time_ms): the same events as the official script takes through the index, without needing one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.readers import EventReader
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow, EventWindower, WindowConfig

MS = 1000
# Words of a raw file go back by some microseconds; a window waits this long for them.
_LATENESS_US = 1000
_CHUNK = 500_000


def time_origin_us(reader: EventReader) -> int:
    """Sensor time [us] of millisecond 0 of a file's own time.

    Raises:
        InputError: the recording has no event.
    """
    first = reader.t_first_us
    if first is None:
        raise InputError(f"expected events, found none in {reader.path}", "record again, or choose another camera")
    if reader.metadata.get("layout", "mvsec") != "mvsec":
        return int(reader.metadata.get("t_offset_us", 0))
    return first // MS * MS


def time_range_ms(reader: EventReader) -> tuple[int, int]:
    """The first and last instant whose newest millisecond lies in the recording.

    Reads the whole recording where the container does not tell its end.

    Raises:
        InputError: the recording has no event, or turns out to be damaged.
    """
    origin = time_origin_us(reader)
    last = reader.t_last_us
    if last is None:
        last = max(int(events.t.max()) for events in reader.chunks(max_events=_CHUNK))
    return ((reader.t_first_us or 0) - origin) // MS + 1, (last - origin) // MS + 1


def instant(reader: EventReader, time_ms: int, window_us: int) -> EventWindow:
    """The events of [time_ms - window, time_ms), with times in microseconds of the file's own time.

    `complete` is False if the window reaches out of the recording (where the container does not tell its end: if the
    newest millisecond is empty).

    Raises:
        InputError: the instant lies outside the recording, or the window holds no event; the message tells the range.
    """
    origin = time_origin_us(reader)
    first_us = (reader.t_first_us or 0) - origin
    end_us = time_ms * MS
    start_us = end_us - window_us
    skip_us = max(start_us - first_us, 0)
    length_us = end_us - first_us - skip_us
    parts = list(reader.chunks(skip_us, length_us)) if length_us > 0 else []
    events = _in_order(Events.concatenate(parts))
    if len(events) == 0:
        first_ms, last_ms = time_range_ms(reader)
        message = f"expected a time of {first_ms} .. {last_ms} ms, found --time_ms {time_ms} for {reader.path}"
        if first_ms <= time_ms <= last_ms:
            message = (
                f"expected events in the {window_us / MS:g} ms before --time_ms {time_ms}, found none in {reader.path}"
            )
        raise InputError(message, f"choose another instant; the recording holds {first_ms} .. {last_ms} ms")
    events.t = events.t - origin
    newest_us = int(events.t[-1]) if reader.t_last_us is None else reader.t_last_us - origin
    complete = start_us >= first_us // MS * MS and newest_us >= end_us - MS
    return EventWindow(start_us, end_us, events, complete, len(events))


def every_instant(reader: EventReader, window_us: int, stride_ms: int | None = None) -> Iterator[EventWindow]:
    """Windows of `window_us` on multiples of the stride in the file's own time; those without events are left out.

    Args:
        stride_ms: from one window to the next; None: the window's length, so that every event is used once.

    Raises:
        InputError: the stride is not positive, the recording has no event, or it turns out to be damaged.
    """
    if stride_ms is not None and stride_ms < 1:
        raise InputError(f"expected a stride of 1 ms or more, found {stride_ms}", "choose another --stride_ms")
    origin = time_origin_us(reader)
    windower = EventWindower(
        WindowConfig(
            duration_us=window_us,
            stride_us=None if stride_ms is None else stride_ms * MS,
            max_events=None,
            max_empty_windows=0,
            lateness_us=_LATENESS_US,
        )
    )
    for events in reader.chunks(max_events=_CHUNK):
        moved = replace(events, t=events.t - origin)
        yield from (window for window in windower.push(moved, None) if len(window.events))
    yield from (window for window in windower.flush() if len(window.events))


def _in_order(events: Events) -> Events:
    """Sorted by time; events of one microsecond keep the file's order."""
    if len(events) < 2 or not np.any(events.t[1:] < events.t[:-1]):
        return events
    return events[np.argsort(events.t, kind="stable")]
