# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aliked_ros import export_aliked
from aliked_ros.config import CONFIGS, from_name
from aliked_ros.model import ALIKED
from aot_runtime.errors import CheckpointError, InputError
from aot_runtime.verdict import read_manifest


@pytest.mark.slow
def test_the_command_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ALIKED(from_name("t16")).randomise(5).state_dict()
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in state.items()}}, tmp_path / "c.pth")
    command = ["-m", "t16", "-c", str(tmp_path / "c.pth"), "-o", str(tmp_path / "out"), "--height", "50"]
    command += ["--width", "70", "--top_k", "30", "--device", "cpu", "--runs", "2", "--warmup-runs", "1"]
    assert export_aliked.main(command) == 0
    assert "p50 ms" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out.pt2")
    assert (manifest.family, manifest.variant, manifest.task) == ("aliked", "aliked-t16", "keypoints")
    assert manifest.precision == "fp32"
    assert manifest.inputs[0].shape == (1, 50, 70, 3)
    assert manifest.inputs[0].dtype == "uint8"
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    assert shapes["keypoints"] == (1, 30, 2)
    assert shapes["descriptors"] == (1, 30, 64)
    assert shapes["checks"] == (1, 4, 69)
    assert {spec.name: spec.unit for spec in manifest.outputs}["keypoints"] == "px"
    assert manifest.checkpoint.file == "c.pth"
    assert manifest.checkpoint.licence == "BSD-3-Clause"
    assert manifest.rebuild_command == ("export_aliked", *command)
    told = manifest.preprocessing
    assert (told["width"], told["height"], told["top_k"], told["descriptor_dim"]) == (70, 50, 30, 64)
    assert told["colour_order"] == "rgb"
    assert told["resize"].startswith("fit:")
    assert told["threshold"] == 0.2
    # Compared keypoint by keypoint, so that the numbers mean something though the order of points is not stable.
    parity = {item.name: item.max_abs for item in manifest.parity}
    assert parity["keypoints"] < 1e-2
    assert parity["descriptors"] < 5e-2
    golden = {item.name: item.tolerance for item in manifest.golden.outputs}
    assert golden["checks"] < 3e-3
    assert golden["keypoints"] == 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["--random-weights", "-c", "x.pth"], "found both"),
        (["-c", "x.pth", "--seed", "3"], "--seed only with --random-weights"),
        (["--random-weights", "--runs", "-1"], "negative"),
        (["--random-weights", "-m", "n64"], "use one of: aliked-t16"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (["--random-weights", "--height", "20"], "from 32x32 pixels, found 640x20"),
        (["--random-weights", "--height", "32", "--width", "32"], "--top_k from 1 to 121 for 32x32"),
        (["--random-weights", "--top_k", "0"], "--top_k from 1 to 34240"),
        (["--random-weights", "--nms-rounds", "0"], "one or more rounds"),
        (["--random-weights", "--format", "onnx", "-o", "a.pt2"], "ends in .onnx for --format onnx, found a.pt2"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_aliked.main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_official_checkpoints_load_unchanged_and_know_their_network(shared: Path) -> None:
    folder = shared / "weights" / "aliked"
    for name in CONFIGS:
        model, info = export_aliked.read_network(name, folder / f"{name}.pth")
        assert model.config.name == name
        assert info.sha256 == hashlib.sha256((folder / f"{name}.pth").read_bytes()).hexdigest()
        assert export_aliked.OFFICIAL_SHA256[name] == info.sha256
    # The two have the same shapes.
    with pytest.raises(InputError, match=r"weights of aliked-n16rot, found the official ones of aliked-n16 in"):
        export_aliked.read_network("n16rot", folder / "aliked-n16.pth")
    with pytest.raises(InputError, match="official ones of aliked-t16"):
        export_aliked.read_network("n16", folder / "aliked-t16.pth")


def test_a_checkpoint_of_another_network_names_its_keys(tmp_path: Path) -> None:
    torch.save(ALIKED(from_name("n32")).state_dict(), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"of another shape: desc_head\.agg_weights"):
        export_aliked.read_network("n16", tmp_path / "c.pth")


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    from aot_runtime.manifest import CheckpointInfo

    model = ALIKED(from_name("t16"))
    with pytest.raises(InputError, match="fp32 or fp16 for ALIKED, found bf16; bfloat16 is too coarse"):
        export_aliked.export_aliked(
            model, tmp_path / "x.pt2", checkpoint=CheckpointInfo.random(0), height=64, width=64, precision="bf16"
        )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "aliked-n16rot_640x480_k1000.pt2"),
        (["--format", "onnx", "--top_k", "50"], "aliked-n16rot_640x480_k50.onnx"),
        (["-o", "a.engine"], "a.engine"),
        (["-o", "v1.0", "--format", "onnx"], "v1.0.onnx"),
        (["-o", "a.onnx", "--format", "onnx"], "a.onnx"),
    ],
)
def test_the_suffix_follows_the_format(arguments: list[str], name: str) -> None:
    options = export_aliked._parser().parse_args(arguments)
    assert str(export_aliked._output_path(options)) == name


def test_help_needs_no_torch() -> None:
    code = "import sys, aliked_ros.export_aliked as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
