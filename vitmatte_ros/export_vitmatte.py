# SPDX-License-Identifier: Apache-2.0
"""Command `export_vitmatte`: a VitMatte network and its official checkpoint become one compiled artifact.

Takes the safetensors of Hugging Face and the authors' `ViTMatte_*.pth`. With --height and --width the artifact is for
images of one size, and fastest; with --dynamic one artifact is right at every size.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command
from aot_runtime.formats import add_format_arguments, choose_device, output_path, print_latency, read_engine_options
from vitmatte_ros.config import ATTENTIONS, CONFIGS, IN_CHANNELS, MULTIPLE, NORMALIZATIONS, TRIMAP, normalization

if TYPE_CHECKING:
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from vitmatte_ros.deploy import DeployedVitMatte
    from vitmatte_ros.model.vitmatte import VitMatte

PRECISIONS = ("fp32", "fp16")
DEFAULT_SIZE = 512
DYNAMIC_RANGE = (64, 1280)
"""Height and width of a dynamic artifact, in pixels, both inclusive."""
# Neither side is whole 32s, and the tokens are no whole windows: nothing special that could be taken for a rule.
DYNAMIC_EXAMPLE = (234, 330)
# One window; whole windows only; longer and narrower than the tables of positions.
DYNAMIC_CHECKS = ((64, 96), (448, 448), (1280, 64))
HALF_STEP = 1 / 255
"""One grey level, what float16 should not exceed."""


def export_vitmatte(
    model: VitMatte,
    path: str | os.PathLike[str],
    *,
    checkpoint: CheckpointInfo,
    height: int = DEFAULT_SIZE,
    width: int = DEFAULT_SIZE,
    batch: int = 1,
    dynamic: bool = False,
    normalization: str = "imagenet",
    precision: str = "fp32",
    device: str = "cpu",
    attention: str | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
    **options: Any,
) -> Manifest:
    """Write the artifact of a VitMatte network; the suffix of `path` says which kind.

    Args:
        model: the network with its weights; it is not changed.
        checkpoint: where the weights come from.
        height, width: of the images, any size from 32; not used with `dynamic`.
        batch: images at a time, 1 with `dynamic`.
        dynamic: take images of every size in DYNAMIC_RANGE.
        normalization: a member of NORMALIZATIONS, recorded for whoever prepares images; the network is the same.
        precision: fp32 or fp16; input and output are float32 with each.
        device: cpu, cuda or cuda:N; for a `.pt2` the kind of machine that it will run on, which must be this one.
        attention: a member of ATTENTIONS; by default what is fastest, recorded as "fused" if that is our own kernels.
        **options: further arguments of `aot_runtime.export.export_model`.

    Raises:
        InputError: an argument is impossible.
        ExportError: see `aot_runtime.export.export_model`.
    """
    import torch

    from aot_runtime import golden
    from aot_runtime.export import export_model
    from aot_runtime.manifest import DynamicDim
    from aot_runtime.parity import Tolerance
    from vitmatte_ros.deploy import DeployedVitMatte, deployed_kind, fastest_form, inductor_options, tracing_any_size

    suffix = Path(path).suffix
    check_precision(precision)
    _check_attention(attention, suffix)
    if batch < 1 or (dynamic and batch != 1):
        raise InputError(f"expected one or more images at a time, and one with --dynamic, found {batch}")
    form = fastest_form(suffix, device)
    if attention is not None:
        form = replace(form, attention=attention)
    size = (None, None) if dynamic else (height, width)
    # Who asks for a way to write attention gets it, also where our own kernels are faster.
    kind = DeployedVitMatte if attention else deployed_kind(model.config, size[0], size[1], suffix, precision, device)
    module = kind(model, size[0], size[1], form)
    law = golden.uniform(0.0, 1.0)
    shape = (batch, IN_CHANNELS, *(DYNAMIC_EXAMPLE if dynamic else (height, width)))
    error = None
    if precision == "fp16":
        drawn = torch.from_numpy(golden.draw(law, shape, golden.DEFAULT_SEED, 0))
        error = half_error(module, drawn, device)
    if dynamic:
        axes = {axis: DynamicDim(name, *DYNAMIC_RANGE) for axis, name in ((2, "height"), (3, "width"))}
        options["dynamic_dims"] = {"pixel_values": axes}
        options.setdefault("check_sizes", [{"height": h, "width": w} for h, w in DYNAMIC_CHECKS])
    chosen = options.pop("inductor_configs", None) or {}
    with tracing_any_size() if dynamic else contextlib.nullcontext():
        return export_model(
            module,
            {"pixel_values": torch.zeros(shape)},
            path=path,
            family="vitmatte",
            variant=f"vitmatte_{model.config.name}",
            task="matte",
            outputs=[("alpha", "opacity (B, 1, H, W), 0 to 1; known regions are the network's answer too", "")],
            checkpoint=checkpoint,
            precision=precision,
            device=device,
            preprocessing={
                **preprocessing(normalization),
                "size": None if dynamic else [height, width],
                "batch": batch,
                "variant": model.config.name,
                "attention": form.attention if kind is DeployedVitMatte else "fused",
                "float32_error": error,
                "float32": ["LayerNorm", "residual stream", "positions", "last 1x1 convolution", "alpha"],
            },
            input_meanings={
                "pixel_values": ("R, G, B normalised and the trimap from 0 to 1 (B, 4, H, W)", ""),
            },
            golden_laws={"pixel_values": law},
            # In float16 compiled code rounds at other places than eager, each time by up to what eager is wrong itself.
            tolerances=Tolerance(2e-5, 0) if precision == "fp32" else Tolerance(2 * HALF_STEP, 0, cosine=0.9999),
            inductor_configs={**inductor_options(device), **chosen},
            rebuild_command=rebuild_command,
            progress=progress,
            **options,
        )


def preprocessing(name: str) -> dict[str, Any]:
    """What the manifest tells a runner about images and trimaps.

    Args:
        name: a member of NORMALIZATIONS.

    Raises:
        InputError: no such normalisation.
    """
    mean, std = normalization(name)
    return {
        "input": "rgb_trimap",
        "colour_order": "RGB",
        "scale": 1 / 255,
        "normalization": name,
        "mean": list(mean),
        "std": list(std),
        "trimap": dict(TRIMAP),
        "trimap_scale": 1 / 255,
        "padding": "zeros after normalisation, right and bottom",
        "multiple": MULTIPLE,
    }


def half_error(module: DeployedVitMatte, pixel_values: Any, device: str) -> float:
    """The largest difference of alpha between float32 and float16, both eager on `device`.

    Args:
        module: moved to `device` and cast in place.
    """
    import torch

    from aot_runtime.backends.aoti import exact_float32

    module.to(device)
    inputs = pixel_values.to(device)
    with torch.no_grad(), exact_float32():
        exact = module(inputs)
        rounded = module.cast_precision(torch.float16)(inputs)
    return float((exact - rounded).abs().max())


def check_precision(precision: str) -> None:
    """Refuses precisions that are not good enough for a matte.

    Raises:
        InputError: with the reason.
    """
    if precision in PRECISIONS:
        return
    remedy = "use fp16, which stays within one grey level"
    if precision == "bf16":
        remedy = f"bfloat16 moves alpha by up to 3.1e-2, 8 grey levels; {remedy}"
    raise InputError(f"expected precision {' or '.join(PRECISIONS)} for VitMatte, found {precision}", remedy)


def _check_attention(attention: str | None, suffix: str) -> None:
    if attention is not None and attention not in ATTENTIONS:
        raise InputError(f"expected attention {', '.join(ATTENTIONS)}, found {attention!r}")
    if attention not in (None, "explicit") and suffix != ".pt2":
        raise InputError(
            f"expected attention explicit for ONNX files and engines, found {attention}",
            "leave it out: the exporter does not know the fused operator with a bias",
        )


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_vitmatte", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--variant", choices=tuple(CONFIGS), default="small", help="size of the network (default small)")
    add("-c", "--checkpoint", help="model.safetensors of Hugging Face, or the authors' ViTMatte_*.pth")
    add("-o", "--output-name", help="the artifact to write (default: vitmatte_<variant>_<width>x<height>.<format>)")
    add("--height", type=int, help=f"of the images, any from 32 (default {DEFAULT_SIZE})")
    add("--width", type=int, help=f"of the images, any from 32 (default {DEFAULT_SIZE})")
    low, high = DYNAMIC_RANGE
    add("--dynamic", action="store_true", help=f"one artifact for every height and width from {low} to {high}")
    add("--batch", type=int, default=1, help="images at a time, for tiles (default 1)")
    add(
        "--normalization",
        choices=tuple(NORMALIZATIONS),
        default="imagenet",
        help="of the images: imagenet as the weights were trained (default), or hf as Hugging Face's processor does",
    )
    add("--attention", choices=ATTENTIONS, help="how attention is written (default: the fastest for the format)")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add_format_arguments(parser, (*PRECISIONS, "bf16"), "default: fp16 on cuda and for engines, else fp32; not bf16")
    add_weight_arguments(parser, runs=100)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    check_weights(options)
    if options.dynamic and (options.height is not None or options.width is not None):
        raise InputError("expected --dynamic or a size, found both", "leave out --height and --width")
    if options.precision is not None:
        check_precision(options.precision)


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    height = DEFAULT_SIZE if options.height is None else options.height
    width = DEFAULT_SIZE if options.width is None else options.width
    default = f"vitmatte_{options.variant}_{'dynamic' if options.dynamic else f'{width}x{height}'}.pt2"
    path = output_path(options.output_name or default, default, options.format)
    engine = read_engine_options(options, path)
    if options.checkpoint is not None and not Path(options.checkpoint).is_file():
        raise InputError(f"expected a checkpoint, found no file {options.checkpoint}", "check the path")

    from aot_runtime.manifest import CheckpointInfo
    from vitmatte_ros.deploy import check_size
    from vitmatte_ros.model.vitmatte import VitMatte
    from vitmatte_ros.weights import load_checkpoint

    check_size(height, width)
    device = choose_device(options.device, path)
    half = device.startswith("cuda") or path.suffix == ".engine"
    precision = options.precision or ("fp16" if half else "fp32")
    model = VitMatte(CONFIGS[options.variant])
    if options.random_weights:
        seed = options.seed or 0
        checkpoint = CheckpointInfo.random(seed)
        model.randomise(seed)
        print(f"note: exporting random weights (seed {seed}); the matte means nothing", file=sys.stderr)
    else:
        checkpoint = load_checkpoint(model, options.checkpoint)
    manifest = export_vitmatte(
        model,
        path,
        checkpoint=checkpoint,
        height=height,
        width=width,
        batch=options.batch,
        dynamic=options.dynamic,
        normalization=options.normalization,
        precision=precision,
        device=device,
        attention=options.attention,
        engine_options=engine,
        rebuild_command=command,
    )
    error = manifest.preprocessing["float32_error"]
    if error is not None and error > HALF_STEP:
        print(
            f"warning: expected fp16 within one grey level ({HALF_STEP:.2g}) of fp32, found {error:.2g} on the input "
            "of the self-test; prefer --precision fp32 for these weights",
            file=sys.stderr,
        )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        print_latency(path, device, options.runs, options.warmup_runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
