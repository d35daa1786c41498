# SPDX-License-Identifier: Apache-2.0
"""`python -m vggt_ros.summary FILE`: one table of export attempts, those that were refused with the reason."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aot_runtime.errors import AotError, InputError
from aot_runtime.manifest import Manifest


@dataclass(frozen=True)
class Row:
    """One attempt.

    Attributes:
        file: name of the artifact.
        quant_mode, precision, suffix: what was asked for.
        file_mb: its size in 10^6 bytes; None where nothing was written.
        p50_ms: median of a call; None where it was not measured, or cannot run here.
        error: largest difference to float32 by output, where it was measured.
        refused: why there is no artifact; "" where there is one.
    """

    file: str
    quant_mode: str
    precision: str
    suffix: str
    file_mb: float | None = None
    p50_ms: float | None = None
    error: dict[str, float] = field(default_factory=dict)
    refused: str = ""


def measure(path: Path, manifest: Manifest, quant_mode: str, device: str, *, runs: int, warmup_runs: int) -> Row:
    """The row of an artifact that was just written; it is timed where it may run here and `runs` is not 0."""
    from aot_runtime.backends import onnx_file
    from aot_runtime.benchmark import benchmark_artifact
    from aot_runtime.verdict import judge

    weights = onnx_file.external_file(path) if path.suffix == ".onnx" else None
    size = path.stat().st_size + (weights.stat().st_size if weights is not None else 0)
    place = "cuda" if path.suffix == ".engine" and not device.startswith("cuda") else device
    p50 = None
    if runs and judge(path, place).ok:
        p50 = benchmark_artifact(path, place, runs=runs, warmup_runs=warmup_runs)[0].timing.p50_ms
    error = manifest.preprocessing.get("float32_error")
    if error is None and manifest.precision in ("int8", "fp8", "bf16"):
        # An engine's graph at this precision against the ONNX file in float32.
        error = {item.name: item.max_abs for item in manifest.parity}
    return Row(path.name, quant_mode, manifest.precision, path.suffix, size / 1e6, p50, dict(error or {}))


def append(path: str | os.PathLike[str], row: Row) -> None:
    """Add a line of JSON to a file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(row)) + "\n")


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file of `append`.

    Raises:
        InputError: it is missing, or no such file.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [Row(**json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"expected a file of export attempts, found {path}: {error}") from error


def show(rows: Sequence[Row]) -> None:
    """The table on standard output; the reasons of what was refused below it."""
    from rich.table import Table
    from rich.text import Text

    from aot_runtime.progress import table_console

    console = table_console()
    table = Table("artifact", "quantisation", "precision")
    for column in ("file MB", "p50 ms", "error of depth", "error of poses"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        numbers = (_number(row.file_mb, ".1f"), _number(row.p50_ms, ".2f"))
        errors = [_number(row.error.get(name), ".2g") for name in ("depth", "pose_enc")]
        if row.refused:
            numbers = ("refused", "")
        table.add_row(*(Text(text) for text in (row.file, row.quant_mode, row.precision, *numbers, *errors)))
    console.print(table)
    for row in rows:
        if row.refused:
            console.print(Text(f"{row.file} ({row.quant_mode}): {row.refused}"), soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vggt_ros.summary", description=__doc__)
    parser.add_argument("file", help="what export_vggt --summary wrote")
    try:
        show(read(parser.parse_args(argv).file))
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
