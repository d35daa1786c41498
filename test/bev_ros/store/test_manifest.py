# SPDX-License-Identifier: Apache-2.0
"""manifest.json and the rows of the index: round trips, differences, and files that somebody changed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bev_fakes import FakeEncoder, FakeSource, fake_config
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from bev_ros.extraction import manifest_for, split_for
from bev_ros.store.formats import FileFormat
from bev_ros.store.index import MapRecord
from bev_ros.store.manifest import NAME, StoreManifest

ROW: dict[str, Any] = {
    "token": "a", "file": "a.pt", "size": 3, "sha256": "0" * 64, "stamp_ns": 5, "ego_pose": None, "scene": "",
    "calibration": "c", "cameras": ["front"], "missing": [], "coverage": 0.5, "error": 0.0,
}  # fmt: skip
POSE = [[1.0, 0, 0, 0.1], [0, 1, 0, 1e-17], [0, 0, 1, -3], [0, 0, 0, 1]]


def a_manifest() -> StoreManifest:
    return manifest_for(FakeEncoder(), FileFormat()).with_split("train", split_for(FakeSource(3), "train", ("front",)))


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    manifest = a_manifest()
    manifest.write(tmp_path)
    assert StoreManifest.read(tmp_path) == manifest
    assert manifest.differences(manifest) == []
    told = json.loads((tmp_path / NAME).read_text())
    assert told["axes"]["order"] == "C,Y,X"
    assert "grows to the left" in told["axes"]["row"]


def test_differences_name_what_differs() -> None:
    ours = a_manifest()
    config = fake_config(rule="trunc")
    theirs = manifest_for(FakeEncoder(config), FileFormat(dtype="int8"))
    told = "\n".join(ours.differences(theirs))
    for name in (
        "encoder.identity is",
        "grid.rule is 'floor' there and 'trunc' here",
        "files.dtype is 'float16' there",
    ):
        assert name in told
    assert ours.differences(replace(ours, code_version="another", splits={})) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 2}, "schema version 1, found 2"),
        ({"schema_version": True}, "schema version 1, found True"),
        ({"kind": "images"}, "expected kind 'bev_features'"),
        ({"shape": [8, 10]}, r"expected shape \[C, Y, X\]"),
        ({"shape": [8, 20, 10]}, "fits the grid"),
        ({"grid": {}}, "expected a grid"),
        ({"files": {"format": "safetensors"}}, "at files"),
        ({"files": {"format": [], "dtype": "int8", "layout": "auto"}}, "format among"),
        ({"splits": []}, "expected splits by name"),
        ({"splits": {"train": {}}}, "at splits.train, found nothing"),
        (
            {"encoder": {"identity": 3, "config": {}, "random_weights": False, "licence": ""}},
            "encoder.identity, found 3",
        ),
        ({"new": 1}, "at the manifest"),
    ],
)
def test_a_manifest_that_somebody_changed_is_told(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    (tmp_path / NAME).write_text(json.dumps({**a_manifest().to_json(), **change}))
    with pytest.raises(InputError, match=told) as caught:
        StoreManifest.read(tmp_path)
    assert str(tmp_path / NAME) in str(caught.value)


def test_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of BEV features, found no manifest"):
        StoreManifest.read(tmp_path)
    for text in ("", "[1", "NaN", "[" * 5000, "null"):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(InputError, match="expected"):
            StoreManifest.read(tmp_path)


def test_a_row_comes_back_to_the_last_digit() -> None:
    record = MapRecord.from_row({**ROW, "ego_pose": POSE})
    assert MapRecord.from_row(json.loads(json.dumps(record.to_row()))) == record
    pose = record.pose
    assert pose is not None
    assert pose.tolist() == POSE


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../a.pt"}, {"file": "b.pt"}, {"file": "a./x"}, {"token": ""}, {"size": -1}, {"size": 1.5},
        {"sha256": "0"}, {"stamp_ns": "1"}, {"ego_pose": [[1]]}, {"ego_pose": [*POSE[:3], [0, 0, 0, 10**400]]},
        {"cameras": [1]}, {"coverage": float("nan")}, {"error": -1}, {"more": 1}, {"scene": None},
    ],
)  # fmt: skip
def test_a_malformed_row_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a row of a map"):
        MapRecord.from_row({**ROW, **change})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ROW)), JSON)
def test_any_value_in_a_row_is_taken_or_told(name: str, value: Any) -> None:
    with contextlib.suppress(InputError):
        MapRecord.from_row({**ROW, name: value})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_a_manifest_is_taken_or_told(data: st.DataObject) -> None:
    told = a_manifest().to_json()
    inside = data.draw(st.sampled_from([told, told["encoder"], told["files"], told["grid"], told["splits"]["train"]]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(JSON)
    with contextlib.suppress(InputError):
        StoreManifest.from_json(told)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_as_a_manifest_are_taken_or_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    text = bytearray(json.dumps(a_manifest().to_json()).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (folder / NAME).write_bytes(text)
    with contextlib.suppress(InputError):
        StoreManifest.read(folder)
