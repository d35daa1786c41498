# SPDX-License-Identifier: Apache-2.0
"""Writers of recordings: HDF5 in M3ED's layout, rosbag2 of EventPackets, Prophesee RAW. All write streams of any length
in bounded memory, and none leaves a half-written file under the final name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from f3_ros.events.codecs import Evt3Encoder
from f3_ros.events.readers.bag_types import EVENT_PACKET, event_typestore
from f3_ros.events.types import Events, Packet

DEFAULT_TOPIC = "/event_camera/events"
STORAGES = ("mcap", "sqlite3")
_CHUNK = 40_000
_BUFFERED = 1 << 18
_SECOND = 1_000_000
_MARGIN_US = 100_000
_LONGEST_MS = 100_000_000  # 28 hours; a longer index comes from garbage times and would fill the disk
_COLUMNS = (("x", np.uint16), ("y", np.uint16), ("t", np.int64), ("p", np.int8))


class M3edWriter:
    """Appends events to an open HDF5 file in M3ED's layout (lzf, chunks of 40,000) and keeps `ms_map_idx`.

    `ms_map_idx[k]` is the index of the first event with t >= 1000 k, for every k below floor(t_last / 1000). Times are
    stored from a whole second before the first event on, so that the index stays short; the attribute `t_offset_us`
    of the camera's group says what to add to get the original times (`open_events` does).

    Args:
        file: h5py file opened for writing.
        width, height: sensor size in pixels.
        camera: "left" or "right".
        calibration: more entries of the `calib` group, e.g. {"intrinsics": [fx, fy, cx, cy]}.
    """

    def __init__(
        self, file: Any, width: int, height: int, camera: str = "left", calibration: dict[str, Any] | None = None
    ) -> None:
        self.file = file
        self.n_events = 0
        self._group = group = file.create_group(f"prophesee/{camera}")
        for name, dtype in _COLUMNS:
            group.create_dataset(name, (0,), dtype, chunks=(_CHUNK,), maxshape=(None,), compression="lzf")
        group.create_dataset("ms_map_idx", (0,), np.uint64, chunks=(_CHUNK,), maxshape=(None,), compression="lzf")
        calib = group.create_group("calib")
        calib["resolution"] = np.array([width, height])
        for key, value in (calibration or {}).items():
            calib[key] = value
        self._offset: int | None = None
        self._newest = -1
        self._n_indexed = 0
        self._parts: list[Events] = []
        self._n_buffered = 0

    @property
    def t_offset_us(self) -> int:
        """What was subtracted from the times; 0 before the first event."""
        return self._offset or 0

    def append(self, events: Events) -> None:
        """Add events; `t` in microseconds, at most 100 ms before the first event.

        Raises:
            InputError: a time before that, or a recording of more than 28 hours.
        """
        if len(events) == 0:
            return
        self._parts.append(events)
        self._n_buffered += len(events)
        if self._n_buffered >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        if not self._parts:
            return
        events = Events.concatenate(self._parts)
        self._parts, self._n_buffered = [], 0
        if self._offset is None:
            # a margin below the first event leaves room for small steps back
            first = int(events.t[0])
            self._offset = max(min(first, 0), first - _MARGIN_US) // _SECOND * _SECOND
            self._group.attrs["t_offset_us"] = self._offset
        t = events.t - self._offset
        if int(t.min()) < 0 or int(t.max()) // 1000 > _LONGEST_MS:
            raise InputError(
                f"expected times within 28 hours after {self._offset} us, "
                f"found {int(events.t.min())}..{int(events.t.max())}",
                "convert a part with --start and --duration",
            )
        running = np.maximum(np.maximum.accumulate(t), self._newest)
        until = int(running[-1]) // 1000 + 1  # every k with 1000 k <= newest time has its first event by now
        marks = np.searchsorted(running, np.arange(self._n_indexed, until) * 1000) + self.n_events
        append_rows(self._group["ms_map_idx"], marks)
        self._n_indexed = until
        self._newest = int(running[-1])
        for name, values in (("x", events.x), ("y", events.y), ("t", t), ("p", events.p)):
            append_rows(self._group[name], values)
        self.n_events += len(events)

    def finish(self) -> None:
        """Write the rest; nothing may be appended after it."""
        self.flush()
        if self.n_events:  # the index ends before the millisecond of the last event
            self._group["ms_map_idx"].resize((int(self._group["t"][-1]) // 1000,))


def append_rows(dataset: Any, values: np.ndarray) -> None:
    """Append to a resizable one-dimensional HDF5 data set."""
    n = dataset.shape[0]
    dataset.resize((n + len(values),))
    dataset[n:] = values


def write_m3ed_h5(
    path: str | Path,
    chunks: Iterable[Events],
    width: int,
    height: int,
    *,
    camera: str = "left",
    calibration: dict[str, Any] | None = None,
    extra: Callable[[M3edWriter], None] | None = None,
) -> int:
    """Write events to an HDF5 file in M3ED's layout; see `M3edWriter`.

    Args:
        path: replaced if it exists, once the new file is complete.
        chunks: events in order of time, t in microseconds.
        extra: called with the writer after the last event, to add ground truth to `writer.file`.

    Returns:
        Number of events.

    Raises:
        InputError: see `M3edWriter.append`.
    """
    import h5py

    with atomic_write(path) as temporary:
        with h5py.File(temporary, "w") as file:
            writer = M3edWriter(file, width, height, camera, calibration)
            for events in chunks:
                writer.append(events)
            writer.finish()
            if extra is not None:
                extra(writer)
        return writer.n_events


def write_packet_bag(
    path: str | Path,
    packets: Iterable[Packet],
    *,
    storage: str = "mcap",
    topic: str = DEFAULT_TOPIC,
    overwrite: bool = False,
) -> int:
    """Write packets to a rosbag2 that Humble and later can play (metadata version 8).

    Args:
        path: the bag's folder; a name that ends with .mcap or .db3 makes that single file instead.
        packets: message times in the bag are the packets' stamps.
        storage: "mcap" or "sqlite3"; a file name decides by itself.
        overwrite: replace an existing bag.

    Returns:
        Number of messages.

    Raises:
        InputError: unknown storage, an existing target, a stamp below zero, or rosbags is not installed.
    """
    path = Path(path)
    storage = {".mcap": "mcap", ".db3": "sqlite3"}.get(path.suffix, storage)
    if storage not in STORAGES:
        raise InputError(f"expected a storage out of {', '.join(STORAGES)}, found {storage!r}", "choose one of these")
    if path.exists() and not overwrite:
        raise InputError(f"expected a new bag, found an existing {path}", "choose another name or allow overwriting")
    with _replacing_folder(path) as temporary:
        n = _write_bag(temporary, packets, storage, topic)
        if path.suffix in (".mcap", ".db3"):
            (single,) = (file for file in temporary.iterdir() if file.suffix == path.suffix)
            with atomic_write(path) as target:
                single.rename(target)
    return n


def _write_bag(folder: Path, packets: Iterable[Packet], storage: str, topic: str) -> int:
    store = event_typestore()
    from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

    message = store.types[EVENT_PACKET]
    header, time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    n = 0
    try:
        with Writer(folder, version=8, storage_plugin=plugin) as writer:
            connection = writer.add_connection(topic, EVENT_PACKET, typestore=store)
            for packet in packets:
                if not 0 <= packet.stamp_ns < 1 << 61:
                    raise InputError(
                        f"expected stamps from zero on, found {packet.stamp_ns} ns", "shift the recording's times"
                    )
                stamp = time(sec=packet.stamp_ns // 1_000_000_000, nanosec=packet.stamp_ns % 1_000_000_000)
                payload = packet.events
                data = payload if isinstance(payload, np.ndarray) else np.frombuffer(payload, np.uint8)
                content = message(
                    header=header(stamp=stamp, frame_id=packet.frame_id),
                    height=packet.height,
                    width=packet.width,
                    seq=packet.seq,
                    time_base=packet.time_base,
                    encoding=packet.encoding,
                    is_bigendian=packet.is_bigendian,
                    events=data,
                )
                writer.write(connection, packet.stamp_ns, store.serialize_cdr(content, EVENT_PACKET))
                n += 1
    except WriterError as error:
        raise InputError(f"expected to write a bag on {topic}, found an error of the library ({error})") from error
    return n


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder of the same name inside a hidden one beside `path`; moved to `path` on success if still there.

    rosbags names the storage file after its folder, hence the same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.parent / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    folder = hidden / path.stem if path.suffix in (".mcap", ".db3") else hidden / path.name
    try:
        yield folder
        if path.suffix in (".mcap", ".db3"):
            return
        if path.exists():
            path.rename(hidden / "old")
        folder.rename(path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_raw(path: str | Path, chunks: Iterable[Events], width: int, height: int) -> int:
    """Write events to a Prophesee RAW file of EVT3 words; returns their number.

    Raises:
        InputError: the sensor exceeds EVT3's 2048 pixels, or a time below zero.
    """
    if width > 2048 or height > 2048:
        raise InputError(
            f"expected a sensor of at most 2048x2048 for EVT3, found {width}x{height}", "write .h5 or a bag instead"
        )
    header = f"% evt 3.0\n% format EVT3;height={height};width={width}\n% geometry {width}x{height}\n% end\n"
    encoder = Evt3Encoder()
    n = 0
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode())
        for events in chunks:
            file.write(bytes(encoder.encode(events)))
            n += len(events)
    return n
