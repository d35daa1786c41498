# SPDX-License-Identifier: Apache-2.0
"""`make demo`, as a user types it, in a small size; and what it says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.demo import Choice, choose_model, main


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (346, 260, Choice("346x260x20_patchff_ds1_small", None)),
        (320, 240, Choice("346x260x20_patchff_ds1_small", None)),
        (640, 480, Choice("640x480x20_patchff_ds1_small", (320, 240))),
        (1280, 720, Choice("1280x720x20_patchff_ds1_small", (320, 180))),
    ],
)
def test_the_smallest_frame_that_holds_the_sensor_is_chosen(width: int, height: int, expected: Choice) -> None:
    assert choose_model(width, height) == expected


def test_a_sensor_larger_than_every_frame_is_refused() -> None:
    with pytest.raises(InputError, match=r"at most 1280x720 .* found 1920x1080"):
        choose_model(1920, 1080)


def test_the_demo_on_a_real_recording(shared: Path, artifact_cache: Path, tmp_path: Path) -> None:
    """A real DAVIS346 bag goes through three processes over DDS; every event is accounted for."""
    cv2 = pytest.importorskip("cv2")
    from rosbags.rosbag2 import Reader

    bag = shared / "data" / "events" / "bag_libcaer_cmp_davis346_mcap"
    output = tmp_path / "demo"
    assert main(["--events", str(bag), "--output", str(output), "--cache", str(artifact_cache / "demo")]) == 0

    truth = np.load(bag / "truth.npz")
    times_us = truth["t"] // 1000
    summary = json.loads((output / "summary.json").read_text())
    assert summary["events_received"] == len(times_us) == 106_570
    assert summary["windows"] == len(range(int(times_us.min()) // 20_000, int(times_us.max()) // 20_000 + 1))
    assert summary["drops"] == {}
    assert summary["weights"] == dict.fromkeys(("f3", "depth", "flow"), "random, seed 0")
    assert summary["outputs"]["features"] == "32FC32 346x260"
    assert summary["outputs"]["relative_depth"] == "32FC1 168x126"
    assert summary["outputs"]["flow"].startswith("32FC2 168x126, ")
    assert summary["latency_ms"]
    assert all(value > 0 for value in summary["latency_ms"].values())
    for picture in ("events_0.png", "features_0.png"):
        assert cv2.imread(str(output / picture)).shape == (260, 346, 3)
    for picture in ("depth_0.png", "flow_0.png"):
        assert cv2.imread(str(output / picture)).shape == (126, 168, 3)
        assert cv2.imread(str(output / picture)).any()
    assert cv2.imread(str(output / "overview.png")).shape == (4 * 260, 4 * 346, 3)
    with Reader(output / "topics") as recorded:
        counts = {connection.topic: connection.msgcount for connection in recorded.connections}
    assert counts["/event_camera/events"] == len(truth["n_per_msg"])
    results = ("features", "window_info", "relative_depth", "flow", "depth_image", "flow_image")
    assert {counts[f"/f3/{name}"] for name in results} == {summary["windows"]}


def test_a_missing_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", str(tmp_path / "none.pth"), "--output", str(tmp_path / "demo")]) == 2
    assert "error: expected a checkpoint, found no file" in capsys.readouterr().err


def test_a_missing_recording_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--events", str(tmp_path / "none.raw"), "--output", str(tmp_path / "demo")]) == 2
    assert "none.raw" in capsys.readouterr().err


def test_a_folder_that_is_not_the_demos_is_left_alone(
    shared: Path, artifact_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "thesis.tex"
    keep.write_text("years of work")
    bag = shared / "data" / "events" / "bag_libcaer_cmp_davis346_mcap"
    code = main(["--events", str(bag), "--output", str(tmp_path), "--cache", str(artifact_cache / "demo")])
    assert code == 2
    assert "found thesis.tex" in capsys.readouterr().err
    assert keep.read_text() == "years of work"
