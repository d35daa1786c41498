# SPDX-License-Identifier: Apache-2.0
"""measure_timings on the smallest network: every runtime that is here, and cells that fail in every way."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aliked_ros import measure_timings, timing_cell
from aliked_ros.measure_timings import Row, main, markdown, read_rows, run_cell
from aliked_ros.timing_cell import Cell
from aot_runtime.environment import stamp
from aot_runtime.errors import InputError

SMALL = ["--models", "t16", "--top_k", "50", "--sizes", "64x48", "--runs", "3", "--warmup-runs", "1"]


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell("aliked-t16", 50, 64, 48, "eager", "fp32", "cpu", "", str(tmp_path), 3, 1)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return [*SMALL, "--artifacts", str(tmp_path / "artifacts"), "--output", str(tmp_path / "out" / "timings")]


def test_a_table(command: list[str], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eager and .onnx with official weights, and no engine on a CPU."""
    weights = ["--weights", str(shared / "weights" / "aliked"), "--note", "A note."]
    options = ["--runtimes", "eager", "onnx", "engine", "--precisions", "fp32"]
    assert main([*command, *weights, *options]) == 0
    rows = read_rows(tmp_path / "out" / "timings.json")
    found = {(row.runtime, row.precision): row for row in rows}
    assert len(rows) == len(found) == 3
    measured = [key for key, row in found.items() if row.p50_ms is not None]
    assert measured == [("eager", "fp32"), ("onnx", "fp32")]
    for key in measured:
        row = found[key]
        assert row.reason == ""
        assert None not in (
            row.p50_ms,
            row.p99_ms,
            row.mean_ms,
            row.min_ms,
            row.host_p50_ms,
            row.host_p99_ms,
            row.peak_mib,
        )
        assert (row.cpu_ms or 0) > 0
        assert 0 < (row.min_ms or 0) <= (row.p50_ms or 0) <= (row.p99_ms or 0)
        # Python, PyTorch and the network: more than 50 MiB, less than a machine.
        assert 50 < (row.peak_mib or 0) < 4000
        assert (row.file_mb is None) == (row.runtime == "eager")
        assert (row.model, row.top_k, row.image, row.mode, row.device) == ("aliked-t16", 50, "64x48", "plain", "cpu")
    assert found["engine", "fp32"].reason != ""
    text = (tmp_path / "out" / "timings.md").read_text()
    assert "A note." in text
    assert "| model, K, image, precision | eager | `.onnx` | `.engine` |" in text
    assert "| aliked-t16 50 64x48 fp32 | " in text
    assert " CPU-ms, " in text
    assert "[1] " in text
    assert text in capsys.readouterr().out
    with open(tmp_path / "out" / "timings.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["runtime"] for line in table] == [row.runtime for row in rows]
    assert table[0]["p50_ms"] == str(rows[0].p50_ms)
    document = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert document["environment"]["command"].startswith("measure_timings --models t16")
    assert document["environment"]["threads"] >= 1


def test_an_interrupted_table_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(cell: Cell, timeout_s: float) -> list[Row]:
        asked.append(cell.precision)
        names = (cell.model, cell.top_k, "64x48", cell.runtime, "plain", cell.precision, cell.device)
        if cell.precision == "fp16" and len(asked) < 3:
            return [Row(*names, reason="no time")]
        return [Row(*names, 1.0, 2.0, 1.5, 0.9, 0.8, 3.0, 4.0, 100.0)]

    monkeypatch.setattr(measure_timings, "run_cell", answer)
    options = [*command, "--random-weights", "--runtimes", "eager"]
    assert main(options) == 0
    assert asked == ["fp32", "fp16"]
    # What was measured stays, what failed is tried again.
    assert main([*options, "--resume"]) == 0
    assert asked == ["fp32", "fp16", "fp16"]
    rows = read_rows(tmp_path / "out" / "timings.json")
    assert [(row.precision, row.p50_ms) for row in rows] == [("fp32", 1.0), ("fp16", 1.0)]
    assert main(options) == 0
    assert asked[3:] == ["fp32", "fp16"], "without --resume all is measured anew"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cuda"}, "CUDA"),
        ({"top_k": 5000}, "expected --top_k from 1 to"),
        ({"width": 16}, "expected an image from 32x32 pixels, found 16x48"),
        ({"weights": "absent"}, "aliked-t16.pth"),
        ({"precision": "int8"}, "expected precision fp32, fp16, bf16, found int8"),
        ({"runtime": "onnx"}, "REFUSE"),
        ({"runtime": "onnx", "precision": "bf16", "job": "export"}, "expected precision fp32 or fp16 for ALIKED"),
    ],
)
def test_cells_that_fail_say_why(
    changes: dict[str, Any], reason: str, cell: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert timing_cell.main([json.dumps(asdict(replace(cell, **changes)))]) == 0
    assert reason in json.loads(capsys.readouterr().out.splitlines()[-1])["reason"]


def test_exceptions_and_time_are_reasons(cell: Cell) -> None:
    (row,) = run_cell(replace(cell, runs="three"), 600.0)  # type: ignore[arg-type]
    assert row.reason.startswith("measure failed with exit status 1: "), "the last line of the trace"
    (row,) = run_cell(cell, 0.01)
    assert row.reason == "measure took longer than 0.01 s; give a larger --timeout"


def test_a_cell_that_crashes_is_a_row(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    run = subprocess.run

    def killed(command: list[str], **options: object) -> object:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
        return run([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(measure_timings.subprocess, "run", killed)
    (row,) = run_cell(cell, 60.0)
    assert row.reason == "measure was ended by SIGSEGV"


def test_markdown_has_a_column_for_each_runtime() -> None:
    def row(runtime: str, mode: str, p50: float | None, reason: str = "") -> Row:
        times = (p50, 2 * p50, p50, p50, p50, 3 * p50, 4 * p50, 150.4) if p50 is not None else ()
        return Row("aliked-n16rot", 1000, "640x480", runtime, mode, "fp16", "cuda", *times, reason=reason)

    rows = [
        row("eager", "plain", 3.6),
        row("pt2", "plain", 1.172),
        row("pt2", "CUDA graph", 0.961),
        row("engine", "plain", None, "no TensorRT"),
    ]
    text = markdown(rows, stamp(["measure_timings"]))
    assert "| model, K, image, precision | eager | `.pt2` | `.pt2`, CUDA graph | `.engine` |" in text
    assert (
        "| aliked-n16rot 1000 640x480 fp16 | 3.60 / 7.20 (10.8), 150 MiB | 1.17 / 2.34 (3.52), 150 MiB "
        "| 0.96 / 1.92 (2.88), 150 MiB | - [1] |\n\n[1] no TensorRT\n" in text
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "expected either --weights FOLDER or --random-weights, found neither"),
        (["--weights", "absent"], "expected a folder of checkpoints, found none at absent"),
        (["--random-weights", "--sizes", "640"], "expected a size as 640x480, found '640'"),
        (["--random-weights", "--models", "x16"], "expected the name of an ALIKED network, found 'x16'"),
        (["--random-weights", "--device", "tpu"], "expected a device cpu, cuda or cuda:N, found 'tpu'"),
        (["--random-weights", "--runs", "0"], "expected runs >= 1 and warm-up runs >= 0, found 0 and 1"),
        (["--random-weights", "--timeout", "0"], "expected a --timeout above 0, found 0.0"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    options: list[str], reason: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *options]) == 2
    assert f"error: {reason}" in capsys.readouterr().err


def test_no_table_to_resume(tmp_path: Path) -> None:
    (tmp_path / "timings.json").write_text('{"rows": [{"colour": "blue"}]}')
    with pytest.raises(InputError, match="expected a table of measure_timings"):
        read_rows(tmp_path / "timings.json")
