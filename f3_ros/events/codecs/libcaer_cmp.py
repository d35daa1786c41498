# SPDX-License-Identifier: Apache-2.0
"""libcaer_cmp (default of libcaer_driver): 16-bit words; like EVT 3.0, but column-wise and with stand-alone packets.

The column is the state and the row comes last; time starts at zero in every packet and is relative to `time_base`.
The driver's encoder has known defects that no decoder can repair (stale low bits of y for isolated events, times that
wrap after 65.5 ms inside one packet): prefer `encoding: libcaer` on the driver where accuracy counts.
"""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.base import Decoder, EventBuffer
from f3_ros.events.codecs.bits import count_trailing_zeros

UNSYNCHRONISED, OUT_OF_SENSOR, RESERVED = 0, 1, 2


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, start, state, time_base_ns, drops, x, y, t, p, n, room, width, height):
    """Decode `words[start:]` into x, y, t, p[n:room]; return the new n and the index of the first unused word."""
    high, low, column, base, polarity = state[0], state[1], state[2], state[3], state[4]
    time = time_base_ns + ((high << 12) | low) * 1000
    i = start
    end = len(words)
    while i < end and n + 8 <= room:
        word = np.int64(words[i])
        i += 1
        kind = word >> 12
        if kind == 0x3:  # ADDR_Y: emits
            row = word & 0x7FF
            if column >= 0 and column < width and row < height:
                x[n] = column
                y[n] = row
                t[n] = time
                p[n] = (word >> 11) & 1
                n += 1
            else:
                drops[UNSYNCHRONISED if column < 0 else OUT_OF_SENSOR] += 1
        elif kind == 0x2:
            column = word & 0x7FF
        elif kind == 0x1:
            low = word & 0xFFF
            time = time_base_ns + ((high << 12) | low) * 1000
        elif kind == 0x0:
            high = word & 0xFFF
            time = time_base_ns + ((high << 12) | low) * 1000
        elif kind == 0x4:
            base = word & 0x7FF
            polarity = (word >> 11) & 1
        elif kind == 0x5:
            mask = word & 0xFF
            while mask != 0:
                row = base + count_trailing_zeros(mask)
                if column >= 0 and base >= 0 and column < width and row < height:
                    x[n] = column
                    y[n] = row
                    t[n] = time
                    p[n] = polarity
                    n += 1
                else:
                    drops[UNSYNCHRONISED if column < 0 or base < 0 else OUT_OF_SENSOR] += 1
                mask &= mask - 1
            if base >= 0:
                base += 8
        else:
            drops[RESERVED] += 1
    state[0], state[1], state[2], state[3], state[4] = high, low, column, base, polarity
    return n, i


class LibcaerCmpDecoder(Decoder):
    """Decoder of compressed libcaer packets. `t` is in nanoseconds of `time_base`'s clock.

    Causes counted in `counters.dropped`: "unsynchronised" (events before the packet's first column or vector base),
    "out_of_sensor", "reserved_words", "trailing_bytes", "overflow_words".
    """

    encoding = "libcaer_cmp"
    time_unit = "ns"
    word_bytes = 2
    causes = ("unsynchronised", "out_of_sensor", "reserved_words")
    _last: int | None = None

    def _decode_words(self, words: np.ndarray, time_base_ns: int, out: EventBuffer) -> int:
        state = np.array([0, 0, -1, -1, 0], np.int64)  # time high, time low, column, vector base, vector polarity
        first, done, grow = out.size, 0, len(words) + 8
        while True:
            room = self._room(out, first, grow)
            n, done = _decode(
                words, done, state, time_base_ns, self.counters.raw, out.x, out.y, out.t, out.p, out.size, room,
                self.width, self.height,
            )  # fmt: skip
            out.size = int(n)
            if done == len(words) or (self.max_events is not None and first + self.max_events - out.size < 8):
                break
            grow = max(8, min(8 * (len(words) - done), out.capacity))
        if len(words):
            self._last = time_base_ns + int((state[0] << 12) | state[1]) * 1000
        return int(done)

    @property
    def last_time(self) -> int | None:
        return self._last

    def reset(self) -> None:
        self._last = None
