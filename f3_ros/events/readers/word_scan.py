# SPDX-License-Identifier: Apache-2.0
"""Finding times in streams of EVT2, EVT2.1 and EVT3 words without decoding the events.

Cutting a raw file into packets of some milliseconds needs only the time words. A scanner walks over blocks of words,
follows the time (wrap rules of the decoders), and reports where new packets begin. To start in the middle of a file it
also knows the words that restore the decoder's state at that place, so nothing after the cut is lost.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import njit

_UNSET = np.int64(-(2**62))


class WordScanner(Protocol):
    """Follows the sensor time through consecutive blocks of one stream."""

    word_bytes: int
    granularity_us: int

    def seek(self, words: np.ndarray, target_us: int) -> int:
        """Index of the first word from which on times >= `target_us` (down to the granularity) follow; -1 if the
        block ends before. The scanner's state is then that before the word found, or at the end of the block."""

    def cuts(self, words: np.ndarray, origin_us: int, packet_us: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices at which the time enters a new interval of `packet_us` (counted from `origin_us`), with times."""

    def prefix(self) -> np.ndarray:
        """Words (as uint8) that bring a fresh decoder into the scanner's present state."""

    @property
    def time_us(self) -> int | None:
        """Newest time seen; None before the first time word."""

    @property
    def loops(self) -> int:
        """Wraps of the encoding's time so far."""


class Evt3Scanner:
    """Scanner of EVT3's 16-bit words."""

    word_bytes = 2
    granularity_us = 1

    def __init__(self) -> None:
        # loops, time high, time low, row, vector base, vector polarity, number of the present packet
        self._state = np.array([0, -1, -1, -1, -1, 0, _UNSET], np.int64)

    def seek(self, words: np.ndarray, target_us: int) -> int:
        return int(_seek_evt3(words, self._state, target_us))

    def cuts(self, words: np.ndarray, origin_us: int, packet_us: int) -> tuple[np.ndarray, np.ndarray]:
        index, time = np.empty(len(words), np.int64), np.empty(len(words), np.int64)
        n = _cut_evt3(words, self._state, origin_us, packet_us, index, time)
        return index[:n], time[:n]

    def prefix(self) -> np.ndarray:
        _, high, low, row, base, polarity, _ = (int(v) for v in self._state)
        words = []
        if high >= 0:
            words.append(0x8000 | high)
        if high >= 0 and low >= 0:
            words.append(0x6000 | low)
        if row >= 0:
            words.append(row)
        if base >= 0:
            words.append(0x3000 | polarity << 11 | (base & 0x7FF))
        return np.array(words, "<u2").view(np.uint8)

    @property
    def time_us(self) -> int | None:
        loops, high, low = (int(v) for v in self._state[:3])
        return None if high < 0 else (loops << 24) + (high << 12) + max(low, 0)

    @property
    def loops(self) -> int:
        return int(self._state[0])


@njit(cache=True, nogil=True)
def _next_evt3(word, state):
    """Advance the state by one word; the new time if it is a time word, else -1."""
    kind = word >> 12
    if kind == 8:
        high = np.int64(word & 0xFFF)
        if state[1] >= 0:
            if high + 2048 <= state[1]:
                state[0] += 1
            elif high >= state[1] + 4080:  # a glitch back over the wrap, as in the decoder
                state[0] -= 1
        if high != state[1]:
            state[2] = 0 if state[1] >= 0 else -1
        state[1] = high
    elif kind == 6:
        state[2] = np.int64(word & 0xFFF)
    else:
        if kind == 0:
            state[3] = np.int64(word & 0xFFF)
        elif kind == 3:
            state[4] = np.int64(word & 0x7FF)
            state[5] = np.int64((word >> 11) & 1)
        elif kind == 4 and state[4] >= 0:
            state[4] += 12
        elif kind == 5 and state[4] >= 0:
            state[4] += 8
        return np.int64(-1)
    if state[1] < 0:
        return np.int64(-1)
    return (state[0] << 24) + (state[1] << 12) + max(state[2], np.int64(0))


@njit(cache=True, nogil=True)
def _seek_evt3(words, state, target):
    for i in range(words.size):
        kind = words[i] >> 12
        if kind == 8 or kind == 6:
            loops, high, low = state[0], state[1], state[2]
            if _next_evt3(words[i], state) >= target:
                state[0], state[1], state[2] = loops, high, low
                return i
        else:
            _next_evt3(words[i], state)
    return -1


@njit(cache=True, nogil=True)
def _cut_evt3(words, state, origin, packet_us, index, time):
    n = 0
    for i in range(words.size):
        kind = words[i] >> 12
        if kind != 8 and kind != 6:
            continue
        t = _next_evt3(words[i], state)
        if t < 0:
            continue
        cell = (t - origin) // packet_us
        if cell > state[6]:
            state[6] = cell
            index[n] = i
            time[n] = t
            n += 1
    return n


class Evt2Scanner:
    """Scanner of EVT2 (32-bit words) and EVT2.1 (64-bit words, in either order of the halves).

    Args:
        halves: 32-bit halves per word: 1 for EVT2, 2 for EVT2.1.
        type_half: which half carries type, time and row.
    """

    granularity_us = 64

    def __init__(self, halves: int = 1, type_half: int = 0) -> None:
        self.word_bytes = 4 * halves
        self._halves, self._type_half = halves, type_half
        self._state = np.array([0, -1, _UNSET], np.int64)  # loops, time high, number of the present packet

    def _types(self, words: np.ndarray) -> np.ndarray:
        if self._halves == 1:
            return words
        return np.ascontiguousarray(words.view("<u4")[self._type_half :: self._halves])

    def seek(self, words: np.ndarray, target_us: int) -> int:
        return int(_seek_evt2(self._types(words), self._state, target_us >> 6))

    def cuts(self, words: np.ndarray, origin_us: int, packet_us: int) -> tuple[np.ndarray, np.ndarray]:
        types = self._types(words)
        index, time = np.empty(len(types), np.int64), np.empty(len(types), np.int64)
        n = _cut_evt2(types, self._state, origin_us, packet_us, index, time)
        return index[:n], time[:n]

    def prefix(self) -> np.ndarray:
        high = int(self._state[1])
        if high < 0:
            return np.zeros(0, np.uint8)
        word = np.zeros(self._halves, "<u4")
        word[self._type_half] = 8 << 28 | high
        return word.view(np.uint8)

    @property
    def time_us(self) -> int | None:
        loops, high = int(self._state[0]), int(self._state[1])
        return None if high < 0 else (loops << 34) + (high << 6)

    @property
    def loops(self) -> int:
        return int(self._state[0])


@njit(cache=True, nogil=True)
def _next_evt2(word, state):
    """Time high with loops after the TIME_HIGH word `word`."""
    high = np.int64(word & 0xFFFFFFF)
    if state[1] >= 0 and high + (1 << 27) <= state[1]:
        state[0] += 1
    state[1] = high
    return (state[0] << 28) + high


@njit(cache=True, nogil=True)
def _seek_evt2(words, state, target):
    for i in range(words.size):
        if words[i] >> 28 == 8:
            loops, high = state[0], state[1]
            if _next_evt2(words[i], state) >= target:
                state[0], state[1] = loops, high
                return i
    return -1


@njit(cache=True, nogil=True)
def _cut_evt2(words, state, origin, packet_us, index, time):
    n = 0
    for i in range(words.size):
        if words[i] >> 28 != 8:
            continue
        t = _next_evt2(words[i], state) << 6
        cell = (t - origin) // packet_us
        if cell > state[2]:
            state[2] = cell
            index[n] = i
            time[n] = t
            n += 1
    return n
