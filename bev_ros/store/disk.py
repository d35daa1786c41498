# SPDX-License-Identifier: Apache-2.0
"""Free space: asked for before and while files are written, and told in words when there is none."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from aot_runtime.errors import AotError, InputError

MARGIN = 1.05
"""Space wanted for each byte of features: the index and the file system's own records come on top."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFull(AotError):
    """There is no space for what shall be written."""


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of the nearest existing parent of `path`."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def require_space(path: Path, count: int, each: int) -> None:
    """Checks that `count` files of `each` bytes and their index have room.

    Raises:
        DiskFull: they have not.
    """
    wanted, free = round(count * each * MARGIN), free_bytes(path)
    if free < wanted:
        raise DiskFull(
            f"expected {told_bytes(wanted)} free for {count} samples of {told_bytes(each)}, found {told_bytes(free)} "
            f"at {path}",
            "free space (--resume goes on with what is stored), or choose another --output_dir, a smaller --dtype or "
            "fewer samples",
        )


@contextlib.contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """Turns what the system says of a full disk, a spent quota or a limit on files' sizes into `DiskFull`.

    Whatever else keeps it from writing becomes an `InputError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"expected room for {path}, found none left ({error.strerror})",
                "free space and run the same command with --resume; everything told as stored is complete",
            ) from error
        raise InputError(
            f"expected a place to write {path}, found {error.strerror or error}", "check the path and its permissions"
        ) from error


def told_bytes(count: float) -> str:
    """A number of bytes for people: 1.50 GiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while count >= 1024 and power + 1 < len(units):
        count, power = count / 1024, power + 1
    return f"{count:.{2 if power else 0}f} {units[power]}"
