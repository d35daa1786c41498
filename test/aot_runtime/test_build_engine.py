# SPDX-License-Identifier: Apache-2.0
"""Command `build_engine`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.build_engine import main, parse_sizes, parse_tolerance
from aot_runtime.errors import ExportError
from aot_runtime.export import export_model
from aot_runtime.inspect import main as inspect
from aot_runtime.manifest import DynamicDim
from aot_runtime.parity import Tolerance
from aot_runtime.verdict import read_manifest


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tiny_network: Any, export_arguments: dict[str, Any]) -> Path:
    """The tiny network as ONNX; read-only."""
    path = tmp_path_factory.mktemp("source") / "tiny.onnx"
    export_model(copy.deepcopy(tiny_network), path=path, **export_arguments)
    return path


def test_an_fp16_engine_for_a_gpu_that_is_not_here(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny fp16.engine"
    arguments = [str(source), "-o", str(output), "--precision", "fp16", "--target", "sm_89"]
    assert main([*arguments, "--shapes", "n=1:16:64", "--workspace-gb", "0.5", "--opt-level", "2"]) == 0
    told = capsys.readouterr()
    assert f"{output}: fp16 for sm_89, tensorrt_rtx " in told.out
    assert "not checked on device: its self-test runs at the first start" in told.out
    for step in ("[1/4] fp16 graph: done", "[2/4] run it in onnxruntime: done", "[3/4] tensorrt_rtx", "[4/4] write"):
        assert step in told.err
    manifest = read_manifest(output)
    assert manifest.dims == (DynamicDim("n", 1, 64),)
    assert manifest.rebuild_command[:3] == ("build_engine", str(source), "-o")
    assert inspect([str(output)]) == 3
    printed = capsys.readouterr().out
    for words in ("sm_89, compute capability 8.9", "tensorrt_rtx", "not checked on device", "n (1..64) x 4"):
        assert words in printed
    assert "REFUSE NO_DEVICE" in printed or "COMPUTE_CAPABILITY" in printed


def test_int8_from_a_folder_of_arrays(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        np.savez(tmp_path / f"{number}.npz", events=np.random.default_rng(number).random((20, 4)), scale=np.ones(8))
    output = tmp_path / "tiny.engine"
    arguments = [str(source), "-o", str(output), "--precision", "int8", "--target", "sm_120", "--quiet"]
    assert main([*arguments, "--calib-data", str(tmp_path), "--calib-batches", "3", "--quantiser", "onnxruntime"]) == 0
    assert capsys.readouterr().err == ""
    manifest = read_manifest(output)
    assert (manifest.precision, manifest.target.compute_capability) == ("int8", "12.0")
    assert manifest.parity[0].max_abs > 0


def test_the_name_beside_the_onnx_file(source: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(source.read_bytes())
    assert main([str(own), "--target", "sm_86", "--quiet"]) == 0
    assert (tmp_path / "own.engine").exists()
    assert (tmp_path / "own.engine.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.onnx", "--target", "sm_89"], "error: MISSING_FILE: expected an artifact"),
        (["SOURCE", "--target", "sm89x"], "error: expected a target such as sm_89"),
        (["SOURCE", "--target", "sm_89", "--shapes", "n"], "error: expected --shapes DIM=MIN:OPT:MAX, found 'n'"),
        (
            ["SOURCE", "--target", "sm_89", "--shapes", "m=1:2:3"],
            "sizes of dynamic dims ['n'], found m",
        ),
        (["SOURCE", "--target", "sm_89", "--precision", "int8"], "error: expected calibration data for int8"),
        (["SOURCE", "--target", "sm_89", "--precision", "fp8", "--calib-data", "/none"], "error: expected calibration"),
        (
            ["SOURCE", "--target", "sm_89", "--precision", "fp16", "--calib-data", "x"],
            "error: expected calibration data for int8 or fp8 only, found it with fp16; leave it out",
        ),
        (["SOURCE", "--target", "sm_89", "--calib-batches", "0"], "error: expected --calib-batches >= 1"),
        (["SOURCE", "--target", "sm_89", "--workspace-gb", "0"], "error: expected --workspace-gb > 0"),
        (["SOURCE", "--target", "sm_89", "--tolerance", "1"], "error: expected --tolerance ATOL,RTOL[,COSINE]"),
        (["SOURCE", "--target", "sm_89", "-o", "a.plan"], "error: expected a file name that ends in .engine"),
    ],
)
def test_mistakes_are_one_line(
    source: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "x.engine")]
    assert main([str(source) if text == "SOURCE" else text for text in arguments] + output) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("x.engine"))


def test_what_options_say() -> None:
    assert parse_sizes("n=1:16:100") == ("n", (1, 16, 100))
    assert parse_tolerance("0.01,0.1") == Tolerance(0.01, 0.1)
    assert parse_tolerance("0.01,0.1,0.99") == Tolerance(0.01, 0.1, 0.99)
    for wrong in ("", "1,2,3,4", "a,b", "-1,0", "nan,0", "inf,0"):
        with pytest.raises(ExportError):
            parse_tolerance(wrong)
