# SPDX-License-Identifier: Apache-2.0
"""Every verdict: its kind, its code, and the words of its reason and remedy."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot_runtime.environment import Host
from aot_runtime.errors import ArtifactError
from aot_runtime.files import AllowList, sha256_file
from aot_runtime.manifest import Manifest
from aot_runtime.verdict import Verdict, VerdictError, judge, judge_manifest, judge_with_manifest, parse_device

DATA = Path(__file__).resolve().parent.parent / "data"
TABLE = json.loads((DATA / "verdict_cases.json").read_text())


def patched(document: Any, patch: Any) -> Any:
    if not isinstance(document, dict) or not isinstance(patch, dict):
        return patch
    return {**document, **{key: patched(document.get(key), value) for key, value in patch.items()}}


def host_of(data: dict[str, Any]) -> Host:
    return Host(
        **{
            **data,
            "cpu_flags": frozenset(data["cpu_flags"]),
            "compute_capabilities": tuple(data["compute_capabilities"]),
        }
    )


HOST = host_of(TABLE["base_host"])


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_table_shared_with_cpp(case: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(patched(TABLE["base_manifest"], case["manifest"])))
    verdict = judge_manifest(manifest, case["device"], host_of(patched(TABLE["base_host"], case["host"])), "/a/f.pt2")
    assert (verdict.kind, verdict.code) == (case["kind"], case["code"])
    for words in case["says"]:
        assert words.replace("FILE", "/a/f.pt2") in f"{verdict.reason}; {verdict.remedy}"


def test_the_table_has_every_code_that_manifest_and_machine_decide() -> None:
    source = (DATA.parent.parent / "aot_runtime" / "verdict.py").read_text()
    body = source[source.index("def judge_manifest") : source.index("def self_test_verdict")]
    for code in {case["code"] for case in TABLE["cases"]}:
        assert f'"{code}"' in body


def expect(verdict: Verdict, kind: str, code: str, *words: str) -> None:
    assert (verdict.kind, verdict.code) == (kind, code), verdict
    for word in words:
        assert word in f"{verdict.reason}; {verdict.remedy}", verdict
    assert verdict.ok or verdict.remedy


def test_a_good_package(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    path = make_package(plain_manifest)
    expect(judge(path, "cpu", host=HOST), "OK", "OK", f"{path} may run here")


def test_missing_file(tmp_path: Path) -> None:
    expect(
        judge(tmp_path / "no.pt2", "cpu"), "REFUSE", "MISSING_FILE", f"found no file {tmp_path / 'no.pt2'}", "export"
    )


def test_a_folder(tmp_path: Path) -> None:
    expect(judge(tmp_path, "cpu"), "REFUSE", "UNREADABLE", "no regular file")


def test_unreadable_file(make_package: Callable[..., Path], plain_manifest: dict[str, Any], monkeypatch: Any) -> None:
    path = make_package(plain_manifest)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no file mode stops.
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    expect(judge(path, "cpu", host=HOST), "REFUSE", "UNREADABLE", str(path), "Permission denied", "ls -l")


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -50])
def test_truncated_file(make_package: Callable[..., Path], plain_manifest: dict[str, Any], keep: int) -> None:
    path = make_package(plain_manifest)
    path.write_bytes(path.read_bytes()[:keep])
    expect(
        judge(path, "cpu", host=HOST), "REFUSE", "NOT_A_PACKAGE", "truncated or no archive", "copy it again", "export"
    )


def test_a_text_file_is_no_package(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    expect(judge(path, "cpu"), "REFUSE", "NOT_A_PACKAGE", "43 bytes")


def test_a_changed_byte_in_any_member(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    path = make_package(plain_manifest)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = {info.filename: whole.index(archive.read(info), info.header_offset) for info in archive.infolist()}
    for name, start in starts.items():
        changed = bytearray(whole)
        changed[start + 5] ^= 1
        path.write_bytes(changed)
        expect(judge(path, "cpu", host=HOST), "REFUSE", "DAMAGED", name, "changed in", "copy it again")


def test_a_changed_byte_is_seen_only_when_bytes_are_checked(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any]
) -> None:
    path = make_package(plain_manifest)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(256))) + 9] ^= 255
    path.write_bytes(data)
    assert judge(path, "cpu", host=HOST, check_bytes=False).ok
    expect(judge(path, "cpu", host=HOST), "REFUSE", "DAMAGED", "a.wrapper.so")


def test_missing_manifest(make_package: Callable[..., Path]) -> None:
    path = make_package(None)
    expect(judge(path, "cpu"), "REFUSE", "NO_MANIFEST", f"found none in {path}", "export command of its family")


def test_an_ordinary_zip_has_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    expect(judge(path, "cpu"), "REFUSE", "NO_MANIFEST", "found no metadata")


def test_malformed_manifest(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    expect(judge(make_package("{"), "cpu"), "REFUSE", "BAD_MANIFEST", "expected JSON", "export the artifact again")
    del plain_manifest["golden"]
    expect(judge(make_package(plain_manifest), "cpu"), "REFUSE", "BAD_MANIFEST", "manifest.golden")


def test_schema_version(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    plain_manifest["schema_version"] = 99
    verdict = judge(make_package(plain_manifest), "cpu", host=HOST)
    expect(verdict, "REBUILD", "SCHEMA_VERSION", "schema version 1, found 99", "export the artifact again")


def test_world_writable_file(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    path = make_package(plain_manifest)
    path.chmod(0o666)
    expect(
        judge(path, "cpu", host=HOST), "REFUSE", "WORLD_WRITABLE", f"{path} writable for everybody", f"chmod o-w {path}"
    )


def test_world_writable_folder(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any], tmp_path: Path
) -> None:
    path = make_package(plain_manifest)
    tmp_path.chmod(0o777)
    expect(
        judge(path, "cpu", host=HOST), "REFUSE", "WORLD_WRITABLE", "strangers cannot replace", f"chmod o-w {tmp_path}"
    )
    tmp_path.chmod(0o1777)
    assert judge(path, "cpu", host=HOST).ok


def test_allow_list(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    path = make_package(plain_manifest)
    digest = sha256_file(path)
    assert judge(path, "cpu", AllowList(frozenset({digest})), host=HOST).ok
    assert judge(path, "cpu", {digest}, host=HOST).ok
    verdict = judge(path, "cpu", AllowList(frozenset({"00" * 32}), "allow.txt"), host=HOST)
    expect(verdict, "REFUSE", "NOT_ALLOWED", "digest of allow.txt", digest, f"add the line: {digest}  m.pt2")
    assert judge(path, "cpu", [], host=HOST).code == "NOT_ALLOWED"


def test_random_weights_run_but_say_so(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    plain_manifest["checkpoint"] = {"file": "random", "sha256": "", "licence": "", "random_seed": 11}
    verdict = judge(make_package(plain_manifest), "cpu", host=HOST)
    expect(verdict, "OK", "RANDOM_WEIGHTS", "random (seed 11)", "--checkpoint")
    assert verdict.random_weights


def test_judging_for_this_machine_finds_its_own_torch(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any]
) -> None:
    plain_manifest["target"]["torch"] = "1.0.0"
    assert judge(make_package(plain_manifest), "cpu").code in ("TORCH_VERSION", "MACHINE", "OS")


def test_judge_with_manifest_uses_the_artifacts_own_device(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any], tmp_path: Path
) -> None:
    plain_manifest["target"]["device"] = "cuda"
    verdict, manifest = judge_with_manifest(make_package(plain_manifest))
    assert manifest is not None
    assert verdict.code != "DEVICE_KIND"
    assert judge_with_manifest(tmp_path / "none.pt2") == (judge(tmp_path / "none.pt2", "cpu"), None)


def test_devices() -> None:
    assert parse_device("cpu") == ("cpu", 0)
    assert parse_device("cuda") == ("cuda", 0)
    assert parse_device("cuda:3") == ("cuda", 3)
    for wrong in ("gpu", "cpu:0", "cuda:", "cuda:-1", "", "cuda:1 "):
        with pytest.raises(ArtifactError, match="expected a device cpu, cuda or cuda:N, found"):
            parse_device(wrong)


def test_an_error_carries_its_verdict() -> None:
    verdict = Verdict("REBUILD", "OS", "expected A, found B", "do C")
    error = VerdictError(verdict)
    assert error.verdict is verdict
    assert str(error) == "REBUILD OS: expected A, found B; do C" == str(verdict)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_get_a_verdict_and_nothing_else(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any], data: st.DataObject
) -> None:
    path = make_package(plain_manifest, "fuzz.pt2")
    content = bytearray(path.read_bytes())
    # Half of the changes go to the central directory, where a zip keeps what a reader believes.
    directory = content.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 6))):
        low = directory if data.draw(st.booleans()) else 0
        position = data.draw(st.integers(low, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "delete", "insert"]))
        if kind == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del content[position : position + data.draw(st.integers(1, 40))]
        else:
            content[position:position] = data.draw(st.binary(min_size=1, max_size=40))
        if len(content) <= directory:
            break
    path.write_bytes(content)
    verdict = judge(path, "cpu", host=HOST)
    assert verdict.kind in ("OK", "REBUILD", "REFUSE")
    assert verdict.ok or (verdict.code and verdict.reason)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_random_bytes_are_no_package(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.pt2"
    path.write_bytes(content)
    assert judge(path, "cpu", host=HOST).code == "NOT_A_PACKAGE"
    os.unlink(path)
