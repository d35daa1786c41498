# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.inspect import main
from aot_runtime.manifest import Manifest


def test_report_of_a_good_artifact(tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_artifact[0])]) == 0
    printed = capsys.readouterr().out
    for words in ("tiny v1: test", "fp32", "ab" * 32, "MIT", "n (0..100) x 4", "x/W, y/H, k/T, p", "max abs error"):
        assert words in printed
    assert "OK OK:" in printed
    assert "export_tiny --output-name tiny.pt2" in printed


def test_json(tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_artifact[0]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"]["code"] == "OK"
    assert Manifest.from_json(json.dumps(report["manifest"])) == tiny_artifact[1]


def test_exit_codes(
    make_package: Callable[..., Path],
    plain_manifest: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    plain_manifest["target"]["torch"] = "1.0"
    path = make_package(plain_manifest)
    assert main([str(path)]) == 1
    assert "REBUILD" in capsys.readouterr().out
    assert main([str(tmp_path / "none.pt2")]) == 3
    assert "REFUSE MISSING_FILE" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-30])
    assert main([str(path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["manifest"] is None


def test_device_and_allow_list(
    tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tiny_artifact[0])
    assert main([path, "--device", "cuda"]) == 1
    assert "DEVICE_KIND" in capsys.readouterr().out
    (tmp_path / "allow.txt").write_text("00" * 32 + "  x.pt2\n")
    assert main([path, "--allow-list", str(tmp_path / "allow.txt")]) == 3
    assert "NOT_ALLOWED" in capsys.readouterr().out
    assert main([path, "--device", "gpu"]) == 2
    assert "error: expected a device cpu, cuda or cuda:N, found 'gpu'" in capsys.readouterr().err
    assert main([path, "--allow-list", str(tmp_path / "none.txt")]) == 2
    assert "error: expected an allow-list" in capsys.readouterr().err


def test_words_that_look_like_markup_are_printed_as_they_are(
    make_package: Callable[..., Path], plain_manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plain_manifest["inputs"][0]["unit"] = "[red]m[/]"
    plain_manifest["task"] = "[/bold]"
    assert main([str(make_package(plain_manifest))]) in (0, 1)
    printed = capsys.readouterr().out
    assert "[red]m[/]" in printed
    assert "[/bold]" in printed
