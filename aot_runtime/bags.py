# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3 and mcap), and rosbag1 files for who asks, read through `rosbags`, without ROS."""

from __future__ import annotations

import contextlib
import struct
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


def is_rosbag1(path: Path) -> bool:
    """Whether the path looks like a rosbag1 file; its messages need a `MessageReader`."""
    return path.suffix == ".bag" and path.is_file()


class BagGuard:
    """Turns whatever rosbags and its storage libraries raise on damaged bags into an InputError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            text = " ".join(str(error).split())[:200] or type(error).__name__
            bag = "rosbag1" if is_rosbag1(self._path) else "rosbag2"
            raise InputError(
                f"expected a readable {bag}, found an error of the library ({text}) in {self._path}",
                "copy the bag again, or repair it with: ros2 bag reindex, mcap recover, or (rosbag1) rosbag reindex",
            ) from error


@contextlib.contextmanager
def open_bag(path: Path, *, rosbag1: bool = False) -> Iterator[Any]:
    """An open `rosbags.rosbag2.Reader`, or with `rosbag1` perhaps one of `rosbags.rosbag1`.

    Raises:
        InputError: there is no bag, or it is damaged; rosbags is not installed.
    """
    standard_typestore()
    kind: Any
    if rosbag1 and is_rosbag1(path):
        from rosbags.rosbag1 import Reader as kind

        source = path
    else:
        from rosbags.rosbag2 import Reader as kind

        source = storage_path(path)
    with BagGuard(path):
        reader = kind(source)
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


class MessageReader:
    """Messages of a bag of either kind as Python objects with the fields that they have in ROS 2.

    Args:
        reader: as `open_bag` yields it.
        path: of the bag, for messages of errors.

    Raises:
        InputError: a rosbag1 carries definitions that cannot be read.
    """

    def __init__(self, reader: Any, path: Path) -> None:
        self._path = path
        self._ros2 = standard_typestore()
        self._ros1: Any = None
        if is_rosbag1(path):
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore

            self._ros1 = get_typestore(Stores.ROS1_NOETIC)
            with BagGuard(path):
                for connection in reader.connections:
                    if connection.msgtype not in self._ros1.fielddefs:
                        found = get_types_from_msg(connection.msgdef.data, connection.msgtype)
                        new = {name: fields for name, fields in found.items() if name not in self._ros1.fielddefs}
                        self._ros1.register(new)

    def message(self, connection: Any, raw: bytes | memoryview) -> Any:
        """The message.

        Raises:
            InputError: the bytes are not of the connection's type.
        """
        with BagGuard(self._path):
            if self._ros1 is None:
                return self._ros2.deserialize_cdr(raw, connection.msgtype)
            found = self._ros1.deserialize_ros1(raw, connection.msgtype)
            if connection.msgtype == "sensor_msgs/msg/CameraInfo":  # the only one here whose fields were renamed
                kind = self._ros2.types[connection.msgtype]
                renamed = {name.lower(): value for name, value in vars(found).items() if name != "__msgtype__"}
                return kind(**renamed)
            return found

    def stamp_ns(self, raw: bytes | memoryview) -> int:
        """The stamp of a message that begins with a header, without reading the rest.

        Raises:
            InputError: there are too few bytes, or nanosec is a second or more.
        """
        try:
            if self._ros1 is not None:
                seconds, nanoseconds = struct.unpack_from("<II", raw, 4)
            else:
                seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
        except (struct.error, IndexError) as error:
            raise InputError(f"expected a message with a header, found {len(raw)} bytes in {self._path}") from error
        if nanoseconds >= 1_000_000_000:
            raise InputError(f"expected a stamp with nanosec below 1e9, found {nanoseconds} in {self._path}")
        return int(seconds) * 1_000_000_000 + int(nanoseconds)
