# SPDX-License-Identifier: Apache-2.0
"""The `.pt2` container: a zip of stored members whose AOTInductor metadata carries our manifest. Imports no torch.

torch writes `<name>/data/aotinductor/model/<hash>.wrapper_metadata.json` and `<hash>.kernel_metadata.json` (one
`<hash>_metadata.json` in older releases). torch's static `load_metadata_from_package` reads the first and a loaded
model's `get_metadata()` the second, so the manifest goes into all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import METADATA_KEY

_METADATA = re.compile(r"(?:^|/)data/aotinductor/model/[^/]+_metadata\.json$")
_MAX_METADATA = 16 << 20
_CHUNK = 4 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
# What zipfile and zlib raise on bytes that were changed on purpose or by accident.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    LookupError,
    MemoryError,
)
_COPY_AGAIN = "copy it again and compare sha256sum, or export the model again"


class NotAPackage(ArtifactError):
    """The file is no zip archive, or a truncated one."""


class DamagedPackage(ArtifactError):
    """The archive's bytes differ from what was written."""


class NoManifest(ArtifactError):
    """An archive without our manifest."""


def _open(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except _ZIP_ERRORS as error:
        size = Path(path).stat().st_size
        raise NotAPackage(
            f"expected a .pt2 archive, found {path} truncated or no archive ({size} bytes; {error})", _COPY_AGAIN
        ) from error


def check_members(path: str | os.PathLike[str]) -> None:
    """Read every member and compare its CRC-32.

    Raises:
        NotAPackage, DamagedPackage: see there; OSError: the file cannot be read.
    """
    with _open(path) as archive:
        for info in archive.infolist():
            try:
                with archive.open(info) as member:
                    while member.read(_CHUNK):
                        pass
            except OSError:
                raise
            except _ZIP_ERRORS as error:
                raise DamagedPackage(
                    f"expected the bytes that the export wrote, found member {info.filename} changed "
                    f"in {path} ({error})",
                    _COPY_AGAIN,
                ) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The AOTInductor metadata (our manifest among it), merged over the metadata members.

    Raises:
        NotAPackage, DamagedPackage, NoManifest (no metadata member at all); OSError.
    """
    with _open(path) as archive:
        members = [info for info in archive.infolist() if _METADATA.search(info.filename)]
        if not members:
            raise NoManifest(
                f"expected an AOTInductor package with a manifest, found no metadata in {path}",
                "export the model with the export command of its family",
            )
        merged: dict[str, str] = {}
        for info in members:
            if info.file_size > _MAX_METADATA:
                raise DamagedPackage(
                    f"expected metadata of at most {_MAX_METADATA} bytes, found {info.file_size} in {path}", _COPY_AGAIN
                )
            try:
                data = json.loads(archive.read(info))
            except OSError:
                raise
            except (*_ZIP_ERRORS, RecursionError) as error:
                raise DamagedPackage(
                    f"expected JSON metadata, found member {info.filename} damaged in {path} ({error})", _COPY_AGAIN
                ) from error
            if not isinstance(data, dict):
                raise DamagedPackage(f"expected a JSON object, found other metadata in {path}", _COPY_AGAIN)
            merged.update({str(key): value for key, value in data.items() if isinstance(value, str)})
        return merged


def read_manifest_json(path: str | os.PathLike[str]) -> str:
    """The manifest's JSON text.

    Raises:
        as read_metadata; NoManifest: the metadata has no manifest.
    """
    metadata = read_metadata(path)
    if METADATA_KEY not in metadata:
        raise NoManifest(
            f"expected a manifest (metadata {METADATA_KEY}), found none in {path}",
            "export the model with the export command of its family",
        )
    return metadata[METADATA_KEY]


def write_with_manifest(
    compiled: str | os.PathLike[str], destination: str | os.PathLike[str], manifest_json: str
) -> None:
    """Copy a freshly compiled package member by member, stored as it is, with the manifest added to its metadata.

    torch bakes metadata at compile time, when parity and golden are not known yet; the container is rewritten once,
    which costs one copy of the file, instead of compiling twice.

    Raises:
        NoManifest: the package has no metadata member to extend.
    """
    extended = 0
    with zipfile.ZipFile(compiled) as source, zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            entry = zipfile.ZipInfo(info.filename, _EPOCH)
            entry.external_attr = 0o644 << 16
            if _METADATA.search(info.filename):
                data = json.loads(source.read(info))
                data[METADATA_KEY] = manifest_json
                target.writestr(entry, json.dumps(data))
                extended += 1
                continue
            entry.file_size = info.file_size
            with source.open(info) as reader, target.open(entry, "w", force_zip64=info.file_size >= 1 << 31) as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)
    if not extended:
        raise NoManifest(f"expected AOTInductor metadata, found none in {compiled}", "use torch 2.11 or newer")
