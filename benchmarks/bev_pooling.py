# SPDX-License-Identifier: Apache-2.0
"""Ways to sum up lifted features on the grid: 6 cameras, 112 depth bins, 16 x 44 pixels, 100 x 100 cells.

    python benchmarks/bev_pooling.py --json benchmarks/results/bev_pooling_cpu.json
    python benchmarks/bev_pooling.py --device cuda --sweep --json benchmarks/results/bev_pooling_h200.json

Variants, all exact:

    loop            a Python loop over the points that lie in the grid, one addition each
    volume          depth times context for every point in memory, then one index_add (on CUDA with atomics)
    planes          the same for a few depth bins at a time: `bev_ros.pooling.PlanePooling`, the form for ONNX
    embedding bag   `bev_ros.pooling.pool`
    kernel          `bev_ros.pooling_kernels`, on CUDA

On the CPU, time is the process's CPU time on one thread, the best of several runs: other work on the machine does not
count. There the building of the tables is measured too, in numpy (index, stable sort) and as it is done. On CUDA, time
is that of one call by itself (CUDA events, median) and of one call out of ten in a CUDA graph, where no launches count.
Points come from a rig like nuScenes' ("rig"), or every point falls anywhere, as in measurements of others ("random").
Tables lie on the device. All ratios are within this run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "support"))

import torch
from bev_rigs import ring
from torch import Tensor

from aot_runtime.environment import stamp
from bev_ros.calibration import Rig
from bev_ros.geometry import Frustum, lifts
from bev_ros.grid import BevGrid
from bev_ros.pooling import PlanePooling, as_map, pixel_rows, pool
from bev_ros.table_cache import TableCache
from bev_ros.tables import PoolingTables, build_tables, sort_points

FRUSTUM = Frustum((256, 704), 16, (2.0, 58.0, 0.5))
GRID = BevGrid((-50.0, 50.0, 1.0), (-50.0, 50.0, 1.0), (-10.0, 10.0, 20.0))
CHANNELS = (80, 256)
RANDOM_KEPT = 0.884
"""The share of points in the grid, as in the measurements of others."""
GRAPH_CALLS = 10
Block = tuple[int, int, int, int]
"""Cells, points, lanes and warps of a program of the kernel."""
SWEEP: list[Block] = [
    (cells, points, lanes, warps)
    for cells in (1, 2, 4)
    for points in (4, 8, 16, 32)
    for lanes in (32, 64, 128)
    for warps in (1, 2, 4)
    if 16 <= cells * points * lanes / (32 * warps) <= 64
]


@dataclass(frozen=True)
class Row:
    """One variant of one case; milliseconds, the error relative to the largest value of a float64 map."""

    points: str
    channels: int
    precision: str
    variant: str
    ms: float
    graph_ms: float | None
    error: float
    extra_mib: float | None = None


def make_tables(layout: str) -> PoolingTables:
    if layout == "rig":
        return build_tables(ring(), FRUSTUM, GRID)
    height, width = FRUSTUM.size
    shape, random = (6, FRUSTUM.bins, height, width), np.random.default_rng(0)
    cells = random.integers(0, GRID.nx * GRID.ny, int(np.prod(shape)))
    cells[random.random(len(cells)) > RANDOM_KEPT] = -1
    return sort_points(cells.astype(np.int32), shape, GRID.shape)


def on_volume(depth: Tensor, context: Tensor, cells: Tensor, count: int) -> Tensor:
    """`cells` (N * D * h * w,) int64, `count` for points outside."""
    volume = (depth[..., None] * context.permute(0, 2, 3, 1)[:, None]).reshape(-1, context.shape[1])
    return as_map(volume.new_zeros(count + 1, volume.shape[1]).index_add_(0, cells, volume)[:count], GRID.shape)


def in_a_loop(depth: Tensor, context: Tensor, tables: PoolingTables) -> Tensor:
    rows = pixel_rows(context)
    values, total = depth.reshape(-1), rows.new_zeros(tables.cells, rows.shape[1])
    listed = zip(tables.ranks_bev.tolist(), tables.ranks_feat.tolist(), tables.ranks_depth.tolist())
    for cell, pixel, point in listed:
        total[cell] += values[point] * rows[pixel]
    return as_map(total, tables.map_shape)


def variants(
    depth: Tensor, context: Tensor, tables: PoolingTables, blocks: list[Block]
) -> dict[str, Callable[[], Tensor]]:
    """Calls by name; all that depends on the calibration alone is prepared."""
    device = depth.device
    on_device = tables.tensors(device)
    by_plane = torch.from_numpy(tables.planes()).to(device)
    n, d, h, w = tables.shape
    cells = by_plane.reshape(d, n, h * w).transpose(0, 1).reshape(-1).contiguous()
    planes = PlanePooling(tables.map_shape)
    found: dict[str, Callable[[], Tensor]] = {
        "volume": lambda: on_volume(depth, context, cells, tables.cells),
        "planes": lambda: planes(depth, context, by_plane),
        "embedding bag": lambda: pool(depth, context, on_device, tables.map_shape),
    }
    if device.type == "cpu":
        return {"loop": lambda: in_a_loop(depth, context, tables)} | found
    from bev_ros import pooling_kernels

    def kernel(cells: int, points: int, lanes: int, warps: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            rows = pixel_rows(context).contiguous()
            out = rows.new_empty((tables.cells, rows.shape[1]))
            options = {"cells": cells, "points": points, "lanes": lanes, "warps": warps}
            pooling_kernels.launch(pooling_kernels._pool, depth, rows, *on_device, out, **options)
            return as_map(out, tables.map_shape)

        return call

    found["kernel"] = kernel(
        pooling_kernels.CELLS, pooling_kernels.POINTS, pooling_kernels.LANES, pooling_kernels.WARPS
    )
    for block in blocks:
        found["kernel {} cells {} points {} lanes {} warps".format(*block)] = kernel(*block)
    return found


def cpu_ms(call: Callable[[], object], runs: int) -> float:
    """Best of `runs`, after one."""
    if runs > 1:
        call()
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best * 1e3


def cuda_ms(call: Callable[[], object], runs: int) -> tuple[float, float | None]:
    """(one call, one call of GRAPH_CALLS in a graph), medians; None for what cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(GRAPH_CALLS):
                call()
    except RuntimeError as error:
        print(f"not captured: {error}", file=sys.stderr)
        graph = None

    def timed(one: Callable[[], object]) -> float:
        times = []
        for _ in range(runs):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            one()
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)))
        return statistics.median(times)

    return timed(call), None if graph is None else timed(graph.replay) / GRAPH_CALLS


def extra_mib(call: Callable[[], object]) -> float:
    """The peak of CUDA memory that a call takes beside its inputs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


def measure_case(
    layout: str, channels: int, dtype: torch.dtype, device: str, runs: int, blocks: list[Block]
) -> list[Row]:
    tables = make_tables(layout)
    n, _, h, w = tables.shape
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(tables.shape, generator=generator).softmax(1).to(device, dtype)
    context = torch.randn(n, channels, h, w, generator=generator).to(device, dtype)
    wanted = pool(depth.double(), context.double(), tables)
    rows = []
    for name, call in variants(depth, context, tables, blocks).items():
        try:
            error = float((call().double() - wanted).abs().max() / wanted.abs().max())
            if device == "cpu":
                ms, graph_ms, extra = cpu_ms(call, 1 if name == "loop" else runs), None, None
            else:
                (ms, graph_ms), extra = cuda_ms(call, runs), extra_mib(call)
        except torch.cuda.OutOfMemoryError as error_:
            print(f"{name}: {error_}", file=sys.stderr)
            continue
        precision = str(dtype).removeprefix("torch.")
        rows.append(Row(layout, channels, precision, name, ms, graph_ms, error, extra))
    return rows


def measure_tables(runs: int) -> dict[str, float]:
    """CPU milliseconds for the tables of a rig, however they come about."""
    rig = ring()

    def in_numpy() -> None:
        points = np.stack([lift.points(FRUSTUM.points()) for lift in lifts(rig, FRUSTUM)])
        flat = GRID.flat_cell_of(points).ravel()
        kept = np.flatnonzero(flat >= 0)
        kept[np.argsort(flat[kept], kind="stable")]

    memory = TableCache(FRUSTUM, GRID)
    memory.get(rig)
    return {
        "numpy": cpu_ms(in_numpy, 3),
        "built": cpu_ms(lambda: build_tables(rig, FRUSTUM, GRID), runs),
        "built without one of the cameras": min(cpu_ms(call, 1) for call in leave_one_out(rig)),
        "in memory": cpu_ms(lambda: memory.get(rig), runs),
    } | from_disk(rig, runs)


def leave_one_out(rig: Rig) -> list[Callable[[], object]]:
    """Calls that build what is not known yet, of cameras that are."""
    cache = TableCache(FRUSTUM, GRID)
    cache.get(rig)
    return [lambda i=i: cache.get(rig, rig.names[:i] + rig.names[i + 1 :]) for i in range(len(rig))]  # type: ignore[misc]


def from_disk(rig: Rig, runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        TableCache(FRUSTUM, GRID, folder=folder).get(rig)
        return {"from disk": cpu_ms(lambda: TableCache(FRUSTUM, GRID, folder=folder).get(rig), runs)}


def print_table(rows: list[Row], tables: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    cuda = any(row.extra_mib is not None for row in rows)
    shown = Table("points", "C", "precision", "variant")
    columns = ("ms", "graph ms", "MiB", "error", "volume / it") if cuda else ("ms", "error", "volume / it", "loop / it")
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        same = _case(rows, row)
        numbers = [f"{row.ms:.3f}"]
        if cuda:
            numbers += ["" if row.graph_ms is None else f"{row.graph_ms:.4f}", f"{row.extra_mib:.0f}"]
        numbers += [f"{row.error:.1e}", f"{_time(same['volume']) / _time(row):.1f}"]
        if not cuda:
            numbers.append(f"{_time(same['loop']) / _time(row):.0f}")
        shown.add_row(row.points, str(row.channels), row.precision, row.variant, *numbers)
    console = Console(width=120)
    console.print(shown)
    if tables:
        console.print("tables, CPU ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in tables.items()))


def _case(rows: list[Row], like: Row) -> dict[str, Row]:
    key = like.points, like.channels, like.precision
    return {row.variant: row for row in rows if (row.points, row.channels, row.precision) == key}


def _time(row: Row) -> float:
    return row.ms if row.graph_ms is None else row.graph_ms


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """How many times faster the product's form is than the others."""
    found = []
    for row in rows:
        if row.variant == ("embedding bag" if row.extra_mib is None else "kernel"):
            others = {name: _time(other) / _time(row) for name, other in _case(rows, row).items() if other is not row}
            found.append({"points": row.points, "channels": row.channels, "precision": row.precision} | others)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--runs", type=int, help="per variant (default: 5 on the CPU, 100 on CUDA)")
    add("--channels", type=int, nargs="+", default=CHANNELS, help="of the features (default: 80 256)")
    add("--points", choices=("rig", "random"), nargs="+", help="(default: rig on the CPU, both on CUDA)")
    add("--precision", choices=("float32", "float16"), nargs="+", help="(default: float32; on CUDA both)")
    add("--sweep", action="store_true", help="on CUDA also the kernel in other block sizes")
    add("--json", metavar="FILE", help="write the numbers to FILE")
    options = parser.parse_args(argv)
    cuda = options.device.startswith("cuda")
    torch.set_num_threads(1)
    runs = options.runs or (100 if cuda else 5)
    rows: list[Row] = []
    with torch.no_grad():
        for layout in options.points or (("rig", "random") if cuda else ("rig",)):
            for channels in options.channels:
                for precision in options.precision or (("float32", "float16") if cuda else ("float32",)):
                    dtype = getattr(torch, precision)
                    blocks = SWEEP if options.sweep and cuda else []
                    rows += measure_case(layout, channels, dtype, options.device, runs, blocks)
    tables = {} if cuda else measure_tables(runs)
    print_table(rows, tables)
    if options.json:
        told = {
            "environment": asdict(stamp(argv)),
            "versions": {"numpy": np.__version__, "torch": torch.__version__, "triton": _version("triton")},
            "shape": {"cameras": 6, "bins": FRUSTUM.bins, "features": FRUSTUM.size, "map": GRID.shape},
            "points": {name: make_tables(name).points for name in sorted({row.points for row in rows})},
            "rows": [asdict(row) for row in rows],
            "times_faster": ratios(rows),
            "tables_cpu_ms": tables,
        }
        Path(options.json).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
