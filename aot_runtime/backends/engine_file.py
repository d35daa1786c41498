# SPDX-License-Identifier: Apache-2.0
"""The `.engine` container: TensorRT's bytes as they are, and `X.engine.json` beside them, bound by SHA-256.

TensorRT offers no place for metadata inside an engine. The pair is written engine first, manifest last: a process that
is killed between the two leaves a pair whose digests differ, which the verdict calls damaged. Imports no TensorRT.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aot_runtime.backends.package import DamagedPackage, NoManifest
from aot_runtime.errors import ExportError
from aot_runtime.files import atomic_write, sha256_file

_MAX_MANIFEST = 16 << 20
_BUILD = "build it again: build_engine MODEL.onnx -o"


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """X.engine -> X.engine.json."""
    return Path(f"{os.fspath(path)}.json")


def read_manifest_json(path: str | os.PathLike[str]) -> str:
    """The manifest's JSON text.

    Raises:
        NoManifest: no file beside the engine, or one that is no text; OSError.
    """
    beside = manifest_path(path)
    try:
        with open(beside, "rb") as handle:
            data = handle.read(_MAX_MANIFEST + 1)
    except FileNotFoundError:
        raise NoManifest(
            f"expected the manifest {beside}, found no such file", f"copy it along with the engine, or {_BUILD} {path}"
        ) from None
    try:
        if len(data) > _MAX_MANIFEST:
            raise ValueError(f"more than {_MAX_MANIFEST} bytes")
        return data.decode()
    except ValueError as error:
        raise NoManifest(
            f"expected a manifest in UTF-8, found {beside} unreadable ({error})", f"{_BUILD} {path}"
        ) from error


def check_digest(path: str | os.PathLike[str], digest: str | None = None) -> None:
    """Compare the engine's bytes with the digest of its manifest; `digest` spares reading a file already digested.

    Raises:
        as read_manifest_json; NoManifest: the manifest has no digest; DamagedPackage.
    """
    text = read_manifest_json(path)
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        return  # Manifest.from_json tells what is wrong with it.
    expected = document.get("file_sha256") if isinstance(document, dict) else None
    if not isinstance(expected, str) or len(expected) != 64:
        raise NoManifest(
            f"expected the engine's SHA-256 (file_sha256), found none in {manifest_path(path)}", f"{_BUILD} {path}"
        )
    found = digest or sha256_file(path)
    if found != expected:
        raise DamagedPackage(
            f"expected the engine of SHA-256 {expected[:12]}..., found {found[:12]}... "
            f"({Path(path).stat().st_size} bytes) in {path}",
            "copy the engine and its .json again, or build it again",
        )


def write(path: str | os.PathLike[str], engine: bytes, manifest_json: str) -> None:
    """Write the pair atomically, one file after the other; `manifest_json` has the engine's digest."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(engine)
    with atomic_write(manifest_path(path)) as temporary:
        temporary.write_text(manifest_json + "\n", encoding="utf-8")


@contextlib.contextmanager
def build_lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[bool]:
    """Hold the right to build `path`; yields whether another process held it first (its engine may serve).

    The kernel frees the lock of a process that dies. The lock file `.X.engine.lock` stays: removing it would let two
    processes hold locks on two files of the same name.

    Raises:
        ExportError: another process holds it, and `wait` is False.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.parent / f".{target.name}.lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waited = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            if not wait:
                raise ExportError(
                    f"expected to build {path} alone, found process {holder} building it",
                    "wait for it, or write another file",
                ) from None
            waited = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield waited
    finally:
        os.close(handle)
