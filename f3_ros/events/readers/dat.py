# SPDX-License-Identifier: Apache-2.0
"""Prophesee DAT files: a text header, two bytes (event type, event size), then 8-byte records of decoded events.

Record: uint32 time [us], which wraps after 71.6 min; uint32 with x in bits 13..0, y in 27..14, polarity in 28.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.readers.base import ArrayReader
from f3_ros.events.readers.prophesee_header import read_header
from f3_ros.events.types import Events

_TYPES = {0x00: "2D", 0x0C: "CD"}
_BLOCK = 1 << 18
_SENSORS = ((304, 240), (640, 480), (1280, 720))


class DatReader(ArrayReader):
    """Reader of one DAT file of event type 0x00 ("2D", version 2) or 0x0C ("CD").

    Raises:
        InputError: wrong type or record size, an old version, or no records.
    """

    format = "dat"

    def __init__(self, path: Path, sensor_size: tuple[int, int] | None = None) -> None:
        super().__init__(path)
        header = read_header(path, blank_required=False)
        with path.open("rb") as file:
            file.seek(header.size)
            kind = file.read(2)
        if header.size == 0 or len(kind) < 2 or kind[0] not in _TYPES or kind[1] != 8:
            found = f"type and size bytes {kind.hex(' ') or 'missing'}" if header.size else "no header"
            raise InputError(
                f"expected a DAT header and event type 00 or 0c of 8 bytes, found {found} in {path}",
                "check that this is a complete DAT file of change-detection events",
            )
        version = header.fields.get("version", "2")
        if version.split(".")[0] in ("0", "1"):
            raise InputError(
                f"expected DAT version 2, found version {version} in {path}",
                "convert the file with the camera vendor's tools: version 1 packs coordinates differently",
            )
        self._offset = header.size + 2
        n, rest = divmod(path.stat().st_size - self._offset, 8)
        if n == 0:
            raise InputError(
                f"expected 8-byte events after the header, found {rest} bytes in {path}", "copy the file again"
            )
        if rest:
            self.notice(f"the last {rest} bytes do not fill an event and are ignored: the file is cut")
        self.n_events = n
        self.metadata.update(header.fields)
        self.metadata["event_type"] = _TYPES[kind[0]]
        geometry = header.geometry()
        if geometry is not None:
            source, size = "header", geometry
        elif sensor_size is not None:
            source, size = "parameter", sensor_size
        else:
            source, size = "default for the coordinates found", self._smallest_sensor()
            self.notice(
                f"the header has no size: {size[0]}x{size[1]} is assumed from the coordinates; "
                "give the sensor size if that is wrong"
            )
        self.width, self.height = size
        self.metadata["geometry_source"] = source
        first, last = self._records(0, 1), self._records(n - 1, n)
        self._t_first = int(first[0, 0])
        # a recording over 71.6 min has wrapped; then only a full pass knows the end
        self._duration = int(last[0, 0]) - self._t_first if int(last[0, 0]) >= self._t_first else None
        self._choose_encoding()

    def _records(self, lo: int, hi: int) -> np.ndarray:
        """Records as (n, 2) uint32."""
        data = np.fromfile(self.path, "<u4", 2 * (hi - lo), offset=self._offset + 8 * lo)
        if len(data) != 2 * (hi - lo):
            raise InputError(
                f"expected {self.n_events} events, found the end of {self.path}",
                "the file shrank while it was read: try again when it is complete",
            )
        return data.reshape(-1, 2)

    def _smallest_sensor(self) -> tuple[int, int]:
        right = bottom = 0
        for lo in range(0, self.n_events or 0, _BLOCK):
            word = self._records(lo, min(lo + _BLOCK, self.n_events or 0))[:, 1]
            right, bottom = max(right, int((word & 0x3FFF).max())), max(bottom, int((word >> 14 & 0x3FFF).max()))
        fitting = [size for size in _SENSORS if right < size[0] and bottom < size[1]]
        return fitting[0] if fitting else _SENSORS[-1]  # what lies outside is dropped and counted

    @property
    def t_first_us(self) -> int | None:
        return self._t_first

    @property
    def duration_us(self) -> int | None:
        return self._duration

    def _blocks(self, start: int, end: int | None, max_events: int) -> Iterator[Events]:
        size = min(max_events, _BLOCK)
        loops, before = 0, self._t_first
        n = self.n_events or 0
        for lo in range(0, n, size):
            record = self._records(lo, min(lo + size, n))
            t = record[:, 0].astype(np.int64)
            step = np.diff(t, prepend=before)
            before = int(t[-1])
            # a fall by more than half the range is a wrap, a rise by more than that a glitch back over it
            wraps = loops + np.cumsum((step < -(1 << 31)).astype(np.int64) - (step > 1 << 31))
            wraps -= np.minimum.accumulate(np.minimum(wraps, 0))  # nothing lies before the first wrap
            loops = int(wraps[-1])
            t += wraps << 32
            if t.max() < start:
                continue
            word = record[:, 1]
            yield Events(
                (word & 0x3FFF).astype(np.uint16),
                (word >> 14 & 0x3FFF).astype(np.uint16),
                t,
                (word >> 28 & 1).astype(np.uint8),
            )
            if end is not None and t.min() >= end:
                return
