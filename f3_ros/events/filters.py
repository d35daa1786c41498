# SPDX-License-Identifier: Apache-2.0
"""Noise filters for event streams. All are optional: they change the statistics that a network was trained on.

Each keeps its state from call to call in memory of fixed size, and counts what it took out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.types import Events

LONG_AGO = -(1 << 62)


class EventFilter(ABC):
    """A filter on a stream of events of one sensor.

    Attributes:
        width, height: sensor size in pixels; events outside are taken out.
        passed, dropped: events kept and taken out so far.
    """

    def __init__(self, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            raise InputError(f"expected a positive sensor size, found {width}x{height}")
        self.width = width
        self.height = height
        self.passed = 0
        self.dropped = 0

    def apply(self, events: Events) -> Events:
        """The events that pass, in order; the given ones if all do. `t` in microseconds."""
        if len(events) == 0:
            return events
        keep = np.empty(len(events), np.bool_)
        kept = int(self._judge(events, keep))
        self.passed += kept
        self.dropped += len(events) - kept
        return events if kept == len(events) else events[keep]

    def reset(self) -> None:
        """Forget the stream, after a jump of its time; the counters go on."""

    @abstractmethod
    def _judge(self, events: Events, keep: np.ndarray) -> int:
        """Fill `keep`; return how many pass."""


class HotPixelMask(EventFilter):
    """Takes out the events of pixels that fire all the time.

    Attributes:
        mask: bool (H, W), True = hot.
    """

    def __init__(self, mask: np.ndarray) -> None:
        if mask.ndim != 2 or mask.size == 0:
            raise InputError(f"expected a mask of shape (H, W), found shape {mask.shape}")
        super().__init__(mask.shape[1], mask.shape[0])
        self.mask = np.ascontiguousarray(mask, np.bool_)

    @staticmethod
    def from_counts(counts: np.ndarray, k: float = 10.0) -> HotPixelMask:
        """The pixels above median + k * MAD.

        Args:
            counts: events per pixel over one to some seconds, (H, W).
            k: how many median absolute deviations above the median is hot. The deviation counts as 1 at least, or
                each second event would make a pixel of a quiet recording hot.
        """
        median = float(np.median(counts))
        deviation = max(1.0, float(np.median(np.abs(counts - median))))
        return HotPixelMask(counts > median + k * deviation)

    @staticmethod
    def load(path: str | Path) -> HotPixelMask:
        """Read a mask from an .npz (array `mask`) or a picture (hot = not black).

        Raises:
            InputError: the file is missing or holds no mask.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"expected a mask file, found nothing at {path}")
        if path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as archive:
                    mask = archive["mask"]
            except (ValueError, OSError, KeyError) as error:
                raise InputError(f"expected an array `mask`, found none in {path}") from error
            return HotPixelMask(mask != 0)
        import cv2

        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise InputError(f"expected a picture or .npz, found something else in {path}")
        return HotPixelMask(picture != 0)

    def save(self, path: str | Path) -> None:
        """Write the mask as .npz, or as a black and white picture (.png).

        Raises:
            InputError: unknown file type.
        """
        path = Path(path)
        if path.suffix == ".npz":
            np.savez_compressed(path, mask=self.mask)
        elif path.suffix == ".png":
            import cv2

            cv2.imwrite(str(path), np.where(self.mask, np.uint8(255), np.uint8(0)))
        else:
            raise InputError(f"expected a file name ending in .npz or .png, found {path}")

    def _judge(self, events: Events, keep: np.ndarray) -> int:
        return _outside_mask(events.x, events.y, self.mask, keep)


def count_per_pixel(events: Events, counts: np.ndarray) -> None:
    """Add the events to `counts`, int64 (H, W), in place; for `HotPixelMask.from_counts`."""
    inside = (events.x < counts.shape[1]) & (events.y < counts.shape[0])
    np.add.at(counts, (events.y[inside], events.x[inside]), 1)


class RefractoryFilter(EventFilter):
    """Takes out an event that follows the last kept one of its pixel by less than `refractory_us`."""

    def __init__(self, width: int, height: int, refractory_us: int = 1000) -> None:
        super().__init__(width, height)
        self.refractory_us = refractory_us
        self._last = np.full((height, width), LONG_AGO, np.int64)

    def _judge(self, events: Events, keep: np.ndarray) -> int:
        return _refractory(events.x, events.y, events.t, self._last, self.refractory_us, keep)

    def reset(self) -> None:
        self._last[:] = LONG_AGO


class NeighbourNoiseFilter(EventFilter):
    """Keeps an event only if one of its eight neighbours fired within `support_us` before it.

    The background activity filter of Delbruck, "Frame-free dynamic digital vision", 2008: edges have company.
    """

    def __init__(self, width: int, height: int, support_us: int = 5000) -> None:
        super().__init__(width, height)
        self.support_us = support_us
        self._last = np.full((height + 2, width + 2), LONG_AGO, np.int64)  # with a border, so that all have neighbours

    def _judge(self, events: Events, keep: np.ndarray) -> int:
        return _supported(events.x, events.y, events.t, self._last, self.support_us, keep)

    def reset(self) -> None:
        self._last[:] = LONG_AGO


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _outside_mask(x, y, mask, keep):
    height, width = mask.shape
    kept = 0
    for i in range(len(x)):
        keep[i] = x[i] < width and y[i] < height and not mask[y[i], x[i]]
        kept += keep[i]
    return kept


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _refractory(x, y, t, last, refractory, keep):
    height, width = last.shape
    kept = 0
    for i in range(len(t)):
        ok = False
        if x[i] < width and y[i] < height:
            since = t[i] - last[y[i], x[i]]
            ok = since >= refractory or since < 0  # time that went back starts anew
            if ok:
                last[y[i], x[i]] = t[i]
                kept += 1
        keep[i] = ok
    return kept


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _supported(x, y, t, last, support, keep):
    height, width = last.shape[0] - 2, last.shape[1] - 2
    kept = 0
    for i in range(len(t)):
        ok = False
        if x[i] < width and y[i] < height:
            row, column = np.int64(y[i]), np.int64(x[i])  # of the upper left neighbour in the bordered image
            for j in range(9):
                if j != 4:
                    since = t[i] - last[row + j // 3, column + j % 3]
                    if since >= 0 and since <= support:
                        ok = True
                        break
            last[row + 1, column + 1] = t[i]
            kept += ok
        keep[i] = ok
    return kept
