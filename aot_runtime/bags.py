# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3 and mcap) read through `rosbags`, without ROS."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aot_runtime.errors import InputError


def standard_typestore() -> Any:
    """A new rosbags type store of the standard messages (those of Jazzy).

    Raises:
        InputError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise InputError(
            "expected the library rosbags for reading and writing bags, found none",
            "install it with: python -m pip install rosbags",
        ) from error
    return get_typestore(Stores.ROS2_JAZZY)


def is_bag(path: Path) -> bool:
    """Whether the path looks like a rosbag2: a storage file, or a folder with metadata or a storage file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(file.suffix in (".mcap", ".db3") for file in path.iterdir())
    return path.suffix in (".mcap", ".db3")


def storage_path(path: Path) -> Path:
    """What rosbags shall open: the bag folder, or the only storage file of a folder without metadata.yaml.

    Raises:
        InputError: the folder holds neither, or there is nothing at the path.
    """
    if path.is_file():
        if path.suffix not in (".mcap", ".db3"):  # rosbags chooses the storage by the suffix
            raise InputError(
                f"expected a bag file named .mcap or .db3, found the name {path.name} for {path}", "rename the file"
            )
        return path
    if not path.is_dir():
        raise InputError(f"expected a rosbag2, found nothing at {path}", "check the path")
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "no storage file"
        raise InputError(
            f"expected a rosbag2 folder with metadata.yaml, found {found} in {path}",
            "give one .mcap or .db3 file, or recreate metadata.yaml with: ros2 bag reindex",
        )
    return files[0]


class BagGuard:
    """Turns whatever rosbags and its storage libraries raise on damaged bags into an InputError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"expected a readable rosbag2, found an error of the library ({text}) in {self._path}",
                "copy the bag again, or repair it with: ros2 bag reindex, or: mcap recover",
            ) from error


@contextlib.contextmanager
def open_bag(path: Path) -> Iterator[Any]:
    """An open `rosbags.rosbag2.Reader`.

    Raises:
        InputError: there is no bag, or it is damaged; rosbags is not installed.
    """
    standard_typestore()
    from rosbags.rosbag2 import Reader

    source = storage_path(path)
    with BagGuard(path):
        reader = Reader(source)
        reader.open()
    try:
        yield reader
    finally:
        with contextlib.suppress(Exception):  # a damaged storage may fail to close too; its first error counts
            reader.close()


def bag_messages(
    reader: Any,
    path: Path,
    topics: Collection[str],
    start_ns: int | None = None,
    stop_ns: int | None = None,
) -> Iterator[tuple[Any, int, bytes | memoryview]]:
    """(connection, receive time in ns, serialised message) of the topics, in recorded order, from start to stop.

    Raises:
        InputError: the bag is damaged.
    """
    with BagGuard(path):
        chosen = [connection for connection in reader.connections if connection.topic in topics]
        messages = iter(reader.messages(chosen, start=start_ns, stop=stop_ns)) if chosen else iter(())
    while True:
        with BagGuard(path):
            item = next(messages, None)
        if item is None:
            return
        yield item
