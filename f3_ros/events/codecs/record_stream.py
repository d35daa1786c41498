# SPDX-License-Identifier: Apache-2.0
"""What decoders of self-contained packets of fixed 8-byte records share: libcaer and mono."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from f3_ros.events.codecs.base import Decoder, EventBuffer


class RecordDecoder(Decoder):
    """Base of decoders whose packets need nothing but their `time_base`; `t` is in nanoseconds of its clock.

    Attributes:
        kernel: (words, time_base_ns, drops, x, y, t, p, n, room, width, height) -> (n, words used, newest time).
    """

    time_unit = "ns"
    word_bytes = 8
    kernel: Callable[..., Any]
    _last: int | None = None

    def _decode_words(self, words: np.ndarray, time_base_ns: int, out: EventBuffer) -> int:
        room = self._room(out, out.size, len(words))
        n, used, newest = self.kernel(
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
