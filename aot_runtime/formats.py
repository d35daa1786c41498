# SPDX-License-Identifier: Apache-2.0
"""The options of an export command that say which kind of artifact it writes: its file, its precision, its device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.errors import InputError
from aot_runtime.manifest import PRECISIONS

if TYPE_CHECKING:
    from aot_runtime.engine import EngineOptions

FORMATS = ("pt2", "onnx", "engine")
PRECISION_OF_AUTOCAST = {"None": "fp32", "float16": "fp16", "bfloat16": "bf16"}
ENGINE_ONLY = tuple(precision for precision in PRECISIONS if precision not in PRECISION_OF_AUTOCAST.values())


def add_format_arguments(
    parser: argparse.ArgumentParser, precisions: Sequence[str] = PRECISIONS, precision_help: str = ""
) -> None:
    """--format, --precision, --keep-onnx and the options of engines, for a command that has --device.

    Args:
        precisions: those that the command offers.
        precision_help: by default for a command that has --autocast too, see choose_precision().
    """
    from aot_runtime.build_engine import add_engine_arguments

    parser.add_argument("--format", choices=FORMATS, help="what to write (default: by the name's suffix, else pt2)")
    parser.add_argument(
        "--precision",
        choices=precisions,
        help=precision_help or f"instead of --autocast; {' and '.join(ENGINE_ONLY)}: engines only, with --calib-data",
    )
    parser.add_argument("--keep-onnx", metavar="FILE", help="where an engine's ONNX file is left (default: nowhere)")
    add_engine_arguments(parser, eight_bits=any(precision in ENGINE_ONLY for precision in precisions))


def output_path(name: str, default: str, wanted: str | None) -> Path:
    """The file to write, with the suffix that tells `export_model` what to make.

    Args:
        name: what the user gave, or `default`, whose suffix gives way to `wanted`.
        wanted: one of FORMATS, or None to go by the name.

    Raises:
        InputError: the name has the suffix of another format.
    """
    path = Path(name)
    if name == default and wanted is not None:
        return path.with_suffix(f".{wanted}")
    known = path.suffix.removeprefix(".") if path.suffix.removeprefix(".") in FORMATS else None
    chosen = wanted or known or FORMATS[0]
    if known not in (None, chosen):
        raise InputError(f"expected a name that ends in .{chosen} for --format {chosen}, found {path}")
    return path if known else path.with_name(f"{path.name}.{chosen}")


def choose_precision(options: argparse.Namespace, path: Path) -> str:
    """What --autocast or --precision asks for.

    Raises:
        InputError: both are given and differ, or files of this kind cannot have it: ONNX has convolutions in bfloat16
            from opset 22 on, and we write an older one (see `aot_runtime.backends.onnx`).
    """
    told = PRECISION_OF_AUTOCAST[options.autocast]
    precision = str(options.precision or told)
    if options.precision is not None and options.autocast != "None" and told != precision:
        raise InputError(f"expected --autocast or --precision, found {options.autocast} and {precision}", "give one")
    if precision in ENGINE_ONLY and path.suffix != ".engine":
        raise InputError(f"expected --precision {precision} for engines only, found {path}", "add --format engine")
    if precision == "bf16" and path.suffix == ".onnx":
        raise InputError(
            f"expected float32 or float16 for an ONNX file, found bfloat16 for {path}",
            "export float32; build_engine --precision bf16 makes a bfloat16 engine from it",
        )
    return precision


def choose_device(device: str | None, path: Path) -> str:
    """Where eager runs: by default a GPU for a `.pt2`, which is compiled for where it is made; else the CPU."""
    if device is not None:
        return device
    import torch

    return "cuda" if path.suffix == ".pt2" and torch.cuda.is_available() else "cpu"


def read_engine_options(options: argparse.Namespace, path: Path) -> EngineOptions | None:
    """What add_format_arguments() asked for; None for files that are no engine.

    Raises:
        InputError: an option of engines for another kind of file.
        ExportError: see `aot_runtime.build_engine.engine_options`.
    """
    from aot_runtime.build_engine import add_engine_arguments, engine_options

    if path.suffix == ".engine":
        return engine_options(options, keep_onnx=options.keep_onnx)
    only = argparse.ArgumentParser(add_help=False)
    only.add_argument("--keep-onnx")
    add_engine_arguments(only)
    for name, default in vars(only.parse_args([])).items():
        if getattr(options, name) != default:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"expected {flag} for engines only, found it for {path}", "add --format engine")
    return None


def print_latency(path: Path, device: str, runs: int, warmup_runs: int) -> None:
    """Measure the new artifact and print the table; where it cannot run (an engine for another GPU), say so.

    Args:
        device: where it was made; engines run on CUDA in any case.
    """
    from aot_runtime.benchmark import benchmark_artifact, print_results
    from aot_runtime.environment import stamp
    from aot_runtime.verdict import judge

    if path.suffix == ".engine" and not device.startswith("cuda"):
        device = "cuda"
    verdict = judge(path, device)
    if path.suffix == ".engine" and not verdict.ok:
        print(f"note: not measured here: {verdict.reason}", file=sys.stderr)
        return
    print_results(benchmark_artifact(path, device, runs=runs, warmup_runs=warmup_runs), stamp())
