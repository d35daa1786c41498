# SPDX-License-Identifier: Apache-2.0
"""Latency of F3 on this machine: eager, compiled, and compiled replayed as a CUDA graph.

    python benchmarks/f3_latency.py --device cuda --sizes 320x240,1280x720 --encoder hashed,direct --precision fp16
    python benchmarks/f3_latency.py --device cpu --runs 10 --warmup-runs 2

Random weights (speed does not depend on them), events uniform over the sensor and already on the device. Medians; on
CUDA each run is timed with CUDA events. Where a variant was measured for the official code, its numbers (one NVIDIA
H200, torch 2.11.0+cu130) stand in the last columns: compare ratios on other cards, milliseconds on the same one only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aot_runtime.errors import AotError, InputError

MODEL = "1280x720x20_patchff_ds1_small"
# (encoder, size) -> official code, fp16, 200,000 events: eager under autocast, .pt2, .pt2 as a CUDA graph, in ms.
OFFICIAL_H200: dict[tuple[str, str], tuple[float | None, float | None, float | None]] = {
    ("hashed", "320x240"): (2.88, 0.715, 0.637),
    ("direct", "320x240"): (4.48, 1.006, 0.914),
    ("hashed", "1280x720"): (27.6, 5.18, 5.07),
}


@dataclass
class Row:
    """One measured way to run one variant; times in ms."""

    size: str
    encoder: str
    precision: str
    depthwise: str
    mode: str
    median_ms: float
    p99_ms: float
    file_mb: float
    export_s: float
    official_ms: float | None
    cosine: float
    """Smallest cosine of a pixel's features with those of eager float32 and the library's convolutions."""


def time_runs(call: Callable[[], object], device: str, runs: int, warmup_runs: int) -> tuple[float, float]:
    """(median, p99) in ms of single calls."""
    import torch

    for _ in range(warmup_runs):
        call()
    if not device.startswith("cuda"):
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    else:
        torch.cuda.synchronize()
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        for before, after in marks:
            before.record()
            call()
            after.record()
        torch.cuda.synchronize()
        times = [before.elapsed_time(after) for before, after in marks]
    times.sort()
    return times[len(times) // 2], times[min(len(times) - 1, int(0.99 * len(times)))]


def measure_variant(
    options: argparse.Namespace, folder: Path, size: str, encoder: str, precision: str, depthwise: str
) -> list[Row]:
    """Export one variant and time every mode of it."""
    import torch

    from aot_runtime.compiled_model import load_model
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.config import from_name
    from f3_ros.deploy import deploy
    from f3_ros.export_f3 import export_f3, make_model

    config = from_name(options.model)
    model = make_model(config).randomise(options.seed)
    width, height = parse_size(size)
    downsample = None if (width, height) == config.frame[:2] else (width, height)
    path = folder / f"{config.name}_{size}_{encoder}_{precision}_{depthwise}.pt2"
    start = time.perf_counter()
    if not (options.keep and path.is_file()):
        export_f3(
            model,
            path,
            checkpoint=CheckpointInfo.random(options.seed),
            n_events=options.n_events,
            variable=options.variable_events,
            hashed=encoder == "hashed",
            downsample=downsample,
            precision=precision,
            device=options.device,
            depthwise=depthwise,
            inductor_configs=dict(options.inductor),
        )
    export_s = time.perf_counter() - start
    official = OFFICIAL_H200.get((encoder, size), (None, None, None)) if options.model == MODEL else (None,) * 3
    rows: list[Row] = []

    def add(mode: str, call: Callable[[], object], reference: float | None) -> None:
        median, p99 = time_runs(call, options.device, options.runs, options.warmup_runs)
        file_mb = path.stat().st_size / 1e6
        rows.append(Row(size, encoder, precision, depthwise, mode, median, p99, file_mb, export_s, reference, cosine))
        print(f"{size} {encoder} {precision} {depthwise} {mode}: {median:.3f} ms", file=sys.stderr, flush=True)

    with load_model(path, options.device) as compiled:
        inputs = compiled.check_inputs(compiled.golden_inputs())
        plain = deploy(model, hashed=encoder == "hashed", downsample=downsample).to(compiled.device)
        with torch.inference_mode():
            expected, found = plain(*inputs).double(), compiled.run_positional(inputs)[0].double()
            cosine = torch.nn.functional.cosine_similarity(expected, found, dim=-1).min().item()
        del plain, expected, found
        if options.eager:
            dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
            # The library's convolutions: fused products are for compilers and would make eager look bad.
            module = deploy(model, hashed=encoder == "hashed", downsample=downsample)
            module.cast_precision(dtype)
            module.to(compiled.device)
            with torch.inference_mode():
                add("eager", lambda: module(*inputs), official[0])
            del module
        add(".pt2", lambda: compiled.run_positional(inputs), official[1])
        if options.device.startswith("cuda"):
            sizes = {dim.name: options.n_events for dim in compiled.manifest.dims}
            graph = compiled.capture_cuda_graph(sizes)
            add(".pt2 CUDA graph", graph.replay, official[2])
            del graph
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return rows


def print_table(rows: list[Row], on_cuda: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("size", "encoder", "precision", "depthwise", "mode")
    numbers = ["median ms", "p99 ms", "file MB", "export s", "cosine"] + (
        ["official H200 ms", "times faster"] if on_cuda else []
    )
    for column in numbers:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.size, row.encoder, row.precision, row.depthwise, row.mode]
        cells += [
            f"{row.median_ms:.3f}",
            f"{row.p99_ms:.3f}",
            f"{row.file_mb:.1f}",
            f"{row.export_s:.0f}",
            f"{row.cosine:.6f}",
        ]
        if on_cuda:
            known = row.official_ms is not None and row.precision == "fp16"
            cells += [f"{row.official_ms:.3f}", f"{row.official_ms / row.median_ms:.2f}"] if known else ["", ""]  # type: ignore[operator]
        table.add_row(*cells)
    Console(width=160).print(table)


def parse_size(text: str) -> tuple[int, int]:
    """ "320x240" -> (320, 240)."""
    width, x, height = text.partition("x")
    if not x or not width.isdigit() or not height.isdigit():
        raise InputError(f"expected a size such as 320x240, found {text!r}")
    return int(width), int(height)


def parse_option(text: str) -> tuple[str, Any]:
    """ "key=value" with a JSON value, for Inductor."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected KEY=JSON, found {text!r}") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default=MODEL, help="official name of a configuration")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add("--sizes", default="320x240", help="comma-separated; the frame's own size means no downsampling")
    add("--encoder", default="hashed,direct", help="hashed, direct or both")
    add("--precision", help="fp32, fp16, bf16, comma-separated (default: fp16 on cuda, fp32 on cpu)")
    add("--depthwise", help="conv, taps, triton, comma-separated (default: the export command's choice for the device)")
    add("--n-events", type=int, default=200_000)
    add("--variable-events", action="store_true", help="export with a dynamic number of events")
    add("--runs", type=int, default=200)
    add("--warmup-runs", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--no-eager", dest="eager", action="store_false", help="don't measure eager")
    add("--inductor", type=parse_option, action="append", default=[], metavar="KEY=JSON", help="compiler option")
    add("--keep", metavar="FOLDER", help="keep artifacts here, and use those already there")
    add("--json", metavar="FILE", help="write the numbers here too")
    options = parser.parse_args(argv)

    import torch

    from aot_runtime.environment import stamp
    from f3_ros.deploy import fastest_depthwise

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_cuda = options.device.startswith("cuda")
    precisions = (options.precision or ("fp16" if on_cuda else "fp32")).split(",")
    depthwise = (options.depthwise or fastest_depthwise(options.device)).split(",")
    rows: list[Row] = []
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for size in options.sizes.split(","):
            for encoder in options.encoder.split(","):
                for precision in precisions:
                    for kind in depthwise:
                        try:
                            rows += measure_variant(options, folder, size, encoder, precision, kind)
                        except AotError as error:
                            # The other variants are still worth their numbers.
                            failures.append(f"{size} {encoder} {precision} {kind}: {error}")
                            print(f"error: {failures[-1]}", file=sys.stderr)
    print_table(rows, on_cuda)
    environment = stamp()
    print(f"{options.n_events} events, median of {options.runs} after {options.warmup_runs}; {environment.line()}")
    if options.json:
        document = {"environment": environment.as_dict(), "rows": [asdict(row) for row in rows], "failures": failures}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
