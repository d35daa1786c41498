# SPDX-License-Identifier: Apache-2.0
"""The common half of the Prophesee decoders: words that carry a state from packet to packet."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from f3_ros.events.codecs.base import UNKNOWN_TIME, Decoder, EventBuffer, Triggers

# Indices of the int64 state array that the kernels read and write. Encodings add their own from FIRST_FREE.
N_EVENTS, N_TRIGGERS, TIME, KNOWN, LOOPS, TIME_HIGH, HIGH_SEEN, FIRST_FREE = range(8)

# Bits of state[KNOWN]: parts of the state that a word gave since the start or the last loss.
KNOWS_HIGH, KNOWS_LOW = 1, 2

# Indices of the drop counters.
UNSYNCHRONISED, OUT_OF_SENSOR, RESERVED = 0, 1, 2


class WordStreamDecoder(Decoder):
    """Base of the EVT decoders.

    Causes counted in `counters.dropped`: "unsynchronised" (events and triggers before the state is known),
    "out_of_sensor" (events), "reserved_words" (types that the format does not define), "trailing_bytes",
    "overflow_words".
    """

    causes = ("unsynchronised", "out_of_sensor", "reserved_words")
    wrap_us = 0
    events_per_word = 1
    state_size = FIRST_FREE
    knows_all = KNOWS_HIGH
    knows_time = KNOWS_HIGH

    def __init__(
        self, width: int, height: int, *, max_events: int | None = None, assume_synchronised: bool = False
    ) -> None:
        """Args:
        assume_synchronised: take every part of the state as known and zero at the start, as most file decoders do.
            The recordings that we know begin with the words that give the state, so that it makes no difference.
        """
        super().__init__(width, height, max_events=max_events)
        self._assume_synchronised = assume_synchronised
        self._state = np.zeros(self.state_size, np.int64)
        self._trig_t = np.empty(64, np.int64)
        self._trig_id = np.empty(64, np.uint8)
        self._trig_p = np.empty(64, np.uint8)
        self.reset()

    @abstractmethod
    def _run(self, words: np.ndarray, start: int, out: EventBuffer, room: int) -> int:
        """Call the kernel; return the index of the first word not used because a buffer is full."""

    def _decode_words(self, words: np.ndarray, time_base_ns: int, out: EventBuffer) -> int:
        state, first, done = self._state, out.size, 0
        state[N_TRIGGERS] = 0
        grow = len(words) + self.events_per_word
        while True:
            room = self._room(out, first, grow)
            state[N_EVENTS] = out.size
            done = self._run(words, done, out, room)
            out.size = int(state[N_EVENTS])
            if done == len(words):
                break
            if state[N_TRIGGERS] == len(self._trig_t):
                self._grow_triggers()
            if self.max_events is not None and first + self.max_events - out.size < self.events_per_word:
                break
            grow = max(self.events_per_word, min(self.events_per_word * (len(words) - done), out.capacity))
        n = int(state[N_TRIGGERS])
        if n:
            self.triggers = Triggers(self._trig_t[:n].copy(), self._trig_id[:n].copy(), self._trig_p[:n].copy())
        return done

    def _grow_triggers(self) -> None:
        n = len(self._trig_t)
        self._trig_t = np.concatenate([self._trig_t, np.empty(n, np.int64)])
        self._trig_id = np.concatenate([self._trig_id, np.empty(n, np.uint8)])
        self._trig_p = np.concatenate([self._trig_p, np.empty(n, np.uint8)])

    @property
    def last_time(self) -> int | None:
        # After a loss the time before it stays the newest one known until the time words came again.
        time = int(self._state[TIME])
        return None if time == UNKNOWN_TIME else time

    @property
    def time_known(self) -> bool:
        """Whether the words that give the time were seen since the start or the last loss."""
        return int(self._state[KNOWN]) & self.knows_time == self.knows_time

    @property
    def synchronised(self) -> bool:
        return int(self._state[KNOWN]) & self.knows_all == self.knows_all

    def desynchronise(self) -> None:
        self._state[KNOWN] = 0

    def shift_time(self, wraps: int) -> None:
        self._state[LOOPS] += wraps
        if self._state[TIME] != UNKNOWN_TIME:
            self._state[TIME] += wraps * self.wrap_us

    def reset(self) -> None:
        self._state[:] = 0
        self._state[TIME] = UNKNOWN_TIME
        if self._assume_synchronised:
            self._state[KNOWN] = self.knows_all
            self._state[TIME] = 0
