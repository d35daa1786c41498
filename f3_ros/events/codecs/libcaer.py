# SPDX-License-Identifier: Apache-2.0
"""libcaer (iniVation, uncompressed): 8 bytes per event, as libcaer's polarity events lie in memory.

uint32 data: bit 0 valid, bit 1 polarity, bits 16..2 y, bits 31..17 x; int32 timestamp [us] of 31 bits. `time_base`
of the packet holds the rest of the time, so packets stand alone; a rollover inside a packet shows as a fall by more
than half the range.
"""

from __future__ import annotations

import numba
import numpy as np

from f3_ros.events.codecs.record_stream import RecordDecoder

OUT_OF_SENSOR, INVALID = 0, 1


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _decode(words, time_base_ns, drops, x, y, t, p, n, room, width, height):
    """Decode `words` into x, y, t, p[n:room]; return the new n, words used, and the newest time [ns]."""
    rollovers = np.int64(0)
    previous = np.int64(-1)
    time = np.int64(time_base_ns)
    used = 0
    for i in range(len(words)):
        if n >= room:
            break
        used += 1
        data = np.int64(words[i] & np.uint64(0xFFFFFFFF))
        stamp = np.int64(words[i] >> np.uint64(32)) & 0x7FFFFFFF
        if data & 1 == 0:
            drops[INVALID] += 1
            continue
        if stamp + 0x40000000 <= previous:
            rollovers += 1
        previous = stamp
        column = data >> 17
        row = (data >> 2) & 0x7FFF
        time = time_base_ns + ((rollovers << 31) + stamp) * 1000
        if column < width and row < height:
            x[n] = column
            y[n] = row
            t[n] = time
            p[n] = (data >> 1) & 1
            n += 1
        else:
            drops[OUT_OF_SENSOR] += 1
    return n, used, time


class LibcaerDecoder(RecordDecoder):
    """Decoder of uncompressed libcaer packets. `t` is in nanoseconds of `time_base`'s clock.

    Causes counted in `counters.dropped`: "out_of_sensor", "invalid_events" (valid bit 0), "trailing_bytes",
    "overflow_words".
    """

    encoding = "libcaer"
    causes = ("out_of_sensor", "invalid_events")
    kernel = staticmethod(_decode)
