# SPDX-License-Identifier: Apache-2.0
"""Files of JSON lines that several writers append to, each to a part of its own, and that survive being killed.

A line counts once its newline is on the disk. What a killed writer left of a last line is ignored by readers, and cut
off by the next writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from bev_ros.store.disk import told_when_full


@dataclass(frozen=True)
class LineProblem:
    """A line that is not what it should be; `torn`: the last one, which a killed writer left."""

    file: Path
    number: int
    reason: str
    torn: bool

    def __str__(self) -> str:
        return f"expected a JSON object, found {self.reason} in {self.file} line {self.number}"


def to_line(row: dict[str, Any]) -> bytes:
    """A row as it is stored: the same bytes for the same row."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read_rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[LineProblem]]:
    """The rows of a file with their line numbers (from 1), and the lines that are none. No file: no rows.

    Raises:
        InputError: the file is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise InputError(f"expected a readable file, found {error}") from error
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[LineProblem] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            if line:
                problems.append(LineProblem(path, number, "a line without its end", torn=True))
            break
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            problems.append(LineProblem(path, number, str(error)[:200], torn=False))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            problems.append(LineProblem(path, number, type(row).__name__, torn=False))
    return rows, problems


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON number")


class LineWriter:
    """Appends rows to a file that nobody else may append to meanwhile; each row is on the disk when `add` returns.

    Made by `LineSet.writer`.

    Args:
        path: made if it does not exist.
        sync: False: leave it to the system when rows reach the disk.

    Raises:
        InputError: another process writes this file.
        DiskFull: no space.
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self._path = path
        self._sync = sync
        path.parent.mkdir(parents=True, exist_ok=True)
        with told_when_full(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if not _try_lock(self._handle):
            os.close(self._handle)
            raise InputError(
                f"expected {path} for this process alone, found another one writing it",
                "wait for it, or give each process its own --shard",
            )
        self._cut_torn_line()

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row.

        Raises:
            DiskFull: no space; nothing of the row is left.
        """
        line, before = to_line(row), os.fstat(self._handle).st_size
        with told_when_full(self._path):
            try:
                while line:
                    line = line[os.write(self._handle, line) :]
                if self._sync:
                    os.fsync(self._handle)
            except OSError:
                os.ftruncate(self._handle, before)
                raise

    def close(self) -> None:
        """Lets others write the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._handle).st_size
        end, block = size, 1 << 16
        while end:
            start = max(0, end - block)
            found = os.pread(self._handle, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._handle, end)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: the parts' names keep writers apart, nothing else does.
        return True
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else holds the lock file, and holds it while the body runs; dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with told_when_full(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hold(part: Path, held: contextlib.ExitStack) -> bool:
    """Locks a part until the end of `held`; False if somebody writes it."""
    handle = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    held.callback(os.close, handle)
    return _try_lock(handle)


class LineSet:
    """FOLDER/NAME.jsonl and the parts FOLDER/NAME.WRITER.jsonl that are not merged into it yet.

    Rows are told apart by their "token"; a row in a part replaces the one in the merged file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    @property
    def path(self) -> Path:
        """The merged file."""
        return self._folder / f"{self._name}.jsonl"

    def part(self, writer: str) -> Path:
        """The file of one writer."""
        return self._folder / f"{self._name}.{writer}.jsonl"

    def writer(self, name: str, *, sync: bool = True) -> LineWriter:
        """Appends to the part of the writer of this name; see `LineWriter`."""
        with self._lock():
            return LineWriter(self.part(name), sync=sync)

    def _lock(self) -> AbstractContextManager[None]:
        # Parts are opened and removed under this lock, so nobody writes to a file that has lost its name.
        return locked(self._folder / f".{self._name}.lock")

    def parts(self) -> list[Path]:
        """The files that are not merged, sorted."""
        return sorted(self._folder.glob(f"{self._name}.*.jsonl")) if self._folder.is_dir() else []

    def read(self) -> tuple[dict[str, dict[str, Any]], list[LineProblem]]:
        """All rows by token, and the lines that are no rows."""
        return self._read([self.path, *self.parts()])

    def _read(self, files: Iterable[Path]) -> tuple[dict[str, dict[str, Any]], list[LineProblem]]:
        found: dict[str, dict[str, Any]] = {}
        problems: list[LineProblem] = []
        for file in files:
            rows, wrong = read_rows(file)
            problems += wrong
            for number, row in rows:
                if isinstance(token := row.get("token"), str):
                    found[token] = row
                else:
                    problems.append(LineProblem(file, number, "one without a token", torn=False))
        return found, problems

    def merge(self, drop: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
        """Brings the parts that nobody writes any more into the merged file, sorted by token, and removes them.

        Lines that are no rows are left behind. Without rows there is no file afterwards.

        Args:
            drop: tokens whose rows are left out.

        Returns:
            The rows now in the merged file.
        """
        with self._lock(), contextlib.ExitStack() as held:
            parts = [part for part in self.parts() if _hold(part, held)]
            rows, problems = self._read([self.path, *parts])
            dropped = [rows.pop(token) for token in set(drop) if token in rows]
            if parts or problems or dropped:
                self._write(rows)
            for part in parts:
                part.unlink(missing_ok=True)
        return rows

    def _write(self, rows: dict[str, dict[str, Any]]) -> None:
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        with told_when_full(self.path), atomic_write(self.path) as temporary:
            temporary.write_bytes(b"".join(to_line(rows[token]) for token in sorted(rows)))
