# SPDX-License-Identifier: Apache-2.0
"""Events in HDF5 files of the M3ED, DSEC, MVSEC and TartanAir data sets; see `hdf5_layouts` for the layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.readers.base import ArrayReader
from f3_ros.events.readers.hdf5_layouts import detect_layout
from f3_ros.events.types import Events

if TYPE_CHECKING:
    import h5py

_BLOCK = 1 << 18


class Hdf5Reader(ArrayReader):
    """Reader of one camera of an HDF5 file. Data are read block by block; the start is found by bisection.

    Args:
        path: the file.
        camera: "left" or "right" where the layout has both.
        sensor_size: used where the file has no size of its own.
        rectify: DSEC only: move every event to its rectified pixel (nearest; those that leave the sensor are
            dropped and counted as "outside_rectified").

    Attributes:
        layout: name of the layout found.

    Raises:
        InputError: not an HDF5 file, no known layout, missing or odd data sets.
    """

    def __init__(
        self,
        path: Path,
        camera: str = "left",
        sensor_size: tuple[int, int] | None = None,
        rectify: bool = False,
    ) -> None:
        super().__init__(path)
        self._file: Any = open_h5(path)
        self._rectify_map: np.ndarray | None = None
        self._rectify = rectify
        try:
            self._prepare(camera, sensor_size)
        except BaseException:
            self.close()
            raise

    def _prepare(self, camera: str, sensor_size: tuple[int, int] | None) -> None:
        with self._guard():
            layout = detect_layout(self._file, camera, self.path)
            self._layout = layout
            self.layout = layout.name
            self.format = f"hdf5 {layout.name}"
            self.width, self.height = layout.size
            source = layout.size_source
            if source == "default of the layout":
                if sensor_size is not None:
                    (self.width, self.height), source = sensor_size, "parameter"
                elif layout.name == "m3ed":
                    self.notice("the file has no calib/resolution: 1280x720 is assumed")
            self.metadata.update(layout.metadata, layout=layout.name, geometry_source=source, camera=camera)
            if layout.t_offset_us:
                self.metadata["t_offset_us"] = layout.t_offset_us
            for text in layout.notices:
                self.notice(text)
            name = next(iter(layout.datasets.values()))
            self.n_events = n = int(self._file[name].shape[0])
            self._t_first = self._time_at(0) if n else None
            self._t_last = self._time_at(n - 1) if n else None
        if self._rectify and self.rectify_map is None:
            raise InputError(
                f"expected rectify_map.h5 beside {self.path} for rectification, found none",
                "put the sequence's rectify_map.h5 into the same folder",
            )
        self._choose_encoding()

    # ------------------------------------------------------------------------------------------ DSEC

    @property
    def rectify_map(self) -> np.ndarray | None:
        """(H, W, 2) float32 of `rectify_map.h5` beside the file: [y, x] -> (x_rect, y_rect); None if there is none."""
        beside = self.path.parent / "rectify_map.h5"
        if self._rectify_map is None and self.layout == "dsec" and beside.is_file():
            with open_h5(beside) as file, _Guard(beside):
                if "rectify_map" not in file or file["rectify_map"].shape != (self.height, self.width, 2):
                    found = file["rectify_map"].shape if "rectify_map" in file else "no such data set"
                    raise InputError(
                        f"expected /rectify_map of shape ({self.height}, {self.width}, 2), found {found} in {beside}",
                        "copy or download the file again",
                    )
                self._rectify_map = np.asarray(file["rectify_map"][()], np.float32)
        return self._rectify_map

    def rectify(self, events: Events) -> np.ndarray:
        """(N, 2) float32 rectified positions (x, y) of the events, sub-pixel.

        Raises:
            InputError: the file has no rectify map.
        """
        table = self.rectify_map
        if table is None:
            raise InputError(f"expected rectify_map.h5 beside {self.path}, found none", "only DSEC sequences have it")
        positions: np.ndarray = table[events.y, events.x]
        return positions

    def _rectified(self, events: Events) -> Events:
        xy = np.rint(self.rectify(events))
        ok = (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < self.width) & (xy[:, 1] < self.height)
        self.stats.dropped["outside_rectified"] += len(events) - int(np.count_nonzero(ok))
        xy = xy[ok].astype(np.uint16)
        return Events(xy[:, 0].copy(), xy[:, 1].copy(), events.t[ok], events.p[ok])

    # ------------------------------------------------------------------------------------------ EventReader

    @property
    def t_first_us(self) -> int | None:
        return self._t_first

    @property
    def t_last_us(self) -> int | None:
        return self._t_last

    @property
    def duration_us(self) -> int | None:
        if self._t_first is None or self._t_last is None:
            return None
        return max(0, self._t_last - self._t_first)

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _blocks(self, start: int, end: int | None, max_events: int) -> Iterator[Events]:
        size = min(max_events, _BLOCK)
        n = self.n_events or 0
        if self._file is None:
            raise InputError(f"expected an open reader of {self.path}, found a closed one", "open the file again")
        with self._guard():
            lo = self._first_at(start)
        while lo < n:
            with self._guard():
                events = self._read(lo, min(lo + size, n))
            lo += size
            if self._rectify:
                events = self._rectified(self._in_sensor(events))
            yield events
            if end is not None and len(events) and int(events.t.min()) >= end:
                return

    def _first_at(self, time: int) -> int:
        """Index of the first event with t >= `time` (exact for sorted times)."""
        lo, hi = 0, self.n_events or 0
        while lo < hi:
            middle = (lo + hi) // 2
            if self._time_at(middle) < time:
                lo = middle + 1
            else:
                hi = middle
        return lo

    def _time_at(self, index: int) -> int:
        layout = self._layout
        if layout.name == "mvsec":
            return int(_microseconds(self._file[layout.datasets["table"]][index : index + 1, 2], self.path)[0])
        return int(self._file[layout.datasets["t"]][index]) // layout.per_us + layout.t_offset_us

    def _read(self, lo: int, hi: int) -> Events:
        layout = self._layout
        if layout.name == "mvsec":
            table = self._file[layout.datasets["table"]][lo:hi]
            return Events(
                _pixels(table[:, 0]), _pixels(table[:, 1]), _microseconds(table[:, 2], self.path),
                (table[:, 3] > 0).astype(np.uint8),
            )  # fmt: skip
        x, y, t, p = (self._file[layout.datasets[name]][lo:hi] for name in ("x", "y", "t", "p"))
        t = t.astype(np.int64)
        if layout.per_us != 1:
            t //= layout.per_us
        t += layout.t_offset_us
        return Events(_pixels(x), _pixels(y), t, (p > 0).astype(np.uint8))

    def _guard(self) -> _Guard:
        return _Guard(self.path)


class _Guard:
    """Turns what h5py raises on damaged files into an InputError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError)):
            if isinstance(error, InputError):
                return
            text = " ".join(str(error).split())[:200]
            raise InputError(
                f"expected readable HDF5 data, found an error of the library ({text}) in {self._path}",
                "copy or download the file again",
            ) from error


def open_h5(path: Path) -> h5py.File:
    """Open a file for reading, with the compression filters of the data sets (Blosc) registered.

    Raises:
        InputError: h5py is absent, or the file is no HDF5 file or cut short.
    """
    with contextlib.suppress(ImportError):  # only compressed DSEC files need it; reading those then says so
        import hdf5plugin  # noqa: F401 - importing registers the Blosc filter; must come before h5py opens a file
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"expected the library h5py for {path}, found none",
            "install it with: python -m pip install h5py hdf5plugin",
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"expected a complete HDF5 file, found one that cannot be opened ({text}): {path}",
            "copy or download the file again",
        ) from error


def _pixels(values: np.ndarray) -> np.ndarray:
    """Coordinates as uint16; what does not fit becomes 65535, which is outside every sensor."""
    if values.dtype == np.uint16:
        return values
    ok = (values >= 0) & (values < 65535)
    return np.where(ok, values, 65535).astype(np.uint16)


def _microseconds(seconds: np.ndarray, path: Path) -> np.ndarray:
    """float64 seconds of Unix time (resolved to 0.24 us) to the nearest microsecond."""
    if not np.all(np.abs(seconds) < 9e12):
        raise InputError(f"expected finite times in seconds, found others in {path}", "copy or download the file again")
    return np.rint(seconds * 1e6).astype(np.int64)
