# SPDX-License-Identifier: Apache-2.0
"""The threshold crossings of all pixels over one micro-step, compiled with numba."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def advance(before, after, level, last, c_pos, c_neg, t0, t1, refractory, keys):
    """Move every pixel's log intensity linearly from `before` (time t0 [us]) to `after` (t1) and note its events.

    Updates `level` (log intensity at the last crossing) and `last` (time of the last event). Writes sort keys
    ((t * H + y) * W + x) * 2 + p; returns the number of events, which may exceed the size of `keys`.
    """
    rows, columns = before.shape
    duration = t1 - t0
    capacity = keys.size
    n = 0
    for y in range(rows):
        for x in range(columns):
            start, stop = before[y, x], after[y, x]
            if start == stop:
                continue
            reference = level[y, x]
            change = stop - start
            while True:
                if change > 0:
                    crossing = reference + c_pos[y, x]
                    if crossing > stop:
                        break
                    p = 1
                else:
                    crossing = reference - c_neg[y, x]
                    if crossing < stop:
                        break
                    p = 0
                fraction = (crossing - start) / change
                if fraction < 0:
                    fraction = 0.0
                time = t0 + fraction * duration
                reference = crossing
                if time - last[y, x] >= refractory:
                    last[y, x] = time
                    whole = np.int64(time)
                    if n < capacity:
                        keys[n] = ((whole * rows + y) * columns + x) * 2 + p
                    n += 1
            level[y, x] = reference
    return n
