# SPDX-License-Identifier: Apache-2.0
"""EVT 3.0 (Prophesee): 16-bit words that each change one part of a state; see docs.prophesee.ai, "EVT 3.0 format".

An event needs the time (TIME_HIGH and TIME_LOW), the row (ADDR_Y) and, inside vectors, the vector base. After a start
or a loss each part is unknown until a word gives it, and events before that are dropped: guessing them puts events at
wrong places and times.
"""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.base import EventBuffer
from f3_ros.events.codecs.bits import count_trailing_zeros
from f3_ros.events.codecs.word_stream import (
    FIRST_FREE,
    HIGH_SEEN,
    KNOWN,
    KNOWS_HIGH,
    KNOWS_LOW,
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

WRAP_US = 1 << 24
"""Time carried by the words wraps after this many microseconds (16.777 s)."""

# Indices of the state array, after those that word_stream.py names.
ROW, BASE, BASE_POLARITY, OTHERS_TYPE, OTHERS_SHIFT, OTHERS_VALUE, ERC_IN, ERC_OUT = range(FIRST_FREE, FIRST_FREE + 8)
STATE_SIZE = FIRST_FREE + 8

# Further bits of state[KNOWN].
KNOWS_ROW, KNOWS_BASE = 4, 8
KNOWS_TIME = KNOWS_HIGH | KNOWS_LOW
KNOWS_ALL = KNOWS_TIME | KNOWS_ROW

# A step back of TIME_HIGH by no more than this across the wrap is a glitch, not a jump of 16.7 s ahead.
GLITCH_HIGH = 16


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, start, state, drops, x, y, t, p, room, trig_t, trig_id, trig_p, width, height):
    """Decode `words[start:]` into x, y, t, p[state[N_EVENTS]:room]; return the index of the first unused word."""
    n = state[N_EVENTS]
    m = state[N_TRIGGERS]
    time_high = state[TIME_HIGH]
    loops = state[LOOPS]
    time = state[TIME]
    row = state[ROW]
    base = state[BASE]
    base_polarity = state[BASE_POLARITY]
    known = state[KNOWN]
    # Columns below the limit are emitted: 0 while anything is unknown or the row is outside, else the width. Thus the
    # usual path costs one comparison per event.
    time_limit = width if known & KNOWS_TIME == KNOWS_TIME else 0
    limit = time_limit if (known & KNOWS_ROW) != 0 and row < height else 0
    end = len(words)
    i = start
    while i < end:
        budget = (room - n) // 12  # a word makes 12 events at most
        if budget <= 0:
            break
        stop = min(end, i + budget)
        full = False
        while i < stop:
            word = np.int64(words[i])
            kind = word >> 12
            low = word & 0x7FF
            i += 1
            if kind & 0xD == 0:  # ADDR_X or ADDR_Y, mixed at random: selects instead of a branch
                is_x = kind >> 1
                x[n] = low
                y[n] = row
                t[n] = time
                p[n] = (word >> 11) & 1
                inside = np.int64(low < limit)
                n += is_x & inside
                if is_x > inside:
                    drops[UNSYNCHRONISED if known & KNOWS_ALL != KNOWS_ALL else OUT_OF_SENSOR] += 1
                row_limit = time_limit if low < height else 0
                row = row if is_x else low
                limit = limit if is_x else row_limit
                known |= KNOWS_ROW * (1 - is_x)
            elif kind == 0x4 or kind == 0x5:  # VECT_12, VECT_8
                size = 12 if kind == 0x4 else 8
                mask = word & (0xFFF if kind == 0x4 else 0xFF)
                if known & KNOWS_BASE != 0 and base + size <= limit:
                    while mask != 0:
                        x[n] = base + count_trailing_zeros(mask)
                        y[n] = row
                        t[n] = time
                        p[n] = base_polarity
                        n += 1
                        mask &= mask - 1
                else:
                    synchronised = known & (KNOWS_ALL | KNOWS_BASE) == KNOWS_ALL | KNOWS_BASE
                    for bit in range(size):
                        if mask >> bit & 1 == 0:
                            continue
                        if synchronised and base + bit < limit:
                            x[n] = base + bit
                            y[n] = row
                            t[n] = time
                            p[n] = base_polarity
                            n += 1
                        else:
                            drops[OUT_OF_SENSOR if synchronised else UNSYNCHRONISED] += 1
                base += size
            elif kind == 0x3:  # VECT_BASE_X
                base = low
                base_polarity = (word >> 11) & 1
                known |= KNOWS_BASE
            elif kind == 0x6:  # TIME_LOW
                if known & KNOWS_HIGH != 0:
                    time = (loops << 24) + (time_high << 12) + (word & 0xFFF)
                    if known & KNOWS_LOW == 0:
                        known |= KNOWS_LOW
                        time_limit = width
                        limit = width if (known & KNOWS_ROW) != 0 and row < height else 0
            elif kind == 0x8:  # TIME_HIGH
                new = word & 0xFFF
                changed = new != time_high
                if changed and state[HIGH_SEEN] != 0:
                    if new + 2048 <= time_high:
                        loops += 1
                    elif new >= time_high + 4096 - GLITCH_HIGH:
                        loops -= 1
                time_high = new
                state[HIGH_SEEN] = 1
                if known & KNOWS_HIGH == 0:
                    known |= KNOWS_HIGH  # the low part stays unknown until its own word
                elif changed:
                    time = (loops << 24) + (time_high << 12)
                    if known & KNOWS_LOW == 0:
                        known |= KNOWS_LOW
                        time_limit = width
                        limit = width if (known & KNOWS_ROW) != 0 and row < height else 0
            elif kind == 0xA:  # EXT_TRIGGER
                if known & KNOWS_TIME != KNOWS_TIME:
                    drops[UNSYNCHRONISED] += 1
                elif m >= len(trig_t):
                    i -= 1
                    full = True
                    break
                else:
                    trig_t[m] = time
                    trig_id[m] = (word >> 8) & 0xF
                    trig_p[m] = word & 1
                    m += 1
            elif kind == 0xE:  # OTHERS: its payload follows in CONTINUED words
                state[OTHERS_TYPE] = word & 0xFFF
                state[OTHERS_SHIFT] = 0
                state[OTHERS_VALUE] = 0
            elif kind == 0xF or kind == 0x7:  # CONTINUED_12, CONTINUED_4
                shift = state[OTHERS_SHIFT]
                if shift < 28:
                    state[OTHERS_VALUE] |= (word & (0xFFF if kind == 0xF else 0xF)) << shift
                    state[OTHERS_SHIFT] = shift + (12 if kind == 0xF else 4)
                if kind == 0x7 and state[OTHERS_SHIFT] == 28:
                    if state[OTHERS_TYPE] == 0x014:
                        state[ERC_IN] += state[OTHERS_VALUE]
                    elif state[OTHERS_TYPE] == 0x016:
                        state[ERC_OUT] += state[OTHERS_VALUE]
                    state[OTHERS_TYPE] = 0
            else:
                drops[RESERVED] += 1
        if full:
            break
    state[N_EVENTS] = n
    state[N_TRIGGERS] = m
    state[TIME_HIGH] = time_high
    state[LOOPS] = loops
    state[TIME] = time
    state[ROW] = row
    state[BASE] = base
    state[BASE_POLARITY] = base_polarity
    state[KNOWN] = known
    return i


class Evt3Decoder(WordStreamDecoder):
    """Decoder of EVT 3.0 words. `t` is in microseconds, with wraps counted since the first word seen."""

    encoding = "evt3"
    word_bytes = 2
    wrap_us = WRAP_US
    events_per_word = 12
    state_size = STATE_SIZE
    knows_all = KNOWS_ALL
    knows_time = KNOWS_TIME

    def _run(self, words: np.ndarray, start: int, out: EventBuffer, room: int) -> int:
        done = _decode(
            words, start, self._state, self.counters.raw, out.x, out.y, out.t, out.p, room,
            self._trig_t, self._trig_id, self._trig_p, self.width, self.height,
        )  # fmt: skip
        return int(done)

    @property
    def erc_counts(self) -> tuple[int, int]:
        """Events into and out of the sensor's event rate controller, summed over its reports since the last reset."""
        return int(self._state[ERC_IN]), int(self._state[ERC_OUT])

    def desynchronise(self) -> None:
        super().desynchronise()
        self._state[OTHERS_SHIFT] = 28  # ignore CONTINUED words until the next OTHERS

    def reset(self) -> None:
        super().reset()
        self._state[OTHERS_SHIFT] = 28
        if self._assume_synchronised:
            self._state[KNOWN] |= KNOWS_BASE
