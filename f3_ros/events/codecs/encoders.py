# SPDX-License-Identifier: Apache-2.0
"""Encoders: what replay publishes, what `events convert` writes into bags, and what the decoders are tested with.

All return the payload as a uint8 array in memory of its own.
"""

from __future__ import annotations

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.types import Events

_MAX_SILENCE_WORDS = 1 << 20  # 51 days; more is corrupt, or in another unit
_MAX_HIGH_STEP = 1024  # TIME_HIGH counts: well below half the range, so that a decoder never takes silence for a wrap


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _time_words(words, n, state, time):
    """Write the words that bring the decoder's time to `time`; return the new number of words."""
    high = time >> 12
    low = time & 0xFFF
    if state[0] < 0:
        words[n] = 0x8000 | (high & 0xFFF)
        n += 1
        state[0] = high
        state[1] = -1
    while high > state[0]:
        state[0] = min(high, state[0] + _MAX_HIGH_STEP)
        words[n] = 0x8000 | (state[0] & 0xFFF)
        n += 1
        state[1] = 0  # a new TIME_HIGH sets TIME_LOW to zero
    if high < state[0]:
        words[n] = 0x8000 | (high & 0xFFF)
        n += 1
        state[0] = high
        state[1] = 0
    if low != state[1]:
        words[n] = 0x6000 | low
        n += 1
        state[1] = low
    return n


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _encode_evt3(x, y, t, p, end, repeat, words, state):
    """Encode into `words`; state: time high (whole), time low, row, vector base, vector polarity; -1 = not sent yet."""
    n = 0
    i = 0
    count = len(t)
    if repeat and state[0] >= 0 and (count > 0 or end >= 0):
        # The last time sent, so that those who did not lose it see how far the time moves on.
        words[n] = 0x8000 | (state[0] & 0xFFF)
        n += 1
    while i < count:
        n = _time_words(words, n, state, t[i])
        row = np.int64(y[i])
        if row != state[2]:
            words[n] = row
            n += 1
            state[2] = row
        column = np.int64(x[i])
        polarity = np.int64(p[i])
        j = i + 1
        mask = np.int64(1)
        while j < count and t[j] == t[i] and y[j] == y[i] and p[j] == p[i] and x[j] > x[j - 1] and x[j] - column < 12:
            mask |= np.int64(1) << (np.int64(x[j]) - column)
            j += 1
        continues = state[3] == column and state[4] == polarity
        if j - i >= 3 or (continues and j - i >= 2):
            if not continues:
                words[n] = 0x3000 | (polarity << 11) | column
                n += 1
            words[n] = 0x4000 | mask
            n += 1
            state[3] = column + 12
            state[4] = polarity
            i = j
        else:
            words[n] = 0x2000 | (polarity << 11) | column
            n += 1
            i += 1
    if end >= 0 and end > ((state[0] << 12) | max(state[1], 0)):
        n = _time_words(words, n, state, end)
    return n


class Evt3Encoder:
    """Encodes a stream of events as EVT 3.0, packet by packet, with the state carried over as a camera does.

    Events must be ordered by time up to small steps back (below 65 ms); their order is kept exactly.
    The words hold time modulo 2^24 us: a decoder gets `t` back up to a constant multiple of 16.777 s.
    """

    def __init__(self) -> None:
        self._state = np.full(5, -1, np.int64)

    def encode(self, events: Events, end_us: int | None = None, self_contained: bool = False) -> np.ndarray:
        """The words of these events.

        Args:
            events: t in microseconds, not negative; x and y below 2048.
            end_us: go on to this time with time words, so that a receiver knows that nothing else happened before it.
            self_contained: repeat time and row first, so that this packet decodes even if the one before is lost.
        Raises:
            InputError: a value does not fit the format.
        """
        _check(events, 2047, 2047)
        state = self._state
        if self_contained:
            state[1:] = -1
        size = 4 * len(events) + 16
        if len(events):
            first = state[0] << 12 if state[0] >= 0 else int(events.t[0])
            # Silences need extra words, one per 4.2 s; steps back and forth may repeat them.
            jumps = np.abs(np.diff(events.t, prepend=first))
            size += int((jumps >> 22).sum()) + int(abs(int(events.t[0]) - first) >> 22)
        newest = int(events.t[-1]) if len(events) else int(state[0] << 12) if state[0] >= 0 else end_us or 0
        if end_us is not None:
            size += (max(0, end_us - newest) >> 22) + 8
        if size - 4 * len(events) > _MAX_SILENCE_WORDS:
            first = int(events.t.min()) if len(events) else newest
            last = max(newest, end_us or 0)
            raise InputError(
                f"expected events without silences of weeks, found times from {first} to {last} us",
                "check the unit of the times, they must be microseconds",
            )
        words = np.empty(size, np.uint16)
        end = -1 if end_us is None else end_us
        n = _encode_evt3(events.x, events.y, events.t, events.p, end, self_contained, words, state)
        return words[:n].view(np.uint8)


def encode_evt3(events: Events, end_us: int | None = None) -> np.ndarray:
    """A self-contained EVT 3.0 packet; see `Evt3Encoder`."""
    return Evt3Encoder().encode(events, end_us)


def encode_evt2(events: Events) -> np.ndarray:
    """A self-contained EVT 2.0 packet: TIME_HIGH whenever it changes, one word per event.

    Raises:
        InputError: a value does not fit the format.
    """
    _check(events, 2047, 2047)
    high, word = _evt2_words(events)
    changed = np.ones(len(events), bool)
    changed[1:] = high[1:] != high[:-1]
    at = np.arange(len(events)) + np.cumsum(changed)
    words = np.empty(len(events) + int(changed.sum()), "<u4")
    words[at] = word
    words[at[changed] - 1] = 0x80000000 | high[changed]
    return words.view(np.uint8)


def encode_evt21(events: Events, order: str = "genx320") -> np.ndarray:
    """A self-contained EVT 2.1 packet. Runs of events with equal t, y, p and rising x within 32 columns share a word.

    Args:
        order: "genx320" or "imx636", see `evt21.py`.
    Raises:
        InputError: a value does not fit the format, or an unknown order.
    """
    if order not in ("genx320", "imx636"):
        raise InputError(f"expected an EVT 2.1 word order out of genx320, imx636, found {order!r}")
    _check(events, 2047, 2047)
    high, word = _evt2_words(events)
    upper = np.empty(2 * len(events), np.uint64)
    mask = np.empty(2 * len(events), np.uint64)
    n = _group_evt21(events.x, events.y, events.t, events.p, high, word, upper, mask)
    upper, mask = upper[:n], mask[:n]
    shift = np.uint64(32)
    words = (upper << shift) | mask if order == "genx320" else (mask << shift) | upper
    return np.asarray(words, "<u8").view(np.uint8)


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _group_evt21(x, y, t, p, high, word, upper, mask):
    n = 0
    i = 0
    count = len(t)
    while i < count:
        if i == 0 or high[i] != high[i - 1]:
            upper[n] = np.uint64(0x80000000) | np.uint64(high[i])
            mask[n] = 0
            n += 1
        bits = np.uint64(1)
        j = i + 1
        while j < count and t[j] == t[i] and y[j] == y[i] and p[j] == p[i] and x[j] > x[j - 1] and x[j] - x[i] < 32:
            bits |= np.uint64(1) << np.uint64(x[j] - x[i])
            j += 1
        upper[n] = word[i]
        mask[n] = bits
        n += 1
        i = j
    return n


def encode_libcaer(events: Events, time_base_ns: int = 0) -> np.ndarray:
    """A libcaer packet; `t` in nanoseconds, `time_base_ns <= t`, order kept. Fractions of a microsecond are cut off.

    Raises:
        InputError: a value does not fit the format.
    """
    _check(events, 32767, 32767)
    stamp = (events.t - time_base_ns) // 1000
    if len(events) and stamp.min() < 0:
        raise InputError("expected events at or after the time base, found earlier ones")
    data = (events.x.astype(np.uint64) << np.uint64(17)) | (events.y.astype(np.uint64) << np.uint64(2))
    data |= (events.p.astype(np.uint64) << np.uint64(1)) | np.uint64(1)
    words = ((stamp & 0x7FFFFFFF).astype(np.uint64) << np.uint64(32)) | data
    return np.asarray(words, "<u8").view(np.uint8)


def encode_mono(events: Events, time_base_ns: int = 0) -> np.ndarray:
    """A mono packet; `t` in nanoseconds, at most 4.29 s after `time_base_ns`.

    Raises:
        InputError: a value does not fit the format.
    """
    _check(events, 65535, 32767)
    dt = events.t - time_base_ns
    if len(events) and (dt.min() < 0 or dt.max() >= 1 << 32):
        raise InputError("expected events within 4.29 s after the time base, found others")
    place = (events.p.astype(np.uint64) << np.uint64(31)) | (events.y.astype(np.uint64) << np.uint64(16))
    words = ((place | events.x.astype(np.uint64)) << np.uint64(32)) | dt.astype(np.uint64)
    return np.asarray(words, "<u8").view(np.uint8)


def _evt2_words(events: Events) -> tuple[np.ndarray, np.ndarray]:
    """TIME_HIGH of each event, and its EVT 2.0 word."""
    high = ((events.t >> 6) & 0xFFFFFFF).astype(np.uint32)
    word = (events.p.astype(np.uint32) << 28) | ((events.t & 0x3F).astype(np.uint32) << 22)
    word |= (events.x.astype(np.uint32) << 11) | events.y.astype(np.uint32)
    return high, word


def _check(events: Events, x_max: int, y_max: int) -> None:
    if len(events) == 0:
        return
    if int(events.x.max()) > x_max or int(events.y.max()) > y_max:
        raise InputError(
            f"expected coordinates up to ({x_max}, {y_max}), found up to ({int(events.x.max())}, {int(events.y.max())})"
        )
    if int(events.p.max()) > 1:
        raise InputError(f"expected polarities 0 and 1, found {int(events.p.max())}")
    if int(events.t.min()) < 0:
        raise InputError(f"expected times from zero on, found {int(events.t.min())}")
