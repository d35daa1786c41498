# SPDX-License-Identifier: Apache-2.0
"""Files of the artifact contract: atomic writing, digests, permissions, and the list of digests a node accepts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from aot_runtime.errors import ArtifactError

_CHUNK = 4 << 20
_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")
_DIGEST_LINE = re.compile(r"^(?P<digest>[0-9a-fA-F]{64})(?:\s+[* ]?(?P<name>.*))?$")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, sweep: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed onto `path`, on error removed.

    A process that is killed meanwhile leaves at most a hidden temporary file, never a half-written `path`; the next
    write to the same `path` removes what dead processes left. The result is never writable for everybody.

    Args:
        path: of the file.
        sweep: False: leave what dead processes left; for who writes thousands of files into one folder, and calls
            `remove_leftovers` once.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if sweep:
        remove_leftovers(target.parent, (target.name,))
    temporary = target.parent / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, stat.S_IMODE(temporary.stat().st_mode) & ~stat.S_IWOTH)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def remove_leftovers(folder: Path, names: Container[str]) -> None:
    """Removes temporary files in the folder that dead processes left while they wrote files of these names."""
    for entry in folder.iterdir():
        match = _TEMPORARY.match(entry.name)
        if match and match.group("name") in names and not _process_lives(int(match.group("pid"))):
            entry.unlink(missing_ok=True)


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync_directory(folder: Path) -> None:
    """Make a rename durable; file systems that cannot sync a directory lose nothing but that guarantee."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a whole file, as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def permission_problem(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """What is wrong with the permissions of an artifact that will be executed: (reason, remedy), or None.

    An artifact is code. Whoever may write the file, or may rename things in its folder (writable for everybody and
    without the sticky bit), may run code as the node.
    """
    file = Path(path).resolve()
    if file.stat().st_mode & stat.S_IWOTH:
        return (
            f"expected a file that only its owner can change, found {file} writable for everybody",
            f"run chmod o-w {file}",
        )
    folder_mode = file.parent.stat().st_mode
    if folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX:
        return (
            f"expected a folder where strangers cannot replace {file.name}, found {file.parent} writable for everybody",
            f"run chmod o-w {file.parent}",
        )
    return None


@dataclass(frozen=True)
class AllowList:
    """Digests of the artifacts that may be loaded; file format as `sha256sum` prints: "<64 hex digits>  <name>"."""

    digests: frozenset[str]
    source: str = "the allow-list"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AllowList:
        """Read a list; empty lines and lines that begin with # are skipped.

        Raises:
            ArtifactError: the file cannot be read or a line is not a digest.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"expected an allow-list of SHA-256 digests, found {path} unreadable ({error})",
                "write it with: sha256sum *.pt2 > allow.txt",
            ) from error
        digests = set()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _DIGEST_LINE.match(line.strip())
            if match is None:
                raise ArtifactError(
                    f"expected '<64 hex digits>  <name>', found {line.strip()[:80]!r} in {path} line {number}",
                    "write the list with: sha256sum *.pt2 > allow.txt",
                )
            digests.add(match.group("digest").lower())
        return cls(frozenset(digests), str(path))

    def __contains__(self, digest: str) -> bool:
        return digest.lower() in self.digests
