# SPDX-License-Identifier: Apache-2.0
"""Artifacts that tests compile once and keep in the folder of `artifact_cache`, also when tests run in parallel."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While the block runs no other process is in such a block for this path.

    The lock is the kernel's, on a file beside the path that stays: it ends with the process that holds it, however
    that ends, and a process that was forked meanwhile (Ray's, Inductor's) does not inherit it.
    """
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def judged(device: str = "cpu") -> Callable[[Path], bool]:
    """Whether this machine may run the artifact; for engines of other machines `Path.is_file` takes its place."""
    from aot_runtime.verdict import judge

    return lambda path: path.is_file() and judge(path, device).ok


def key_of(sources: Iterable[str], asked: Any = None, state: Mapping[str, Any] | None = None) -> str:
    """What decides what an artifact computes, as 20 hexadecimal digits.

    Args:
        sources: files, or folders of Python files, from the repository's root.
        asked: options; their `repr` counts.
        state: weights by their names.
    """
    from aot_runtime.environment import this_host

    host = this_host()
    digest = hashlib.sha256(repr((host.torch, sorted(host.cpu_flags), host.tensorrt_rtx, asked)).encode())
    for source in sources:
        found = ROOT / source
        for file in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(file.read_bytes())
    for name, value in (state or {}).items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()[:20]


def kept(path: Path, make: Callable[[Path], Any], good: Callable[[Path], bool] | None = None) -> Path:
    """The artifact at `path`, which `make(path)` writes unless it is there and good (`judged()` unless told).

    Of several processes that want it at once one makes it, and the others wait.
    """
    good = good or judged()
    if not good(path):
        with locked(path):
            if not good(path):
                make(path)
    return path


def cached(
    folder: Path,
    name: str,
    suffix: str,
    sources: Iterable[str],
    make: Callable[[Path], Any],
    *,
    asked: Any = None,
    state: Mapping[str, Any] | None = None,
    good: Callable[[Path], bool] | None = None,
) -> Path:
    """The artifact that `make(path)` writes, and writes again when something changes that `key_of` looks at.

    Args:
        folder: of `artifact_cache`.
        name: begins the file's name, before the key.
        suffix: that of the file.
        sources: see `key_of`, as `asked` and `state`.
        make: writes it.
        asked: options.
        state: weights.
        good: see `kept`.
    """
    return kept(folder / f"{name}_{key_of(sources, asked, state)}{suffix}", make, good)
