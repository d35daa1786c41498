# SPDX-License-Identifier: Apache-2.0
"""mono (deprecated, 8 bytes per event): bit 63 polarity, 62..48 y, 47..32 x, 31..0 nanoseconds after `time_base`."""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.base import Decoder, EventBuffer

OUT_OF_SENSOR = 0


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, time_base_ns, drops, x, y, t, p, n, room, width, height):
    """Decode `words` into x, y, t, p[n:room]; return the new n, words used, and the newest time [ns]."""
    newest = np.int64(time_base_ns)
    used = 0
    for i in range(len(words)):
        if n >= room:
            break
        used += 1
        time = time_base_ns + np.int64(words[i] & np.uint64(0xFFFFFFFF))
        place = np.int64(words[i] >> np.uint64(32))
        column = place & 0xFFFF
        row = (place >> 16) & 0x7FFF
        newest = max(newest, time)
        if column < width and row < height:
            x[n] = column
            y[n] = row
            t[n] = time
            p[n] = place >> 31
            n += 1
        else:
            drops[OUT_OF_SENSOR] += 1
    return n, used, newest


class MonoDecoder(Decoder):
    """Decoder of mono packets. `t` is in nanoseconds of `time_base`'s clock.

    Causes counted in `counters.dropped`: "out_of_sensor", "trailing_bytes", "overflow_words".
    """

    encoding = "mono"
    time_unit = "ns"
    word_bytes = 8
    causes = ("out_of_sensor",)
    _last: int | None = None

    def _decode_words(self, words: np.ndarray, time_base_ns: int, out: EventBuffer) -> int:
        room = self._room(out, out.size, len(words))
        n, used, newest = _decode(
            words, time_base_ns, self.counters.raw, out.x, out.y, out.t, out.p, out.size, room, self.width, self.height
        )
        out.size = int(n)
        if used:
            self._last = int(newest)
        return int(used)

    @property
    def last_time(self) -> int | None:
        return self._last

    def reset(self) -> None:
        self._last = None
