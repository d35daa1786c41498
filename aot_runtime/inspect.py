# SPDX-License-Identifier: Apache-2.0
"""Command `inspect_artifact FILE`: what the artifact says it is, and whether it may run on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import AotError
from aot_runtime.files import AllowList
from aot_runtime.manifest import TENSORRT_RUNTIMES, Manifest, Target, TensorSpec
from aot_runtime.progress import table_console
from aot_runtime.verdict import Verdict, judge_with_manifest

if TYPE_CHECKING:
    from rich.table import Table

NOT_ON_DEVICE = (
    "not checked on device: no GPU of the target was there when the engine was built, so that the self-test at the "
    "first start is its first check"
)
# `Manifest.parity_of` -> what the numbers of an engine are.
_ENGINE_PARITY = {
    "": "the engine on its GPU against the ONNX file, when it was built",
    "onnx": "the ONNX file against eager at export; the engine is not measured",
    "graph": "the graph at this precision against the ONNX file, in ONNX Runtime; the engine is not measured",
}
EXIT_CODES = {"OK": 0, "REBUILD": 1, "REFUSE": 3}


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 for OK, 1 for REBUILD, 3 for REFUSE, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="inspect_artifact", description=__doc__)
    parser.add_argument("file", help="artifact (.pt2, .onnx or .engine)")
    parser.add_argument("--device", help="judge for cpu, cuda or cuda:N (default: what the artifact was made for)")
    parser.add_argument("--allow-list", help="file of SHA-256 digests that may run, as sha256sum prints")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        allow_list = AllowList.read(options.allow_list) if options.allow_list else None
        verdict, manifest = judge_with_manifest(options.file, options.device, allow_list)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(verdict, manifest), indent=2))
    else:
        print_report(options.file, verdict, manifest)
    return EXIT_CODES[verdict.kind]


def as_json(verdict: Verdict, manifest: Manifest | None) -> dict[str, Any]:
    """{"verdict": {...}, "manifest": {...} or null}."""
    return {
        "verdict": dataclasses.asdict(verdict),
        "manifest": None if manifest is None else json.loads(manifest.to_json()),
    }


def print_report(file: str, verdict: Verdict, manifest: Manifest | None) -> None:
    """Tables for people on standard output."""
    from rich.text import Text

    console = table_console()
    if manifest is not None:
        console.print(_identity(file, manifest))
        console.print(_tensors(manifest))
        console.print(_quality(manifest))
        if manifest.parity_of:
            console.print(Text(NOT_ON_DEVICE, style="yellow"), soft_wrap=True)
        if manifest.preprocessing:
            console.print(Text(f"preprocessing: {json.dumps(manifest.preprocessing)}"))
    colour = {"OK": "yellow" if verdict.random_weights else "green", "REBUILD": "yellow", "REFUSE": "red"}[verdict.kind]
    console.print(Text(str(verdict), style=f"bold {colour}"), soft_wrap=True)


def _identity(file: str, manifest: Manifest) -> Table:
    from rich.table import Table
    from rich.text import Text

    weights = (
        f"RANDOM (seed {manifest.checkpoint.random_seed})"
        if manifest.checkpoint.is_random
        else f"{manifest.checkpoint.file}, SHA-256 {manifest.checkpoint.sha256}, "
        f"{manifest.checkpoint.licence or 'licence unknown'}"
    )
    table = Table(title=file, show_header=False, title_justify="left")
    for label, value in (
        ("model", f"{manifest.family} {manifest.variant}: {manifest.task}"),
        ("precision", manifest.precision),
        ("weights", weights),
        ("target", _target(manifest.target)),
        ("made", f"{manifest.created} by {manifest.exporter}"),
        ("rebuild", shlex.join(manifest.rebuild_command) or "(not recorded)"),
    ):
        table.add_row(label, Text(value))
    return table


def _target(target: Target) -> str:
    if target.runtime == "onnxruntime":
        return f"any with onnxruntime (checked with {target.runtime_version} on {target.device}), torch {target.torch}"
    platform = f"{target.os} {target.machine}"
    if target.runtime:
        library = f"{target.runtime} {target.runtime_version}"
        return f"{target.device_name}, compute capability {target.compute_capability}, {platform}, {library}"
    gpu = f", sm {target.compute_capability}, CUDA {target.cuda}" if target.device == "cuda" else f", {target.cpu_isa}"
    return f"{target.device} ({target.device_name}{gpu}), {platform}, torch {target.torch}"


def _tensors(manifest: Manifest) -> Table:
    from rich.table import Table
    from rich.text import Text

    ranges = {dim.name: f"{dim.name} ({dim.min}..{dim.max})" for dim in manifest.dims}

    def shape(spec: TensorSpec) -> str:
        return " x ".join(ranges[size] if isinstance(size, str) else str(size) for size in spec.shape) or "scalar"

    table = Table("", "name", "dtype", "shape", "meaning", "unit")
    for direction, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            cells = (direction, spec.name, spec.dtype, shape(spec), spec.meaning, spec.unit)
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _quality(manifest: Manifest) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = "compiled against eager at export"
    if manifest.target.runtime in TENSORRT_RUNTIMES:
        title = _ENGINE_PARITY.get(manifest.parity_of, manifest.parity_of)
    table = Table("output", "max abs error", "relative", "cosine", "tolerance", title=title)
    for item in manifest.parity:
        cosine = "" if item.cosine is None else f"{item.cosine:.6f}"
        cells = (item.name, f"{item.max_abs:.3g}", f"{item.max_rel:.3g}", cosine, f"{item.tolerance:.3g}")
        table.add_row(*(Text(cell) for cell in cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
