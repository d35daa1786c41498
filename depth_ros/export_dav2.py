# SPDX-License-Identifier: Apache-2.0
"""Command `export_dav2_to_pt2`: Depth Anything V2 and its checkpoint become one compiled artifact.

Takes the official `depth_anything_v2_*.pth` (RGB) and F3's depth checkpoint `best.pth` (features). The flags of F3's
export script mean what they mean there; `--device`, `--metric`, `--max-depth`, `--disparity`, `--focal-baseline`,
`--resize`, `--batch`, `--f3-checkpoint`, `--random-weights`, `--seed`, and all that concerns `--format` are ours.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command
from aot_runtime.formats import (
    PRECISION_OF_AUTOCAST,
    add_format_arguments,
    choose_device,
    choose_precision,
    output_path,
    print_latency,
    read_engine_options,
)

if TYPE_CHECKING:
    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from depth_ros.model.depth_anything import DepthAnythingV2

ENCODER_NAMES = ("vits", "vitb", "vitl", "vitg")
TASKS = {"relative": "relative_depth", "metric": "metric_depth", "disparity": "disparity"}
RESIZES = ("stretch", "keep_aspect")
DEFAULT_OUTPUT = "dav2_aoti.pt2"
DEFAULT_MAX_DEPTH = 20.0
DIM = "batch"
"""Name of a free number of images."""
MAX_BATCH = 64
# Of ImageNet, which DINOv2 was trained with.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
_MEANINGS = {
    "relative": ("relative depth (1, H, W), larger is nearer, up to scale and shift", ""),
    "metric": ("depth (1, H, W)", "m"),
    "disparity": ("disparity (1, H, W), metres = focal_baseline / disparity", "px"),
}


def export_dav2(
    model: DepthAnythingV2,
    path: str | os.PathLike[str],
    *,
    height: int,
    width: int,
    checkpoint: CheckpointInfo,
    kind: str = "relative",
    precision: str = "fp32",
    device: str = "cpu",
    resize: str = "stretch",
    max_depth: float | None = None,
    focal_baseline: float | None = None,
    backbone_digest: str | None = None,
    batch: int | tuple[int, int] = 1,
    patches: str | None = None,
    inductor_configs: Mapping[str, Any] | None = None,
    engine_options: EngineOptions | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
) -> Manifest:
    """Write the artifact of a Depth Anything V2; the suffix of `path` says which kind.

    Args:
        model: the network with its weights; it is not changed. With 3 input channels it takes RGB images, with others
            F3 features.
        height, width: of its input and output, multiples of 14.
        checkpoint: where the weights come from.
        kind: what its numbers are, see `TASKS`; "metric" if and only if the network has a `max_depth`.
        precision: fp32, fp16 or bf16, of an engine int8 and fp8 too; inputs and outputs are float32 with each.
        device: cpu, cuda or cuda:N; for a `.pt2` the kind of machine that it will run on, which must be this one.
        resize: how an image comes to height x width: "stretch", or "keep_aspect" (RGB only: fit inside, centred, padded
            with the mean colour).
        max_depth: metres at the top of a metric network's range, if given the one it was made with.
        focal_baseline: px * m, with kind "disparity": metres = focal_baseline / disparity.
        backbone_digest: `aot_runtime.checkpoint.state_digest` of the F3 network that the weights were trained on.
        batch: images in a call, or (fewest, most) of them; of RGB networks only.
        patches: see `depth_ros.deploy.PATCHES`; by default what is fastest on the device.
        inductor_configs: options for the compiler on top of our own.
        engine_options: target, calibration, ... of an engine.

    Raises:
        InputError: arguments contradict each other or the network.
        ExportError: see `aot_runtime.export.export_model`; in fp16 also where numbers overflow, naming the first layer.
    """
    import torch

    from aot_runtime import golden
    from aot_runtime.export import export_model
    from aot_runtime.manifest import DynamicDim
    from depth_ros.deploy import DeployedDepth, fastest_patches, inductor_options, require_range

    config = model.config
    rgb = config.input_channels == 3
    _check_meaning(kind, config.max_depth, max_depth, focal_baseline)
    _check_resize(resize, rgb)
    low, high = _check_batch(batch, rgb)
    module = DeployedDepth(model, height, width, patches=patches or fastest_patches(device))
    # RGB after normalisation lies in (0 - mean) / std .. (1 - mean) / std.
    name, law = ("image", golden.uniform(-2.1, 2.6)) if rgb else ("features", golden.uniform(-1.0, 1.0))
    # torch.export takes a size of 1 for a constant, so a free one is traced with 2.
    example = low if low == high else max(2, low)
    shape = (example, config.input_channels, height, width)
    meaning = "RGB image (1, 3, H, W), normalised" if rgb else "F3 features (1, C, H, W), H before W"
    if high > 1:
        meaning = "RGB images (N, 3, H, W), normalised"
    batched = {} if high == 1 else {"batch": [low, high]}
    dynamic = low != high
    if precision == "fp16":
        drawn = golden.draw(law, shape, golden.DEFAULT_SEED, 0)
        require_range(module, torch.from_numpy(drawn), torch.float16, device)
    return export_model(
        module,
        {name: torch.zeros(shape)},
        path=path,
        family="depth",
        variant=f"depth_anything_v2_{config.name}",
        task=TASKS[kind],
        outputs=[("depth", *_MEANINGS[kind])],
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        preprocessing={
            **_input_rules(rgb, resize, backbone_digest),
            "input_channels": config.input_channels,
            "size": [height, width],
            "patch": config.patch,
            "encoder": config.name,
            "kind": kind,
            "max_depth": config.max_depth,
            "focal_baseline": focal_baseline,
            "float32": ["LayerNorm", "residual streams", "last 1x1 convolution", "depth"],
            **batched,
        },
        dynamic_dims={name: {0: DynamicDim(DIM, low, high)}} if dynamic else None,
        check_sizes=[{DIM: size} for size in sorted({low, high} - {example})] if dynamic else (),
        input_meanings={name: (meaning, "")},
        golden_laws={name: law},
        inductor_configs={**inductor_options(device), **(inductor_configs or {})},
        engine_options=engine_options,
        rebuild_command=rebuild_command,
        progress=progress,
    )


def _input_rules(rgb: bool, resize: str, backbone_digest: str | None) -> dict[str, Any]:
    """What the manifest tells a runner about the input."""
    if rgb:
        return {
            "input": "rgb_image",
            "colour_order": "RGB",
            "scale": 1 / 255,
            "mean": list(RGB_MEAN),
            "std": list(RGB_STD),
            "resize": resize,
            "interpolation": "cubic",
        }
    return {
        "input": "f3_features",
        "resize": "stretch",
        "interpolation": "bilinear",
        "align_corners": True,
        "backbone_digest": backbone_digest,
    }


def _check_meaning(
    kind: str, network_max_depth: float | None, max_depth: float | None, focal_baseline: float | None
) -> None:
    if kind not in TASKS:
        raise InputError(f"expected kind {', '.join(TASKS)}, found {kind!r}")
    if (kind == "metric") != (network_max_depth is not None):
        made = "relative" if network_max_depth is None else f"metric (max_depth {network_max_depth:g} m)"
        raise InputError(
            f"expected kind metric for metric networks only, found kind {kind} and a network made as {made}"
        )
    if max_depth is not None and max_depth != network_max_depth:
        raise InputError(f"expected max_depth {network_max_depth} as the network has it, found {max_depth}")
    if focal_baseline is not None and (kind != "disparity" or not 0 < focal_baseline < float("inf")):
        raise InputError(
            f"expected a positive --focal-baseline in px * m, with --disparity, found {focal_baseline} and kind {kind}"
        )


def _check_resize(resize: str, rgb: bool) -> None:
    if resize not in RESIZES:
        raise InputError(f"expected resize {', '.join(RESIZES)}, found {resize!r}")
    if resize != "stretch" and not rgb:
        raise InputError(
            f"expected --resize stretch for F3 features, found {resize}", "features of the whole frame are stretched"
        )


def _check_batch(batch: int | tuple[int, int], rgb: bool) -> tuple[int, int]:
    low, high = batch if isinstance(batch, tuple) else (batch, batch)
    if not 1 <= low <= high <= MAX_BATCH:
        raise InputError(
            f"expected a batch from 1 to {MAX_BATCH}, found {low}..{high}", "write for instance 4, or 1..8"
        )
    if high > 1 and not rgb:
        raise InputError(f"expected --batch 1 for F3 features, found {low}..{high}", "windows come one by one")
    return low, high


def parse_batch(text: str) -> int | tuple[int, int]:
    """ "4" -> 4, "1..8" -> (1, 8).

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", text)
    if match is None:
        raise InputError(f"expected --batch NUMBER or FEWEST..MOST, found {text!r}", "write for instance 4, or 1..8")
    low = int(match.group(1))
    return low if match.group(2) is None else (low, int(match.group(2)))


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_dav2_to_pt2", description=__doc__)
    add = parser.add_argument
    add("-e", "--encoder", default="vitb", choices=ENCODER_NAMES, help="size of the encoder (default vitb)")
    add("-i", "--input-channels", type=int, default=32, help="3 for RGB images, else F3 features (default 32)")
    add("--height", type=int, default=238, help="of input and output, a multiple of 14 (default 238)")
    add("--width", type=int, default=308, help="of input and output, a multiple of 14 (default 308)")
    add("-o", "--output-name", default=DEFAULT_OUTPUT, help=f"the artifact to write (default {DEFAULT_OUTPUT})")
    add("-c", "--checkpoint", help="official depth_anything_v2_*.pth, or F3's best.pth")
    add(
        "--autocast",
        choices=tuple(PRECISION_OF_AUTOCAST),
        default="None",
        help="dtype of weights and arithmetic (default None: float32); float16 overflows with official weights",
    )
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add("--metric", action="store_true", help="the checkpoint is of a metric network (depth_anything_v2_metric_*.pth)")
    add(
        "--max-depth", type=float, help=f"with --metric, its largest depth in m (default {DEFAULT_MAX_DEPTH:g}: indoor)"
    )
    add("--disparity", action="store_true", help="the checkpoint was tuned to give disparities in px")
    add("--focal-baseline", type=float, help="with --disparity, px * m, so that metres = this / disparity")
    add("--resize", choices=RESIZES, default="stretch", help="how RGB images come to the size (default stretch)")
    add("--batch", default="1", metavar="N|FEWEST..MOST", help="RGB images in a call, of several cameras (default 1)")
    add("--f3-checkpoint", help="the F3 in use; a warning if the heads in --checkpoint were trained on another")
    add_format_arguments(parser)
    add_weight_arguments(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    check_weights(options)
    if options.f3_checkpoint is not None and options.checkpoint is None:
        raise InputError("expected --f3-checkpoint only with --checkpoint, found it without", "leave it out")
    if options.metric and options.disparity:
        raise InputError("expected --metric or --disparity, found both")
    if options.max_depth is not None and not options.metric:
        raise InputError("expected --max-depth only with --metric, found it without", "add --metric")
    if options.focal_baseline is not None and not options.disparity:
        raise InputError("expected --focal-baseline only with --disparity, found it without", "add --disparity")
    _check_resize(options.resize, options.input_channels == 3)
    _check_batch(parse_batch(options.batch), options.input_channels == 3)


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    path = output_path(options.output_name, DEFAULT_OUTPUT, options.format)
    precision, engine = choose_precision(options, path), read_engine_options(options, path)
    for file in (options.checkpoint, options.f3_checkpoint):
        if file is not None and not Path(file).is_file():
            raise InputError(f"expected a checkpoint, found no file {file}", "check the path")

    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2
    from depth_ros.model.dinov2 import check_size
    from depth_ros.weights import compare_backbone, load_depth_checkpoint

    check_size(options.height, options.width)
    config = replace(ENCODERS[options.encoder], input_channels=options.input_channels)
    if options.metric:
        config = replace(config, max_depth=DEFAULT_MAX_DEPTH if options.max_depth is None else options.max_depth)
    kind = "metric" if options.metric else "disparity" if options.disparity else "relative"
    _check_meaning(kind, config.max_depth, None, options.focal_baseline)
    if precision == "fp16":
        _say(
            "warning: float16 overflows in Depth Anything V2 with official weights; prefer --precision bf16 (.pt2 and "
            "engines); an export that gives NaN or infinity is refused"
        )
    device = choose_device(options.device, path)
    model = DepthAnythingV2(config).eval()
    backbone_digest = None
    if options.random_weights:
        seed = options.seed or 0
        model.randomise(seed)
        checkpoint = CheckpointInfo.random(seed)
        _say(f"note: exporting random weights (seed {seed}); the depth means nothing")
    else:
        loaded = load_depth_checkpoint(model, options.checkpoint)
        checkpoint, backbone_digest = loaded.info, loaded.backbone_digest
        _say(
            f"note: official weights of {config.name} have the licence {checkpoint.licence}, and so has what is tuned "
            "from them"
        )
        for note in loaded.notes:
            _say(f"note: {note}")
        if options.f3_checkpoint is not None:
            warning = compare_backbone(backbone_digest, options.checkpoint, options.f3_checkpoint)
            _say(
                f"warning: {warning}"
                if warning
                else f"note: {options.f3_checkpoint} is the F3 that the head was trained on"
            )
    export_dav2(
        model,
        path,
        height=options.height,
        width=options.width,
        checkpoint=checkpoint,
        kind=kind,
        precision=precision,
        device=device,
        resize=options.resize,
        focal_baseline=options.focal_baseline,
        backbone_digest=backbone_digest,
        batch=parse_batch(options.batch),
        engine_options=engine,
        rebuild_command=command,
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        print_latency(path, device, options.runs, options.warmup_runs)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
