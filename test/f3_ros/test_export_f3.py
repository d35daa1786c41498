# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.verdict import read_manifest
from f3_ros import export_f3
from f3_ros.config import CONFIGS, F3Config

NAME = "346x260x20_patchff_ds1_micro_test"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> F3Config:
    """A small configuration under a name of its own, so that the command compiles quickly."""
    whole = CONFIGS["346x260x20_patchff_ds1_small"]
    config = replace(whole, name=NAME, dims=(8,), kernels=(3,), depths=(1,), bottlenecks=(2,), dilations=(1,))
    config = replace(config, entry_kernels=(1,), entry_strides=(1,), frame=(40, 32, 20))
    monkeypatch.setitem(CONFIGS, NAME, config)
    return config


def test_the_command_end_to_end(tiny: F3Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = export_f3.make_model(tiny).randomise(5)
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "c.pth")
    command = ["-m", NAME, "-c", str(tmp_path / "c.pth"), "-o", str(tmp_path / "out"), "-v", "-n", "100"]
    command += ["--downsample", "20", "16", "--build-hashed-feats", "--runs", "2", "--warmup-runs", "1"]
    command += ["--max-events", "500", "--device", "cpu"]
    assert export_f3.main(command) == 0
    assert "p50 ms" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out.pt2")
    assert manifest.family == "f3"
    assert manifest.variant == NAME
    assert manifest.precision == "fp32"
    assert manifest.inputs[0].shape == ("n_events", 4)
    assert (manifest.dim("n_events").min, manifest.dim("n_events").max) == (0, 500)
    assert manifest.outputs[0].shape == (1, 20, 16, 8)
    assert manifest.checkpoint.file == "c.pth"
    assert not manifest.checkpoint.is_random
    assert manifest.rebuild_command == ("export_f3_to_pt2", *command)
    told = manifest.preprocessing
    assert (told["width"], told["height"], told["bins"], told["window_us"]) == (40, 32, 20, 20_000)
    assert told["hashed"] is True
    assert told["downsample"] == [20, 16]
    assert told["feature_shape"] == [20, 16, 8]
    assert told["resolutions"][3] == [180, 139, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint FILE or --random-weights, found neither"),
        (["--random-weights", "-c", "x.pth"], "found both"),
        (["-c", "x.pth", "--seed", "3"], "--seed only with --random-weights"),
        (["--random-weights", "--max-events", "10"], "--max-events only with --variable-events"),
        (["--random-weights", "-v", "-n", "11", "--max-events", "10"], "up to --max-events 10"),
        (["--random-weights", "-n", "0"], "one or more events"),
        (["--random-weights", "--runs", "-1"], "negative"),
        (["--random-weights", "-m", "f3_large"], "use one of: 1280x720_patchff_ds16"),
        (["-c", "absent.pth"], "found no file absent.pth"),
        (["--random-weights", "--downsample", "0", "4"], "positive size"),
        (["-m", "1280x720x20_unetff_ds4_small", "--random-weights", "--build-hashed-feats"], "EventUNetFF"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_f3.main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_network_names_its_keys(
    tiny: F3Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = export_f3.make_model(replace(tiny, dims=(6,)))
    torch.save(other.state_dict(), tmp_path / "c.pth")
    assert export_f3.main(["-m", NAME, "-c", str(tmp_path / "c.pth"), "-o", str(tmp_path / "o.pt2")]) == 2
    assert "downsample_layers.0.0.weight" in capsys.readouterr().err
    assert not (tmp_path / "o.pt2").exists()


def test_help_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, f3_ros.export_f3; f3_ros.export_f3._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
