# SPDX-License-Identifier: Apache-2.0
"""Latency and memory of ALIKED artifacts on CUDA, compiled and replayed as a CUDA graph, and where the time goes.

    python benchmarks/aliked_latency.py --weights WEIGHTS_FOLDER --json benchmarks/results/aliked_h200.json

Inputs lie on the device. Memory is the peak of PyTorch's allocator while one call runs (activations, inputs, outputs,
cuBLAS's workspace), the weights (next to nothing here) beside it; for a graph, what its capture adds to that. Where the
official code was measured (one NVIDIA H200, torch 2.11.0+cu130), its best time stands beside ours: compare ratios on
other cards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aot_runtime.benchmark import Timing, measure
from aot_runtime.errors import AotError

# (network, width, height, keypoints, precision) -> official ms of torch.compile, and of that with CUDA graphs.
CASES: dict[tuple[str, int, int, int, str], tuple[float | None, float | None]] = {
    ("aliked-n16rot", 640, 480, 1000, "fp16"): (2.53, 1.47),
    ("aliked-n16rot", 1241, 376, 2000, "fp16"): (3.33, None),
    ("aliked-n16rot", 640, 480, 1000, "fp32"): (2.53, 1.47),
    ("aliked-t16", 640, 480, 1000, "fp16"): (3.01, None),
}
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Row:
    """One artifact in one mode."""

    network: str
    size: str
    top_k: int
    precision: str
    mode: str
    timing: Timing
    peak_mib: float
    official_ms: float | None


def make(case: tuple[str, int, int, int, str], folder: Path, weights: Path | None) -> Path:
    """Export, or take what is there."""
    from aliked_ros.config import from_name
    from aliked_ros.export_aliked import export_aliked, read_network
    from aliked_ros.model import ALIKED
    from aot_runtime.manifest import CheckpointInfo

    name, width, height, top_k, precision = case
    path = folder / f"{name}_{width}x{height}_k{top_k}_{precision}.pt2"
    if path.is_file():
        return path
    if weights is None:
        model, checkpoint = ALIKED(from_name(name)).randomise(0), CheckpointInfo.random(0)
    else:
        model, checkpoint = read_network(name, weights / f"{name}.pth")
    sizes: dict[str, Any] = {"height": height, "width": width, "top_k": top_k}
    export_aliked(model, path, checkpoint=checkpoint, precision=precision, device="cuda", progress=False, **sizes)
    return path


def measured(call: Callable[[], object], runs: int) -> Timing:
    import torch

    return measure(call, runs=runs, synchronize=torch.cuda.synchronize)


def run(case: tuple[str, int, int, int, str], path: Path, runs: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """An artifact compiled and as a graph, and the kernels of the graph."""
    import torch

    from aot_runtime.compiled_model import load_model

    name, width, height, top_k, precision = case
    rows = []
    with load_model(path, "cuda") as model:
        inputs = model.check_inputs(model.golden_inputs())
        modes: dict[str, Callable[[], Callable[[], object]]] = {
            "compiled": lambda: lambda: model.run_positional(inputs),
            "CUDA graph": lambda: model.capture_cuda_graph().replay,
        }
        for (mode, prepare), official in zip(modes.items(), CASES[case]):
            torch.cuda.synchronize()
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call = prepare()
            call()
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
            rows.append(Row(name, f"{width}x{height}", top_k, precision, mode, measured(call, runs), peak, official))
        return rows, kernels_of(call)


def kernels_of(call: Callable[[], object], runs: int = 20) -> list[dict[str, Any]]:
    """The GPU's kernels in a call: name, launches, microseconds; the longest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(runs):
            call()
        torch.cuda.synchronize()
    found = [
        {"kernel": event.key[:120], "launches": event.count / runs, "us": round(event.device_time_total / runs, 2)}
        for event in profiler.key_averages()
        if event.device_time_total > 0
    ]
    return sorted(found, key=lambda item: -item["us"])


def print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("network", "size", "K", "precision", "mode")
    for column in ("p50 ms", "p99 ms", "peak MiB", "official ms", "times faster"):
        table.add_column(column, justify="right")
    for row in rows:
        p50, official = row.timing.p50_ms, row.official_ms
        against = [f"{official:.2f}", f"{official / p50:.2f}"] if official else ["", ""]
        numbers = [f"{p50:.3f}", f"{row.timing.p99_ms:.3f}", f"{row.peak_mib:.0f}", *against]
        table.add_row(row.network, row.size, str(row.top_k), row.precision, row.mode, *numbers)
    Console(width=120).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, metavar="FOLDER", help="of official checkpoints (default: random weights, as fast)")
    add("--runs", type=int, default=200)
    add("--keep", metavar="FOLDER", help="keep artifacts here, and use those already there")
    add("--json", type=Path, metavar="FILE", help="write the numbers here too")
    options = parser.parse_args(argv)

    import torch

    from aot_runtime.environment import stamp

    if not torch.cuda.is_available():
        print("error: expected a CUDA device, found none", file=sys.stderr)
        return 2
    rows: list[Row] = []
    kernels: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for case in CASES:
            try:
                path = make(case, folder, options.weights)
                found, kernels[path.stem] = run(case, path, options.runs)
            except AotError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            rows += found
    print_table(rows)
    for name, table in kernels.items():
        launches, total = sum(item["launches"] for item in table), sum(item["us"] for item in table)
        print(f"{name}: {launches:.0f} kernels, {total:.0f} us")
        for item in table[:12]:
            print(f"  {item['us']:7.1f} us  x{item['launches']:g}  {item['kernel'][:90]}")
    environment = stamp()
    print(f"{options.runs} runs after 20; {environment.line()}")
    if options.json:
        told = {"command": ["benchmarks/aliked_latency.py", *(sys.argv[1:] if argv is None else argv)]}
        document = {"environment": environment.as_dict(), **told, "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps({**document, "kernels": kernels}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
