# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.compiled_model import load_model
from aot_runtime.environment import module_version
from aot_runtime.errors import InputError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo
from aot_runtime.verdict import read_manifest
from vitmatte_ros import config, export_vitmatte
from vitmatte_ros.model.vitmatte import VitMatte

SIZE = ["--height", "64", "--width", "96"]
needs_rtx = pytest.mark.skipif(
    not module_version("tensorrt_rtx") and os.environ.get("CI") != "true", reason="tensorrt_rtx is not installed"
)


@pytest.fixture
def tiny(matte_golden: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The golden's network in the place of small, so that the command compiles quickly."""
    monkeypatch.setitem(config.CONFIGS, "small", matte_golden.config)
    return matte_golden


def told_preprocessing(path: Path) -> dict[str, Any]:
    told = dict(read_manifest(path).preprocessing)
    assert told.pop("float32")
    return told


def test_an_official_checkpoint_end_to_end(
    tiny: Any, shared: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = shared / "golden" / "vitmatte" / "weights.safetensors"
    command = ["-c", str(weights), *SIZE, "--device", "cpu", "--runs", "2", "--warmup-runs", "1"]
    assert export_vitmatte.main(command) == 0
    shown = capsys.readouterr().out
    assert "wrote vitmatte_small_96x64.pt2" in shown
    assert "p50 ms" in shown
    path = tmp_path / "vitmatte_small_96x64.pt2"
    manifest = read_manifest(path)
    assert (manifest.family, manifest.variant, manifest.task) == ("vitmatte", "vitmatte_tiny", "matte")
    assert (manifest.precision, manifest.target.device) == ("fp32", "cpu")
    assert manifest.checkpoint.sha256 == sha256_file(weights)
    assert manifest.checkpoint.licence == "MIT"
    assert manifest.rebuild_command == ("export_vitmatte", *command)
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.inputs] == [
        ("pixel_values", "float32", (1, 4, 64, 96))
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.outputs] == [("alpha", "float32", (1, 1, 64, 96))]
    assert told_preprocessing(path) == {
        "input": "rgb_trimap",
        "colour_order": "RGB",
        "scale": 1 / 255,
        "normalization": "imagenet",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "trimap": {"background": 0, "unknown": 128, "foreground": 255},
        "trimap_scale": 1 / 255,
        "padding": "zeros after normalisation, right and bottom",
        "multiple": 32,
        "size": [64, 96],
        "batch": 1,
        "variant": "tiny",
        "attention": "bias",
        "float32_error": None,
    }
    golden = tiny.cases["64x96"]
    with load_model(path) as model:
        alpha = model.run(pixel_values=golden["pixel_values"])["alpha"]
        torch.testing.assert_close(alpha, golden["alphas"], atol=2e-5, rtol=0)


def test_onnx_of_any_size_in_float16_with_the_other_normalisation(
    tiny: Any, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--random-weights", "--seed", "4", "--dynamic", "--format", "onnx", "--precision", "fp16"]
    assert export_vitmatte.main([*command, "--normalization", "hf", "--runs", "0"]) == 0
    assert "random weights (seed 4)" in capsys.readouterr().err
    path = tmp_path / "vitmatte_small_dynamic.onnx"
    manifest = read_manifest(path)
    assert (manifest.precision, manifest.checkpoint.random_seed) == ("fp16", 4)
    assert [(dim.name, dim.min, dim.max) for dim in manifest.dims] == [("height", 64, 1280), ("width", 64, 1280)]
    told = told_preprocessing(path)
    assert (told["normalization"], told["mean"], told["std"]) == ("hf", [0.5] * 3, [0.5] * 3)
    assert (told["size"], told["attention"]) == (None, "explicit")
    assert 0 < told["float32_error"] < 1 / 255


@needs_rtx
def test_an_engine_and_its_onnx_file(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, onnx = tmp_path / "m.engine", tmp_path / "m.onnx"
    command = ["--random-weights", *SIZE, "-o", str(path), "--target", "sm_89", "--keep-onnx", str(onnx)]
    assert export_vitmatte.main(command) == 0
    assert "note: not measured here: " in capsys.readouterr().err
    manifest, source = read_manifest(path), read_manifest(onnx)
    assert (manifest.precision, manifest.target.device_name) == ("fp16", "sm_89")
    assert (source.precision, manifest.source_sha256) == ("fp16", sha256_file(onnx))
    assert manifest.preprocessing["padding"] == source.preprocessing["padding"]


@needs_rtx
@pytest.mark.slow
def test_an_engine_of_the_published_network(tmp_path: Path) -> None:
    path = tmp_path / "small.engine"
    command = ["--random-weights", "--height", "256", "--width", "256", "-o", str(path), "--target", "sm_89"]
    assert export_vitmatte.main(command) == 0
    manifest = read_manifest(path)
    assert (manifest.variant, manifest.precision) == ("vitmatte_small", "fp16")
    assert manifest.inputs[0].shape == (1, 4, 256, 256)
    # 26 million weights of 16 bits.
    assert 45e6 < path.stat().st_size < 80e6


def test_weights_that_float16_is_too_coarse_for_are_warned_of(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.model()
    last = model.decoder.matting_head.matting_convs[3]
    last.weight.mul_(4)
    torch.save(model.state_dict(), tmp_path / "steep.pth")
    path = tmp_path / "m.onnx"
    command = ["-c", str(tmp_path / "steep.pth"), *SIZE, "-o", str(path), "--precision", "fp16", "--runs", "0"]
    assert export_vitmatte.main(command) == 0
    assert "warning: expected fp16 within one grey level (0.0039) of fp32, found 0.0" in capsys.readouterr().err
    assert read_manifest(path).preprocessing["float32_error"] > 1 / 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["--random-weights", "-c", "x.pth"], "found both"),
        (["-c", "x.pth", "--seed", "3"], "--seed only with --random-weights"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (["--random-weights", "--precision", "bf16"], "bfloat16 moves alpha by up to 3.1e-2, 8 grey levels"),
        (["--random-weights", "--dynamic", "--width", "64"], "--dynamic or a size, found both"),
        (["--random-weights", "--dynamic", "--batch", "2"], "one with --dynamic, found 2"),
        (["--random-weights", "--batch", "0"], "one or more images at a time"),
        (["--random-weights", "--height", "0"], "from 32 pixels, found 0 x 512"),
        (["--random-weights", "--runs", "-1"], "negative"),
        (["--random-weights", "--attention", "bias", "--format", "onnx"], "attention explicit for ONNX files"),
        (["--random-weights", "--format", "onnx", "-o", "a.pt2"], "ends in .onnx for --format onnx, found a.pt2"),
        (["--random-weights", "--target", "sm_89"], "--target for engines only"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    tiny: Any,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_vitmatte.main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "8 grey levels; use fp16"),
        ({"precision": "int8"}, "fp32 or fp16 for VitMatte, found int8"),
        ({"normalization": "none"}, "imagenet or hf, found 'none'"),
        ({"attention": "flash"}, "expected attention explicit, bias, concat, found 'flash'"),
        ({"height": 16}, "from 32 pixels, found 16 x 512"),
    ],
)
def test_arguments_that_are_impossible(tiny: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = VitMatte(tiny.config)
    with pytest.raises(InputError, match=message):
        export_vitmatte.export_vitmatte(model, tmp_path / "m.pt2", checkpoint=CheckpointInfo.random(0), **options)
    assert not list(tmp_path.iterdir())


def test_help_needs_no_torch() -> None:
    code = "import sys, vitmatte_ros.export_vitmatte as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
