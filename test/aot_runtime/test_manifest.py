# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import CheckpointInfo, Manifest, UnsupportedSchema

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_json_round_trip(plain_manifest: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(plain_manifest))
    assert json.loads(manifest.to_json()) == plain_manifest
    assert Manifest.from_json(manifest.to_json(indent=1)) == manifest
    assert manifest.inputs[0].shape == ("n", 4)
    assert manifest.dim("n").max == 100
    assert not manifest.checkpoint.is_random
    assert CheckpointInfo.random(5).is_random


def test_manifest_text_is_ascii(plain_manifest: dict[str, Any]) -> None:
    plain_manifest["inputs"][0]["meaning"] = "Größe \u2028"
    text = Manifest.from_json(json.dumps(plain_manifest)).to_json()
    assert text.isascii()
    assert Manifest.from_json(text).inputs[0].meaning == "Größe \u2028"


def test_reading_manifests_and_verdicts_needs_no_torch() -> None:
    code = (
        "import sys, aot_runtime.manifest, aot_runtime.verdict, aot_runtime.files, aot_runtime.environment\n"
        "aot_runtime.environment.this_host()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["family"], 3, "expected a string at manifest.family, found 3 in a.pt2"),
        (["inputs"], [], r"expected one or more tensors .* at manifest.inputs"),
        (["inputs", 0, "dtype"], "float33", "expected one of float32, .* at manifest.inputs x.dtype, found 'float33'"),
        (["inputs", 0, "shape"], ["m", 4], "names of dims at manifest.inputs x.shape"),
        (["inputs", 0, "shape"], [-1, 4], "sizes >= 0 or names of dims at manifest.inputs x.shape"),
        (["inputs", 0, "shape"], [1.5], r"an integer or a string at manifest.inputs\[0\].shape\[0\], found 1.5"),
        (["inputs", 0, "shape"], [True, 4], r"at manifest.inputs\[0\].shape\[0\], found True"),
        (["dims", 0, "min"], 200, "0 <= min <= max at manifest.dims n"),
        (["precision"], "fp4", "fp32, fp16, bf16, int8, fp8 at manifest.precision, found 'fp4'"),
        (["target", "runtime"], "tvm", "onnxruntime, tensorrt, tensorrt_rtx at manifest.target.runtime"),
        (["target", "device"], "tpu", "cpu or cuda at manifest.target.device"),
        (["target", "cpu_flags"], "avx", "a list at manifest.target.cpu_flags"),
        (["golden", "seed"], -1, "an unsigned 64-bit integer at manifest.golden.seed"),
        (["golden", "inputs", 0, "shape"], [101, 4], "a shape that fits .* at manifest.golden.inputs x.shape"),
        (["golden", "inputs", 0, "name"], "z", "the manifest's names in order at manifest.golden.inputs"),
        (["golden", "outputs", 0, "mean"], "0", r"a finite number at manifest.golden.outputs\[0\].mean"),
        (["golden", "outputs", 0, "values"], [10**400], r"a finite number at manifest.golden.outputs\[0\].values\[0\]"),
        (["preprocessing"], [], "an object at manifest.preprocessing"),
        (["surprise"], 1, "only the fields of schema version 1 at manifest, found .'surprise'."),
        (["schema_version"], "1", "an integer schema_version, found '1' in a.pt2"),
        (["schema_version"], True, "an integer schema_version, found True"),
    ],
)
def test_what_is_wrong_is_named(plain_manifest: dict[str, Any], path: list[Any], value: Any, expected: str) -> None:
    place: Any = plain_manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ArtifactError, match=expected):
        Manifest.from_json(json.dumps(plain_manifest), source="a.pt2")


def test_a_missing_field_is_named(plain_manifest: dict[str, Any]) -> None:
    del plain_manifest["target"]["torch"]
    with pytest.raises(ArtifactError, match=r"expected a value at manifest.target.torch, found 'nothing'"):
        Manifest.from_json(json.dumps(plain_manifest))


def test_another_schema_version_is_its_own_error(plain_manifest: dict[str, Any]) -> None:
    plain_manifest["schema_version"] = 2
    plain_manifest["a field of the future"] = 1
    with pytest.raises(UnsupportedSchema, match=r"schema version 1, found 2 in x.pt2; export the artifact again"):
        Manifest.from_json(json.dumps(plain_manifest), source="x.pt2")


def test_values_json_cannot_say_are_refused(plain_manifest: dict[str, Any]) -> None:
    for value in (float("nan"), object()):
        plain_manifest["preprocessing"] = {}
        manifest = Manifest.from_json(json.dumps(plain_manifest))
        manifest.preprocessing["bad"] = value
        with pytest.raises(ArtifactError, match="finite numbers and plain JSON values"):
            manifest.to_json()


@settings(max_examples=300, deadline=None)
@given(text=st.text() | JSON.map(json.dumps))
def test_any_text_is_a_manifest_or_an_artifact_error(text: str) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)


def test_deeply_nested_json_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json("[" * 100_000)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_mutated_manifest_parses_or_is_an_artifact_error(verdict_cases: dict[str, Any], data: st.DataObject) -> None:
    document = json.loads(json.dumps(verdict_cases["base_manifest"]))
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    try:
        manifest = Manifest.from_json(json.dumps(document))
    except ArtifactError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_fields_that_came_later_are_left_out_where_empty(plain_manifest: dict[str, Any]) -> None:
    """So that a reader of the first artifacts, which refuses unknown fields, reads every `.pt2`."""
    later = {"file_sha256", "source_sha256", "parity_of"}
    document = json.loads(Manifest.from_json(json.dumps(plain_manifest)).to_json())
    assert not later & set(document)
    assert not {"runtime", "runtime_version"} & set(document["target"])
    plain_manifest.update(file_sha256="ab" * 32, source_sha256="cd" * 32, parity_of="onnx", precision="int8")
    plain_manifest["target"].update(runtime="tensorrt", runtime_version="10.3.0")
    manifest = Manifest.from_json(json.dumps(plain_manifest))
    assert json.loads(manifest.to_json()) == plain_manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
