# SPDX-License-Identifier: Apache-2.0
"""Command `benchmark ARTIFACT_OR_FOLDER...`: latency and memory of any artifact on this machine."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aot_runtime.backends import onnx_file
from aot_runtime.container import SUFFIXES
from aot_runtime.environment import Stamp, stamp
from aot_runtime.errors import AotError, ArtifactError, InputError
from aot_runtime.files import atomic_write
from aot_runtime.progress import table_console


@dataclass(frozen=True)
class Timing:
    """Wall-clock milliseconds per call, the device finished, after warm-up."""

    runs: int
    warmup_runs: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float


@dataclass(frozen=True)
class Result:
    """One row. `peak_mb` is memory in use on the GPU (all processes), or the peak resident memory of this process."""

    artifact: str
    model: str
    precision: str
    device: str
    mode: str
    shape: str
    timing: Timing
    peak_mb: float
    file_mb: float

    @property
    def fps(self) -> float:
        """Runs per second, one after another, at the median."""
        return 1e3 / self.timing.p50_ms if self.timing.p50_ms > 0 else float("inf")


@dataclass(frozen=True)
class Skipped:
    """An artifact of a folder that may not run here, and why."""

    artifact: str
    reason: str


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile: the smallest value with at least `share` of all values at or below it."""
    return sorted_values[max(math.ceil(share * len(sorted_values)) - 1, 0)]


def measure(
    call: Callable[[], object],
    *,
    runs: int = 200,
    warmup_runs: int = 20,
    synchronize: Callable[[], object] | None = None,
    on_run: Callable[[], object] | None = None,
) -> Timing:
    """Time a callable.

    Args:
        synchronize: called before the clock starts and before it stops, so that queued device work counts.
        on_run: called after each run outside the clock, for a progress bar.

    Raises:
        InputError: runs < 1 or warmup_runs < 0.
    """
    if runs < 1 or warmup_runs < 0:
        raise InputError(f"expected runs >= 1 and warm-up runs >= 0, found {runs} and {warmup_runs}")
    wait = synchronize if synchronize is not None else _nothing
    samples = []
    for number in range(warmup_runs + runs):
        wait()
        start = time.perf_counter()
        call()
        wait()
        elapsed = time.perf_counter() - start
        if number >= warmup_runs:
            samples.append(elapsed * 1e3)
        if on_run is not None:
            on_run()
    samples.sort()
    return Timing(
        runs=runs,
        warmup_runs=warmup_runs,
        mean_ms=sum(samples) / runs,
        p50_ms=percentile(samples, 0.50),
        p99_ms=percentile(samples, 0.99),
        min_ms=samples[0],
        max_ms=samples[-1],
    )


def _nothing() -> None:
    return None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e6


def benchmark_artifact(
    path: Path,
    device: str | None = None,
    *,
    runs: int = 200,
    warmup_runs: int = 20,
    cuda_graph: bool = False,
    on_run: Callable[[], object] | None = None,
) -> list[Result]:
    """Measure one artifact on its golden inputs (already on the device): compiled, and as a CUDA graph if asked
    (not an ONNX file, whose runtime cannot be captured).

    Raises:
        AotError: the artifact may not run here, or a CUDA graph is asked for on a CPU.
    """
    import torch

    from aot_runtime.compiled_model import load_model
    from aot_runtime.verdict import read_manifest

    chosen = device or own_device(path)
    on_gpu = chosen.startswith("cuda")
    if on_gpu and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(chosen)
    with load_model(path, chosen) as model:
        manifest = read_manifest(path)
        inputs = model.check_inputs(model.golden_inputs())
        synchronize = (lambda: torch.cuda.synchronize(model.device)) if on_gpu else None
        calls: list[tuple[str, Callable[[], object]]] = [("compiled", lambda: model.run_positional(inputs))]
        if cuda_graph and model.capturable:
            golden_shapes = {item.name: item.shape for item in manifest.golden.inputs}
            sizes = {
                want: golden_shapes[spec.name][axis]
                for spec in manifest.inputs
                for axis, want in enumerate(spec.shape)
                if isinstance(want, str)
            }
            calls.append(("CUDA graph", model.capture_cuda_graph(sizes).replay))
        results = []
        for mode, call in calls:
            timing = measure(call, runs=runs, warmup_runs=warmup_runs, synchronize=synchronize, on_run=on_run)
            peak = _gpu_peak_mb(model.device) if on_gpu else peak_rss_mb()
            results.append(
                Result(
                    artifact=str(path),
                    model=f"{manifest.family} {manifest.variant}",
                    precision=manifest.precision,
                    device=str(model.device),
                    mode=mode,
                    shape=", ".join(f"{item.name} {'x'.join(map(str, item.shape))}" for item in manifest.golden.inputs),
                    timing=timing,
                    peak_mb=peak,
                    file_mb=_file_mb(path),
                )
            )
        return results


def own_device(path: Path) -> str:
    """The device an artifact was made for; files that have no manifest get their verdict from load_model."""
    from aot_runtime.verdict import read_manifest

    try:
        return read_manifest(path).target.device
    except (AotError, OSError):
        return "cpu"


def _file_mb(path: Path) -> float:
    """The artifact's size, with the weights that an ONNX file may have beside it."""
    weights = onnx_file.external_file(path) if path.suffix == ".onnx" else None
    return (path.stat().st_size + (weights.stat().st_size if weights is not None else 0)) / 1e6


def _gpu_peak_mb(device: Any) -> float:
    import torch

    # AOTInductor allocates constants with cudaMalloc, outside PyTorch's counters; what the driver says to be in use
    # bounds it from above (other processes are in it too).
    free, total = torch.cuda.mem_get_info(device)
    return max(torch.cuda.max_memory_allocated(device), total - free) / 1e6


def find_artifacts(paths: Sequence[str]) -> list[Path]:
    """Files as they are, folders as the artifacts anywhere below them, sorted.

    Raises:
        InputError: a folder without artifacts.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise InputError(
                f"expected artifacts, found no {', '.join('*' + suffix for suffix in SUFFIXES)} in {path}",
                "export a model first",
            )
        found.extend(inside)
    return found


def print_results(results: Sequence[Result], environment: Stamp) -> None:
    """A table and the environment line on standard output."""
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    table = Table("artifact", "model", "precision", "device", "mode", "inputs")
    for column in ("p50 ms", "p99 ms", "mean ms", "FPS", "peak MB", "file MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results:
        times = (row.timing.p50_ms, row.timing.p99_ms, row.timing.mean_ms)
        names = (Path(row.artifact).name, row.model, row.precision, row.device, row.mode, row.shape)
        table.add_row(
            *(Text(name) for name in names),
            *(f"{ms:.3f}" for ms in times),
            f"{row.fps:.1f}",
            f"{row.peak_mb:.0f}",
            f"{row.file_mb:.1f}",
        )
    console.print(table)
    console.print(Text(environment.line()), soft_wrap=True)


def results_as_json(results: Sequence[Result], environment: Stamp, skipped: Sequence[Skipped] = ()) -> str:
    """{"environment": {...}, "results": [...], "skipped": [...]}."""
    document = {
        "environment": environment.as_dict(),
        "results": [{**asdict(row), "fps": row.fps} for row in results],
        "skipped": [asdict(item) for item in skipped],
    }
    return json.dumps(document, indent=2)


def results_as_csv(results: Sequence[Result], environment: Stamp) -> str:
    """One line per result, times in ms, the environment in the last columns of each."""
    text = io.StringIO()
    stamped = {"cpu": environment.cpu, "gpu": environment.gpu, "torch": environment.torch, "date": environment.date}
    rows = []
    for row in results:
        fields = asdict(row)
        timing = fields.pop("timing")
        rows.append({**fields, **timing, "fps": row.fps, **stamped})
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    parser.add_argument("artifacts", nargs="+", help="artifacts (.pt2, .onnx, .engine), or folders with them")
    parser.add_argument("--runs", type=int, default=200, help="timed runs (default 200)")
    parser.add_argument("--warmup-runs", type=int, default=20, help="runs before the clock starts (default 20)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: what each artifact was made for)")
    parser.add_argument("--cuda-graph", action="store_true", help="measure a CUDA graph of the artifact too")
    parser.add_argument("--json", metavar="FILE", help="write the results here as well ('-' for standard output)")
    parser.add_argument("--csv", metavar="FILE", help="write the results here as a table")
    options = parser.parse_args(argv)
    try:
        results, skipped = _run_all(options)
        environment = stamp(None if argv is None else ["benchmark", *argv])
        for item in skipped:
            print(f"not run: {item.artifact}: {item.reason}", file=sys.stderr)
        if options.csv:
            _write(options.csv, results_as_csv(results, environment))
        if options.json == "-":
            print(results_as_json(results, environment, skipped))
            return 0
        print_results(results, environment)
        if options.json:
            _write(options.json, results_as_json(results, environment, skipped) + "\n")
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: str, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _run_all(options: argparse.Namespace) -> tuple[list[Result], list[Skipped]]:
    """Measure every artifact. One that was named has to run; those of a folder that may not run here are told."""
    from rich.console import Console
    from rich.progress import Progress

    named = {Path(text) for text in options.artifacts}
    files = find_artifacts(options.artifacts)
    results: list[Result] = []
    skipped: list[Skipped] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for file in files:
            rounds = (options.runs + options.warmup_runs) * (2 if options.cuda_graph else 1)
            task = progress.add_task(file.name.replace("[", r"\["), total=rounds)

            def advance(task: Any = task) -> None:
                progress.advance(task)

            try:
                results += benchmark_artifact(
                    file,
                    options.device,
                    runs=options.runs,
                    warmup_runs=options.warmup_runs,
                    cuda_graph=options.cuda_graph,
                    on_run=advance,
                )
            except ArtifactError as error:
                if file in named:
                    raise
                skipped.append(Skipped(str(file), str(error)))
    if not results:
        raise InputError(
            f"expected an artifact that runs here, found none of {len(files)}; {skipped[0].artifact}: "
            f"{skipped[0].reason}"
        )
    return results, skipped


if __name__ == "__main__":
    sys.exit(main())
