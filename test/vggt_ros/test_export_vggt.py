# SPDX-License-Identifier: Apache-2.0
"""The command: what it writes, what it refuses, and the table at its end. Nothing here compiles long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.errors import InputError
from aot_runtime.verdict import read_manifest
from vggt_ros import quantise, summary
from vggt_ros.artifact import artifact_name
from vggt_ros.export_vggt import main, parse_cams

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = {
    "img_size": 28,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "dino_depth": 1,
    "dino_heads": 2,
    "camera_trunk_depth": 1,
    "camera_heads": 2,
    "dpt_features": 16,
    "dpt_out_channels": [8, 8, 8, 8],
    "dpt_layers": [0, 1, 2, 3],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_names_of_artifacts() -> None:
    assert artifact_name(8, 518, 518, True, "fp16") == "vggt-8x3x518x518-pcd_fp16"
    assert artifact_name((1, 64), 518, 336, False, "fp32") == "vggt-dynx3x518x336"


@pytest.mark.parametrize("text", ["8", "1-64", "0..4", "4..2", "3..3", "..4", "1..x"])
def test_ranges_of_cameras_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"1\.\.64|several numbers"):
        parse_cams(text)
    assert parse_cams("1..64") == (1, 64)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--format", "onnx"], "expected either --checkpoint FILE or --random-weights, found neither"),
        (["-c", "no.safetensors"], "expected a checkpoint, found no file no.safetensors"),
        (["-c", "no.safetensors", "--random-weights"], "found both"),
        (["-c", "no.safetensors", "--seed", "1"], "expected --seed only with --random-weights"),
        (["--random-weights", "--num-cams", "2", "--dynamic-cams", "1..4"], "--num-cams or --dynamic-cams, found both"),
        (["--random-weights", "--num-cams", "0"], "expected one or more frames"),
        (["--random-weights", "--height", "500"], "multiples of 14, found 500 x 518; the nearest are 490 or 504"),
        (["--random-weights", "--all-precisions", "--precision", "fp16"], "expected --all-precisions without"),
        (["--random-weights", "--runs", "-1"], "expected counts of runs from 0"),
        (["--random-weights", "--precision", "int8"], "expected --precision fp32, fp16, bf16 for .pt2 files"),
        (["--random-weights", "--format", "onnx", "--precision", "bf16"], "expected --precision fp32, fp16 for .onnx"),
        (["--random-weights", "-o", "a.onnx", "--format", "pt2"], "expected a name that ends in .pt2"),
        (["--random-weights", "--quant-mode", "int3"], "expected --quant-mode none, int8-dynamic"),
        (["--random-weights", "--config", "no.json"], "expected a JSON file of a configuration, found no.json"),
    ],
)
def test_contradictions_are_refused_before_anything_slow(
    arguments: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert found in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "suffix", "precision", "result"),
    [
        ("none", ".engine", "int8", ("none", "int8")),
        ("torch-int8-dynamic", ".pt2", None, ("int8-dynamic", None)),
        ("bitsandbytes-8bit", ".pt2", "bf16", ("int8-weight-only", "bf16")),
        ("fp8", ".pt2", "fp32", ("fp8", "fp32")),
        ("modelopt-fp8", ".engine", None, ("none", "fp8")),
    ],
)
def test_quantisation_that_is_done(mode: str, suffix: str, precision: str | None, result: Any) -> None:
    assert quantise.choose(mode, suffix, precision) == result


@pytest.mark.parametrize(
    ("mode", "suffix", "precision", "reason"),
    [
        ("bitsandbytes-nf4", ".pt2", None, "one byte each"),
        ("bitsandbytes-fp4", ".engine", None, "one byte each"),
        ("modelopt-nvfp4", ".engine", None, "compute capability 10.0"),
        ("int8-dynamic", ".engine", None, "--precision int8"),
        ("int8-weight-only", ".onnx", None, "no kernels"),
        ("fp8", ".onnx", None, "no kernels"),
        ("fp8", ".engine", "fp16", "expected --precision fp8"),
        ("int8-dynamic", ".pt2", "int8", "beside --quant-mode int8-dynamic, found int8"),
    ],
)
def test_quantisation_that_is_refused_says_why(mode: str, suffix: str, precision: str | None, reason: str) -> None:
    """No mode goes through without an effect."""
    with pytest.raises(InputError) as caught:
        quantise.choose(mode, suffix, precision)
    assert reason in str(caught.value)


def test_without_torchao_a_mode_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    command = ["--random-weights", "--config", str(config), "--height", "28", "--width", "28", "--num-cams", "1"]
    command += ["--quant-mode", "int8-dynamic", "--device", "cpu", "--output-dir", str(tmp_path)]
    assert main(command) == 2
    assert "pip install torchao" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt2"))


@pytest.mark.timeout(600)
def test_every_precision_of_an_onnx_file_by_the_command(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "attempts.jsonl"
    command = ["--random-weights", "--seed", "3", "--config", str(config), "--height", "28", "--width", "42"]
    command += ["--num-cams", "2", "--pcd-only", "--format", "onnx", "--all-precisions", "--device", "cpu"]
    assert main([*command, "--output-dir", str(tmp_path), "--summary", str(lines), "--runs", "2"]) == 0
    output = capsys.readouterr()
    rows = summary.read(lines)
    assert [row.file for row in rows] == ["vggt-2x3x28x42-pcd.onnx", "vggt-2x3x28x42-pcd_fp16.onnx"]
    assert [row.precision for row in rows] == ["fp32", "fp16"]
    assert "random weights (seed 3)" in output.err
    for row in rows:
        assert row.refused == ""
        assert row.file in output.out
        assert row.file_mb == pytest.approx((tmp_path / row.file).stat().st_size / 1e6)
        assert (row.p50_ms or 0) > 0
    assert rows[0].error == {}
    assert 1e-6 < rows[1].error["depth"] < 2e-2
    manifest = read_manifest(tmp_path / rows[1].file)
    assert manifest.preprocessing["float32_error"]["depth"] == rows[1].error["depth"]
    assert manifest.checkpoint.random_seed == 3
    assert manifest.rebuild_command[0] == "export_vggt"


def test_the_table_names_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    summary.append(path, summary.Row("a.pt2", "none", "bf16", ".pt2", 12.5, 3.25, {"depth": 0.0123}))
    summary.append(path, summary.Row("b.pt2", "nvfp4", "fp32", ".pt2", refused="expected A, found B; do C"))
    assert summary.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "12.5" in text
    assert "0.012" in text
    assert "b.pt2 (nvfp4): expected A, found B; do C" in text
    path.write_text("{}\n")
    assert summary.main([str(path)]) == 2
    assert summary.main([str(tmp_path / "absent")]) == 2


def run_script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *arguments], env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.timeout(600)
def test_the_script_of_all_exports_ends_in_one_table(config: Path, tmp_path: Path) -> None:
    """Modes that are refused are in the table too, and one of two precisions is bad on purpose."""
    done = run_script(
        "run_all_exports.sh",
        NUM_CAMS="1",
        HEIGHT="28",
        WIDTH="28",
        MODEL="random",
        BASE_OUTPUT=str(tmp_path / "out"),
        EXTRA_ARGS=f"--config {config} --device cpu",
        FORMAT="onnx",
        QUANT_MODES="none modelopt-nvfp4",
        PRECISIONS="fp32 bf16",
        BENCHMARK="1",
        BENCHMARK_ITERS="2",
        BENCHMARK_WARMUP="1",
    )
    assert done.returncode == 0, done.stderr
    rows = summary.read(tmp_path / "out" / "exports.jsonl")
    assert [(row.quant_mode, row.precision, bool(row.refused)) for row in rows] == [
        ("none", "fp32", False),
        ("none", "bf16", True),
        ("modelopt-nvfp4", "fp32", True),
        ("modelopt-nvfp4", "bf16", True),
    ]
    assert (tmp_path / "out" / "vggt-1x3x28x28-pcd.onnx").is_file()
    assert "vggt-1x3x28x28-pcd.onnx" in done.stdout
    assert "compute capability 10.0" in done.stdout
    again = run_script(
        "run_all_exports.sh",
        NUM_CAMS="1",
        HEIGHT="28",
        WIDTH="28",
        MODEL="random",
        BASE_OUTPUT=str(tmp_path / "out"),
        FORMAT="onnx",
        QUANT_MODES="none",
        PRECISIONS="fp32",
        EXTRA_ARGS=f"--config {config} --device cpu",
    )
    assert "exists already" in again.stderr


def test_the_script_of_all_precisions_says_what_it_lacks(tmp_path: Path) -> None:
    done = run_script("run_all_precisions.sh", f"MODEL_NAME={tmp_path / 'none.safetensors'}", f"LOG_DIR={tmp_path}")
    assert done.returncode == 2
    assert "expected a checkpoint, found no file" in done.stderr
