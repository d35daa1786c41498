# SPDX-License-Identifier: Apache-2.0
"""The commands from end to end: a tiny artifact, a folder of samples, and every exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_artifacts import tiny_images, tiny_rig
from bev_fakes import visible_files
from bev_sample_folder import write_sample_folder

from bev_ros.calibration import write_rig
from bev_ros.dataset import PrecomputedBevDataset
from bev_ros.option_file import parse_with_file
from bev_ros.pipeline import BevPipeline
from bev_ros.precompute_bev_features import _parser, main
from bev_ros.store.store import BevStore
from bev_ros.verify_bev_features import main as verify_main

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., int]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_sample_folder(tmp_path / "samples", 6, train=4)


@pytest.fixture
def run(samples: Path, bev_artifact: Path, tmp_path: Path) -> Command:
    """run(...): the command with the samples, the artifact and the folder out/."""

    def call(*options: str, out: str = "out", encoder: Path = bev_artifact) -> int:
        return main(
            [
                *("--source", str(samples), "--encoder", str(encoder), "--output_dir", str(tmp_path / out)),
                *("--gpu", "cpu", "--allow-random-weights", *options),
            ]
        )

    return call


@pytest.fixture
def check(samples: Path, bev_artifact: Path, tmp_path: Path) -> Command:
    """check(...): verify_bev_features of out/ with source and encoder."""

    def call(*options: str, out: str = "out", encoder: Path = bev_artifact) -> int:
        given = ["--source", str(samples), "--encoder", str(encoder), "--gpu", "cpu"]
        return verify_main([str(tmp_path / out), *given, *options])

    return call


def test_maps_of_a_folder_are_the_pipelines(
    run: Command, check: Command, bev_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--split", "train", "val", "--dtype", "float32", "--every", "2") == 0
    told = capsys.readouterr()
    assert re.search(r"out/train: 4 maps stored \(.* KiB each, 0:00:0\d, float32 is off by up to 0.0e\+00", told.out)
    assert re.search(r"train: 2 of 4, \d.*, 0:00:0\d left\n", told.err)
    pipeline = BevPipeline(bev_artifact)
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        with pytest.warns(UserWarning, match="of random weights"):
            dataset = PrecomputedBevDataset(tmp_path / "out", split)
        for number in numbers:
            item = dataset[f"t{number:03d}"]
            wanted = pipeline.process(tiny_images(tiny_rig(), number), tiny_rig())
            # Calibrations go through text: the tables are the same, the camera vectors to the last digit.
            np.testing.assert_allclose(item["features"], wanted.features, atol=1e-5)
            assert item["ego_pose"][0, 3] == number
    assert dataset.manifest.encoder.identity == pipeline.identity
    assert dataset.manifest.encoder.random_weights
    assert check("--json", str(tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["good"]
    assert [split["recomputed"] for split in report["splits"]] == [4, 2]
    capsys.readouterr()
    assert verify_main([str(tmp_path / "out"), "--json", "-", "--quick"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["splits"][0]["indexed"] == 4
    assert "all is well" in told.err


def test_random_weights_are_refused(run: Command, samples: Path, bev_artifact: Path, tmp_path: Path) -> None:
    given = ["--source", str(samples), "--encoder", str(bev_artifact), "--output_dir", str(tmp_path / "out")]
    assert main([*given, "--gpu", "cpu"]) == 2
    assert not (tmp_path / "out").exists()


def test_shards_and_ranks_together_are_one_run_byte_by_byte(
    run: Command, check: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(out="one") == 0
    for index in range(2):
        assert run("--shard", f"{index}/2", out="shards") == 0
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", 3)):
            monkeypatch.setenv(name, str(value))
        assert run(out="ranks") == 0
    one = visible_files(tmp_path / "one")
    assert len(one) == 8
    assert visible_files(tmp_path / "shards") == one
    assert visible_files(tmp_path / "ranks") == one
    monkeypatch.undo()
    assert check(out="shards") == 0


def test_a_torchrun_of_two_processes(samples: Path, bev_artifact: Path, run: Command, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "bev_ros.precompute_bev_features", "--source", str(samples), "--encoder", str(bev_artifact)),
        *("--output_dir", str(tmp_path / "ranks"), "--gpu", "cpu", "--allow-random-weights", "--quiet"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert run(out="one") == 0
    assert visible_files(tmp_path / "ranks") == visible_files(tmp_path / "one")


def test_another_encoder_format_or_source_is_detected(
    run: Command,
    check: Command,
    samples: Path,
    bev_artifacts: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    other = bev_artifacts(seed=5)
    assert run("--resume", encoder=other) == 2
    assert "encoder.identity is" in capsys.readouterr().err
    assert run("--resume", "--dtype", "int8") == 2
    assert "files.dtype is 'float16' there and 'int8' here" in capsys.readouterr().err
    assert run("--resume", "--cameras", "left,front") == 2
    assert "splits.all.source is" in capsys.readouterr().err
    calibration = samples / "calibration.yaml"
    before = calibration.read_text()
    calibration.write_text(before.replace("1.5", "1.4"))
    assert run("--resume") == 2
    assert "splits.all.source is" in capsys.readouterr().err
    calibration.write_text(before)
    assert check(encoder=other) == 1
    assert "encoder: expected the encoder" in capsys.readouterr().out
    assert check("--repair", encoder=other) == 2
    assert run() == 2
    assert "found 6; say --resume" in capsys.readouterr().err
    assert run("--resume") == 0


def test_failures_are_listed_and_the_status_says_so(
    run: Command, check: Command, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (samples / "left2.png").write_bytes(b"no picture")
    told = json.loads((samples / "samples/t004.json").read_text())
    (samples / "samples/t004.json").write_text("{")
    assert run() == 1
    out, err = capsys.readouterr()
    assert "4 maps stored" in out
    assert "2 failed, see failed.jsonl" in out
    assert "t002: camera left: " in err
    rows = [json.loads(line) for line in (tmp_path / "out/all/failed.jsonl").read_text().splitlines()]
    assert [row["token"] for row in rows] == ["t002", "t004"]
    assert run("--resume", "--allow-failures") == 0
    assert run("--only", str(write_tokens(tmp_path, "t002")), out="none") == 2
    assert check("--recompute", "0") == 1
    assert "missing t002: expected a map, found camera left:" in capsys.readouterr().out
    # A camera may be left out; a sample that is none stays one.
    assert run("--resume", "--allow-missing-cameras") == 1
    records, _ = BevStore.open(tmp_path / "out").records("all")
    assert (records["t002"].cameras, records["t002"].missing) == (("front", "right"), ("left",))
    (samples / "samples/t004.json").write_text(json.dumps(told))
    assert check("--repair") == 0
    assert check() == 0


def write_tokens(folder: Path, *tokens: str) -> Path:
    (folder / "tokens.txt").write_text("# some\n" + "\n".join(tokens) + "\n")
    return folder / "tokens.txt"


def test_damage_is_mended_by_the_command(
    run: Command, check: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--layout", "dense") == 0
    before = visible_files(tmp_path / "out")
    path = tmp_path / "out/all/t001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    (tmp_path / "out/all/t003.safetensors").unlink()
    assert verify_main([str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "digest t001: expected " in out
    assert "missing t003" in out
    assert verify_main([str(tmp_path / "out"), "--repair"]) == 2
    assert check("--repair") == 0
    assert "2 maps made again" in capsys.readouterr().out
    assert visible_files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "expected --source, found none"),
        (("--source", "nowhere"), "found nothing at nowhere"),
        (("--source", "S"), "expected --encoder or --custom-encoder, found neither"),
        (("--source", "S", "--encoder", "E"), "expected --output_dir, found none"),
        (("--source", "S", "--encoder", "none.pt2"), "expected a file, found none at none.pt2"),
        (("--source", "S", "--encoder", "E", "--checkpoint", "C"), "expected --encoder or --checkpoint, found both"),
        (("--source", "S", "--custom-encoder", "a:B"), "expected --encoder-config with --custom-encoder"),
        (("--source", "S", "--split", "test"), "expected a split among all, train, val, found 'test'"),
        (("--source", "S", "--start_idx", "6"), "expected samples from 6 up to the end, found none among 6"),
        (("--source", "S", "--start_idx", "-1"), "expected --start_idx from 0, found -1"),
        (("--source", "S", "--limit", "0"), "expected --limit from 1, found 0"),
        (("--source", "S", "--shard", "2/2"), "expected a shard i/n"),
        (("--source", "S", "--only", "T"), "found x9 that are not"),
        (
            ("--source", "S", "--encoder", "E", "--output_dir", "O", "--layout", "guide", "--dtype", "int8"),
            "for --layout",
        ),
        (("--cfg", "none.yaml"), "expected a YAML file of options"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    options: tuple[str, ...],
    told: str,
    samples: Path,
    bev_artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"S": samples, "E": bev_artifact, "O": tmp_path / "O", "T": write_tokens(tmp_path, "x9", "t001")}
    assert main([str(places.get(option, option)) for option in options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: expected ")
    assert told in err
    assert not (tmp_path / "O").exists()


def test_a_rig_that_the_encoder_cannot_take_is_refused_before_a_folder_is_begun(
    run: Command, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rig(tiny_rig(("front", "left", "right", "rear")), samples / "calibration.yaml")
    for file in (samples / "samples").iterdir():
        told = json.loads(file.read_text())
        told["cameras"]["rear"] = None
        file.write_text(json.dumps(told))
    assert run() == 2
    assert "expected a rig of at most 3 cameras, found 4: front, left, right, rear; " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("--cameras", "front,left,right") == 0


def test_a_folder_without_a_map_may_be_removed(
    run: Command, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in samples.glob("front*.png"):
        image.unlink()
    assert run() == 2
    assert run("--cameras", "left,right") == 2
    assert f"no map is stored there: remove {tmp_path / 'out'}" in capsys.readouterr().err


def test_the_selection_is_listed(run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-tokens", "--split", "val", "train") == 0
    assert capsys.readouterr().out.split() == ["t004", "t005", "t000", "t001", "t002", "t003"]
    assert run("--list-tokens", "--start_idx", "1", "--end_idx", "5", "--shard", "1/2") == 0
    assert capsys.readouterr().out.split() == ["t002", "t004"]
    assert run("--list-tokens", "--only", str(write_tokens(tmp_path, "t005", "t001", "t003")), "--limit", "2") == 0
    assert capsys.readouterr().out.split() == ["t001", "t003"]


def test_a_file_of_options_gives_all_of_them(
    samples: Path, bev_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "source": str(samples), "encoder": [str(bev_artifact)], "output-dir": str(tmp_path / "elsewhere"), "gpu": "cpu",
        "allow_random_weights": True, "resume": False, "split": ["train", "val"], "cameras": ["left", "front"],
        "layout": "guide", "limit": 1, "quiet": True, "only": None,
    }  # fmt: skip
    path = tmp_path / "options.yaml"
    path.write_text(json.dumps({"learning_rate": 3, "precompute_bev_features": told}))
    assert main(["--cfg", str(path), "--output_dir", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "elsewhere").exists()
    tensor = torch.load(tmp_path / "out/val/t004.pt", weights_only=True)
    assert (tensor.shape, tensor.dtype) == ((1, 8, 1, 20, 20), torch.float32)
    store = BevStore.open(tmp_path / "out")
    assert store.manifest.splits["train"].cameras == ("left", "front")
    assert store.records("train")[0]["t000"].cameras == ("left", "front")
    # The cameras are the manifest's; the samples that were left out are told.
    only = write_tokens(tmp_path, "t000", "t004")
    given = [str(tmp_path / "out"), "--source", str(samples), "--encoder", str(bev_artifact), "--gpu", "cpu"]
    assert verify_main([*given, "--split", "train", "--limit", "1"]) == 0
    assert verify_main([*given, "--split", "train"]) == 1
    assert only.exists()
    for wrong in ({"sources": "x"}, {"resume": "yes"}, {"limit": {"a": 1}}, ["x"]):
        path.write_text(json.dumps(wrong))
        assert main(["--cfg", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("dtype: int8\nshard: 1/4\nstart-idx: 3\nsplits_file: -weird.json\n")
    told = parse_with_file(_parser(), ["--cfg", str(path), "--dtype", "float32"], "--cfg")
    assert (told.dtype, told.shard, told.start_idx, told.splits_file) == ("float32", "1/4", 3, Path("-weird.json"))


_CUSTOM = """
import torch
class Mean(torch.nn.Module):
    def __init__(self, config, bins=1.0):
        super().__init__()
        self.config, self.gain = config, torch.nn.Parameter(torch.tensor(bins))
    def forward(self, images, cameras):
        height, width = self.config.frustum.size
        small = torch.nn.functional.adaptive_avg_pool2d(images, (height, width)).mean(1, keepdim=True)
        depth = torch.ones(len(images), self.config.frustum.bins, height, width) / self.config.frustum.bins
        return depth, small.expand(-1, self.config.channels, -1, -1) * self.gain
"""


def test_an_encoder_of_ones_own_without_an_export(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_bev.py").write_text(_CUSTOM)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "encoder.yaml").write_text("preset: tiny\nname: mine\ncustom_encoder: mine_bev:Mean\n")
    torch.save({"gain": torch.tensor(2.0)}, tmp_path / "mine.pt")
    given = ["--source", str(samples), "--output_dir", str(tmp_path / "out"), "--gpu", "cpu", "--dtype", "float32"]
    encoder = ["--custom-encoder", "mine_bev:Mean", "--encoder-config", str(tmp_path / "encoder.yaml")]
    assert main([*given, *encoder]) == 2
    assert "found random ones" in capsys.readouterr().err
    assert main([*given, *encoder, "--checkpoint", str(tmp_path / "mine.pt")]) == 0
    store = BevStore.open(tmp_path / "out")
    assert not store.manifest.encoder.random_weights
    assert store.manifest.encoder.config["custom_encoder"] == "mine_bev:Mean"
    first = store.read("all", "t000").dense()
    assert (first[0] == first[1]).all()
    torch.save({"gain": torch.tensor(3.0)}, tmp_path / "mine.pt")
    assert main([*given, *encoder, "--checkpoint", str(tmp_path / "mine.pt"), "--resume"]) == 2
    assert "encoder.identity is" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_ended_goes_on(
    tmp_path: Path, bev_artifact: Path, check: Command, run: Command, number: signal.Signals
) -> None:
    many = write_sample_folder(tmp_path / "many", 40)
    command = [
        *(sys.executable, "-m", "bev_ros.precompute_bev_features", "--source", str(many), "--encoder"),
        *(str(bev_artifact), "--output_dir", str(tmp_path / "out"), "--gpu", "cpu", "--allow-random-weights"),
        *("--every", "1", "--readers", "1"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += "all: " in line and " of 40" in line
        if seen == 3:
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    assert ("stopped by SIGINT; go on with --resume" in errors) == (number == signal.SIGINT)
    store = BevStore.open(tmp_path / "out")
    records, problems = store.records("all")
    assert 3 <= len(records) < 40
    assert problems == []
    given = ["--source", str(many), "--encoder", str(bev_artifact), "--gpu", "cpu", "--allow-random-weights", "--quiet"]
    assert main([*given, "--output_dir", str(tmp_path / "out"), "--resume"]) == 0
    assert main([*given, "--output_dir", str(tmp_path / "calm")]) == 0
    assert visible_files(tmp_path / "out") == visible_files(tmp_path / "calm")


def test_the_bar_on_a_terminal_shows_rate_and_remaining_time() -> None:
    import io

    from bev_ros.extraction_progress import ExtractionProgress, told_time

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    record: Any = None
    with ExtractionProgress("train", stream=stream) as progress:
        progress.begin(3)
        progress.done("a", record)
        progress.failed("b", "expected [x], found [y]")
        time.sleep(0.2)
    told = stream.getvalue()
    assert "b: expected [x], found [y]" in told
    assert re.search(r"2/3\S* .* left, 1 failed", told)
    assert told_time(3723.4) == "1:02:03"


def test_ray_does_the_same_work(
    samples: Path, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_AUTH_MODE", "disabled"), ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert run(out="one") == 0
    assert run("--ray", "local", "--ray-workers", "2", out="ray") == 0
    assert visible_files(tmp_path / "ray") == visible_files(tmp_path / "one")
    assert os.environ["PYTHONPATH"] == str(ROOT)
