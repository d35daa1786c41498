# SPDX-License-Identifier: Apache-2.0
"""The report module by module, on the reduced network: what a continuous integration runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.backends import aoti
from aot_runtime.errors import ExportError, InputError
from vitmatte_ros import module_report
from vitmatte_ros.model.vitmatte import VitMatte
from vitmatte_ros.module_cases import RUNTIMES, cases

NAMES = [
    "VitMatteBasicConv3x3",
    "VitMatteConvStream",
    "VitMatteHead",
    "VitMatteFusionBlock (coarsest)",
    "VitMatteFusionBlock (finest)",
    "VitMatteDetailCaptureModule",
    "VitDetMlp",
    "VitDetLayerNorm",
    "VitDetResBottleneckBlock",
    "VitDetAttention (window 3)",
    "VitDetAttention (global)",
    "VitDetLayer (window)",
    "VitDetLayer (global, residual block)",
    "VitDetEmbeddings",
    "VitDetEncoder (4 layers)",
    "relative positions (window 3)",
    "relative positions (global)",
    "whole model",
    "whole model, as it is exported",
]


@pytest.fixture(scope="module")
def network() -> VitMatte:
    return VitMatte(module_report.TINY).randomise(0)


@pytest.fixture(scope="module")
def pixel_values() -> torch.Tensor:
    return torch.rand(1, 4, 64, 96, generator=torch.Generator().manual_seed(0))


def test_the_reduced_network_is_that_of_the_goldens(matte_golden: Any) -> None:
    assert matte_golden.config == module_report.TINY


def test_modules_get_the_inputs_that_they_have_in_the_network(network: VitMatte, pixel_values: torch.Tensor) -> None:
    found = {case.name: case for case in cases(network, pixel_values)}
    assert list(found) == NAMES
    shapes = {name: [tuple(tensor.shape) for tensor in case.inputs] for name, case in found.items()}
    assert shapes["VitMatteFusionBlock (coarsest)"] == [(1, 32, 4, 6), (1, 24, 8, 12)]
    assert shapes["VitDetAttention (window 3)"] == shapes["VitDetAttention (global)"] == [(1, 4, 6, 32)]
    assert shapes["relative positions (window 3)"] == [(4, 2, 9, 16)]
    assert shapes["relative positions (global)"] == [(1, 2, 24, 16)]
    with torch.no_grad():
        alpha = network(pixel_values)
        for case in found.values():
            # One after another they are the network.
            assert all(tensor.is_contiguous() for tensor in case.inputs)
            outputs = case.module(*case.inputs)
            assert outputs
            assert all(bool(torch.isfinite(output).all()) and float(output.abs().max()) > 0 for output in outputs)
        detail = found["VitMatteDetailCaptureModule"]
        torch.testing.assert_close(detail.module(*detail.inputs)[0], alpha, atol=1e-6, rtol=0)
        for suffix in RUNTIMES:
            exported = found["whole model, as it is exported"].exported[suffix]
            torch.testing.assert_close(exported(pixel_values)[0], alpha, atol=5e-6, rtol=0)
    # Hooks are gone.
    assert not [part for part in network.modules() if part._forward_pre_hooks]


def test_both_tables_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markdown, data = tmp_path / "m.md", tmp_path / "m.json"
    command = ["--variant", "tiny", "--runs", "2", "--modules", "VitDetLayerNorm,relative*(global)"]
    assert module_report.main([*command, "--markdown", str(markdown), "--json", str(data)]) == 0
    assert "[2/2] relative positions (global): done" in capsys.readouterr().err
    report = json.loads(data.read_text())
    assert (report["model"], report["height"], report["width"], report["device"]) == ("tiny", 64, 96, "cpu")
    assert report["stamp"]["torch"] == str(torch.__version__)
    assert [row["name"] for row in report["rows"]] == ["VitDetLayerNorm", "relative positions (global)"]
    for row in report["rows"]:
        assert 0.1 < row["peak"] < 100
        assert 0 < row["float64_error"] < 5e-6
        assert 0 < row["eager"]["best"] <= row["eager"]["median"]
        assert set(row["compiled"]) == set(RUNTIMES)
        for found in row["compiled"].values():
            assert found["failure"] == ""
            assert 0 <= found["max_abs"] < 5e-6
            assert found["relative"] == pytest.approx(found["max_abs"] / row["peak"])
            assert 0 < found["time"]["best"] <= found["time"]["median"]
    text = markdown.read_text()
    assert "## Largest error against eager" in text
    assert "## Runtime, ms" in text
    assert text.count("| VitDetLayerNorm |") == 2
    assert "failed" not in text


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 19 modules through two compilers
def test_the_whole_table_of_the_reduced_network(tmp_path: Path) -> None:
    data = tmp_path / "m.json"
    assert module_report.main(["--variant", "tiny", "--runs", "2", "--json", str(data)]) == 0
    rows = json.loads(data.read_text())["rows"]
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert row["float64_error"] < 1e-5 * row["peak"], row["name"]
        for suffix, found in row["compiled"].items():
            assert found["relative"] < 1e-5, (row["name"], suffix)


def test_what_fails_is_a_row_and_an_exit_status(
    network: VitMatte, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise ExportError("expected a compiler, found none", "install one")

    monkeypatch.setattr(aoti, "compile_program", refuse)
    assert module_report.main(["--variant", "tiny", "--runs", "1", "--modules", "VitDetLayerNorm"]) == 1
    told = capsys.readouterr()
    assert "* VitDetLayerNorm, .pt2: ExportError: expected a compiler, found none; install one" in told.out
    assert "error: expected every module to compile and run, found failures in VitDetLayerNorm" in told.err
    row = next(line for line in told.out.splitlines() if line.startswith("| VitDetLayerNorm | 1x4x6x16 |"))
    assert row.split(" | ")[2:4] == ["failed", "failed"]
    assert "failed" not in row.split(" | ")[4:6]


def test_a_module_that_fails_in_eager_is_a_row_too(network: VitMatte, pixel_values: torch.Tensor) -> None:
    case = cases(network, pixel_values)[0]
    broken = type(case)("broken", case.module, (torch.zeros(1, 3, 8, 8),))
    row = module_report.report_row(broken, runs=1, device=torch.device("cpu"), clock="wall")
    assert row.failure.startswith("RuntimeError: ")
    assert row.compiled == {}
    report = module_report.Report("tiny", "none", 64, 96, "cpu", "wall", 1, module_report.stamp(), [row])
    assert report.failures() == ["broken"]
    assert "* broken, eager: RuntimeError" in report.markdown()


def test_a_nan_or_another_shape_is_a_failure() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert module_report._worst([one], [one + 0.5]) == 0.5
    with pytest.raises(ValueError, match="found NaN"):
        module_report._worst([one], [nan])
    with pytest.raises(ValueError, match="expected shape"):
        module_report._worst([one], [torch.ones(3)])
    with pytest.raises(ValueError):
        module_report._worst([one], [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ("Vgg*",)}, r"found none that fits Vgg\*; names are: VitMatteBasicConv3x3"),
        ({"height": 16}, "from 32 pixels"),
        ({"runs": 0}, "one or more runs, found 0"),
        pytest.param(
            {"device": "cuda"},
            "found none for cuda; use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_what_cannot_be_reported_on(network: VitMatte, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module_report.make_report(
            network, **{"height": 64, "width": 96, "weights": "random", "progress": False, **options}
        )
