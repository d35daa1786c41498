# SPDX-License-Identifier: Apache-2.0
"""Command `export_vggt`: VGGT and its official checkpoint become one compiled artifact, or one of every precision.

Takes model.safetensors and model.pt of facebook/VGGT-1B. With --num-cams N the artifact takes N frames and is fastest;
with --dynamic-cams 1..64 it takes any number, for rigs whose cameras drop out: fewer frames, never black ones. The
weights are for non-commercial use, and so is what holds them: export on your own machine, hand nothing on.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import AotError, InputError
from aot_runtime.formats import FORMATS, add_format_arguments, choose_device, print_latency, read_engine_options
from aot_runtime.manifest import PRECISIONS
from vggt_ros import quantise, summary
from vggt_ros.config import LICENCES, MEAN, STD, VGGT_1B, VggtConfig

if TYPE_CHECKING:
    import torch

    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from vggt_ros.deploy import DeployedVggt, Form
    from vggt_ros.model.vggt import Vggt

DEFAULT_CAMS, DEFAULT_SIZE = 8, 518
DIM = "cams"
"""Name of the dynamic number of frames."""
EXAMPLE_CAMS = 3
"""Frames that a graph for any number is traced and tested with: not one, which torch would take for a rule."""
ALL_PRECISIONS: Mapping[str, tuple[str, ...]] = {
    ".pt2": ("fp32", "fp16", "bf16"),
    ".onnx": ("fp32", "fp16"),
    ".engine": ("fp32", "fp16", "bf16", "fp8", "int8"),
}
"""What --all-precisions makes of each kind of artifact."""
OUTPUTS = (
    (
        "pose_enc",
        "per frame: translation x, y, z; quaternion x, y, z, w of any length (camera from world, OpenCV's axes, the "
        "first camera near the origin); vertical and horizontal field of view",
        "arbitrary scale; radians",
    ),
    ("depth", "along the optical axis (S, H, W), positive", "arbitrary scale, one for all frames"),
    ("depth_conf", "confidence of depth (S, H, W), 1 or more", ""),
)
POINT_OUTPUTS = (
    ("world_points", "point of every pixel (S, H, W, 3) in the first camera's axes", "arbitrary scale"),
    ("world_points_conf", "confidence of points (S, H, W), 1 or more", ""),
)


def export_vggt(
    model: Vggt,
    path: str | os.PathLike[str],
    *,
    checkpoint: CheckpointInfo,
    cams: int | tuple[int, int] = DEFAULT_CAMS,
    height: int = DEFAULT_SIZE,
    width: int = DEFAULT_SIZE,
    pcd_only: bool = True,
    precision: str = "fp32",
    device: str = "cpu",
    form: Form | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
    **options: Any,
) -> Manifest:
    """Write the artifact of a VGGT network; the suffix of `path` says which kind.

    Args:
        model: the network with its weights; it is not changed.
        checkpoint: where the weights come from.
        cams: frames that it takes, or (fewest, most).
        height, width: of the images, multiples of 14.
        pcd_only: poses and depth only, without the point head that the network may have.
        precision: fp32, fp16 or bf16, of an engine int8 and fp8 too; inputs and outputs are float32 with each.
        device: cpu, cuda or cuda:N; for a `.pt2` the kind of machine that it will run on, which must be this one.
        form: how the network is written and quantised, see `vggt_ros.deploy.Form`.
        **options: further arguments of `aot_runtime.export.export_model`.

    Raises:
        InputError: an argument is impossible.
        ExportError: see `aot_runtime.export.export_model`; in fp16 also where numbers overflow, naming the first layer.
    """
    import torch

    from aot_runtime import golden
    from aot_runtime.export import export_model
    from aot_runtime.manifest import DynamicDim
    from aot_runtime.parity import DEFAULT_TOLERANCES
    from depth_ros.deploy import require_range
    from vggt_ros.deploy import DeployedVggt, Form, fastest_attention, inductor_options

    low, high = check_cams(cams)
    form = form or Form()
    if form.quantisation != "none" and Path(path).suffix != ".pt2":
        raise InputError(
            f"expected quantisation {form.quantisation} for a .pt2 only, found {path}",
            "build an engine with precision int8 or fp8",
        )
    module = DeployedVggt(model, height, width, pcd_only=pcd_only, form=form)
    example = low if low == high else min(max(EXAMPLE_CAMS, low), high)
    shape = (example, 3, height, width)
    law = golden.uniform(0.0, 1.0)
    names = (*OUTPUTS, *(POINT_OUTPUTS if module.network.point_head is not None else ()))
    cast = precision if precision in ("fp16", "bf16") else "fp32"
    errors = None
    if cast != "fp32" or form.quantisation != "none":
        drawn = torch.from_numpy(golden.draw(law, shape, golden.DEFAULT_SEED, 0))
        exact = _exact(module, drawn, device)
        if cast == "fp16":
            require_range(module, drawn, torch.float16, device)
        module.cast_precision(_dtype(cast))
        errors = _errors(module, drawn, device, exact)
        del exact
    if low != high:
        options["dynamic_dims"] = {"images": {0: DynamicDim(DIM, low, high)}}
        sizes = sorted({low, min(high, low + 1), min(high, EXAMPLE_CAMS + 1)} - {example})
        options.setdefault("check_sizes", [{DIM: size} for size in sizes])
    if form.quantisation != "none":
        # A number that falls on the other side of a step changes by the whole step.
        options.setdefault("tolerances", DEFAULT_TOLERANCES["fp8" if form.quantisation == "fp8" else "int8"])
    chosen = options.pop("inductor_configs", None) or {}
    with fastest_attention(device):
        return export_model(
            module,
            {"images": torch.zeros(shape)},
            path=path,
            family="vggt",
            variant=model.config.name,
            task="multi_view_geometry",
            outputs=names,
            checkpoint=checkpoint,
            precision=precision,
            device=device,
            preprocessing={
                **preprocessing(height, width, model.config),
                "cams": [low, high],
                "pcd_only": module.network.point_head is None,
                "heads": form.heads if cast != "fp32" else "fp32",
                "stream": form.stream if cast != "fp32" else "fp32",
                "quantisation": form.quantisation,
                "quantiser": f"torchao {quantise.version()}" if form.quantisation != "none" else None,
                "float32_error": errors,
            },
            input_meanings={"images": ("RGB frames (S, 3, H, W) in 0..1, not normalised; the first is the origin", "")},
            golden_laws={"images": law},
            inductor_configs={**inductor_options(device, form), **chosen},
            rebuild_command=rebuild_command,
            progress=progress,
            **options,
        )


def preprocessing(height: int, width: int, config: VggtConfig) -> dict[str, Any]:
    """What the manifest tells a runner about frames, and how to read poses."""
    return {
        "input": "rgb_frames",
        "colour_order": "RGB",
        "scale": 1 / 255,
        "normalisation": "inside the network",
        "mean": list(MEAN),
        "std": list(STD),
        "size": [height, width],
        "patch": config.patch,
        "resize": "bicubic of Pillow, see vggt_ros.images",
        "reference_frame": 0,
        "pose_encoding": "absT_quaR_FoV",
        "principal_point": [width / 2, height / 2],
        "float32": [
            "normalisation of images",
            "LayerNorm",
            "rotary embedding",
            "residual stream of DINOv2",
            "layers that give a pose",
            "last 1x1 convolution",
            "outputs",
        ],
    }


def check_cams(cams: int | tuple[int, int]) -> tuple[int, int]:
    """(fewest, most) frames.

    Raises:
        InputError: none, or a range of one number.
    """
    low, high = (cams, cams) if isinstance(cams, int) else cams
    if low < 1 or high < low or (low == high and not isinstance(cams, int)):
        raise InputError(
            f"expected one or more frames, and a range of several numbers of them, found {cams}",
            "use --num-cams 8, or --dynamic-cams 1..64",
        )
    return low, high


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


def artifact_name(cams: int | tuple[int, int], height: int, width: int, pcd_only: bool, precision: str) -> str:
    """ "vggt-8x3x518x518-pcd_fp16", without a suffix; "dyn" stands for a free number of frames."""
    count = cams if isinstance(cams, int) else "dyn"
    return (
        f"vggt-{count}x3x{height}x{width}{'-pcd' if pcd_only else ''}{'' if precision == 'fp32' else f'_{precision}'}"
    )


def read_config(path: str | os.PathLike[str]) -> VggtConfig:
    """The network that a safetensors file says it holds in its metadata (`config`), else VGGT-1B.

    Raises:
        InputError: a configuration that makes no sense.
    """
    import json

    if Path(path).suffix != ".safetensors":
        return VGGT_1B
    from safetensors import SafetensorError, safe_open

    from vggt_ros.config import from_dict

    try:
        with safe_open(os.fspath(path), "np") as file:
            told = (file.metadata() or {}).get("config")
    except (SafetensorError, OSError):
        # Whoever loads the weights says what is wrong with the file.
        return VGGT_1B
    if told is None:
        return VGGT_1B
    try:
        options = json.loads(told)
        assert isinstance(options, dict)
        return from_dict(options, "vggt_custom")
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"expected a VGGT configuration in the metadata of {path}, found {told[:80]!r}") from error


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _exact(module: DeployedVggt, images: torch.Tensor, device: str) -> dict[str, torch.Tensor]:
    import torch

    from aot_runtime.backends.aoti import exact_float32

    module.to(device)
    with torch.no_grad(), exact_float32():
        return {name: value.cpu() for name, value in module(images.to(device)).items()}


def _errors(
    module: DeployedVggt, images: torch.Tensor, device: str, exact: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Largest difference of each output to float32, both eager; NaN and infinity are left to the export to refuse."""
    import torch

    with torch.no_grad():
        found = module.to(device)(images.to(device))
    return {name: float((value.cpu() - exact[name]).abs().nan_to_num(0.0, 0.0).max()) for name, value in found.items()}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return _run(options, ["export_vggt", *(sys.argv[1:] if argv is None else argv)])
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_vggt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-c", "--checkpoint", help="model.safetensors or model.pt of facebook/VGGT-1B")
    add("--licence", choices=tuple(LICENCES), default="non-commercial", help="of the weights (default non-commercial)")
    add("--random-weights", action="store_true", help="export without a checkpoint, for trials")
    add("--seed", type=int, help="seed of --random-weights (default 0)")
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
    add("--warmup-runs", type=int, default=10, help="runs before the clock starts (default 10)")
    add("--runs", type=int, default=50, help="runs to measure after the export, 0 for none (default 50)")
    add("--summary", metavar="FILE", help="add a line of JSON for every attempt; `python -m vggt_ros.summary` shows it")
    add_format_arguments(parser, PRECISIONS, "default: bf16 on cuda, fp16 for engines, else fp32; int8, fp8: engines")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    if options.random_weights == (options.checkpoint is not None):
        found = "both" if options.random_weights else "neither"
        raise InputError(
            f"expected either --checkpoint FILE or --random-weights, found {found}",
            "give the official checkpoint; random weights are only good for trials",
        )
    for name in ("seed", "config"):
        if getattr(options, name) is not None and not options.random_weights:
            raise InputError(f"expected --{name} only with --random-weights, found it with --checkpoint")
    if options.num_cams is not None and options.dynamic_cams is not None:
        raise InputError("expected --num-cams or --dynamic-cams, found both", "give one")
    if options.all_precisions and (options.precision is not None or options.output_name is not None):
        raise InputError("expected --all-precisions without --precision and --output-name, found one of them")
    if options.runs < 0 or options.warmup_runs < 0:
        raise InputError("expected counts of runs from 0, found a negative one")
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
    from vggt_ros.weights import load_checkpoint

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
    count = cams if isinstance(cams, int) else min(max(EXAMPLE_CAMS, cams[0]), cams[1])
    samples = calibration.draw(
        folder, count, options.height, options.width, batches=engine.calib_batches, seed=options.calib_seed
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
