# SPDX-License-Identifier: Apache-2.0
"""EVT 2.0 (Prophesee): 32-bit words, one event each; see docs.prophesee.ai, "EVT 2.0 format".

Each event carries its place, its polarity and the low 6 bits of its time, so TIME_HIGH is the only state.
"""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.base import EventBuffer
from f3_ros.events.codecs.word_stream import (
    HIGH_SEEN,
    KNOWN,
    KNOWS_HIGH,
    LOOPS,
    N_EVENTS,
    N_TRIGGERS,
    OUT_OF_SENSOR,
    RESERVED,
    TIME,
    TIME_HIGH,
    UNSYNCHRONISED,
    WordStreamDecoder,
)

WRAP_US = 1 << 34
"""Time carried by the words wraps after this many microseconds (4 h 46 min)."""
HALF_HIGH = 1 << 27
GLITCH_HIGH = 1 << 10


@numba.njit(nogil=True, cache=True, inline="always")
def take_time_high(state, new):
    """Apply a 28-bit TIME_HIGH: count a wrap when it falls by more than half its range. Returns its time."""
    if state[HIGH_SEEN] != 0:
        old = state[TIME_HIGH]
        if new + HALF_HIGH <= old:
            state[LOOPS] += 1
        elif new >= old + 2 * HALF_HIGH - GLITCH_HIGH:
            state[LOOPS] -= 1  # a small step back across the wrap
    state[TIME_HIGH] = new
    state[HIGH_SEEN] = 1
    state[KNOWN] |= KNOWS_HIGH
    return (state[LOOPS] << 34) + (new << 6)


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, start, state, drops, x, y, t, p, room, trig_t, trig_id, trig_p, width, height):
    """Decode `words[start:]` into x, y, t, p[state[N_EVENTS]:room]; return the index of the first unused word."""
    n = state[N_EVENTS]
    m = state[N_TRIGGERS]
    known = state[KNOWN] & KNOWS_HIGH != 0
    high = (state[LOOPS] << 34) + (state[TIME_HIGH] << 6)
    time = state[TIME]
    i = start
    end = len(words)
    while i < end:
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= 1:
            if n >= room:
                break
            column = (word >> 11) & 0x7FF
            row = word & 0x7FF
            if known and column < width and row < height:
                time = high + ((word >> 22) & 0x3F)
                x[n] = column
                y[n] = row
                t[n] = time
                p[n] = kind
                n += 1
            else:
                drops[OUT_OF_SENSOR if known else UNSYNCHRONISED] += 1
        elif kind == 0x8:
            high = take_time_high(state, word & 0xFFFFFFF)
            time = high
            known = True
        elif kind == 0xA:
            if not known:
                drops[UNSYNCHRONISED] += 1
            elif m >= len(trig_t):
                break
            else:
                time = high + ((word >> 22) & 0x3F)
                trig_t[m] = time
                trig_id[m] = (word >> 8) & 0x1F
                trig_p[m] = word & 1
                m += 1
        elif kind != 0xE and kind != 0xF:
            drops[RESERVED] += 1
        i += 1
    state[N_EVENTS] = n
    state[N_TRIGGERS] = m
    state[TIME] = time
    return i


class Evt2Decoder(WordStreamDecoder):
    """Decoder of EVT 2.0 words. `t` is in microseconds."""

    encoding = "evt2"
    word_bytes = 4
    wrap_us = WRAP_US
    events_per_word = 1

    def _run(self, words: np.ndarray, start: int, out: EventBuffer, room: int) -> int:
        done = _decode(
            words, start, self._state, self.counters.raw, out.x, out.y, out.t, out.p, room,
            self._trig_t, self._trig_id, self._trig_p, self.width, self.height,
        )  # fmt: skip
        return int(done)
