# SPDX-License-Identifier: Apache-2.0
"""Tables read record by record equal what the json module reads, wherever blocks end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aot_runtime.errors import InputError
from bev_ros.sources import tables
from bev_ros.sources.tables import table_records


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_records_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None) -> None:
    monkeypatch.setattr(tables, "_BLOCK", block)
    records = [{"token": f"{n}]}},{{", "list": [n, [n]], "text": 'ä"\\', "deep": {"a": None}} for n in range(20)]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(table_records(path)) == records


def test_an_empty_list_and_space_around(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("\n [ ]\n")
    assert list(table_records(path)) == []


@pytest.mark.parametrize("text", ["", "{}", "[", '[{"a": 1}', '[{"a": 1},', '[{"a": }]', '[{"a": 1}, 2]', "[nul]"])
def test_broken_files_are_input_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"table\.json"):
        list(table_records(path))


def test_a_broken_record_does_not_pull_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 1000)
    monkeypatch.setattr(tables, "_LARGEST_RECORD", 5000)
    path = tmp_path / "table.json"
    path.write_text('[{"a": broken' + " " * 100_000 + "]")
    with pytest.raises(InputError, match="expected a JSON list of records"):
        list(table_records(path))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a table of records"):
        list(table_records(tmp_path / "absent.json"))
    (tmp_path / "bytes.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(InputError, match="expected a table of records"):
        list(table_records(tmp_path / "bytes.json"))
