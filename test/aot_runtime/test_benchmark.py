# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.benchmark import find_artifacts, main, measure, percentile
from aot_runtime.errors import InputError
from aot_runtime.export import export_model
from aot_runtime.manifest import Manifest


def test_percentiles_are_nearest_rank() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0], 0.99) == 2.0


def test_warm_up_is_not_timed_and_the_device_is_waited_for() -> None:
    calls: list[str] = []
    durations = iter([0.2, 0.0, 0.0, 0.0])

    def call() -> None:
        calls.append("call")
        time.sleep(next(durations))

    timing = measure(
        call, runs=3, warmup_runs=1, synchronize=lambda: calls.append("wait"), on_run=lambda: calls.append("tick")
    )
    assert calls == ["wait", "call", "wait", "tick"] * 4
    assert (timing.runs, timing.warmup_runs) == (3, 1)
    assert timing.min_ms <= timing.p50_ms <= timing.p99_ms == timing.max_ms < 200
    assert timing.min_ms <= timing.mean_ms <= timing.max_ms


def test_senseless_counts_are_refused() -> None:
    with pytest.raises(InputError, match="runs >= 1 and warm-up runs >= 0, found 0 and 1"):
        measure(lambda: None, runs=0, warmup_runs=1)


def test_table_and_json(
    tiny_artifact: tuple[Path, Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "r.json"
    assert main([str(tiny_artifact[0]), "--runs", "5", "--warmup-runs", "1", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    for words in ("tiny.pt2", "p50 ms", "p99 ms", "mean ms", "peak MB", "events 16x4, scale 8", "torch 2.", "cores"):
        assert words in printed
    report = json.loads(target.read_text())
    (row,) = report["results"]
    assert row["timing"]["runs"] == 5
    assert row["timing"]["p50_ms"] > 0
    assert row["mode"] == "compiled"
    assert row["peak_mb"] > 10
    assert report["environment"]["command"].startswith("benchmark ")
    assert set(report["environment"]) >= {"cpu", "cores", "gpu", "torch", "date", "command"}


def test_every_artifact_of_a_folder(
    tiny_artifact: tuple[Path, Manifest],
    tiny_network: Any,
    export_arguments: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that may not run here is told and left out; one that is named has to run."""
    folder = tmp_path / "artifacts"
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(tiny_artifact[0], folder / "a.pt2")
    export_model(copy.deepcopy(tiny_network), path=folder / "onnx" / "b.onnx", **export_arguments)
    (folder / "c.engine").write_bytes(b"an engine without its manifest")
    table, report_path = tmp_path / "r.csv", tmp_path / "r.json"
    counts = ["--runs", "3", "--warmup-runs", "0"]
    assert main([str(folder), *counts, "--csv", str(table), "--json", str(report_path)]) == 0
    told = capsys.readouterr()
    assert f"not run: {folder / 'c.engine'}: REFUSE NO_MANIFEST" in told.err
    assert "FPS" in told.out
    rows = list(csv.DictReader(table.open()))
    assert [Path(row["artifact"]).name for row in rows] == ["a.pt2", "b.onnx"]
    for row in rows:
        assert float(row["fps"]) == pytest.approx(1e3 / float(row["p50_ms"]))
        assert row["precision"] == "fp32"
        assert float(row["file_mb"]) > 0
        assert float(row["peak_mb"]) > 10
        assert row["torch"]
    report = json.loads(report_path.read_text())
    assert [row["fps"] > 0 for row in report["results"]] == [True, True]
    assert [Path(item["artifact"]).name for item in report["skipped"]] == ["c.engine"]
    assert main([str(folder / "c.engine"), "--runs", "1"]) == 2
    (folder / "a.pt2").unlink()
    (folder / "onnx" / "b.onnx").unlink()
    capsys.readouterr()
    assert main([str(folder)]) == 2
    assert "expected an artifact that runs here, found none of 1" in capsys.readouterr().err


def test_json_on_standard_output(tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_artifact[0]), "--runs", "2", "--warmup-runs", "0", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["model"] == "tiny v1"


def test_a_folder_means_its_artifacts(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.pt2", "a.pt2", "deeper/c.onnx", "deeper/d.engine", "deeper/d.engine.json"):
        shutil.copy(tiny_artifact[0], tmp_path / name)
    (tmp_path / "readme.txt").write_text("")
    names = [path.name for path in find_artifacts([str(tmp_path)])]
    assert names == ["a.pt2", "b.pt2", "c.onnx", "d.engine"]
    with pytest.raises(InputError, match="expected artifacts, found no"):
        find_artifacts([str(_empty(tmp_path))])


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.pt2"], "error: REFUSE MISSING_FILE"),
        (["TINY", "--runs", "0"], "error: expected runs >= 1"),
        (["TINY", "--cuda-graph"], "error: expected a model on CUDA to capture"),
        (["TINY", "--device", "gpu"], "error: expected a device cpu"),
    ],
)
def test_mistakes_are_one_line(
    tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([str(tiny_artifact[0]) if text == "TINY" else text for text in arguments]) == 2
    assert words in capsys.readouterr().err
