# SPDX-License-Identifier: Apache-2.0
"""What all event decoders share: output buffers, counters, and the view of a payload as words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from f3_ros.events.types import Events, Payload

FIRST_CAPACITY = 1 << 16
UNKNOWN_TIME = -(1 << 62)
"""Value of a time in a kernel's state before any time word was seen."""
MAX_TIME_BASE_NS = 1 << 62


@dataclass
class Triggers:
    """External trigger edges as equal-length arrays.

    Attributes:
        t: sensor time, int64, in the decoder's time unit.
        id: channel, uint8.
        p: edge, uint8, 1 = rising.
    """

    t: np.ndarray
    id: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.t)

    @staticmethod
    def empty() -> Triggers:
        """Zero edges."""
        return Triggers(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint8))


class EventBuffer:
    """Growable memory for decoded events, one array per field.

    `size` events are in use. A decoder that is given a buffer appends to it.
    """

    def __init__(self, capacity: int = FIRST_CAPACITY) -> None:
        self.size = 0
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.x = np.empty(capacity, np.uint16)
        self.y = np.empty(capacity, np.uint16)
        self.t = np.empty(capacity, np.int64)
        self.p = np.empty(capacity, np.uint8)

    @property
    def capacity(self) -> int:
        """Events that fit before the buffer must grow."""
        return len(self.t)

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` events in all; the content is kept, old views stay valid."""
        if capacity <= self.capacity:
            return
        old = self.view(0, self.size)
        self._allocate(max(capacity, 2 * self.capacity))
        n = self.size
        self.x[:n], self.y[:n], self.t[:n], self.p[:n] = old.x, old.y, old.t, old.p

    def view(self, start: int, stop: int) -> Events:
        """Events `start` to `stop` without a copy."""
        return Events(self.x[start:stop], self.y[start:stop], self.t[start:stop], self.p[start:stop])


class DecodeCounters:
    """Running totals of one decoder.

    Attributes:
        bytes: payload bytes given.
        words: whole words decoded.
        events: events put out.
        triggers: trigger edges put out.
        dropped: what was left out, by cause; counts events unless the name says words or bytes.
    """

    def __init__(self, causes: tuple[str, ...]) -> None:
        self.bytes = 0
        self.words = 0
        self.events = 0
        self.triggers = 0
        self._causes = causes
        self.raw = np.zeros(len(causes), np.int64)

    @property
    def cut_words(self) -> int:
        """Words at the end of payloads that were not decoded, because of `max_events`."""
        return int(self.raw[-1])

    @property
    def dropped(self) -> dict[str, int]:
        """Count of everything left out, by cause."""
        return {cause: int(count) for cause, count in zip(self._causes, self.raw)}


def payload_bytes(payload: Payload) -> np.ndarray:
    """Any bytes-like object as a flat uint8 array, without a copy where its memory is contiguous."""
    if isinstance(payload, np.ndarray):
        flat = np.ascontiguousarray(payload).reshape(-1).view(np.uint8)
    else:
        flat = np.frombuffer(payload, np.uint8)
    return flat


def payload_words(payload: Payload, dtype: str) -> tuple[np.ndarray, int]:
    """A payload as little-endian words.

    Returns:
        the words (read-only, aligned, a copy only where the payload starts at an unaligned address), and the
        number of bytes at the end that do not fill a word.
    """
    raw = payload_bytes(payload)
    size = np.dtype(dtype).itemsize
    rest = raw.size % size
    words = raw[: raw.size - rest].view(dtype)  # a new array object: the caller's flags stay as they are
    if not words.flags.aligned:
        words = words.copy()
    words.flags.writeable = False  # one array type, so numba compiles one variant
    return words, rest


class Decoder(ABC):
    """A stateful decoder of one encoding.

    `decode` takes the payload of one packet; the state that the encoding carries from word to word goes on to the
    next packet. A payload never raises: what makes no sense is left out and counted in `counters.dropped`.

    The returned events lie in memory that the next call overwrites, unless the caller gives a buffer of their own:
    use `Events.copy()` to keep them.
    """

    encoding = ""
    time_unit = "us"
    word_bytes = 1
    causes: tuple[str, ...] = ()

    def __init__(self, width: int, height: int, *, max_events: int | None = None) -> None:
        """Args:
        width, height: sensor size in pixels; events outside are dropped and counted.
        max_events: stop after this many events in one call (the rest of the payload is dropped and counted as
            "overflow_words"); None decodes everything.
        """
        self.width = int(width)
        self.height = int(height)
        self.max_events = max_events
        self.counters = DecodeCounters((*self.causes, "trailing_bytes", "overflow_words"))
        self.triggers = Triggers.empty()
        self._buffer = EventBuffer()

    def decode(self, payload: Payload, time_base_ns: int = 0, out: EventBuffer | None = None) -> Events:
        """Decode one payload.

        Args:
            payload: encoded bytes (bytes, bytearray, memoryview, array.array or uint8 array, any alignment).
            time_base_ns: the packet's time base, used by libcaer, libcaer_cmp and mono.
            out: append to this buffer instead of the decoder's own.
        Returns:
            the events of this payload, `t` in `time_unit`; a view of the buffer.
        """
        words, rest = payload_words(payload, f"<u{self.word_bytes}")
        time_base_ns = max(-MAX_TIME_BASE_NS, min(int(time_base_ns), MAX_TIME_BASE_NS))
        counters = self.counters
        counters.bytes += words.nbytes + rest
        counters.words += len(words)
        counters.raw[-2] += rest
        self.triggers = Triggers.empty()
        if out is None:
            out = self._buffer
            out.size = 0
            if out.capacity > 1 << 22:  # one huge packet must not pin its memory for ever
                out = self._buffer = EventBuffer()
        first = out.size
        done = self._decode_words(words, time_base_ns, out)
        if done < len(words):
            counters.raw[-1] += len(words) - done
            self.desynchronise()
        counters.events += out.size - first
        counters.triggers += len(self.triggers)
        return out.view(first, out.size)

    @abstractmethod
    def _decode_words(self, words: np.ndarray, time_base_ns: int, out: EventBuffer) -> int:
        """Append the events of `words` to `out`; return how many words were used."""

    def _room(self, out: EventBuffer, first: int, at_least: int) -> int:
        """Grow `out` by at least `at_least` events where `max_events` allows; return the end of the usable part."""
        if self.max_events is None:
            out.reserve(out.size + at_least)
            return out.capacity
        end = first + self.max_events
        out.reserve(min(out.size + at_least, end))
        return min(out.capacity, end)

    @property
    @abstractmethod
    def last_time(self) -> int | None:
        """Newest sensor time seen, time words without events included, in `time_unit`; None while unknown."""

    @property
    def last_time_us(self) -> int | None:
        """As `last_time`, in microseconds."""
        time = self.last_time
        if time is None or self.time_unit == "us":
            return time
        return time // 1000

    @property
    def synchronised(self) -> bool:
        """Whether every part of the state that an event needs is known."""
        return True

    def desynchronise(self) -> None:
        """Words were lost: forget the state that they may have changed, keep the count of time wraps."""

    def shift_time(self, wraps: int) -> None:
        """Add whole wraps of the encoding's time to everything that follows."""

    def reset(self) -> None:
        """Back to the state after construction; the counters go on."""
