# SPDX-License-Identifier: Apache-2.0
"""What each step from events to depth and flow costs: upload, F3, resize, the heads, and their sums as they run.

Times are wall-clock per call with the device finished; but for the upload, inputs lie on the device already, as in the
official script. On CUDA every step can also be measured as a replayed CUDA graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.benchmark import Timing, measure
from aot_runtime.environment import Stamp
from aot_runtime.errors import InputError
from aot_runtime.progress import table_console
from f3_ros.pipeline import PADDING

if TYPE_CHECKING:
    import torch

    from f3_ros.perception import PerceptionPipeline

COMPILED = "compiled"
GRAPH = "CUDA graph"
_CAPTURE_WARMUP = 3


@dataclass(frozen=True)
class StageTime:
    """One row of the table: a stage ("event upload", "F3", ..., "all"), how it ran, and its times."""

    stage: str
    mode: str
    timing: Timing


def measure_stages(
    pipeline: PerceptionPipeline,
    rows: np.ndarray,
    *,
    runs: int = 200,
    warmup_runs: int = 20,
    cuda_graph: bool = False,
    on_run: Callable[[], object] | None = None,
) -> list[StageTime]:
    """Times of every stage that the pipeline has, on the events of one window.

    Args:
        rows: events (N, 4) float32, at most `max_events`.
        cuda_graph: measure replayed graphs too.
        on_run: called after each run outside the clock, for a progress bar.

    Raises:
        InputError: CUDA graphs are asked for on a CPU, or no run.
    """
    import torch

    device = pipeline.f3.model.device
    on_gpu = device.type == "cuda"
    if cuda_graph and not on_gpu:
        raise InputError(
            f"expected a CUDA device for --cuda_graph, found {device}", "leave it out, or use --device cuda"
        )
    synchronize = (lambda: torch.cuda.synchronize(device)) if on_gpu else None

    def timed(call: Callable[[], object]) -> Timing:
        return measure(call, runs=runs, warmup_runs=warmup_runs, synchronize=synchronize, on_run=on_run)

    found = []
    with torch.inference_mode():
        upload, stages = _stages(pipeline, rows)
        found.append(StageTime("event upload", COMPILED, timed(upload)))
        found += [StageTime(name, COMPILED, timed(call)) for name, call in stages.items()]
        if cuda_graph:
            for name, call in stages.items():
                found.append(StageTime(name, GRAPH, timed(_captured(call, device))))
    return found


def count_stages(heads: Collection[str], cuda_graph: bool) -> int:
    """How many rows `measure_stages` gives, for a progress bar."""
    # F3; with heads also the resize, each head, F3 with each, and with more than one all together.
    stages = 1 + (len(heads) > 0) + 2 * len(heads) + (len(heads) > 1)
    return 1 + stages * (1 + cuda_graph)


def _stages(
    pipeline: PerceptionPipeline, rows: np.ndarray
) -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
    """The upload of the events, and by name what runs on the device afterwards, every call on the same tensors."""
    import torch

    from f3_ros.perception import resize_features

    f3, heads = pipeline.f3, pipeline.heads
    device = f3.model.device
    if not f3.variable_events:
        rows = np.concatenate([rows, np.full((f3.max_events - len(rows), rows.shape[1]), PADDING, rows.dtype)])
    host = torch.from_numpy(np.ascontiguousarray(rows))
    if device.type == "cuda":
        host = host.pin_memory()

    def upload() -> torch.Tensor:
        return host.to(device, non_blocking=True, copy=True)

    events = upload()
    field = f3.run(events)
    sizes = {head.info.size for head in heads.values()}

    def resize(features: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
        return {size: resize_features(features, size) for size in sizes}

    resized = resize(field)

    def chain(*families: str) -> Callable[[], object]:
        """F3, the resize for each size once, and the heads: what a node runs for one window."""

        def call() -> list[torch.Tensor]:
            features = f3.run(events)
            wanted = {heads[family].info.size for family in families}
            images = {size: resize_features(features, size) for size in wanted}
            return [heads[family].run(images[heads[family].info.size]) for family in families]

        return call

    def alone(family: str) -> Callable[[], object]:
        head = heads[family]
        return lambda: head.run(resized[head.info.size])

    stages: dict[str, Callable[[], object]] = {"F3": lambda: f3.run(events)}
    if heads:
        stages["resize"] = lambda: resize(field)
    stages |= {family: alone(family) for family in heads}
    stages |= {f"F3 + {family}": chain(family) for family in heads}
    if len(heads) > 1:
        stages["all"] = chain(*heads)
    return upload, stages


def _captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call as a CUDA graph; its inputs and outputs stay where they are."""
    import torch

    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_CAPTURE_WARMUP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def print_times(times: Sequence[StageTime], title: str, environment: Stamp) -> None:
    """A table and the environment line on standard output."""
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    console.print(Text(title), soft_wrap=True)
    table = Table("stage", "mode")
    for column in ("p50 ms", "p99 ms", "mean ms", "min ms", "max ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in times:
        timing = row.timing
        numbers = (timing.p50_ms, timing.p99_ms, timing.mean_ms, timing.min_ms, timing.max_ms)
        table.add_row(row.stage, row.mode, *(f"{ms:.3f}" for ms in numbers))
    console.print(table)
    console.print(Text(environment.line()), soft_wrap=True)


def times_as_json(times: Sequence[StageTime], told: Mapping[str, Any], environment: Stamp) -> str:
    """{"environment": {...}, **told, "results": [...]}."""
    return json.dumps(
        {"environment": environment.as_dict(), **told, "results": [asdict(row) for row in times]}, indent=2
    )
