# SPDX-License-Identifier: Apache-2.0
"""Tables of records in JSON, read record by record: those of nuScenes have gigabytes, of which little is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aot_runtime.errors import InputError

_BLOCK = 4 << 20
_LARGEST_RECORD = 64 << 20
_LARGEST = 2**53
_BETWEEN = re.compile(r"[\s,]*")


def table_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that holds a JSON list of objects, one after the other; the list is never held as a whole.

    Raises:
        InputError: the file is absent or ends too soon, or something else than an object is in the list.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_BLOCK).lstrip()
            if not text.startswith("["):
                raise InputError(f"expected a JSON list of records, found {text[:20]!r} in {path}")
            at = 1
            while True:
                at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
                if text[at : at + 1] == "]":
                    return
                try:
                    record, at = decoder.raw_decode(text, at)
                except ValueError as error:  # the record goes on in the next block, or it is broken
                    more = file.read(_BLOCK)
                    text, at = text[at:] + more, 0
                    if not more or len(text) > _LARGEST_RECORD:
                        raise InputError(
                            f"expected a JSON list of records, found {str(error).partition(':')[0]} near {text[:40]!r} "
                            f"in {path}",
                            "copy the file again: it may be cut off",
                        ) from error
                    continue
                if not isinstance(record, dict):
                    raise InputError(f"expected records (JSON objects), found {str(record)[:40]} in {path}")
                yield record
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a table of records, found {error} for {path}", "check the data set") from error


def value_of(record: Mapping[str, Any], field: str, path: Path) -> Any:
    """A field of a record.

    Raises:
        InputError: the record has no such field.
    """
    try:
        return record[field]
    except KeyError:
        raise InputError(f"expected the field '{field}' in the record {_name(record)}, found none in {path}") from None


def text_of(record: Mapping[str, Any], field: str, path: Path) -> str:
    """A field that holds a text, such as a token.

    Raises:
        InputError: there is no such field, or it is none.
    """
    found = value_of(record, field, path)
    if not isinstance(found, str):
        raise InputError(f"expected a text as '{field}', found {found!r:.40} in the record {_name(record)} of {path}")
    return found


def whole_of(record: Mapping[str, Any], field: str, path: Path) -> int:
    """A field that holds a whole number from 0 to 2^53.

    Raises:
        InputError: there is no such field, or it is none.
    """
    found = value_of(record, field, path)
    if not isinstance(found, (int, float)) or not 0 <= found <= _LARGEST or found != int(found):
        raise InputError(
            f"expected a whole number as '{field}', found {found!r:.40} in the record {_name(record)} of {path}"
        )
    return int(found)


def _name(record: Mapping[str, Any]) -> str:
    return str(record.get("token") or record.get("name") or dict(record))[:60]
