# SPDX-License-Identifier: Apache-2.0
"""Readers of recorded events: one function opens every supported file or bag.

    with open_events("recording.raw") as reader:
        for events in reader.chunks():
            ...

Prophesee RAW (EVT2, EVT2.1, EVT3) and DAT; AEDAT4 (with the library dv-processing); HDF5 in the layouts of M3ED, DSEC,
MVSEC and TartanAir; rosbag2 (sqlite3, mcap) of EventPacket and EventArray messages.
"""

from __future__ import annotations

from pathlib import Path

from aot_runtime.errors import InputError
from f3_ros.events.readers.base import ArrayReader, EventReader, ReadStats

__all__ = ["ArrayReader", "EventReader", "ReadStats", "open_events"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MCAP_MAGIC = b"\x89MCAP"
_SQLITE_MAGIC = b"SQLite format 3\x00"
_AEDAT4_MAGIC = b"#!AER-DAT4"
_SUPPORTED = ".raw, .dat, .aedat4, .h5/.hdf5, a rosbag2 folder, .mcap or .db3"


def open_events(
    path: str | Path,
    *,
    topic: str | None = None,
    camera: str = "left",
    sensor_size: tuple[int, int] | None = None,
    rectify: bool = False,
) -> EventReader:
    """Open a recording; its kind follows from its first bytes, not from its name.

    Args:
        path: file or bag folder.
        topic: event topic of a bag; None takes the only one.
        camera: "left" or "right", for HDF5 files with two cameras.
        sensor_size: (width, height) in pixels, for files that do not say it themselves.
        rectify: move events to rectified pixels (DSEC with rectify_map.h5 only).

    Returns:
        A reader; close it or use it as a context manager.

    Raises:
        InputError: the file is absent, empty, damaged or of an unknown kind; the message says what was found.
    """
    path = Path(path)
    if sensor_size is not None and not all(1 <= side <= 1 << 15 for side in sensor_size):
        raise InputError(
            f"expected a sensor size of 1..32768 pixels a side, found {sensor_size[0]}x{sensor_size[1]}",
            "give it as width and height",
        )
    reader = _open(path, topic, camera, sensor_size, rectify)
    if rectify and not getattr(reader, "_rectify", False):
        reader.close()
        raise InputError(
            f"expected a DSEC file for rectification, found {reader.format} in {path}", "leave rectification out"
        )
    return reader


def _open(
    path: Path, topic: str | None, camera: str, sensor_size: tuple[int, int] | None, rectify: bool
) -> EventReader:
    head = _first_bytes(path)
    if head is None or head.startswith((_MCAP_MAGIC, _SQLITE_MAGIC)):
        from f3_ros.events.readers.bag import BagReader

        return BagReader(path, topic)
    if head.startswith(_HDF5_MAGIC):
        from f3_ros.events.readers.hdf5 import Hdf5Reader

        return Hdf5Reader(path, camera, sensor_size, rectify)
    if head.startswith(_AEDAT4_MAGIC):
        from f3_ros.events.readers.aedat4 import Aedat4Reader

        return Aedat4Reader(path, sensor_size)
    if head.startswith(b"%"):
        if _is_raw(path):
            from f3_ros.events.readers.raw import RawReader

            return RawReader(path, sensor_size)
        from f3_ros.events.readers.dat import DatReader

        return DatReader(path, sensor_size)
    raise InputError(
        f"expected a recording of events ({_SUPPORTED}), found unknown content (first bytes {head[:8].hex(' ')}) "
        f"in {path}",
        "check that the file is complete and of a supported kind",
    )


def _first_bytes(path: Path) -> bytes | None:
    """The start of a file; None for a folder."""
    try:
        if path.is_dir():
            return None
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(
            f"expected a readable recording, found {error.strerror or error} for {path}", "check the path"
        ) from error
    if not head:
        raise InputError(f"expected a recording of events, found an empty file: {path}", "copy or record it again")
    return head


def _is_raw(path: Path) -> bool:
    """RAW headers name the encoding; DAT headers never do."""
    from f3_ros.events.readers.prophesee_header import read_header

    header = read_header(path, blank_required=True)
    if header.fields.keys() & {"evt", "format"}:
        return True
    return path.suffix.lower() == ".raw"
