# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bev_artifacts import tiny_encoder, tiny_images, tiny_rig

from aot_runtime.environment import module_version
from aot_runtime.errors import ExportError, InputError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import CheckpointInfo
from aot_runtime.verdict import read_manifest
from bev_ros import export_bev
from bev_ros.artifact import export_part, part_path, parts_of
from bev_ros.config import BevConfig, preset
from bev_ros.pipeline import BevPipeline

needs_rtx = pytest.mark.skipif(
    not module_version("tensorrt_rtx") and os.environ.get("CI") != "true", reason="tensorrt_rtx is not installed"
)
TINY = ["--preset", "tiny"]
SMALL_GRID = ["--grid", "-8", "8", "1", "-8", "8", "2", "-5", "5", "5"]


def config_of(path: Path) -> BevConfig:
    return BevConfig.from_json(read_manifest(path).preprocessing["config"])


def test_a_checkpoint_end_to_end(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    source = tiny_encoder(1, head="lss", cameras=1)
    state = {f"model.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "model.head.shared_conv.conv.weight": torch.zeros(1)}}, "c.pth")
    command = ["-c", "c.pth", *TINY, "--device", "cpu", "--runs", "2", "--warmup-runs", "1", "--index-rule", "trunc"]
    command += ["--head", "lss", "--num-cams", "1"]
    assert export_bev.main(command) == 0
    shown = capsys.readouterr()
    assert "wrote bev_tiny.pt2" in shown.out
    assert "p50 ms" in shown.out
    assert "note: left out of c.pth, no part of this encoder: head.shared_conv (1)" in shown.err
    path = tmp_path / "bev_tiny.pt2"
    manifest = read_manifest(path)
    assert manifest.checkpoint == CheckpointInfo("c.pth", sha256_file("c.pth"), "MIT")
    assert manifest.rebuild_command == ("export_bev", *command)
    assert config_of(path).grid.rule == "trunc"
    with BevPipeline(path) as pipeline:
        assert not pipeline.random_weights
        assert pipeline.licence == "MIT"


def test_every_option_reaches_the_configuration() -> None:
    arguments = [*TINY, *SMALL_GRID, "--index-rule", "trunc", "--keep-z", "--depth", "2", "10", "0.5"]
    arguments += [
        "--image-size",
        "96",
        "160",
        "--stride",
        "16",
        "--num-cams",
        "2",
        "--sweeps",
        "1",
        "--backbone",
        "resnet18",
    ]
    arguments += ["--base-channels", "16", "--neck", "second_fpn", "--neck-channels", "32", "--head", "bevdepth"]
    arguments += ["--mid-channels", "24", "--use-da", "--channels", "12", "--bev-stage", "resnet18", "--name", "mine"]
    arguments += ["--pixels", "centres", "--order", "bgr", "--custom-encoder", "a:B"]
    found = export_bev.read_options(export_bev._parser().parse_args(arguments)).to_json()
    assert found == {
        **preset("tiny").to_json(),
        "name": "mine",
        "grid": {"x": [-8.0, 8.0, 1.0], "y": [-8.0, 8.0, 2.0], "z": [-5.0, 5.0, 5.0], "rule": "trunc"},
        "depth": [2.0, 10.0, 0.5],
        "image": [96, 160],
        "stride": 16,
        "pixels": "centres",
        "order": "bgr",
        "cameras": 2,
        "sweeps": 1,
        "backbone": "resnet18",
        "base_channels": 16,
        "neck": "second_fpn",
        "neck_channels": 32,
        "head": "bevdepth",
        "mid_channels": 24,
        "use_da": True,
        "channels": 12,
        "keep_z": True,
        "bev_stage": "resnet18",
        "custom_encoder": "a:B",
    }
    default = export_bev.read_options(export_bev._parser().parse_args([]))
    assert default == preset("bevdepth-r50-256x704")


def test_a_configuration_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("preset: tiny\nhead: lss\ncameras: 1\n")
    path = tmp_path / "one.onnx"
    command = ["--config", str(file), "--random-weights", "--seed", "3", "-o", str(path), "--runs", "0"]
    assert export_bev.main(command) == 0
    assert "random weights (seed 3); the map means nothing" in capsys.readouterr().err
    assert config_of(path) == preset("tiny", head="lss", cameras=1)
    assert [spec.name for spec in read_manifest(path).inputs] == ["images", "planes"]


def test_stages_apart_in_float16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    command = [*TINY, *SMALL_GRID, "--bev-stage", "resnet18", "--random-weights", "--split-stages", "--runs", "0"]
    assert export_bev.main([*command, "--precision", "fp16", "-o", str(path)]) == 0
    shown = capsys.readouterr()
    assert "fp16 differs from fp32 by, over the largest value: depth " in shown.err
    files = [tmp_path / f"m_{part}.onnx" for part in ("image", "pool", "bev")]
    assert [file.name for file in sorted(tmp_path.iterdir())] == sorted(file.name for file in files)
    told = [read_manifest(file) for file in files]
    assert [manifest.precision for manifest in told] == ["fp16", "fp32", "fp16"]
    assert [manifest.preprocessing["cells"] for manifest in told] == [None, "planes", None]
    errors = [manifest.preprocessing["float32_error"] for manifest in told]
    assert errors[1] is None
    assert {name: 0 < value < 0.02 for name, value in (errors[0] | errors[2]).items()} == {
        "depth": True,
        "context": True,
        "bev": True,
    }
    rig = tiny_rig()
    with BevPipeline(files) as pipeline:
        assert pipeline.process(tiny_images(rig), rig).features.shape == (256, 8, 16)


def test_a_package_in_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    # One camera of a small image, to compile quickly.
    encoder = tiny_encoder(cameras=1, image=(32, 48))
    info = CheckpointInfo.random(4)
    manifest = export_part(encoder, "fused", tmp_path / "m.pt2", checkpoint=info, precision="bf16", progress=False)
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {"float32", "int32"}
    assert 1e-4 < manifest.preprocessing["float32_error"]["bev"] < 0.08


@needs_rtx
def test_engines_of_the_networks_and_a_package_between(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, onnx = tmp_path / "m.engine", tmp_path / "m.onnx"
    command = [*TINY, *SMALL_GRID, "--bev-stage", "resnet18", "--random-weights", "--split-stages"]
    command += ["--precision", "fp16", "--target", "sm_89", "-o", str(path), "--keep-onnx", str(onnx), "--runs", "0"]
    assert export_bev.main(command) == 0
    image, pool, bev = (tmp_path / name for name in ("m_image.engine", "m_pool.pt2", "m_bev.engine"))
    for engine in (image, bev):
        manifest = read_manifest(engine)
        assert (manifest.precision, manifest.target.device_name) == ("fp16", "sm_89")
        kept = read_manifest(tmp_path / engine.with_suffix(".onnx").name)
        assert manifest.preprocessing == kept.preprocessing
        assert manifest.source_sha256 == sha256_file(engine.with_suffix(".onnx"))
    assert read_manifest(pool).precision == "fp32"
    weights = {read_manifest(file).preprocessing["weights"] for file in (image, pool, bev)}
    assert len(weights) == 1


def test_a_fused_engine_is_refused_before_anything_slow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.engine"
    command = [*TINY, "--random-weights", "--target", "sm_89", "-o", str(path)]
    assert export_bev.main(command) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert (
        "expected an image or BEV stage for an engine, found the pooling in it: TensorRT has no embedding bag"
        in error[0]
    )
    assert "add --split-stages" in error[0]
    for part in ("fused", "pool"):
        with pytest.raises(ExportError, match="expected an image or BEV stage for an engine"):
            export_part(tiny_encoder(), part, path, checkpoint=CheckpointInfo.random(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (["--random-weights", "--config", "x.yaml"], "expected --config or --preset, found both"),
        (["--random-weights", "--image-size", "64", "100"], "a stride that divides"),
        (["--random-weights", "--grid", "-8", "8", "3", "-8", "8", "1", "-5", "5", "5"], "a multiple of the step"),
        (["--random-weights", "--depth", "5", "2", "1"], "low < high and a step above 0 for depth"),
        (["--random-weights", "--bev-stage", "resnet18"], "expected whole 8s of cells with a BEV stage, found 20 x 20"),
        (["--random-weights", "--format", "onnx", "--precision", "bf16"], "fp32 or fp16 for an ONNX file, found bf16"),
        (["--random-weights", "--format", "onnx", "-o", "a.pt2"], "ends in .onnx for --format onnx, found a.pt2"),
        (["--random-weights", "--target", "sm_89"], "--target for engines only"),
        (["--random-weights", "--head", "lss", "--use-da"], "expected use_da with the head bevdepth"),
        (["--random-weights", "--custom-encoder", "no.such:Thing"], "that can be imported, found ModuleNotFoundError"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_bev.main([*TINY, *arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_parts_and_their_files() -> None:
    assert parts_of(preset("tiny")) == ("image", "pool")
    staged = preset("bevdepth-r50-256x704", bev_stage="resnet18")
    assert [str(part_path("a/x.engine", part)) for part in parts_of(staged)] == [
        "a/x_image.engine",
        "a/x_pool.pt2",
        "a/x_bev.engine",
    ]
    encoder = tiny_encoder()
    with pytest.raises(InputError, match="expected a part fused, image, pool, bev, found 'neck'"):
        export_part(encoder, "neck", "x.pt2", checkpoint=CheckpointInfo.random(0))
    with pytest.raises(InputError, match="expected an encoder with a BEV stage, found tiny without"):
        export_part(encoder, "bev", "x.pt2", checkpoint=CheckpointInfo.random(0))


def test_help_needs_no_torch() -> None:
    code = "import sys, bev_ros.export_bev as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
