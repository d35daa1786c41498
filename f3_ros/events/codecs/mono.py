# SPDX-License-Identifier: Apache-2.0
"""mono (deprecated, 8 bytes per event): bit 63 polarity, 62..48 y, 47..32 x, 31..0 nanoseconds after `time_base`."""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.record_stream import RecordDecoder

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


class MonoDecoder(RecordDecoder):
    """Decoder of mono packets. `t` is in nanoseconds of `time_base`'s clock.

    Causes counted in `counters.dropped`: "out_of_sensor", "trailing_bytes", "overflow_words".
    """

    encoding = "mono"
    causes = ("out_of_sensor",)
    kernel = staticmethod(_decode)
