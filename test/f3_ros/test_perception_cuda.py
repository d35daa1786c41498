# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of the perception pipeline: graphs against plain runs, frame after frame, size after size.

Weights of golden configurations and stand-in heads, compiled on this machine for CUDA (about a minute, then cached).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_windows import random_window as window

from aot_runtime.errors import ArtifactError
from f3_ros.perception import PerceptionPipeline
from f3_ros.pipeline import F3Pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

Head = Callable[..., Path]
CHANNELS = 16
MODES: dict[str, dict[str, Any]] = {
    "variable": {"variable": True, "n_events": 1500, "max_events": 40_000},
    "fixed": {"n_events": 1600, "hashed": True, "downsample": (21, 17)},
    "fp16": {"variable": True, "n_events": 1500, "max_events": 40_000, "precision": "fp16"},
}
# Sums of features over events run in any order on a GPU.
TOLERANCE = {"variable": 1e-4, "fixed": 1e-4, "fp16": 3e-2}
COUNTS = {"variable": (300, 5000, 0, 1, 20_000, 300), "fixed": (300, 1600, 0, 1, 40), "fp16": (300, 20_000, 300)}


@pytest.fixture(scope="module")
def artifacts(f3_artifact: Callable[..., Path], stand_in_head: Head) -> Callable[[str], tuple[Path, Path, Path]]:
    """mode -> F3, depth head, flow head for CUDA."""

    def get(mode: str) -> tuple[Path, Path, Path]:
        depth, flow = (stand_in_head(family, CHANNELS, 28, 42, device="cuda") for family in ("depth", "flow"))
        return f3_artifact("f3_small_direct", device="cuda", **MODES[mode]), depth, flow

    return get


@pytest.fixture
def pipelines(
    artifacts: Callable[[str], tuple[Path, Path, Path]],
) -> Iterator[Callable[..., PerceptionPipeline]]:
    """pipelines(mode, **options): both heads; closed at the end."""
    opened: list[PerceptionPipeline] = []

    def make(mode: str, **options: Any) -> PerceptionPipeline:
        f3, depth, flow = artifacts(mode)
        opened.append(PerceptionPipeline.load(f3, "cuda", depth=depth, flow=flow, **options))
        return opened[-1]

    yield make
    for pipeline in opened:
        pipeline.close()


def close(found: Any, expected: Any, tolerance: float, where: str) -> None:
    """Every output within the tolerance of its largest value."""
    for name in ("features", "depth", "flow"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.float32
        assert np.isfinite(a).all()
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)
        assert error <= tolerance, f"{where}: {name} differs by {error:.2e}"


@pytest.mark.parametrize("mode", MODES)
def test_graphs_compute_what_plain_runs_compute(mode: str, pipelines: Callable[..., PerceptionPipeline]) -> None:
    """Counts up and down, so that a smaller frame follows a larger one in the same buffers."""
    replayed, plain = pipelines(mode), pipelines(mode, cuda_graph=False)
    for frame, count in enumerate(COUNTS[mode]):
        some = window(count, seed=frame)
        found, expected = replayed.process(some, 64, 48), plain.process(some, 64, 48)
        assert found.warnings == expected.warnings == (), "no capture failed"
        assert found.n_events_used == expected.n_events_used == count
        close(found, expected, TOLERANCE[mode], f"frame {frame} of {count} events")
    assert plain.cuda_graphs == 0
    assert replayed.cuda_graphs == (1 if mode == "fixed" else 2)  # up to 8192 events, and up to 32768


@pytest.mark.parametrize("mode", ["variable", "fixed"])
def test_the_gpu_computes_what_the_cpu_computes(
    mode: str, pipelines: Callable[..., PerceptionPipeline], f3_artifact: Any, stand_in_head: Head
) -> None:
    on_cpu = PerceptionPipeline(
        F3Pipeline(f3_artifact("f3_small_direct", **MODES[mode])),
        stand_in_head("depth", CHANNELS, 28, 42),
        stand_in_head("flow", CHANNELS, 28, 42),
    )
    for cuda_graph in (False, True):
        pipeline = pipelines(mode, cuda_graph=cuda_graph)
        for seed in range(2):
            some = window(700, seed)
            close(pipeline.process(some, 64, 48), on_cpu.process(some, 64, 48), 1e-3, f"graph {cuda_graph}")


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_results_are_not_overwritten_by_the_next_frame(
    cuda_graph: bool, pipelines: Callable[..., PerceptionPipeline]
) -> None:
    pipeline = pipelines("variable", cuda_graph=cuda_graph)
    results = [pipeline.process(window(900, seed), 64, 48) for seed in range(6)]
    kept = [(r.features.copy(), r.depth.copy(), r.flow.copy()) for r in results]  # type: ignore[union-attr]
    tensors = [pipeline.tensors(pipeline.f3.tensor(window(900, seed), 64, 48)) for seed in range(6)]
    for seed in range(6, 12):
        pipeline.process(window(900, seed), 64, 48)
    for result, copies in zip(results, kept):
        for array, copy in zip((result.features, result.depth, result.flow), copies):
            np.testing.assert_array_equal(array, copy)
    for seed, (result, on_device) in enumerate(zip(results, tensors)):
        assert result.depth is not None
        assert result.flow is not None
        np.testing.assert_allclose(on_device["depth"][0].cpu(), result.depth, atol=1e-4, err_msg=f"seed {seed}")
        np.testing.assert_allclose(on_device["flow"][0].cpu(), result.flow, atol=1e-4, err_msg=f"seed {seed}")
    assert np.abs(kept[0][1] - kept[1][1]).max() > 1e-3, "frames differ"


def test_tensors_are_ready_on_the_callers_stream(pipelines: Callable[..., PerceptionPipeline]) -> None:
    """Events that are on the device already, and work queued right behind, on a stream of the caller's."""
    pipeline = pipelines("variable")
    rows = torch.from_numpy(pipeline.f3.tensor(window(4000), 64, 48).copy())
    expected = pipeline.tensors(rows.numpy())
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(20):
            found = pipeline.tensors(rows.cuda())
            total = {name: tensor.double().sum() for name, tensor in found.items()}
            del found
            torch.empty(1 << 20, device="cuda").fill_(float("nan"))
    side.synchronize()
    assert set(total) == {"features", "depth", "flow"}
    for name, value in total.items():
        torch.testing.assert_close(value, expected[name].double().sum(), rtol=1e-4, atol=1e-2)


def test_graphs_of_few_heads_are_captured_when_they_are_wanted(pipelines: Callable[..., PerceptionPipeline]) -> None:
    pipeline = pipelines("fixed")
    everything = pipeline.process(window(300), 64, 48)
    assert pipeline.cuda_graphs == 1
    only_flow = pipeline.process(window(300), 64, 48, want=("flow",))
    assert pipeline.cuda_graphs == 2
    assert (only_flow.features, only_flow.depth) == (None, None)
    assert only_flow.flow is not None
    assert everything.flow is not None
    np.testing.assert_allclose(only_flow.flow, everything.flow, atol=1e-4)
    assert pipeline.process(window(300), 64, 48, want=()).depth is None
    assert pipeline.cuda_graphs == 2


def test_the_number_of_graphs_is_bounded(
    pipelines: Callable[..., PerceptionPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("f3_ros.device_stream.MAX_GRAPHS", 2)
    pipeline, plain = pipelines("variable"), pipelines("variable", cuda_graph=False)
    for count in (100, 9000, 17_000, 40_000, 100, 9000):
        some = window(count, seed=count)
        close(pipeline.process(some, 64, 48), plain.process(some, 64, 48), TOLERANCE["variable"], f"{count} events")
        assert pipeline.cuda_graphs is not None
        assert pipeline.cuda_graphs <= 2


def test_a_capture_that_fails_is_said_once_and_the_models_run_without(
    pipelines: Callable[..., PerceptionPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, plain = pipelines("variable"), pipelines("variable", cuda_graph=False)
    assert pipeline._stream is not None
    networks = pipeline._networks

    def synchronising(events: torch.Tensor, heads: frozenset[str]) -> dict[str, torch.Tensor]:
        found = networks(events, heads)
        float(found["features"].sum())  # waits for the device, which a capture forbids
        return found

    monkeypatch.setattr(pipeline._stream, "_networks", synchronising)
    first = pipeline.process(window(300), 64, 48)
    assert len(first.warnings) == 1
    assert "CUDA graph capture failed, the models run without: " in first.warnings[0]
    close(first, plain.process(window(300), 64, 48), TOLERANCE["variable"], "first")
    second = pipeline.process(window(500), 64, 48)
    assert second.warnings == ()
    close(second, plain.process(window(500), 64, 48), TOLERANCE["variable"], "second")


def test_heads_are_on_the_device_of_f3(
    artifacts: Callable[[str], tuple[Path, Path, Path]], stand_in_head: Head
) -> None:
    from aot_runtime.compiled_model import load_model

    f3 = F3Pipeline(artifacts("variable")[0], "cuda")
    on_cpu = load_model(stand_in_head("flow", CHANNELS, 28, 42))
    with pytest.raises(ArtifactError, match="expected the flow head on cuda:0 as F3"):
        PerceptionPipeline(f3, flow=on_cpu)
    f3.close()
