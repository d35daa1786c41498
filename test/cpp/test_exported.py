# SPDX-License-Identifier: Apache-2.0
"""test_exported_pt2 in C++ beside run_exported of Python: the same instants, pictures, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f3_ros import run_exported
from f3_ros.events.readers import open_events
from f3_ros.events.types import Events
from f3_ros.events.writers import write_m3ed_h5, write_raw

TOOL = "tools/test_exported_pt2"
VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}
CHANNELS = 16
PICTURES = ("events_plot", "f3_feat_pca", "depth_colored", "flow_viz", "flow_viz_overlay")


@pytest.fixture(scope="module")
def artifacts(f3_artifact, stand_in_head) -> dict[str, Path]:
    return {
        "--f3_pt2_path": f3_artifact("f3_small_direct", **VARIABLE),
        "--dav2_pt2_path": stand_in_head("depth", CHANNELS, 28, 42),
        "--flowhead_pt2_path": stand_in_head("flow", CHANNELS, 20, 30),
    }


@pytest.fixture(scope="module")
def small_recordings(shared, tmp_path_factory) -> dict[str, Path]:
    """A real recording on the frame of the tiny network, in the layout of M3ED and as .raw."""
    with open_events(shared / "data" / "events" / "bag_evt3_gen31_sqlite3") as reader:
        e = Events.concatenate(list(reader.chunks()))
    small = Events(e.x // 10, e.y // 10, e.t, e.p)
    folder = tmp_path_factory.mktemp("recordings")
    paths = {"h5": folder / "small.h5", "raw": folder / "small.raw"}
    write_m3ed_h5(paths["h5"], [small], 64, 48)
    write_raw(paths["raw"], [small], 64, 48)
    return paths


def flags(artifacts: dict[str, Path]) -> list[Any]:
    return [word for pair in artifacts.items() for word in pair]


@pytest.mark.parametrize(("kind", "time_ms"), [("h5", 300), ("h5", 146), ("raw", 100), ("raw", 7)])
def test_pictures_and_numbers_are_pythons(kind, time_ms, artifacts, small_recordings, run_cpp, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    words = [*flags(artifacts), "--time_ms", time_ms, "--runs", "0"]
    mine = run_cpp(TOOL, *words, f"--{kind}_file", small_recordings[kind], "--output", tmp_path / "cpp", "--json", "-")
    told = json.loads(mine.stdout)
    python = [*map(str, words), "--events", str(small_recordings[kind]), "--output", str(tmp_path / "python")]
    assert run_exported.main([*python, "--json", str(tmp_path / "python.json")]) == 0
    expected = json.loads((tmp_path / "python.json").read_text())
    for name in ("time_ms", "events", "events_used", "complete", "recording", "models"):
        assert told[name] == expected[name], name
    assert told["events"] > 100
    assert told["complete"] == (time_ms in (100, 300))  # the others begin before the recording
    assert tuple(told["pictures"]) == tuple(f"{name}.png" for name in PICTURES)
    for name in PICTURES:
        found, wanted = (cv2.imread(str(tmp_path / side / f"{name}.png"), -1) for side in ("cpp", "python"))
        assert found.shape == wanted.shape, name
        differs = np.abs(found.astype(int) - wanted.astype(int))
        # Rounding down to bytes turns the last bit of a float into a step of one; hues step by two degrees.
        assert (differs > 1).mean() < 0.01, name
        assert wanted.max() > 0
        if name == "events_plot":
            assert differs.max() == 0


def test_every_stage_is_measured(artifacts, small_recordings, run_cpp, tmp_path):
    words = [*flags(artifacts), "--h5-file", small_recordings["h5"], "--time-ms", 300, "--output", tmp_path]
    table = run_cpp(TOOL, *words, "--runs", 3, "--warmup-runs", 1).stdout
    stages = ["event upload", "F3", "resize", "depth", "flow", "F3 + depth", "F3 + flow", "all"]
    assert [line.split("  ")[0] for line in table.splitlines()[1:9]] == stages
    assert "Average inference time over 3 runs: " in table
    told = json.loads(run_cpp(TOOL, *words, "--runs", 3, "--json", "-").stdout)
    assert [row["stage"] for row in told["results"]] == stages
    for row in told["results"]:
        timing = row["timing"]
        assert 0 <= timing["min_ms"] <= timing["p50_ms"] <= timing["p99_ms"] <= timing["max_ms"]


def test_without_a_recording_the_self_tests_events_are_used(artifacts, run_cpp):
    done = run_cpp(TOOL, "--f3_pt2_path", artifacts["--f3_pt2_path"], "--runs", 2, "--warmup_runs", 0)
    assert "made-up events of the artifact's self-test" in done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:3]] == ["event upload", "F3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time_ms", "99999999"], "found --time_ms 99999999 for"),
        (["--dav2_height", "29"], "expected a depth head for 29x42 (height x width) as --dav2_height"),
        (["--flow-width", "31"], "expected a flow head for 20x31 (height x width) as --flow_height"),
        (["--runs", "-1"], "expected a whole number from 0 on for --runs, found '-1'"),
        (["--cuda_graph"], "expected a CUDA device for --cuda_graph, found cpu"),
        (["--raw_file", "x"], "expected one recording, found several"),
        (["--device", "tpu"], "tpu"),
        (["--speed", "3"], "found --speed"),
    ],
)
def test_contradictions_are_refused(words, message, artifacts, small_recordings, run_cpp, tmp_path):
    given = [
        *flags(artifacts),
        "--h5_file",
        small_recordings["h5"],
        "--output",
        tmp_path,
        "--time_ms",
        300,
        "--runs",
        0,
    ]
    assert message in run_cpp(TOOL, *given, *words, fails=True).stderr


def test_times_outside_are_refused_in_pythons_words(artifacts, small_recordings, run_cpp, capsys, tmp_path):
    given = [*map(str, flags(artifacts)), "--events", str(small_recordings["raw"]), "--time_ms", "5000", "--runs", "0"]
    mine = run_cpp(TOOL, *given, fails=True).stderr.splitlines()[-1]
    assert run_exported.main(given) == 2
    assert mine == capsys.readouterr().err.splitlines()[-1]
