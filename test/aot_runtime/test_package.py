# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aot_runtime.backends.package import (
    DamagedPackage,
    NoManifest,
    read_manifest_json,
    read_metadata,
    write_with_manifest,
)
from aot_runtime.manifest import METADATA_KEY, Manifest


def test_the_manifest_is_added_and_every_other_member_kept(make_package: Callable[..., Path], tmp_path: Path) -> None:
    source, target = make_package(None), tmp_path / "out.pt2"
    write_with_manifest(source, target, '{"a": "é\\""}')
    assert read_manifest_json(target) == '{"a": "é\\""}'
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target) as after:
        assert before.namelist() == after.namelist()
        assert all(info.compress_type == zipfile.ZIP_STORED for info in after.infolist())
        for name in before.namelist():
            if not name.endswith("_metadata.json"):
                assert before.read(name) == after.read(name)
            else:
                assert json.loads(after.read(name)) == {**json.loads(before.read(name)), METADATA_KEY: '{"a": "é\\""}'}


def test_a_package_without_metadata_cannot_carry_a_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(NoManifest, match=r"expected AOTInductor metadata, found none in .*torch 2\.11"):
        write_with_manifest(tmp_path / "a.pt2", tmp_path / "b.pt2", "{}")


def test_metadata_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", b" " * (17 << 20))
    with pytest.raises(DamagedPackage, match="metadata of at most 16777216 bytes, found 17825792"):
        read_metadata(path)


@pytest.mark.parametrize("content", ["[]", "nonsense", "[" * 100_000, "\xff"])
def test_metadata_that_is_no_json_object(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", content.encode("latin1"))
    with pytest.raises(DamagedPackage, match="JSON"):
        read_metadata(path)


def test_python_cpp_and_zip_readers_see_the_same_manifest(tiny_artifact: tuple[Path, Manifest]) -> None:
    import torch

    from aot_runtime.backends.aoti import AotiRunner

    path, manifest = tiny_artifact
    text = read_manifest_json(path)
    assert Manifest.from_json(text) == manifest
    # The static function reads the package; get_metadata() is the method that C++ calls on a loaded model.
    static = torch._C._aoti.AOTIModelPackageLoader.load_metadata_from_package(str(path), "model")
    assert static[METADATA_KEY] == text
    assert AotiRunner(path).metadata()[METADATA_KEY] == text


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
def test_the_compiled_library_binds_its_own_symbols(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    # Otherwise std::regex of libtorch, built by another compiler, crashes the load on some machines.
    with zipfile.ZipFile(tiny_artifact[0]) as archive:
        (library,) = [name for name in archive.namelist() if name.endswith(".so")]
        archive.extract(library, tmp_path)
    listing = subprocess.run(["readelf", "-d", str(tmp_path / library)], capture_output=True, text=True, check=True)
    assert "(SYMBOLIC)" in listing.stdout
