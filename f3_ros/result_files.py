# SPDX-License-Identifier: Apache-2.0
"""Where `f3_offline` writes results: a folder of .npy files, one .npz, or a bag with the node's messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.stream import StreamWindow

Arrays = Mapping[str, np.ndarray]
"""Results of a window by the names of the node's topics, float32: (H, W) or, channels first, (C, H, W)."""
WindowRow = tuple[int, int, int, int, int, bool]


class ResultSink(Protocol):
    """Takes the results of windows one by one."""

    def add(self, index: int, item: StreamWindow, arrays: Arrays, n_used: int) -> None: ...

    def close(self) -> None: ...


def make_sink(output: Path, facts: Mapping[str, str]) -> ResultSink:
    """By the name: X.npz one file, X.mcap a bag folder, anything else a folder of .npy files.

    Args:
        facts: what the values mean, kept beside the times of the windows.
    """
    if output.suffix == ".npz":
        return _Npz(output, facts)
    if output.suffix == ".mcap":
        return _Bag(output)
    return _NpyFolder(output, facts)


class _NpyFolder:
    """One NAME_NNNNNN.npy per result and window, and windows.npz with their times and counts."""

    def __init__(self, folder: Path, facts: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._facts = facts
        self._rows: list[WindowRow] = []

    def add(self, index: int, item: StreamWindow, arrays: Arrays, n_used: int) -> None:
        for name, array in arrays.items():
            np.save(self._folder / f"{name}_{index:06d}.npy", np.ascontiguousarray(array))
        self._rows.append(window_row(item, n_used))

    def close(self) -> None:
        columns: dict[str, Any] = {**window_columns(self._rows), **self._facts}
        np.savez(self._folder / "windows.npz", **columns)


class _Npz:
    """One .npz: each result (windows, ...), and the windows' times and counts. Holds everything in memory."""

    def __init__(self, file: Path, facts: Mapping[str, str]) -> None:
        self._file = file
        self._facts = facts
        self._arrays: dict[str, list[np.ndarray]] = defaultdict(list)
        self._rows: list[WindowRow] = []

    def add(self, index: int, item: StreamWindow, arrays: Arrays, n_used: int) -> None:
        for name, array in arrays.items():
            self._arrays[name].append(array)
        self._rows.append(window_row(item, n_used))

    def close(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        stacked = {name: np.stack(arrays) for name, arrays in self._arrays.items()}
        stacked = stacked or {"features": np.zeros((0, 0, 0, 0), np.float32)}
        columns: dict[str, Any] = {**stacked, **window_columns(self._rows), **self._facts}
        np.savez(self._file, **columns)


class _Bag:
    """A rosbag2 (mcap) with the node's messages on the node's topics, /f3/features and so on. Needs no ROS."""

    def __init__(self, folder: Path) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        from f3_ros.events.readers.bag_types import event_typestore

        if folder.exists():
            raise InputError(f"expected a new bag, found {folder}", "remove it or choose another --output")
        self._store = event_typestore()
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def add(self, index: int, item: StreamWindow, arrays: Arrays, n_used: int) -> None:
        for name, array in arrays.items():
            if name not in self._connections:
                self._connections[name] = self._writer.add_connection(
                    f"/f3/{name}", "sensor_msgs/msg/Image", typestore=self._store
                )
            raw = self._store.serialize_cdr(self._image(item, array), "sensor_msgs/msg/Image")
            self._writer.write(self._connections[name], item.stamp_ns, raw)

    def _image(self, item: StreamWindow, array: np.ndarray) -> Any:
        types = self._store.types
        planes = array if array.ndim == 3 else array[None]
        channels, height, width = planes.shape
        time = types["builtin_interfaces/msg/Time"](item.stamp_ns // 10**9, item.stamp_ns % 10**9)
        pixels = np.ascontiguousarray(planes.transpose(1, 2, 0), "<f4")
        return types["sensor_msgs/msg/Image"](
            header=types["std_msgs/msg/Header"](time, item.frame_id),
            height=height,
            width=width,
            encoding=f"32FC{channels}",
            is_bigendian=0,
            step=width * channels * 4,
            data=pixels.reshape(-1).view(np.uint8),
        )

    def close(self) -> None:
        self._writer.close()


def window_row(item: StreamWindow, n_used: int) -> WindowRow:
    """stamp_ns, start_us, end_us, n_received, n_used, complete."""
    window = item.window
    return (item.stamp_ns, window.start_us, window.end_us, window.n_received, n_used, window.complete)


def window_columns(rows: Sequence[WindowRow]) -> dict[str, np.ndarray]:
    """The rows as arrays by name."""
    names = ("stamp_ns", "start_us", "end_us", "n_received", "n_used", "complete")
    columns = list(zip(*rows)) if rows else [()] * len(names)
    return {name: np.array(column, bool if name == "complete" else np.int64) for name, column in zip(names, columns)}
