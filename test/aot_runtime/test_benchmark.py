# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from aot_runtime.benchmark import find_artifacts, main, measure, percentile
from aot_runtime.errors import InputError
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


def test_json_on_standard_output(tiny_artifact: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_artifact[0]), "--runs", "2", "--warmup-runs", "0", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["model"] == "tiny v1"


def test_a_folder_means_its_artifacts(tiny_artifact: tuple[Path, Manifest], tmp_path: Path) -> None:
    for name in ("b.pt2", "a.pt2"):
        shutil.copy(tiny_artifact[0], tmp_path / name)
    (tmp_path / "readme.txt").write_text("")
    assert [path.name for path in find_artifacts([str(tmp_path)])] == ["a.pt2", "b.pt2"]
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
