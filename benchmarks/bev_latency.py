# SPDX-License-Identifier: Apache-2.0
"""Latency and memory of lift-splat encoders: image stage, whole encoder, and pipeline from images to the map.

    python benchmarks/bev_latency.py --device cuda --json benchmarks/results/bev_latency_h200.json
    python benchmarks/bev_latency.py --preset tiny --runs 20

Random weights, as fast as any; tables of a rig like nuScenes': as many cameras of 1600 x 900 as the preset has. Modes:
eager torch, the `.pt2`, and on CUDA both as a CUDA graph. "image" is the image stage alone, "whole" goes from prepared
images on the device to the map there. "pipeline" is `BevPipeline.process`: uint8 images in, the map in host memory out,
by the artifact, and its parts. Memory is the peak of PyTorch's allocator while one call runs, the weights beside it
(CUDA only).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "support"))

import numpy as np
import torch
from bev_rigs import ring

from aot_runtime.backends.aoti import exact_float32
from aot_runtime.benchmark import Timing, measure
from aot_runtime.compiled_model import load_model
from aot_runtime.environment import stamp
from aot_runtime.errors import AotError
from aot_runtime.manifest import CheckpointInfo
from bev_ros.artifact import export_part
from bev_ros.chain import ArtifactChain, Chain, EagerChain
from bev_ros.config import PRESETS
from bev_ros.geometry import camera_vectors
from bev_ros.model.encoder import BevEncoder, randomise
from bev_ros.pipeline import BevPipeline
from bev_ros.tables import PoolingTables, build_tables

MEBIBYTE = 1 << 20
DEFAULT = ("bevdepth-r50-256x704", "agentformer")
Inputs = tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Row:
    """One way to run one part of an encoder."""

    encoder: str
    precision: str
    part: str
    mode: str
    timing: Timing
    peak_mib: float | None = None


def make_inputs(chain: Chain, tables: PoolingTables) -> Inputs:
    """Images of noise, and a rig's camera numbers and tables, on the device."""
    config = chain.config
    random = torch.Generator().manual_seed(0)
    images = torch.randn((config.cameras, 3, *config.image), generator=random).to(chain.device)
    vectors = torch.from_numpy(camera_vectors(ring(config.cameras), config.frustum)).to(chain.device)
    return images, vectors, tuple(tables.tensors(chain.device))


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def timed(call: Callable[[], object], device: str, runs: int) -> tuple[Timing, float | None]:
    """(timing, peak MiB on CUDA) of a call."""
    if not device.startswith("cuda"):
        return measure(call, runs=runs, warmup_runs=2), None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    return measure(call, runs=runs, synchronize=torch.cuda.synchronize), peak


def modes(name: str, call: Callable[[], object], device: str, runs: int) -> Iterator[tuple[str, Timing, float | None]]:
    """(mode, timing, memory) of a call, and of it as a graph."""
    yield name, *timed(call, device, runs)
    if device.startswith("cuda"):
        replay = captured(call)
        yield f"{name}, CUDA graph", timed(replay, device, runs)[0], None


def run(name: str, precision: str, device: str, runs: int, folder: Path) -> list[Row]:
    """All rows of one encoder at one precision."""
    config = PRESETS[name]
    encoder = BevEncoder(config).eval()
    randomise(encoder, 0)
    tables = build_tables(ring(config.cameras), config.frustum, config.grid, keep_z=config.keep_z)
    info = CheckpointInfo.random(0)
    paths = {}
    for part in ("image", "fused"):
        paths[part] = folder / f"bev_{name}_{precision}_{part}.pt2"
        if not paths[part].is_file():
            options: dict[str, Any] = {"precision": precision, "device": device, "progress": False}
            export_part(encoder, part, paths[part], checkpoint=info, **options)
    rows = []
    eager = EagerChain(encoder, info, device, precision)
    images, vectors, cells = make_inputs(eager, tables)
    aware = [vectors] if config.camera_aware else []
    with torch.inference_mode(), exact_float32(precision == "fp32"):
        module = eager._module
        assert module is not None
        calls: list[tuple[str, str, Callable[[], object]]] = [
            ("image", "eager", lambda: module.lift(images, *aware)),
            ("whole", "eager", lambda: eager.run(images, vectors, cells)),
        ]
        with load_model(paths["image"], device, self_test=False) as image:
            inputs = dict(zip(("images", "cameras"), (images, *aware)))
            compiled = ArtifactChain([load_model(paths["fused"], device, self_test=False)])
            calls.append(("image", "compiled", lambda: image.run(**inputs)))
            calls.append(("whole", "compiled", lambda: compiled.run(images, vectors, cells)))
            for part, mode, call in calls:
                for told, timing, peak in modes(mode, call, device, runs):
                    rows.append(Row(name, precision, part, told, timing, peak))
            compiled.close()
        eager.close()
    return rows + pipeline_rows(name, precision, device, runs, paths["fused"])


def pipeline_rows(name: str, precision: str, device: str, runs: int, path: Path) -> list[Row]:
    """From uint8 images to the map in host memory."""
    rig = ring(PRESETS[name].cameras)
    random = np.random.default_rng(0)
    images = {camera.name: random.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8) for camera in rig}
    parts: dict[str, list[float]] = {}
    with BevPipeline(path, device, self_test=False) as pipeline:
        first = pipeline.process(images, rig)
        for _ in range(2):
            pipeline.process(images, rig)

        def call() -> None:
            for part, value in pipeline.process(images, rig).timings_ms.items():
                parts.setdefault(part, []).append(value)

        whole = measure(call, runs=runs, warmup_runs=2)
        mode = "compiled, CUDA graph" if pipeline.graphed else "compiled"
    rows = [Row(name, precision, "pipeline", mode, whole)]
    for part in ("prepare", "tables", "network"):
        rows.append(Row(name, precision, f"pipeline: {part}", mode, _summary(parts[part][-runs:])))
    rows.append(Row(name, precision, "pipeline: tables, first", mode, _summary([first.timings_ms["tables"]])))
    return rows


def _summary(values: list[float]) -> Timing:
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    middle, mean = statistics.median(ordered), statistics.fmean(ordered)
    return Timing(len(ordered), 0, mean, middle, worst, ordered[0], ordered[-1])


def print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("encoder", "precision", "part", "mode")
    for column in ("p50 ms", "p99 ms", "peak MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        memory = "" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        numbers = [f"{row.timing.p50_ms:.3f}", f"{row.timing.p99_ms:.3f}", memory]
        table.add_row(row.encoder, row.precision, row.part, row.mode, *numbers)
    Console(width=120).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", action="append", choices=tuple(PRESETS), help=f"may be repeated (default {', '.join(DEFAULT)})")
    add("--precision", action="append", choices=("fp32", "fp16", "bf16"), help="default fp32, on CUDA fp16 too")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--runs", type=int, default=100)
    add("--keep", metavar="FOLDER", help="keep artifacts here, and use those already there")
    add("--json", type=Path, metavar="FILE", help="write the numbers here too")
    options = parser.parse_args(argv)
    precisions = options.precision or (["fp32", "fp16"] if options.device.startswith("cuda") else ["fp32"])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.preset or DEFAULT:
            for precision in precisions:
                try:
                    rows += run(name, precision, options.device, options.runs, folder)
                except AotError as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 2
    print_table(rows)
    environment = stamp()
    print(f"{options.runs} runs; {environment.line()}")
    if options.json:
        told = {"command": ["benchmarks/bev_latency.py", *(sys.argv[1:] if argv is None else argv)]}
        document = {"environment": environment.as_dict(), **told, "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
