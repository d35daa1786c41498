# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.checkpoint import state_digest
from aot_runtime.compiled_model import load_model
from aot_runtime.environment import module_version
from aot_runtime.errors import ExportError, InputError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo
from aot_runtime.verdict import read_manifest
from depth_ros import export_dav2
from depth_ros.model import depth_anything
from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

TINY = DepthConfig("vits", 24, 4, 3, (0, 1, 2, 3), 8, (6, 8, 10, 12), licence="Apache-2.0", image_size=56)
RANDOM = CheckpointInfo.random(0)
needs_rtx = pytest.mark.skipif(
    not module_version("tensorrt_rtx") and os.environ.get("CI") != "true", reason="tensorrt_rtx is not installed"
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> DepthConfig:
    """A small network in the place of vits, so that the command compiles quickly."""
    monkeypatch.setitem(depth_anything.ENCODERS, "vits", TINY)
    return TINY


def test_the_official_command_line(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag of F3's script, as its README writes them, with the real small network; ours besides."""
    monkeypatch.chdir(tmp_path)
    command = "--encoder vits --input-channels 32 --height 28 --width 42 --output-name dav2_aoti.pt2 "
    command += "--autocast bfloat16 --warmup-runs 1 --runs 1 --random-weights --device cpu"
    assert export_dav2.main(command.split()) == 0
    shown = capsys.readouterr()
    assert "p50 ms" in shown.out
    assert "random weights (seed 0)" in shown.err
    manifest = read_manifest(tmp_path / "dav2_aoti.pt2")
    assert (manifest.family, manifest.variant, manifest.task) == ("depth", "depth_anything_v2_vits", "relative_depth")
    assert manifest.precision == "bf16"
    assert manifest.checkpoint.random_seed == 0
    assert manifest.rebuild_command == ("export_dav2_to_pt2", *command.split())
    assert (manifest.inputs[0].name, manifest.inputs[0].shape) == ("features", (1, 32, 28, 42))
    assert (manifest.outputs[0].name, manifest.outputs[0].shape) == ("depth", (1, 28, 42))
    assert manifest.inputs[0].dtype == manifest.outputs[0].dtype == "float32"
    told = dict(manifest.preprocessing)
    assert told.pop("float32")
    assert told == {
        "input": "f3_features",
        "input_channels": 32,
        "size": [28, 42],
        "patch": 14,
        "encoder": "vits",
        "kind": "relative",
        "max_depth": None,
        "focal_baseline": None,
        "resize": "stretch",
        "interpolation": "bilinear",
        "align_corners": True,
        "backbone_digest": None,
    }
    # Weights are stored once, in 16 bits: 27 million of them.
    assert (tmp_path / "dav2_aoti.pt2").stat().st_size < 65e6


def test_f3s_checkpoint_end_to_end(tiny: DepthConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = DepthAnythingV2(replace(tiny, input_channels=32)).eval().randomise(5)
    backbone = {"pred.weight": torch.ones(2, 3)}
    state = {f"dav2._orig_mod.{key}": value for key, value in head.state_dict().items()}
    state.update({f"eventff._orig_mod.{key}": value for key, value in backbone.items()})
    torch.save({"epoch": 1, "model": state}, tmp_path / "best.pth")
    torch.save({"model": {"_orig_mod.pred.weight": torch.zeros(2, 3)}}, tmp_path / "f3.pth")
    command = ["-e", "vits", "-i", "32", "--height", "28", "--width", "42", "-c", str(tmp_path / "best.pth")]
    command += ["-o", str(tmp_path / "out"), "--autocast", "None", "--runs", "0", "--device", "cpu"]
    command += ["--disparity", "--focal-baseline", "123.78", "--f3-checkpoint", str(tmp_path / "f3.pth")]
    assert export_dav2.main(command) == 0
    error = capsys.readouterr().err
    assert "warning: expected" in error
    assert "f3.pth to be the F3 that" in error
    assert "licence Apache-2.0" in error
    manifest = read_manifest(tmp_path / "out.pt2")
    assert (manifest.task, manifest.precision) == ("disparity", "fp32")
    assert (manifest.checkpoint.file, manifest.checkpoint.licence) == ("best.pth", "Apache-2.0")
    assert manifest.preprocessing["backbone_digest"] == state_digest(backbone)
    assert manifest.preprocessing["focal_baseline"] == 123.78
    image = torch.rand(1, 32, 28, 42, generator=torch.Generator().manual_seed(0))
    with load_model(tmp_path / "out.pt2") as model, torch.no_grad():
        torch.testing.assert_close(model.run(features=image)["depth"], head(image), atol=5e-5, rtol=0)


def test_a_metric_rgb_network(tiny: DepthConfig, tmp_path: Path) -> None:
    model = DepthAnythingV2(replace(tiny, max_depth=80.0)).eval().randomise(6)
    torch.save(model.state_dict(), tmp_path / "depth_anything_v2_metric_vkitti_vits.pth")
    command = ["-e", "vits", "-i", "3", "--height", "28", "--width", "28", "--metric", "--max-depth", "80"]
    command += ["-c", str(tmp_path / "depth_anything_v2_metric_vkitti_vits.pth"), "-o", str(tmp_path / "m.pt2")]
    assert export_dav2.main([*command, "--resize", "keep_aspect", "--runs", "0", "--device", "cpu"]) == 0
    manifest = read_manifest(tmp_path / "m.pt2")
    assert (manifest.task, manifest.inputs[0].name, manifest.outputs[0].unit) == ("metric_depth", "image", "m")
    told = dict(manifest.preprocessing)
    assert told.pop("float32")
    assert told == {
        "input": "rgb_image",
        "input_channels": 3,
        "size": [28, 28],
        "patch": 14,
        "encoder": "vits",
        "kind": "metric",
        "max_depth": 80.0,
        "focal_baseline": None,
        "colour_order": "RGB",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "keep_aspect",
        "interpolation": "cubic",
    }
    image = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 4.7 - 2.1
    with load_model(tmp_path / "m.pt2") as compiled, torch.no_grad():
        depth = compiled.run(image=image)["depth"]
        torch.testing.assert_close(depth, model(image), atol=8e-4, rtol=0)
    assert 0 < float(depth.min()) < float(depth.max()) < 80


SIZE = ["--height", "28", "--width", "28"]


def test_onnx_from_the_command(
    tiny: DepthConfig, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["-e", "vits", "-i", "3", *SIZE, "--random-weights", "--format", "onnx", "--autocast", "float16"]
    assert export_dav2.main([*command, "--runs", "1", "--warmup-runs", "1"]) == 0
    assert "p50 ms" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "dav2_aoti.onnx")
    assert (manifest.family, manifest.precision, manifest.target.runtime) == ("depth", "fp16", "onnxruntime")
    assert manifest.preprocessing["input"] == "rgb_image"
    assert manifest.rebuild_command[:3] == ("export_dav2_to_pt2", "-e", "vits")


@needs_rtx
def test_an_engine_for_a_gpu_that_is_not_here(
    tiny: DepthConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, onnx = tmp_path / "dav2.engine", tmp_path / "dav2.onnx"
    command = ["-e", "vits", "-i", "3", *SIZE, "--random-weights", "-o", str(path), "--precision", "bf16"]
    assert export_dav2.main([*command, "--target", "sm_120", "--keep-onnx", str(onnx), "--runs", "1"]) == 0
    told = capsys.readouterr()
    assert f"wrote {path}" in told.out
    assert "note: not measured here: " in told.err
    manifest, source = read_manifest(path), read_manifest(onnx)
    assert (manifest.precision, manifest.target.device_name) == ("bf16", "sm_120")
    assert (source.precision, manifest.source_sha256) == ("fp32", sha256_file(onnx))


def test_a_disparity_needs_no_baseline(tiny: DepthConfig, tmp_path: Path) -> None:
    """Consumers publish it as relative depth then; a baseline may also be given to depth_node."""
    path = tmp_path / "o.onnx"
    command = ["-e", "vits", "-i", "3", *SIZE, "--random-weights", "--disparity", "-o", str(path), "--runs", "0"]
    assert export_dav2.main([*command, "--device", "cpu"]) == 0
    told = read_manifest(path).preprocessing
    assert (told["kind"], told["focal_baseline"]) == ("disparity", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["--random-weights", "-c", "x.pth"], "found both"),
        (["-c", "x.pth", "--seed", "3"], "--seed only with --random-weights"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (["--random-weights", "--f3-checkpoint", "x.pth"], "--f3-checkpoint only with --checkpoint"),
        (["--random-weights", "--height", "240"], "the nearest are 238 or 252 x 308"),
        (["--random-weights", "--height", "0"], "the nearest are 14 x 308"),
        (["--random-weights", "--metric", "--disparity"], "--metric or --disparity, found both"),
        (["--random-weights", "--max-depth", "20"], "--max-depth only with --metric"),
        (["--random-weights", "--metric", "--max-depth", "0"], "positive --max-depth in metres, found 0.0"),
        (["--random-weights", "--metric", "--max-depth", "nan"], "positive --max-depth"),
        (["--random-weights", "--focal-baseline", "100"], "--focal-baseline only with --disparity"),
        (["--random-weights", "--disparity", "--focal-baseline", "-1"], "positive --focal-baseline"),
        (["--random-weights", "--resize", "keep_aspect"], "--resize stretch for F3 features"),
        (["--random-weights", "-i", "0"], "one or more input channels, found 0"),
        (["--random-weights", "--runs", "-1"], "negative"),
        (["--random-weights", "--format", "onnx", "-o", "a.pt2"], "ends in .onnx for --format onnx, found a.pt2"),
        (["--random-weights", "--format", "onnx", "--autocast", "bfloat16"], "found bfloat16 for dav2_aoti.onnx"),
        (["--random-weights", "--target", "sm_89"], "--target for engines only, found it for dav2_aoti.pt2"),
        (["--random-weights", "--precision", "int8"], "--precision int8 for engines only"),
        (["--random-weights", "-i", "3", *SIZE, "-o", "a.engine", "--target", "sm_1"], "sm_1"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_dav2.main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_float16_is_warned_of_and_an_overflow_refused(
    tiny: DepthConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DepthAnythingV2(tiny).eval().randomise(5)
    with torch.no_grad():
        model.depth_head.projects[0].weight.mul_(1e5)
    torch.save(model.state_dict(), tmp_path / "large.pth")
    command = ["-e", "vits", "-i", "3", *SIZE, "-c", str(tmp_path / "large.pth"), "-o", str(tmp_path / "o.pt2")]
    assert export_dav2.main([*command, "--autocast", "float16", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "warning: float16 overflows in Depth Anything V2" in error
    assert "found NaN or infinity first in layer depth_head.projects.0; nothing was written" in error
    assert not (tmp_path / "o.pt2").exists()


def test_numbers_that_are_not_finite_refuse_any_export(tmp_path: Path) -> None:
    model = DepthAnythingV2(TINY).eval().randomise(5)
    with torch.no_grad():
        model.depth_head.scratch.output_conv2[2].bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="finite numbers in eager output depth"):
        export_dav2.export_dav2(
            model, tmp_path / "o.pt2", height=28, width=28, checkpoint=RANDOM, precision="bf16", progress=False
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("maximum", "options", "message"),
    [
        (None, {"kind": "metric"}, "found kind metric and a network made as relative"),
        (20.0, {}, r"found kind relative and a network made as metric \(max_depth 20 m\)"),
        (20.0, {"kind": "metric", "max_depth": 80.0}, "expected max_depth 20.0 as the network has it, found 80.0"),
        (None, {"kind": "absolute"}, "expected kind relative, metric, disparity"),
        (None, {"focal_baseline": 3.0}, "with --disparity"),
        (None, {"resize": "crop"}, "expected resize stretch, keep_aspect"),
        (None, {"height": 30}, "the nearest are 28 or 42 x 28"),
    ],
)
def test_arguments_that_contradict_the_network(
    maximum: float | None, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = DepthAnythingV2(replace(TINY, max_depth=maximum)).eval()
    arguments = {"height": 28, "width": 28, "checkpoint": RANDOM, **options}
    with pytest.raises(InputError, match=message):
        export_dav2.export_dav2(model, tmp_path / "o.pt2", **arguments)


def test_a_wrong_encoder_is_told_before_anything_is_compiled(
    tiny: DepthConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(DepthAnythingV2(tiny).state_dict(), tmp_path / "c.pth")
    command = ["-e", "vitb", "-i", "3", "-c", str(tmp_path / "c.pth"), "-o", str(tmp_path / "o.pt2")]
    assert export_dav2.main([*command, "--device", "cpu"]) == 2
    assert "use --encoder vits" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys, depth_ros.export_dav2 as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
