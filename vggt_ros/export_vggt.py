# SPDX-License-Identifier: Apache-2.0
"""Command `export_vggt`: VGGT and its official checkpoint become one compiled artifact, or one of every precision.

Takes model.safetensors and model.pt of facebook/VGGT-1B. With --num-cams N the artifact takes N frames and is fastest;
with --dynamic-cams 1..64 it takes any number, for rigs whose cameras drop out: fewer frames, never black ones. The
weights are for non-commercial use, and so is what holds them: export on your own machine, hand nothing on.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.errors import AotError, InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command
from aot_runtime.formats import FORMATS, add_format_arguments, choose_device, print_latency, read_engine_options
from aot_runtime.manifest import PRECISIONS
from vggt_ros import quantise, summary
from vggt_ros.artifact import DEFAULT_CAMS, DEFAULT_SIZE, artifact_name, check_cams, example_cams, export_vggt
from vggt_ros.config import LICENCES, VGGT_1B

if TYPE_CHECKING:
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo
    from vggt_ros.deploy import Form
    from vggt_ros.model.vggt import Vggt

ALL_PRECISIONS: Mapping[str, tuple[str, ...]] = {
    ".pt2": ("fp32", "fp16", "bf16"),
    ".onnx": ("fp32", "fp16"),
    ".engine": ("fp32", "fp16", "bf16", "fp8", "int8"),
}
"""What --all-precisions makes of each kind of artifact."""


def parse_cams(text: str) -> tuple[int, int]:
    """ "1..64" -> (1, 64).

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"(\d{1,4})\.\.(\d{1,4})", text)
    if match is None:
        raise InputError(f"expected --dynamic-cams FEWEST..MOST, found {text!r}", "write for instance 1..64")
    low, high = check_cams((int(match.group(1)), int(match.group(2))))
    return low, high


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_vggt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-c", "--checkpoint", help="model.safetensors or model.pt of facebook/VGGT-1B")
    add("--licence", choices=tuple(LICENCES), default="non-commercial", help="of the weights (default non-commercial)")
    add("--config", help="with --random-weights: a JSON file of another size of network, in the official names")
    add("--num-cams", type=int, help=f"frames of a call (default {DEFAULT_CAMS})")
    add("--dynamic-cams", metavar="FEWEST..MOST", help="any number of frames in a range, for instance 1..64")
    add("--height", type=int, default=DEFAULT_SIZE, help="of the images, a multiple of 14 (default 518)")
    add("--width", type=int, default=DEFAULT_SIZE, help="of the images, a multiple of 14 (default 518)")
    add("--pcd-only", action="store_true", help="poses and depth, without the point head")
    add(
        "-o",
        "--output-name",
        help="the artifact (default: vggt-<cams>x3x<height>x<width>[-pcd][_<precision>].<format>)",
    )
    add("--output-dir", default=".", help="folder of the default name; quantised ones in a folder of the mode's name")
    add("--heads", choices=("same", "fp32"), default="same", help="precision of the heads (official: fp32)")
    add(
        "--stream", choices=("same", "fp32"), default="fp32", help="of the residual stream (default fp32, the official)"
    )
    add("--quant-mode", default="none", help=f"{', '.join((*quantise.MODES, *quantise.ALIASES))} (default none)")
    add("--all-precisions", action="store_true", help="every precision that the format has, then one table")
    add("--calib-seed", type=int, default=1337, help="which pictures of a --calib-data folder of pictures are taken")
    add("--opset", type=int, help="of ONNX files")
    add("--no-simplify", action="store_true", help="leave the ONNX graph as the exporter writes it")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add("--summary", metavar="FILE", help="add a line of JSON for every attempt; `python -m vggt_ros.summary` shows it")
    add_format_arguments(parser, PRECISIONS, "default: bf16 on cuda, fp16 for engines, else fp32; int8, fp8: engines")
    add_weight_arguments(parser, runs=50)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    check_weights(options)
    if options.config is not None and not options.random_weights:
        raise InputError("expected --config only with --random-weights, found it with --checkpoint", "leave it out")
    if options.num_cams is not None and options.dynamic_cams is not None:
        raise InputError("expected --num-cams or --dynamic-cams, found both", "give one")
    if options.all_precisions and (options.precision is not None or options.output_name is not None):
        raise InputError("expected --all-precisions without --precision and --output-name, found one of them")
    if options.checkpoint is not None and not Path(options.checkpoint).is_file():
        raise InputError(f"expected a checkpoint, found no file {options.checkpoint}", "check the path")


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    cams = parse_cams(options.dynamic_cams) if options.dynamic_cams is not None else options.num_cams or DEFAULT_CAMS
    if options.num_cams is not None:
        check_cams(options.num_cams)
    suffix = _suffix(options)
    precisions = ALL_PRECISIONS[suffix] if options.all_precisions else (options.precision,)

    from depth_ros.model.dinov2 import check_size

    check_size(options.height, options.width)
    load = functools.cache(lambda: _load(options))
    rows = []
    for precision in precisions:
        row, error = _attempt(options, load, cams, suffix, precision, command)
        rows.append(row)
        if options.summary is not None:
            summary.append(options.summary, row)
        if error is not None and not options.all_precisions:
            raise error
    if options.all_precisions or (options.summary is not None and options.runs):
        summary.show(rows)
    return 0 if any(not row.refused for row in rows) else 2


def _attempt(
    options: argparse.Namespace,
    load: Callable[[], tuple[Vggt, CheckpointInfo]],
    cams: int | tuple[int, int],
    suffix: str,
    precision: str | None,
    command: list[str],
) -> tuple[summary.Row, AotError | None]:
    """One export: its row, and the error of one that was refused."""
    name = artifact_name(cams, options.height, options.width, options.pcd_only, precision or "fp32")
    row = summary.Row(f"{name}{suffix}", options.quant_mode, precision or "", suffix)
    try:
        path, chosen, form = _job(options, cams, suffix, precision)
        row = replace(row, file=path.name, precision=chosen)
        return _export_one(options, *load(), path, chosen, form, cams, command), None
    except AotError as error:
        if options.all_precisions:
            print(f"refused: {row.file}: {error}", file=sys.stderr)
        return replace(row, refused=str(error)), error


def _suffix(options: argparse.Namespace) -> str:
    """Of the file to write: by --format, else by the name, else a package."""
    named = Path(options.output_name).suffix if options.output_name else ""
    if options.format is None:
        return named if named.removeprefix(".") in FORMATS else ".pt2"
    if named.removeprefix(".") in FORMATS and named != f".{options.format}":
        raise InputError(f"expected a name that ends in .{options.format}, found {options.output_name}")
    return f".{options.format}"


def _job(
    options: argparse.Namespace, cams: int | tuple[int, int], suffix: str, precision: str | None
) -> tuple[Path, str, Form]:
    """(file, precision, form) of one artifact."""
    from vggt_ros.deploy import Form

    mode, precision = quantise.choose(options.quant_mode, suffix, precision)
    device = choose_device(options.device, Path(f"a{suffix}"))
    chosen = precision or ("fp16" if suffix == ".engine" else "bf16" if device.startswith("cuda") else "fp32")
    if chosen not in ALL_PRECISIONS[suffix]:
        known = ", ".join(ALL_PRECISIONS[suffix])
        raise InputError(
            f"expected --precision {known} for {suffix} files, found {chosen}",
            "use --format engine; a .pt2 has 8-bit weights by --quant-mode"
            if chosen in ("int8", "fp8")
            else "export fp32 or fp16",
        )
    if options.output_name:
        path = Path(options.output_name)
        path = path if path.suffix == suffix else path.with_name(f"{path.name}{suffix}")
    else:
        folder = Path(options.output_dir)
        folder = folder if mode == "none" else folder / mode
        name = artifact_name(cams, options.height, options.width, options.pcd_only, chosen)
        path = folder / f"{name}{suffix}"
    return path, chosen, Form(options.heads, options.stream, quantisation=mode)


def _load(options: argparse.Namespace) -> tuple[Vggt, CheckpointInfo]:
    import json

    from aot_runtime.manifest import CheckpointInfo
    from vggt_ros.config import from_dict
    from vggt_ros.model.vggt import without_values
    from vggt_ros.weights import load_checkpoint, read_config

    if options.random_weights:
        config = VGGT_1B
        if options.config is not None:
            try:
                told = json.loads(Path(options.config).read_text(encoding="utf-8"))
                config = from_dict(told.get("config", told), "vggt_custom")
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise InputError(f"expected a JSON file of a configuration, found {options.config}: {error}") from error
        seed = options.seed or 0
        _say(f"note: exporting random weights (seed {seed}); poses and depths mean nothing")
        return without_values(config, points=not options.pcd_only).randomise(seed), CheckpointInfo.random(seed)
    model = without_values(read_config(options.checkpoint), points=not options.pcd_only)
    licence = LICENCES[options.licence]
    loaded = load_checkpoint(model, options.checkpoint, licence=licence)
    _say(f"note: weights under the {licence}; the artifact holds them: do not hand it on")
    for note in loaded.notes:
        _say(f"note: {note}")
    return model, loaded.info


def _export_one(
    options: argparse.Namespace,
    model: Vggt,
    checkpoint: CheckpointInfo,
    path: Path,
    precision: str,
    form: Form,
    cams: int | tuple[int, int],
    command: list[str],
) -> summary.Row:
    from aot_runtime.backends.onnx import OnnxOptions

    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_options = OnnxOptions(simplify=not options.no_simplify)
    if options.opset is not None:
        onnx_options = replace(onnx_options, opset=options.opset)
    device = choose_device(options.device, path)
    manifest = export_vggt(
        model,
        path,
        checkpoint=checkpoint,
        cams=cams,
        height=options.height,
        width=options.width,
        pcd_only=options.pcd_only,
        precision=precision,
        device=device,
        form=form,
        onnx_options=onnx_options,
        engine_options=_engine_options(options, path, precision, cams),
        rebuild_command=command,
    )
    _free_memory()
    timed = options.runs if options.all_precisions or options.summary is not None else 0
    row = summary.measure(path, manifest, options.quant_mode, device, runs=timed, warmup_runs=options.warmup_runs)
    print(f"wrote {path} ({row.file_mb:.1f} MB)")
    if options.runs and not timed:
        print_latency(path, device, options.runs, options.warmup_runs)
    return row


def _engine_options(
    options: argparse.Namespace, path: Path, precision: str, cams: int | tuple[int, int]
) -> EngineOptions | None:
    """What the command line says; a folder of pictures becomes calibration samples."""
    engine = read_engine_options(options, path)
    if engine is None or precision not in ("int8", "fp8") or engine.calib_data is None:
        return engine
    folder = Path(engine.calib_data)
    from vggt_ros import calibration

    if not calibration.holds_pictures(folder):
        return engine
    samples = calibration.draw(
        folder, example_cams(cams), options.height, options.width, batches=engine.calib_batches, seed=options.calib_seed
    )
    return replace(engine, samples=samples, calib_data=None)


def _free_memory() -> None:
    """Give back what the export held on a GPU, so that the memory of the artifact alone is measured."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
