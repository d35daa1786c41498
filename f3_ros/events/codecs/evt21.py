# SPDX-License-Identifier: Apache-2.0
"""EVT 2.1 (Prophesee): 64-bit words, up to 32 events of one row each; see docs.prophesee.ai, "EVT 2.1 format".

The upper 32 bits are an EVT 2.0 word (type, time, x, y), the lower 32 a mask: bit i set means an event at x + i.

Two byte orders exist and the file header does not always say which. GenX320 writes the 64-bit word little endian, so
the mask comes first in memory ("genx320"); IMX636 writes two little-endian 32-bit halves with the type first ("imx636",
as OpenEB calls it). "auto" looks for TIME_HIGH: its mask half is zero, and a word with that value in the other
order would be an event mask beside an all-zero event word, which does not occur. As no event can be
decoded before TIME_HIGH, the order is known in time.
"""

from __future__ import annotations

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.codecs.base import EventBuffer
from f3_ros.events.codecs.bits import count_trailing_zeros
from f3_ros.events.codecs.evt2 import WRAP_US, take_time_high
from f3_ros.events.codecs.word_stream import (
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

ORDERS = ("auto", "genx320", "imx636")


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, start, state, drops, x, y, t, p, room, trig_t, trig_id, trig_p, width, height, is_imx636):
    """Decode `words[start:]` into x, y, t, p[state[N_EVENTS]:room]; return the index of the first unused word."""
    n = state[N_EVENTS]
    m = state[N_TRIGGERS]
    known = state[KNOWN] & KNOWS_HIGH != 0
    high = (state[LOOPS] << 34) + (state[TIME_HIGH] << 6)
    time = state[TIME]
    i = start
    end = len(words)
    while i < end:
        first = np.int64(words[i] & np.uint64(0xFFFFFFFF))
        second = np.int64(words[i] >> np.uint64(32))
        upper = first if is_imx636 else second
        mask = second if is_imx636 else first
        kind = upper >> 28
        if kind <= 1:
            if n + 32 > room:
                break
            column = (upper >> 11) & 0x7FF
            row = upper & 0x7FF
            inside = known and row < height
            if inside:
                time = high + ((upper >> 22) & 0x3F)
            while mask != 0:
                place = column + count_trailing_zeros(mask)
                if inside and place < width:
                    x[n] = place
                    y[n] = row
                    t[n] = time
                    p[n] = kind
                    n += 1
                else:
                    drops[OUT_OF_SENSOR if known else UNSYNCHRONISED] += 1
                mask &= mask - 1
        elif kind == 0x8:
            high = take_time_high(state, upper & 0xFFFFFFF)
            time = high
            known = True
        elif kind == 0xA:
            if not known:
                drops[UNSYNCHRONISED] += 1
            elif m >= len(trig_t):
                break
            else:
                time = high + ((upper >> 22) & 0x3F)
                trig_t[m] = time
                trig_id[m] = (upper >> 8) & 0x1F
                trig_p[m] = upper & 1
                m += 1
        elif kind != 0xE and kind != 0xF:
            drops[RESERVED] += 1
        i += 1
    state[N_EVENTS] = n
    state[N_TRIGGERS] = m
    state[TIME] = time
    return i


class Evt21Decoder(WordStreamDecoder):
    """Decoder of EVT 2.1 words. `t` is in microseconds.

    Attributes:
        order: "genx320", "imx636", or "auto" while the stream has not shown it.
    """

    encoding = "evt21"
    word_bytes = 8
    wrap_us = WRAP_US
    events_per_word = 32

    def __init__(
        self,
        width: int,
        height: int,
        *,
        max_events: int | None = None,
        assume_synchronised: bool = False,
        order: str = "auto",
    ) -> None:
        """Args:
        order: order of the two halves of a word, "auto", "genx320" or "imx636".
        Raises:
            InputError: the order is none of these.
        """
        if order not in ORDERS:
            raise InputError(f"expected an EVT 2.1 word order out of {', '.join(ORDERS)}, found {order!r}")
        self._given_order = order
        self.order = order
        super().__init__(width, height, max_events=max_events, assume_synchronised=assume_synchronised)

    def _run(self, words: np.ndarray, start: int, out: EventBuffer, room: int) -> int:
        if self.order == "auto":
            self.order = _find_order(words)
        done = _decode(
            words, start, self._state, self.counters.raw, out.x, out.y, out.t, out.p, room,
            self._trig_t, self._trig_id, self._trig_p, self.width, self.height, self.order == "imx636",
        )  # fmt: skip
        return int(done)

    def reset(self) -> None:
        super().reset()
        self.order = self._given_order


def _find_order(words: np.ndarray) -> str:
    """The order in which more words look like TIME_HIGH; "auto" if that is a draw."""
    first = words & np.uint64(0xFFFFFFFF)
    second = words >> np.uint64(32)
    legacy = int(np.count_nonzero((first >> np.uint64(28) == 8) & (second == 0)))
    little = int(np.count_nonzero((second >> np.uint64(28) == 8) & (first == 0)))
    if legacy == little:
        return "auto"
    return "imx636" if legacy > little else "genx320"
