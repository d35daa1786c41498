# SPDX-License-Identifier: Apache-2.0
"""Command `measure_timings`: ALIKED's networks, sizes, runtimes and precisions on this machine, in ms and MiB.

Every cell runs in a process of its own. One that cannot be made or run is a row with the reason. Artifacts are kept in
a folder, and rows in OUTPUT.json, so that --resume goes on with an interrupted table.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aliked_ros.config import CONFIGS, from_name
from aliked_ros.timing_cell import FILES, RUNTIMES, Cell
from aot_runtime.command import exit_status
from aot_runtime.environment import Stamp, stamp
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.progress import Steps
from aot_runtime.verdict import judge, parse_device

_HEADER = {"eager": "eager", "compile": "torch.compile", "pt2": "`.pt2`", "onnx": "`.onnx`", "engine": "`.engine`"}


@dataclass(frozen=True)
class Row:
    """One cell of the table in one mode; times are None and `reason` says why where it could not be measured.

    Attributes:
        mode: "plain", or "CUDA graph".
        p50_ms, p99_ms, mean_ms, min_ms: the network, image and keypoints on the device.
        cpu_ms: processor time of a call, all threads: what is left to compare where others use the machine too.
        host_p50_ms, host_p99_ms: from an image in host memory to keypoints in host memory, as a node needs them.
        peak_mib: while running; on the CPU of the whole process, on CUDA what the GPU gave out beyond the context.
    """

    model: str
    top_k: int
    image: str
    runtime: str
    mode: str
    precision: str
    device: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    min_ms: float | None = None
    cpu_ms: float | None = None
    host_p50_ms: float | None = None
    host_p99_ms: float | None = None
    peak_mib: float | None = None
    file_mb: float | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Which cell it is."""
        return (self.model, self.top_k, self.image, self.runtime, self.precision, self.device)


def _row(cell: Cell, mode: str, **values: Any) -> Row:
    names = (cell.model, cell.top_k, f"{cell.width}x{cell.height}", cell.runtime, mode, cell.precision, cell.device)
    return Row(*names, **values)


def run_cell(cell: Cell, timeout_s: float) -> list[Row]:
    """Rows of a cell: one a mode, or one with the reason why there is none. Raises nothing of its own."""
    if cell.runtime in FILES and not (cell.artifact.is_file() and judge(cell.artifact, cell.device).ok):
        told = _in_process(dataclasses.replace(cell, job="export"), timeout_s)
        if "reason" in told:
            return [_row(cell, "plain", reason=told["reason"])]
    told = _in_process(cell, timeout_s)
    if "reason" in told:
        return [_row(cell, "plain", reason=told["reason"])]
    return [
        _row(
            cell,
            mode,
            p50_ms=found["network"]["p50_ms"],
            p99_ms=found["network"]["p99_ms"],
            mean_ms=found["network"]["mean_ms"],
            min_ms=found["network"]["min_ms"],
            cpu_ms=found["network"]["cpu_ms"],
            host_p50_ms=found["host"]["p50_ms"],
            host_p99_ms=found["host"]["p99_ms"],
            peak_mib=found["peak_mib"],
            file_mb=told["file_mb"],
        )
        for mode, found in told["modes"].items()
    ]


def _in_process(cell: Cell, timeout_s: float) -> dict[str, Any]:
    """What the cell's process says; {"reason": ...} however it ends."""
    command = [sys.executable, "-m", "aliked_ros.timing_cell", json.dumps(asdict(cell))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=Path(__file__).parents[1]
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"{cell.job} took longer than {timeout_s:g} s; give a larger --timeout"}
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return {"reason": f"{cell.job} was ended by {name}" + ("; out of memory?" if name == "SIGKILL" else "")}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    try:
        told: dict[str, Any] = json.loads(lines[-1])
        return told
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
        return {"reason": f"{cell.job} failed with exit status {done.returncode}: {last:.300}"}


def markdown(rows: Sequence[Row], environment: Stamp, note: str = "") -> str:
    """The original's table: a line for each model, K, image and precision, a column for each runtime."""
    columns = [
        (runtime, mode)
        for runtime in RUNTIMES
        for mode in ("plain", "CUDA graph")
        if any((row.runtime, row.mode) == (runtime, mode) for row in rows)
    ]
    heads = [_HEADER[runtime] + (", CUDA graph" if mode != "plain" else "") for runtime, mode in columns]
    lines = [
        "p50 / p99 ms of the network, image and keypoints on the device; in brackets p50 from an image to keypoints in "
        "host memory; CPU-ms: processor time of a call, all threads; MiB peak.",
        "",
        *([note, ""] if note else []),
        f"| model, K, image, precision | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    reasons: list[str] = []
    groups = dict.fromkeys((row.model, row.top_k, row.image, row.precision) for row in rows)
    for model, top_k, image, precision in groups:
        cells = []
        for runtime, mode in columns:
            same = (model, top_k, image, runtime, mode, precision)
            row = next((r for r in rows if (r.model, r.top_k, r.image, r.runtime, r.mode, r.precision) == same), None)
            cells.append(_cell_text(row, reasons))
        lines.append(f"| {model} {top_k} {image} {precision} | {' | '.join(cells)} |")
    lines += ["", *(f"[{number}] {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join([*lines, "", environment.line(), ""])


def _cell_text(row: Row | None, reasons: list[str]) -> str:
    if row is None:
        return ""
    if row.p50_ms is None:
        if row.reason not in reasons:
            reasons.append(row.reason)
        return f"- [{reasons.index(row.reason) + 1}]"
    own = f", {_ms(row.cpu_ms)} CPU-ms" if row.device == "cpu" else ""
    return f"{_ms(row.p50_ms)} / {_ms(row.p99_ms)} ({_ms(row.host_p50_ms)}){own}, {row.peak_mib:.0f} MiB"


def _ms(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def write_results(output: Path, rows: Sequence[Row], environment: Stamp, note: str) -> None:
    """OUTPUT.json, OUTPUT.csv and OUTPUT.md."""
    document = {"environment": environment.as_dict(), "note": note, "rows": [asdict(row) for row in rows]}
    texts = {
        ".json": json.dumps(document, indent=1) + "\n",
        ".csv": as_csv(rows),
        ".md": markdown(rows, environment, note),
    }
    for suffix, text in texts.items():
        with atomic_write(f"{output}{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier table.

    Raises:
        InputError: it is no such file.
    """
    try:
        return [Row(**item) for item in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected a table of measure_timings, found {error!r:.120} in {path}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="measure_timings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["aliked-t16", "aliked-n16rot"], help=f"of {', '.join(CONFIGS)}")
    add("--top_k", "--top-k", nargs="+", type=int, default=[1000, 2000], help="keypoints (default 1000 2000)")
    add("--sizes", nargs="+", default=["640x480", "1241x376"], metavar="WxH", help="(default 640x480 1241x376)")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="(default: all)")
    add(
        "--precisions",
        nargs="+",
        choices=("fp32", "fp16", "bf16"),
        default=["fp32", "fp16"],
        help="(default fp32 fp16)",
    )
    add("--weights", type=Path, help="folder of official checkpoints aliked-*.pth")
    add("--random-weights", action="store_true", help="instead of --weights: as fast, but the keypoints mean nothing")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--runs", type=int, default=100, help="timed runs of each cell (default 100)")
    add("--warmup-runs", type=int, default=10, help="runs before the clock starts (default 10)")
    add("--timeout", type=float, default=1800, help="seconds for one export or one measurement (default 1800)")
    add("--artifacts", type=Path, default=Path("aliked_artifacts"), help="folder where artifacts are made and kept")
    add("-o", "--output", type=Path, default=Path("aliked_timings"), help="writes OUTPUT.json, .csv and .md")
    add("--resume", action="store_true", help="keep the measured rows of OUTPUT.json, measure what is missing")
    add("--note", default="", help="a sentence for the table, for instance that the machine was shared")
    return parser


def _cells(told: argparse.Namespace) -> list[Cell]:
    """All cells, checked before anything slow happens."""
    if told.random_weights == (told.weights is not None):
        found = "both" if told.random_weights else "neither"
        raise InputError(f"expected either --weights FOLDER or --random-weights, found {found}")
    if told.weights is not None and not told.weights.is_dir():
        raise InputError(f"expected a folder of checkpoints, found none at {told.weights}")
    if told.runs < 1 or told.warmup_runs < 0:
        raise InputError(f"expected runs >= 1 and warm-up runs >= 0, found {told.runs} and {told.warmup_runs}")
    if not told.timeout > 0:
        raise InputError(f"expected a --timeout above 0, found {told.timeout}")
    parse_device(told.device)
    models = [from_name(name).name for name in told.models]
    sizes = [_size(text) for text in told.sizes]
    weights = "" if told.weights is None else str(told.weights.resolve())
    return [
        Cell(
            model,
            top_k,
            *size,
            runtime,
            precision,
            told.device,
            weights,
            str(told.artifacts.resolve()),
            told.runs,
            told.warmup_runs,
        )
        for model, size, top_k, precision, runtime in itertools.product(
            models, sizes, told.top_k, told.precisions, told.runtimes
        )
    ]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise InputError(f"expected a size as 640x480, found {text!r}")
    return int(width), int(height)


def _run(told: argparse.Namespace, command: list[str]) -> int:
    cells = _cells(told)
    file = told.output.with_name(f"{told.output.name}.json")
    rows = [row for row in read_rows(file) if row.p50_ms is not None] if told.resume and file.is_file() else []
    done = {row.key for row in rows}
    wanted = [cell for cell in cells if _row(cell, "").key not in done]
    import torch  # noqa: F401  so that the stamp tells its threads

    environment = stamp(command)
    steps = Steps("timings", len(wanted))
    for cell in wanted:
        with steps.step(f"{cell.model} {cell.width}x{cell.height} K={cell.top_k} {cell.precision} {cell.runtime}"):
            rows += run_cell(cell, told.timeout)
        # After every cell: what is measured is not lost.
        write_results(told.output, rows, environment, told.note)
    write_results(told.output, rows, environment, told.note)
    print(markdown(rows, environment, told.note))
    print(f"wrote {told.output}.json, .csv and .md")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command `measure_timings`: exit status 0, cells that failed included; 2 for a mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    told = _parser().parse_args(arguments)
    return exit_status(lambda: _run(told, ["measure_timings", *arguments]))


if __name__ == "__main__":
    sys.exit(main())
