# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.checkpoint import state_digest
from aot_runtime.environment import module_version
from aot_runtime.verdict import read_manifest
from f3_ros import export_flowhead
from f3_ros.flow_head import FlowHead

SMALL = ["--input-channels", "4", "--height", "10", "--width", "12", "--device", "cpu"]
ONE_BLOCK = ["--kernels", "3", "--btlncks", "2", "--dilations", "1"]
needs_rtx = pytest.mark.skipif(
    not module_version("tensorrt_rtx") and os.environ.get("CI") != "true", reason="tensorrt_rtx is not installed"
)
BACKBONE = {"pred.weight": torch.arange(6.0).reshape(3, 2), "stages.0.bias": torch.ones(3)}


def save_official(path: Path, head: FlowHead, backbone: dict[str, torch.Tensor] | None = None) -> str:
    """A training checkpoint as last.pth is one: both networks compiled, an optimizer beside them."""
    model = {f"flowhead._orig_mod.{key}": value for key, value in head.state_dict().items()}
    model |= {f"eventff._orig_mod.{key}": value for key, value in (backbone or {}).items()}
    torch.save({"epoch": 3, "loss": 0.5, "model": model, "optimizer": {"state": {}}}, path)
    return str(path)


def test_the_official_command_line_verbatim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = FlowHead(4).randomise(3)
    checkpoint = save_official(tmp_path / "last.pth", head, BACKBONE)
    output = tmp_path / "flowhead.pt2"
    # The flags of the official script; only sizes are small and the device is named.
    command = ["--input-channels", "4", "--height", "10", "--width", "12"]
    command += ["--kernels", "9", "9", "9", "9", "--btlncks", "2", "2", "2", "2", "--dilations", "1", "1", "1", "1"]
    command += ["--checkpoint", checkpoint, "--output-name", str(output), "--autocast", "bfloat16"]
    command += ["--warmup-runs", "1", "--runs", "2", "--device", "cpu"]
    assert export_flowhead.main(command) == 0
    assert "p50 ms" in capsys.readouterr().out
    manifest = read_manifest(output)
    assert (manifest.family, manifest.variant, manifest.task) == ("flow", "flowhead_k9999", "optical_flow")
    assert manifest.precision == "bf16"
    (taken,), (given,) = manifest.inputs, manifest.outputs
    assert (taken.name, taken.shape, taken.dtype) == ("features", (1, 4, 10, 12), "float32")
    assert (given.name, given.shape, given.dtype, given.unit) == ("flow", (1, 2, 10, 12), "float32", "px")
    assert manifest.checkpoint.file == "last.pth"
    assert manifest.rebuild_command == ("export_flowhead_to_pt2", *command)
    told = manifest.preprocessing
    assert (told["input"], told["input_channels"], told["size"]) == ("f3_features", 4, [10, 12])
    assert (told["resize"], told["interpolation"], told["align_corners"]) == ("stretch", "bilinear", True)
    assert told["interval_us"] == 100_000
    assert (told["kernels"], told["btlncks"], told["dilations"]) == ([9] * 4, [2] * 4, [1] * 4)
    assert told["backbone_digest"] == state_digest(BACKBONE)


def test_short_flags_and_ours(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["-i", "4", *SMALL[2:], *ONE_BLOCK, "--random-weights", "--seed", "7", "--autocast", "None"]
    command += ["-o", "small", "--interval-ms", "50", "--depthwise", "taps", "--runs", "0"]
    assert export_flowhead.main(command) == 0
    assert "random weights (seed 7)" in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "small.pt2")
    assert manifest.precision == "fp32"
    assert manifest.checkpoint.is_random
    assert manifest.preprocessing["interval_us"] == 50_000
    assert manifest.preprocessing["depthwise"] == "taps"
    assert manifest.preprocessing["backbone_digest"] is None


def test_onnx_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-i", "4", *SMALL[2:], *ONE_BLOCK, "--random-weights", "-o", str(tmp_path / "flow"), "--format", "onnx"]
    assert export_flowhead.main([*command, "--runs", "1", "--warmup-runs", "1"]) == 0
    assert "p50 ms" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "flow.onnx")
    assert (manifest.family, manifest.target.runtime) == ("flow", "onnxruntime")
    assert manifest.preprocessing["depthwise"] == "conv"


def test_only_packages_rewrite_convolutions(monkeypatch: Any, tmp_path: Path) -> None:
    """Triton's kernels are the fastest on CUDA, but neither ONNX Runtime nor TensorRT can run them."""
    from aot_runtime import export
    from aot_runtime.manifest import CheckpointInfo

    made: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(export, "export_model", lambda *_, path, **told: made.setdefault(Path(path).suffix, told))
    monkeypatch.setattr("f3_ros.deploy.find_spec", lambda name: object())
    head, some = FlowHead(4, (3,), (2,), (1,)), {"height": 4, "width": 4, "checkpoint": CheckpointInfo.random(0)}
    for suffix in (".pt2", ".onnx", ".engine"):
        export_flowhead.export_flowhead(head, tmp_path / f"f{suffix}", device="cuda", **some)
    written = {suffix: told["preprocessing"]["depthwise"] for suffix, told in made.items()}
    assert written == {".pt2": "triton", ".onnx": "conv", ".engine": "conv"}


@needs_rtx
def test_an_int8_engine_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for index in range(4):
        features = generator.uniform(-4, 4, (1, 4, 10, 12)).astype(np.float32)
        np.save(tmp_path / "frames" / f"{index}.npy", features)
    path = tmp_path / "flow.engine"
    command = ["-i", "4", *SMALL[2:], *ONE_BLOCK, "--random-weights", "-o", str(path), "--precision", "int8"]
    command += ["--quantiser", "onnxruntime", "--target", "sm_89", "--runs", "0"]
    assert export_flowhead.main(command) == 2
    assert "expected calibration data for int8, found none; give --calib-data" in capsys.readouterr().err
    assert not path.exists()
    assert export_flowhead.main([*command, "--calib-data", str(tmp_path / "frames")]) == 0
    manifest = read_manifest(path)
    assert (manifest.precision, manifest.target.device_name, manifest.parity_of) == ("int8", "sm_89", "graph")


def test_defaults_are_the_official_ones() -> None:
    options = vars(export_flowhead._parser().parse_args([]))
    expected = {"input_channels": 32, "height": 238, "width": 308, "kernels": [9] * 4, "btlncks": [2] * 4}
    expected |= {"dilations": [1] * 4, "output_name": "flowhead_aoti.pt2", "warmup_runs": 20, "runs": 200}
    assert {name: options[name] for name in expected} == expected
    assert export_flowhead.PRECISION_OF_AUTOCAST[options["autocast"]] == "fp32"


@pytest.mark.parametrize("form", ["official", "without backbone", "head alone"])
def test_every_form_of_the_checkpoint_loads(form: str, tmp_path: Path) -> None:
    head = FlowHead(4).randomise(3)
    path = tmp_path / "last.pth"
    if form == "head alone":
        torch.save(head.state_dict(), path)
    else:
        save_official(path, head, BACKBONE if form == "official" else None)
    state, info, digest = export_flowhead.read_checkpoint(path)
    assert state.keys() == head.state_dict().keys()
    assert all(torch.equal(value, head.state_dict()[key]) for key, value in state.items())
    assert info.file == "last.pth"
    assert digest == (state_digest(BACKBONE) if form == "official" else None)


def test_another_backbone_is_a_warning(tmp_path: Path) -> None:
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in BACKBONE.items()}}, tmp_path / "f3.pth")
    f3 = str(tmp_path / "f3.pth")
    assert export_flowhead.backbone_warning(state_digest(BACKBONE), "last.pth", f3) is None
    other = export_flowhead.backbone_warning("0" * 64, "last.pth", f3)
    assert other is not None
    assert "trained on other F3 weights (000000000000)" in other
    unknown = export_flowhead.backbone_warning(None, "last.pth", f3)
    assert unknown is not None
    assert "cannot be compared" in unknown


def test_the_warning_reaches_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = FlowHead(4, (3,), (2,), (1,)).randomise(0)
    checkpoint = save_official(tmp_path / "last.pth", head, BACKBONE)
    torch.save({**BACKBONE, "stages.0.bias": torch.zeros(3)}, tmp_path / "f3.pth")
    command = [*SMALL, *ONE_BLOCK, "-c", checkpoint, "--f3-checkpoint", str(tmp_path / "f3.pth")]
    assert export_flowhead.main([*command, "-o", str(tmp_path / "o.pt2"), "--runs", "0"]) == 0
    assert "warning: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "7", "7", "7", "7"], "decoder.0.dwconv.weight (network (4, 1, 7, 7), checkpoint (4, 1, 9, 9))"),
        (["--kernels", "9", "9", "--btlncks", "2", "2", "--dilations", "1", "1"], "unexpected: decoder.2"),
        (["-i", "5"], "of another shape"),
        (["--height", "0"], "positive --height"),
        (["--interval-ms", "0"], "at least 1 us"),
        (["--kernels", "9", "9"], "as many kernels as btlncks"),
        (["--depthwise", "triton"], "CUDA device for --depthwise triton"),
        (["--depthwise", "taps", "-o", "o.onnx"], "expected --depthwise conv for a .onnx file, found taps"),
    ],
)
def test_a_network_that_does_not_fit(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_official(tmp_path / "last.pth", FlowHead(4).randomise(0))
    command = [*SMALL, "-c", checkpoint, "-o", str(tmp_path / "o.pt2"), *arguments]
    assert export_flowhead.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "o.pt2").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["--random-weights", "-c", "x.pth"], "found both"),
        (["-c", "x.pth", "--seed", "3"], "--seed only with --random-weights"),
        (["--random-weights", "--f3-checkpoint", "x.pth"], "--f3-checkpoint only with --checkpoint"),
        (["--random-weights", "--runs", "-1"], "negative"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (
            ["--random-weights", "--format", "engine", "-o", "a.onnx"],
            "ends in .engine for --format engine, found a.onnx",
        ),
        (["--random-weights", "--format", "onnx", "--calib-data", "x"], "--calib-data for engines only"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_flowhead.main([*SMALL, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_of_another_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"dav2.pretrained.cls_token": torch.zeros(1)}}, tmp_path / "best.pth")
    assert export_flowhead.main([*SMALL, "-c", str(tmp_path / "best.pth")]) == 2
    assert "keys that begin with 'flowhead.', found only dav2." in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys, f3_ros.export_flowhead as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
