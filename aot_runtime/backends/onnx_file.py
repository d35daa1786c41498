# SPDX-License-Identifier: Apache-2.0
"""The `.onnx` container: a protobuf ModelProto with our manifest among its metadata properties. Imports no onnx.

The manifest and a digest are the last two fields of the file (protobuf allows fields in any order), appended to the
bytes that the exporter wrote:

    exporter's bytes | metadata_props "aot_perception.manifest" | metadata_props "aot_perception.sha256"

The digest is the SHA-256 of every byte before the last field, in hexadecimal digits, as protobuf has no checksum of
its own. Weights above protobuf's limit of 2 GB lie in one file beside the model; the property
"aot_perception.external_data" before the manifest names it and its digest: "<64 hex digits>  <name>".
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aot_runtime.backends.package import DamagedPackage, NoManifest, NotAPackage
from aot_runtime.files import sha256_file
from aot_runtime.manifest import METADATA_KEY

DIGEST_KEY = "aot_perception.sha256"
EXTERNAL_KEY = "aot_perception.external_data"
# Field numbers of ModelProto and of StringStringEntryProto in onnx.proto.
_METADATA_PROPS = 14
_GRAPH = 7
_KEY, _VALUE = 1, 2
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
_MAX_PROPERTY = 16 << 20
_CHUNK = 4 << 20
_COPY_AGAIN = "copy it again and compare sha256sum, or export the model again"
_EXPORT = "export the model with the export command of its family"


@dataclass(frozen=True)
class _Field:
    """One top-level field: where its tag begins, its number, and where its payload lies (length -1: no payload)."""

    start: int
    number: int
    payload: int
    length: int


def read_properties(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata properties of an ONNX file.

    Raises:
        NotAPackage: the bytes are no ONNX model, or a truncated one; OSError.
    """
    with open(path, "rb") as handle:
        found: dict[str, str] = {}
        has_graph = False
        for field in _fields(handle, path):
            has_graph = has_graph or field.number == _GRAPH
            if field.number == _METADATA_PROPS and field.length >= 0:
                key, value = _property(handle, field, path)
                found[key] = value
        if not has_graph:
            raise _not_a_model(path, "no graph")
        return found


def read_manifest_json(path: str | os.PathLike[str]) -> str:
    """The manifest's JSON text.

    Raises:
        as read_properties; NoManifest.
    """
    properties = read_properties(path)
    if METADATA_KEY not in properties:
        raise NoManifest(f"expected a manifest (metadata property {METADATA_KEY}), found none in {path}", _EXPORT)
    return properties[METADATA_KEY]


def check_digest(path: str | os.PathLike[str]) -> None:
    """Compare the file's bytes, and those of the weights beside it, with the digests that the export wrote.

    Raises:
        as read_properties; NoManifest: no digest; DamagedPackage.
    """
    with open(path, "rb") as handle:
        expected, covered, external = "", 0, ""
        has_graph = False
        for field in _fields(handle, path):
            has_graph = has_graph or field.number == _GRAPH
            if field.number == _METADATA_PROPS and field.length >= 0:
                key, value = _property(handle, field, path)
                if key == DIGEST_KEY:
                    expected, covered = value, field.start
                elif key == EXTERNAL_KEY:
                    external = value
            elif expected:
                raise DamagedPackage(f"expected the digest to end the file, found more after it in {path}", _COPY_AGAIN)
        if not has_graph:
            raise _not_a_model(path, "no graph")
        if not expected:
            raise NoManifest(f"expected a digest (metadata property {DIGEST_KEY}), found none in {path}", _EXPORT)
        if _digest(handle, covered) != expected:
            raise DamagedPackage(f"expected the bytes that the export wrote, found others in {path}", _COPY_AGAIN)
    if external:
        _check_external(Path(path), external)


def external_file(path: str | os.PathLike[str]) -> Path | None:
    """The file of weights beside the model, or None where they are inside.

    Raises:
        as read_properties.
    """
    told = read_properties(path).get(EXTERNAL_KEY, "")
    return Path(path).parent / told[66:] if told else None


def _check_external(path: Path, told: str) -> None:
    match = re.fullmatch(r"([0-9a-f]{64})  ([^/\\\0]+)", told)
    if match is None:
        raise DamagedPackage(f"expected '<64 hex digits>  <file>', found {told!r:.90} in {path}", _COPY_AGAIN)
    weights = path.parent / match.group(2)
    if not weights.is_file():
        raise DamagedPackage(
            f"expected the weights of {path} beside it, found no file {weights}", f"copy {weights.name} along with it"
        )
    if sha256_file(weights) != match.group(1):
        raise DamagedPackage(f"expected the weights that the export wrote, found others in {weights}", _COPY_AGAIN)


def write_with_manifest(
    exported: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    manifest_json: str,
    external: tuple[str, str] | None = None,
) -> None:
    """Copy an exporter's file and append the manifest and the digest.

    Args:
        external: (SHA-256, name) of the file of weights beside `destination`.
    """
    digest = hashlib.sha256()
    with open(exported, "rb") as source, open(destination, "wb") as target:

        def put(data: bytes) -> None:
            digest.update(data)
            target.write(data)

        while chunk := source.read(_CHUNK):
            put(chunk)
        if external is not None:
            put(_encode_property(EXTERNAL_KEY, f"{external[0]}  {external[1]}"))
        put(_encode_property(METADATA_KEY, manifest_json))
        target.write(_encode_property(DIGEST_KEY, digest.hexdigest()))


def _digest(handle: BinaryIO, count: int) -> str:
    digest = hashlib.sha256()
    handle.seek(0)
    while count:
        chunk = handle.read(min(count, _CHUNK))
        if not chunk:
            break
        digest.update(chunk)
        count -= len(chunk)
    return digest.hexdigest()


def _encode_property(key: str, value: str) -> bytes:
    pair = b"".join(
        _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(text)) + text
        for number, text in ((_KEY, key.encode()), (_VALUE, value.encode()))
    )
    return _varint(_METADATA_PROPS << 3 | _LENGTH_DELIMITED) + _varint(len(pair)) + pair


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _not_a_model(path: str | os.PathLike[str], why: str) -> NotAPackage:
    size = Path(path).stat().st_size
    return NotAPackage(f"expected an ONNX model, found {path} truncated or no model ({size} bytes; {why})", _COPY_AGAIN)


def _fields(handle: BinaryIO, path: str | os.PathLike[str]) -> Iterator[_Field]:
    """The top-level fields, payloads skipped; the handle may be moved between steps."""
    size = os.fstat(handle.fileno()).st_size
    position = 0
    while position < size:
        start = position
        handle.seek(position)
        head = handle.read(20)
        tag, used = _read_varint(head, 0, path)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH_DELIMITED:
            length, used = _read_varint(head, used, path)
            field = _Field(start, number, start + used, length)
            position = start + used + length
        elif kind == 0:
            _, used = _read_varint(head, used, path)
            field = _Field(start, number, start + used, -1)
            position = start + used
        elif kind in _FIXED_SIZES:
            field = _Field(start, number, start + used, -1)
            position = start + used + _FIXED_SIZES[kind]
        else:
            raise _not_a_model(path, f"wire type {kind} at byte {start}")
        if number == 0 or position > size:
            raise _not_a_model(path, f"a field that ends at byte {position}")
        yield field


def _read_varint(data: bytes, position: int, path: str | os.PathLike[str]) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _not_a_model(path, "the end of the file within a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _not_a_model(path, "a number of more than 64 bits")


def _property(handle: BinaryIO, field: _Field, path: str | os.PathLike[str]) -> tuple[str, str]:
    if field.length > _MAX_PROPERTY:
        raise DamagedPackage(
            f"expected metadata properties of at most {_MAX_PROPERTY} bytes, found {field.length} in {path}",
            _COPY_AGAIN,
        )
    handle.seek(field.payload)
    data = handle.read(field.length)
    texts = {_KEY: b"", _VALUE: b""}
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position, path)
        length, position = _read_varint(data, position, path)
        if tag & 7 != _LENGTH_DELIMITED or position + length > len(data):
            raise _not_a_model(path, "a malformed metadata property")
        texts[tag >> 3] = data[position : position + length]
        position += length
    try:
        return texts[_KEY].decode(), texts[_VALUE].decode()
    except UnicodeDecodeError as error:
        raise DamagedPackage(f"expected metadata in UTF-8, found {error} in {path}", _COPY_AGAIN) from error
