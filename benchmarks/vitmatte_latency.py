# SPDX-License-Identifier: Apache-2.0
"""Latency and memory of VitMatte artifacts on CUDA, compiled and replayed as a CUDA graph, and where the time goes.

    python benchmarks/vitmatte_latency.py --json benchmarks/results/vitmatte_h200.json

Random weights, as fast as any. Inputs lie on the device. Memory is the peak of PyTorch's allocator while one call runs
(activations, inputs, outputs, cuBLAS's workspace), the weights beside it; for a graph, what its capture adds to that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from aliked_latency import MEBIBYTE, kernels_of, measured

from aot_runtime.benchmark import Timing
from aot_runtime.errors import AotError

Case = tuple[str, int, int, str]
CASES: tuple[Case, ...] = (
    ("small", 512, 512, "fp16"),
    ("small", 512, 512, "fp32"),
    ("small", 736, 1280, "fp16"),
    ("base", 512, 512, "fp16"),
)
"""Network, height, width, precision."""


@dataclass(frozen=True)
class Row:
    """One artifact in one mode."""

    network: str
    size: str
    precision: str
    mode: str
    timing: Timing
    peak_mib: float


def make(case: Case, folder: Path) -> Path:
    """Export, or take what is there."""
    from aot_runtime.manifest import CheckpointInfo
    from vitmatte_ros.config import from_name
    from vitmatte_ros.export_vitmatte import export_vitmatte
    from vitmatte_ros.model.vitmatte import VitMatte

    name, height, width, precision = case
    path = folder / f"vitmatte_{name}_{width}x{height}_{precision}.pt2"
    if not path.is_file():
        options: dict[str, Any] = {"height": height, "width": width, "precision": precision, "device": "cuda"}
        model = VitMatte(from_name(name)).randomise(0)
        export_vitmatte(model, path, checkpoint=CheckpointInfo.random(0), progress=False, **options)
    return path


def run(case: Case, path: Path, runs: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """An artifact compiled and as a graph, and the kernels of the graph."""
    import torch

    from aot_runtime.compiled_model import load_model

    name, height, width, precision = case
    rows = []
    with load_model(path, "cuda") as model:
        inputs = model.check_inputs(model.golden_inputs())
        for mode in ("compiled", "CUDA graph"):
            torch.cuda.synchronize()
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call = model.capture_cuda_graph().replay if mode == "CUDA graph" else lambda: model.run_positional(inputs)
            call()
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
            rows.append(Row(name, f"{width}x{height}", precision, mode, measured(call, runs), peak))
        return rows, kernels_of(call)


def print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("network", "size", "precision", "mode")
    for column in ("p50 ms", "p99 ms", "peak MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = [f"{row.timing.p50_ms:.3f}", f"{row.timing.p99_ms:.3f}", f"{row.peak_mib:.0f}"]
        table.add_row(row.network, row.size, row.precision, row.mode, *numbers)
    Console(width=120).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
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
                path = make(case, folder)
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
        told = {"command": ["benchmarks/vitmatte_latency.py", *(sys.argv[1:] if argv is None else argv)]}
        document = {"environment": environment.as_dict(), **told, "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps({**document, "kernels": kernels}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
