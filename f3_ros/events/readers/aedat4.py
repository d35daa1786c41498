# SPDX-License-Identifier: Apache-2.0
"""iniVation AEDAT4 files, through the vendor's library `dv-processing` (optional dependency)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.readers.base import ArrayReader
from f3_ros.events.types import Events


class Aedat4Reader(ArrayReader):
    """Reader of the event stream of one AEDAT4 file. Times are absolute, microseconds of Unix time.

    Known limit: the vendor's library checks the file's frame (headers, tables), not its compressed blocks; damage
    inside those may make it loop for ever (seen with 2.0.4).

    Raises:
        InputError: dv-processing is not installed, the file is damaged, or it has no event stream.
    """

    format = "aedat4"

    def __init__(self, path: Path, sensor_size: tuple[int, int] | None = None) -> None:
        super().__init__(path)
        recording = self._open()
        try:
            streams = list(recording.getStreamNames())
            if not recording.isEventStreamAvailable():
                raise InputError(
                    f'expected a stream "events", found {streams or "no streams"} in {path}',
                    "record the camera's events too",
                )
            size = recording.getEventResolution()
            self.metadata["streams"] = streams
            self.metadata["camera"] = recording.getCameraName()
            self._span = recording.getTimeRange()
            batch = recording.getNextEventBatch()
            self._t_first = int(batch.getLowestTime()) if batch is not None and len(batch) else None
        except RuntimeError as error:
            raise self._damaged(error) from error
        self.width, self.height = (int(size[0]), int(size[1])) if size is not None else sensor_size or (640, 480)
        self.metadata["geometry_source"] = "file" if size is not None else "parameter" if sensor_size else "default"
        if size is None and sensor_size is None:
            self.notice("the file has no resolution: 640x480 is assumed; give the sensor size if that is wrong")
        self._choose_encoding()

    def _open(self) -> Any:
        try:
            import dv_processing
        except ImportError as error:
            raise InputError(
                f"expected the library dv-processing for {self.path}, found none",
                "install it with: python -m pip install dv-processing",
            ) from error
        if self.path.suffix.lower() != ".aedat4":
            raise InputError(
                f"expected an AEDAT4 file named .aedat4 (its library insists), found {self.path}", "rename the file"
            )
        try:
            return dv_processing.io.MonoCameraRecording(str(self.path))
        except RuntimeError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        text = " ".join(str(error).split())[:200]
        return InputError(
            f"expected a complete AEDAT4 file, found one that its library refuses ({text}): {self.path}",
            "copy the recording again, or repair it with the vendor's DV software",
        )

    @property
    def t_first_us(self) -> int | None:
        return self._t_first

    @property
    def duration_us(self) -> int | None:
        return None if self._t_first is None else max(0, int(self._span[1]) - self._t_first)

    def _blocks(self, start: int, end: int | None, max_events: int) -> Iterator[Events]:
        recording = self._open()
        while True:
            try:
                batch = recording.getNextEventBatch()
                if batch is None:
                    return
                if len(batch) == 0 or batch.getHighestTime() < start:
                    continue
                table = batch.numpy()
            except RuntimeError as error:
                raise self._damaged(error) from error
            if end is not None and int(table["timestamp"][0]) >= end:
                return
            for lo in range(0, len(table), max_events):
                part = table[lo : lo + max_events]
                yield Events(
                    part["x"].astype(np.uint16),
                    part["y"].astype(np.uint16),
                    part["timestamp"].astype(np.int64),
                    (part["polarity"] > 0).astype(np.uint8),
                )
