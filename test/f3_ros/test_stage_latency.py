# SPDX-License-Identifier: Apache-2.0
"""Which stages are measured, that each runs what its name says, and that the JSON is complete."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.environment import stamp
from aot_runtime.errors import InputError
from f3_ros.perception import PerceptionPipeline
from f3_ros.pipeline import F3Pipeline
from f3_ros.stage_latency import _stages, count_stages, measure_stages, print_times, times_as_json

VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}
FIXED = {"n_events": 1600, "hashed": True, "downsample": (21, 17)}
CHANNELS = 16
ALL = ["event upload", "F3", "resize", "depth", "flow", "F3 + depth", "F3 + flow", "all"]
Head = Callable[..., Path]


@pytest.fixture(scope="module", params=["variable", "fixed"])
def f3(request: pytest.FixtureRequest, f3_artifact: Any) -> Iterator[F3Pipeline]:
    pipeline = F3Pipeline(f3_artifact("f3_small_direct", **(VARIABLE if request.param == "variable" else FIXED)))
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    generator = np.random.default_rng(3)
    values = [generator.integers(0, size, 500) / size for size in (64, 48, 20)]
    return np.stack([*values, generator.integers(0, 2, 500)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ((), ["event upload", "F3"]),
        (("depth",), ["event upload", "F3", "resize", "depth", "F3 + depth"]),
        (("flow",), ["event upload", "F3", "resize", "flow", "F3 + flow"]),
        (("depth", "flow"), ALL),
    ],
)
def test_every_stage_that_there_is_is_measured(
    heads: tuple[str, ...], expected: list[str], f3: F3Pipeline, stand_in_head: Head, rows: np.ndarray
) -> None:
    pipeline = PerceptionPipeline(f3, **{family: stand_in_head(family, CHANNELS, 28, 42) for family in heads})
    ticks: list[int] = []
    times = measure_stages(pipeline, rows, runs=3, warmup_runs=2, on_run=lambda: ticks.append(1))
    assert [row.stage for row in times] == expected
    assert {row.mode for row in times} == {"compiled"}
    assert {(row.timing.runs, row.timing.warmup_runs) for row in times} == {(3, 2)}
    assert len(ticks) == 5 * len(expected)
    assert count_stages(heads, False) == len(expected)
    assert count_stages(heads, True) == 2 * len(expected) - 1  # the upload is no graph


def test_a_stage_runs_what_its_name_says(
    f3: F3Pipeline, stand_in_head: Head, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = PerceptionPipeline(f3, stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 20, 30))
    expected = pipeline.tensors(rows)
    upload, stages = _stages(pipeline, rows)
    events = upload()
    assert isinstance(events, torch.Tensor)
    assert torch.equal(events[: len(rows)], torch.from_numpy(rows))
    assert len(events) == (len(rows) if f3.variable_events else f3.max_events)
    assert bool((events[len(rows) :, 2] < 0).all())
    assert torch.equal(stages["F3"](), expected["features"])  # type: ignore[arg-type]
    assert torch.equal(stages["depth"](), expected["depth"])  # type: ignore[arg-type]
    assert torch.equal(stages["flow"](), expected["flow"])  # type: ignore[arg-type]
    depth, flow = stages["all"]()  # type: ignore[misc]
    assert torch.equal(depth, expected["depth"])
    assert torch.equal(flow, expected["flow"])
    ran: Counter[str] = Counter()
    for name, model in pipeline.models.items():
        run = model.run
        monkeypatch.setattr(model, "run", lambda name=name, run=run, **inputs: (ran.update([name]), run(**inputs))[1])
    for stage, models in {
        "F3": {"f3"}, "resize": set(), "depth": {"depth"}, "flow": {"flow"}, "F3 + depth": {"f3", "depth"},
        "F3 + flow": {"f3", "flow"}, "all": {"f3", "depth", "flow"},
    }.items():  # fmt: skip
        ran.clear()
        stages[stage]()
        assert ran == dict.fromkeys(models, 1), stage


def test_the_json_and_the_table_are_complete(
    f3: F3Pipeline, stand_in_head: Head, rows: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = PerceptionPipeline(f3, stand_in_head("depth", CHANNELS, 28, 42))
    times = measure_stages(pipeline, rows, runs=2, warmup_runs=0)
    told = json.loads(times_as_json(times, {"time_ms": 20}, stamp(["run_exported"])))
    assert set(told) == {"environment", "time_ms", "results"}
    assert told["environment"]["command"] == "run_exported"
    for row, parsed in zip(times, told["results"]):
        assert parsed["stage"] == row.stage
        timing = parsed["timing"]
        assert set(timing) == {"runs", "warmup_runs", "mean_ms", "p50_ms", "p99_ms", "min_ms", "max_ms"}
        assert 0 < timing["min_ms"] <= timing["p50_ms"] <= timing["p99_ms"] <= timing["max_ms"]
    print_times(times, "a title", stamp(["run_exported"]))
    shown = capsys.readouterr().out
    for word in ("a title", "event upload", "F3 + depth", "p99 ms", "compiled", "torch threads"):
        assert word in shown


def test_graphs_need_cuda(f3: F3Pipeline, rows: np.ndarray) -> None:
    with pytest.raises(InputError, match="CUDA device for --cuda_graph, found cpu"):
        measure_stages(PerceptionPipeline(f3), rows, runs=1, cuda_graph=True)
    with pytest.raises(InputError, match="runs >= 1"):
        measure_stages(PerceptionPipeline(f3), rows, runs=0)
