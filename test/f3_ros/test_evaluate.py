# SPDX-License-Identifier: Apache-2.0
"""The evaluation on constructed cases with known answers, and end to end on simulated events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros import evaluate as command
from f3_ros.evaluate import Evaluation, EvaluationOptions, evaluate, score_depth, score_flow
from f3_ros.events.readers import open_events
from f3_ros.events.simulator import demo_scene, simulate, write_simulation_h5
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow
from f3_ros.ground_truth import Truth
from f3_ros.labelled import LabelledFile, SimulatedRecording
from f3_ros.predictions import Prediction, StoredPredictor

HEIGHT, WIDTH = 12, 16
OPTIONS = EvaluationOptions()
VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}


@pytest.fixture
def truth() -> Truth:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 25, (HEIGHT, WIDTH))
    depth[0] = np.inf
    flow = rng.normal(size=(2, HEIGHT, WIDTH)) + 0.1
    flow[:, :, 0] = np.nan
    return Truth(100_000, depth, flow, 100_000)


@pytest.fixture
def events() -> Events:
    """One event in each pixel of the upper half."""
    rows, columns = np.mgrid[0 : HEIGHT // 2, 0:WIDTH]
    n = rows.size
    return Events(columns.ravel().astype(np.uint16), rows.ravel().astype(np.uint16), np.arange(n), np.ones(n, np.uint8))


class Oracle:
    """Predicts the truth, changed by a function; counts its windows."""

    window_us = 20_000

    def __init__(self, truths: dict[int, Truth], change: Callable[[Truth], Prediction | None]) -> None:
        self.truths, self.change, self.windows = truths, change, 0

    def predict(self, end_us: int, window: EventWindow, width: int, height: int) -> Prediction | None:
        self.windows += 1
        assert window.end_us == self.window_us
        assert 0 <= window.events.t.min() <= window.events.t.max() < self.window_us
        return self.change(self.truths[end_us])


@pytest.fixture(scope="module")
def simulated() -> SimulatedRecording:
    return SimulatedRecording("room", (48, 32), duration_s=0.2, label_us=50_000, flow_us=100_000)


def test_a_shifted_flow_has_a_known_error(truth: Truth, events: Events) -> None:
    assert truth.flow is not None
    shift = np.array([3.0, -4.0])[:, None, None]
    scores = score_flow(Prediction(flow=truth.flow + shift, flow_us=100_000), truth, events, OPTIONS)["flow"]
    assert scores["aepe"] == pytest.approx(5)
    assert scores["3pe"] == 100
    assert scores["pixels"] == (WIDTH - 1) * HEIGHT // 2


def test_flow_counts_where_events_fell_unless_dense(truth: Truth, events: Events) -> None:
    assert truth.flow is not None
    flow = truth.flow.copy()
    flow[:, HEIGHT // 2 :] += 100
    prediction = Prediction(flow=flow, flow_us=100_000)
    assert score_flow(prediction, truth, events, OPTIONS)["flow"]["aepe"] == 0
    dense = score_flow(prediction, truth, events, replace(OPTIONS, dense=True))["flow"]
    assert dense["1pe"] == 50
    assert score_flow(prediction, truth, events, OPTIONS, rows=2)["flow"]["pixels"] == 2 * (WIDTH - 1)


def test_flow_is_scaled_to_the_time_of_the_truth(truth: Truth, events: Events) -> None:
    assert truth.flow is not None
    half = Prediction(flow=truth.flow / 2, flow_us=50_000)
    assert score_flow(half, truth, events, OPTIONS)["flow"]["aepe"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("align", ["least_squares", "median"])
def test_a_scaled_and_shifted_relative_depth_is_perfect(truth: Truth, align: str) -> None:
    assert truth.depth is not None
    relative = Prediction(depth=7 / truth.depth - 0.3, depth_kind="relative")
    scores = score_depth(relative, truth, replace(OPTIONS, align=align))
    assert scores["depth"]["abs_rel"] == pytest.approx(0, abs=1e-9)
    assert scores["depth"]["d1"] == 1
    assert scores["depth"]["pixels"] == (HEIGHT - 1) * WIDTH


def test_metres_and_disparities_are_not_aligned(truth: Truth) -> None:
    assert truth.depth is not None
    metric = score_depth(Prediction(depth=1.1 * truth.depth, depth_kind="metric"), truth, OPTIONS)
    assert metric["depth"]["abs_rel"] == pytest.approx(0.1)
    disparity = Prediction(depth=20 / truth.depth + 1.5, depth_kind="disparity", focal_baseline=20.0)
    scores = score_depth(disparity, truth, OPTIONS)
    assert (scores["disparity"]["1pe"], scores["disparity"]["2pe"]) == (100, 0)
    assert scores["disparity"]["rmse"] == pytest.approx(1.5)
    assert scores["depth"]["abs_rel"] > 0.1


def test_far_truth_is_left_out(truth: Truth) -> None:
    assert truth.depth is not None
    prediction = Prediction(depth=truth.depth, depth_kind="metric")
    near = score_depth(prediction, truth, replace(OPTIONS, max_depth=5.0))["depth"]["pixels"]
    assert near == (truth.depth <= 5).sum()


def test_what_cannot_be_compared(truth: Truth, events: Events) -> None:
    unknown = Truth(0, np.full((HEIGHT, WIDTH), np.nan), np.full((2, HEIGHT, WIDTH), np.nan), 100_000)
    ones = Prediction(depth=np.ones((HEIGHT, WIDTH)), flow=np.ones((2, HEIGHT, WIDTH)), flow_us=1)
    assert score_depth(ones, unknown, OPTIONS) == {}
    assert score_flow(ones, unknown, events, OPTIONS) == {}
    assert score_depth(Prediction(), truth, OPTIONS) == score_flow(Prediction(), truth, events, OPTIONS) == {}
    with pytest.raises(InputError, match=r"depth \(12, 16\)"):
        score_depth(Prediction(depth=np.ones((2, 2))), truth, OPTIONS)
    with pytest.raises(InputError, match=r"flow \(2, 12, 16\)"):
        score_flow(Prediction(flow=np.ones((2, 2, 2))), truth, events, OPTIONS)
    with pytest.raises(InputError, match="focal_baseline"):
        score_depth(Prediction(depth=np.ones((HEIGHT, WIDTH)), depth_kind="disparity"), truth, OPTIONS)


def test_the_mean_over_labels_ignores_what_is_undefined() -> None:
    evaluation = Evaluation([{"depth": {"mae_10": 1.0, "d1": 0.5}}, {"depth": {"mae_10": float("nan"), "d1": 1.0}}])
    assert evaluation.mean() == {"depth": {"mae_10": 1.0, "d1": 0.75}}
    assert evaluation.labels("depth") == 2
    assert evaluation.to_dict()["per_label"][1] == {"depth": {"mae_10": None, "d1": 1.0}}
    assert json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))["labels"] == {"depth": 2}


def test_a_perfect_oracle_on_a_simulation(simulated: SimulatedRecording) -> None:
    truths = {truth.time_us: truth for truth in simulated.labels()}
    assert sorted(truths) == [50_000, 100_000, 150_000, 200_000]
    oracle = Oracle(truths, lambda t: Prediction(t.depth, "metric", None, t.flow, t.flow_us))
    *_, evaluation = evaluate(simulated, oracle, OPTIONS)
    mean = evaluation.mean()
    assert len(evaluation.scores) == oracle.windows == 4
    assert mean["depth"]["rmse"] == mean["flow"]["aepe"] == 0
    assert mean["depth"]["d1"] == 1


def test_labels_without_events_or_predictions_are_counted(simulated: SimulatedRecording) -> None:
    truths = {truth.time_us: truth for truth in simulated.labels()}
    missing = Oracle(truths, lambda t: None if t.time_us < 150_000 else Prediction())
    *_, evaluation = evaluate(simulated, missing, OPTIONS)
    assert dict(evaluation.skipped) == {"no prediction at the label": 2, "nothing to compare": 2}
    assert simulated.window(10_000, 20_000) is None
    assert simulated.window(300_000, 20_000) is None
    # Centred windows end half a window later: that of the last label leaves the recording.
    shifted = Oracle({time + 10_000: truth for time, truth in truths.items()}, lambda t: Prediction())
    *_, centred = evaluate(simulated, shifted, replace(OPTIONS, centred=True, every=1))
    assert centred.skipped["no events around the label"] == 1
    assert shifted.windows == 3


def test_a_file_and_the_simulation_in_memory_agree(tmp_path: Path, simulated: SimulatedRecording) -> None:
    scene = demo_scene(48, 32, 1)
    write_simulation_h5(tmp_path / "sim.h5", simulate(scene, 0.2, seed=1), gt_us=50_000)
    with open_events(tmp_path / "sim.h5") as reader:
        file = LabelledFile(reader)
        assert (file.width, file.height, file.rows) == (48, 32, None)
        for end_us in (50_000, 100_000, 123_456):
            stored, direct = file.window(end_us, 20_000), simulated.window(end_us, 20_000)
            assert stored is not None
            assert direct is not None
            for name in ("x", "y", "t", "p"):
                assert np.array_equal(getattr(stored.events, name), getattr(direct.events, name))
        assert file.window(0, 20_000) is None
        assert file.window(400_000, 20_000) is None
        times = [truth.time_us for truth in file.labels()]
    assert times == [0, 50_000, 100_000, 150_000]


@pytest.fixture(scope="module")
def artifacts(f3_artifact: Any, flow_artifact: Any, stand_in_head: Any) -> dict[str, str]:
    """F3 of 64 x 48 pixels and a flow head, both with random weights; depth is a function of the 8 channels."""
    return {
        "--f3": str(f3_artifact("f3_v1_upsampling", **VARIABLE)),
        "--depth": str(stand_in_head("depth", 8, 28, 42)),
        "--flow": str(flow_artifact("flowhead_k9999", height=24, width=40)),
    }


def arguments_of(options: dict[str, str]) -> list[str]:
    return [text for pair in options.items() for text in pair]


def test_models_on_a_simulation(artifacts: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    simulate_options = ["--simulate", "room", "--duration", "0.2", "--label-ms", "100", "--json", "-"]
    assert command.main([*arguments_of(artifacts), *simulate_options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recordings"] == ["room, seed 1, 64x48, 0.2 s"]
    assert told["labels"] == {"depth": 2, "flow": 2}
    assert told["mean"]["depth"]["pixels"] == 64 * 48
    assert 0 < told["mean"]["flow"]["aepe"] < 1000
    assert 0 < told["mean"]["depth"]["abs_rel"] < 10


def test_models_and_their_stored_results_have_the_same_scores(
    artifacts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from f3_ros.offline import main as offline

    recording = tmp_path / "sim.h5"
    write_simulation_h5(recording, simulate(demo_scene(64, 48, 1), 0.2, seed=1), gt_us=100_000)
    heads = {name: path for name, path in artifacts.items() if name != "--f3"}
    write = [str(recording), "--artifact", artifacts["--f3"], *arguments_of(heads), "--output", str(tmp_path / "out")]
    write += ["-p", "output_resolution:=sensor", "-p", "flow_mask:=dense"]
    assert offline(write) == 0
    scores = []
    for source in (arguments_of(artifacts), ["--predictions", str(tmp_path / "out")]):
        assert command.main([str(recording), *source, "--json", str(tmp_path / "scores.json")]) == 0
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    assert scores[0]["skipped"] == scores[1]["skipped"] == {"no events around the label": 1}
    for group in ("depth", "flow"):
        assert scores[0]["mean"][group] == pytest.approx(scores[1]["mean"][group], rel=1e-6)
    assert "aepe" in capsys.readouterr().out


def test_an_unwritable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--json"):
        command._write(tmp_path / "file" / "scores.json", "{}")


def write_stored(folder: Path, depth: np.ndarray, flow: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "depth_000001.npy", depth)
    np.save(folder / "flow_000001.npy", flow)
    np.savez(folder / "windows.npz", end_us=np.array([20_000, 40_000]), flow_interval_us="100000")
    return folder


def test_stored_results_on_a_grid_are_resized(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:5, 0:9].astype(np.float64)
    folder = write_stored(tmp_path / "out", 2 + columns, np.stack([columns, rows]))
    stored = StoredPredictor(folder, frame=(17, 9))
    window = EventWindow(0, 20_000, Events.empty(), True, 0)
    prediction = stored.predict(40_500, window, 17, 9)
    assert prediction is not None
    assert prediction.depth_kind == "metric"
    assert prediction.depth is not None
    assert prediction.flow is not None
    assert prediction.flow_us == 100_000
    np.testing.assert_allclose(prediction.depth[0], 2 + np.arange(17) / 2, rtol=1e-6)
    np.testing.assert_allclose(prediction.flow[0, 0], np.arange(17), atol=1e-5)
    assert stored.predict(60_000, window, 17, 9) is None
    first = stored.predict(20_000, window, 17, 9)
    assert first is not None
    assert first.depth is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "recordings or --simulate"),
        (["a.h5", "--simulate", "room"], "recordings or --simulate"),
        (["a.h5"], "--f3 ART or --predictions"),
        (["a.h5", "--f3", "x", "--predictions", "y"], "--f3 ART or --predictions"),
        (["a.h5", "--f3", "x"], "found neither"),
        (["a.h5", "--predictions", "x", "--flow", "y"], "--predictions alone"),
        (["a.h5", "b.h5", "--predictions", "x"], "found 2"),
        (["a.h5", "b.h5", "--f3", "x", "--flow", "y", "--truth", "z"], "found 2"),
        (["a.h5", "--predictions", "absent", "--every", "0"], "from 1"),
        (["a.h5", "--predictions", "absent"], "results of f3_offline"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_compare_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_simulation_h5(tmp_path / "sim.h5", simulate(demo_scene(48, 32, 1), 0.1, 1000), gt_us=50_000)
    folder = write_stored(tmp_path / "out", np.ones((32, 48)), np.ones((2, 32, 48)))
    assert command.main([str(tmp_path / "sim.h5"), "--predictions", str(folder)]) == 2
    assert "1 no prediction at the label" in capsys.readouterr().err


def test_the_simulation_refuses_nonsense() -> None:
    for scene, size, duration in (("moon", (48, 32), 1.0), ("room", (1, 32), 1.0), ("room", (48, 32), 0.0)):
        with pytest.raises(InputError, match=r"scene|positive"):
            SimulatedRecording(scene, size, duration_s=duration)


def test_help_needs_no_torch() -> None:
    code = "import sys, f3_ros.evaluate as e; e._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
