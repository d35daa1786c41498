# SPDX-License-Identifier: Apache-2.0
"""Command `export_flowhead_to_pt2`: an optical flow head and its checkpoint become one compiled artifact.

The flags of the official export script mean what they mean there; `--device`, `--depthwise`, `--interval-ms`,
`--f3-checkpoint`, `--random-weights`, `--seed`, and all that concerns `--format` are ours.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
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
    import torch

    from aot_runtime.engine import EngineOptions
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from f3_ros.flow_head import FlowHead

DEFAULT_OUTPUT = "flowhead_aoti.pt2"
DEFAULT_INTERVAL_MS = 100.0
HEAD_PREFIX = "flowhead."
BACKBONE_PREFIX = "eventff."


def export_flowhead(
    model: FlowHead,
    path: str | os.PathLike[str],
    *,
    height: int,
    width: int,
    checkpoint: CheckpointInfo,
    interval_us: int = 100_000,
    precision: str = "fp32",
    device: str = "cpu",
    depthwise: str | None = None,
    backbone_digest: str | None = None,
    inductor_configs: Mapping[str, Any] | None = None,
    engine_options: EngineOptions | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
) -> Manifest:
    """Write the artifact of a flow head; the suffix of `path` says which kind.

    Args:
        model: the network with its weights; it is not changed.
        height, width: the grid of features that it runs on, and of the flow that it returns.
        checkpoint: where the weights come from.
        interval_us: the time over which the flow measures displacement, microseconds; a fact of the weights.
        precision: fp32, fp16 or bf16, of an engine int8 and fp8 too.
        device: cpu, cuda or cuda:N; for a `.pt2` the kind of machine that it will run on, which must be this one.
        depthwise: see `f3_ros.deploy.DEPTHWISE`; by default what is fastest on the device. Only a `.pt2` has a choice:
            the runtimes of the others have kernels for a convolution, not for what it can be rewritten as.
        backbone_digest: `state_digest` of the F3 weights that the head was trained on, if they are known.
        inductor_configs: options for the compiler on top of our own.
        engine_options: target, calibration, ... of an engine.

    Raises:
        InputError: a size or the interval is not positive, or `depthwise` cannot run on the device or in the format.
        ExportError: see `aot_runtime.export.export_model`.
    """
    import copy

    import torch

    from aot_runtime import golden
    from aot_runtime.export import export_model
    from f3_ros.deploy import check_depthwise, fastest_depthwise

    if height < 1 or width < 1:
        raise InputError(f"expected a positive --height and --width, found {height} and {width}")
    if interval_us < 1:
        raise InputError(f"expected an interval of at least 1 us, found {interval_us} us")
    compiled = Path(path).suffix == ".pt2"
    if depthwise is None:
        depthwise = fastest_depthwise(device) if compiled else "conv"
    if depthwise != "conv" and not compiled:
        raise InputError(f"expected --depthwise conv for a {Path(path).suffix} file, found {depthwise}", "leave it out")
    check_depthwise(depthwise, device)
    module = copy.deepcopy(model).requires_grad_(False).eval().write_depthwise(depthwise)
    milliseconds = f"{interval_us / 1000:g} ms"
    return export_model(
        module,
        {"features": torch.zeros(1, model.channels, height, width)},
        path=path,
        family="flow",
        variant=model.variant,
        task="optical_flow",
        outputs=[("flow", f"displacement over {milliseconds} (1, 2, H, W), channel 0 along W, 1 along H", "px")],
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        preprocessing={
            "input": "f3_features",
            "input_channels": model.channels,
            "size": [height, width],
            "resize": "stretch",
            "interpolation": "bilinear",
            "align_corners": True,
            "interval_us": interval_us,
            "unit": "pixels of this grid, over interval_us",
            "kernels": list(model.kernels),
            "btlncks": list(model.btlncks),
            "dilations": list(model.dilations),
            "depthwise": depthwise,
            "float32": ["LayerNorm", "GRN norms"],
            # Heads are trained on one backbone: a node compares this with F3's weights_digest.
            "backbone_digest": backbone_digest,
        },
        input_meanings={"features": ("F3 features (1, C, H, W), resized to this size", "")},
        # The range that F3's features have; they are not normalised.
        golden_laws={"features": golden.uniform(-4.0, 4.0)},
        inductor_configs=inductor_configs,
        engine_options=engine_options,
        rebuild_command=rebuild_command,
        progress=progress,
    )


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], CheckpointInfo, str | None]:
    """The head's weights, where they come from, and the digest of the F3 that the file holds beside them (or None).

    Takes the official training checkpoint, whose names begin with `flowhead.` and `eventff.`, and a plain state dict
    of the head.

    Raises:
        CheckpointError: see `aot_runtime.checkpoint.load_state_dict`.
    """
    from aot_runtime.checkpoint import load_state_dict, state_digest

    everything, info = load_state_dict(path, licence="Apache-2.0")
    backbone = _without_prefix(everything, BACKBONE_PREFIX)
    digest = state_digest(backbone) if backbone else None
    if any(key.startswith("decoder.") for key in everything):
        return everything, info, digest
    # Read again for its message where the file is that of another model.
    return _without_prefix(everything, HEAD_PREFIX) or load_state_dict(path, HEAD_PREFIX)[0], info, digest


def _without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def backbone_warning(digest: str | None, checkpoint: str, f3_checkpoint: str) -> str | None:
    """What to tell the user about a head and the F3 checkpoint that it will run on; None if they belong together.

    Raises:
        CheckpointError: the F3 checkpoint cannot be read.
    """
    from aot_runtime.checkpoint import load_state_dict, state_digest

    used = state_digest(load_state_dict(f3_checkpoint)[0])
    if digest is None:
        return f"{checkpoint} does not hold the F3 it was trained on, so it cannot be compared with {f3_checkpoint}"
    if digest != used:
        return (
            f"{checkpoint} was trained on other F3 weights ({digest[:12]}) than those of {f3_checkpoint} "
            f"({used[:12]}): with these its output means nothing"
        )
    return None


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_flowhead_to_pt2", description=__doc__)
    add = parser.add_argument
    add("-i", "--input-channels", type=int, default=32, help="channels of the F3 features (default 32)")
    add("--height", type=int, default=238, help="rows of the grid it runs on (default 238)")
    add("--width", type=int, default=308, help="columns of the grid it runs on (default 308)")
    add("--kernels", type=int, nargs="+", default=[9, 9, 9, 9], help="of each block (default 9 9 9 9)")
    add("--btlncks", type=int, nargs="+", default=[2, 2, 2, 2], help="expansion of each block (default 2 2 2 2)")
    add("--dilations", type=int, nargs="+", default=[1, 1, 1, 1], help="of each block (default 1 1 1 1)")
    add("-c", "--checkpoint", help="official checkpoint last.pth, or the head's weights alone")
    add("-o", "--output-name", default=DEFAULT_OUTPUT, help=f"the artifact to write (default {DEFAULT_OUTPUT})")
    add(
        "--autocast",
        choices=tuple(PRECISION_OF_AUTOCAST),
        default="None",
        help="dtype of weights and arithmetic (default None: float32)",
    )
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add(
        "--depthwise", choices=("conv", "taps", "triton"), help="how a .pt2 computes depthwise convolutions (by device)"
    )
    add("--interval-ms", type=float, default=DEFAULT_INTERVAL_MS, help="time that the flow spans (default 100)")
    add("--f3-checkpoint", help="the F3 it will run on: warn if the head was trained on another")
    add_format_arguments(parser)
    add_weight_arguments(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    check_weights(options)
    if options.f3_checkpoint is not None and options.random_weights:
        raise InputError("expected --f3-checkpoint only with --checkpoint, found --random-weights", "leave it out")
    for file in (options.checkpoint, options.f3_checkpoint):
        if file is not None and not Path(file).is_file():
            raise InputError(f"expected a checkpoint, found no file {file}", "check the path")


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    path = output_path(options.output_name, DEFAULT_OUTPUT, options.format)
    precision, engine = choose_precision(options, path), read_engine_options(options, path)

    from aot_runtime.checkpoint import load_into
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.flow_head import FlowHead

    device = choose_device(options.device, path)
    model = FlowHead(options.input_channels, options.kernels, options.btlncks, options.dilations)
    digest = None
    if options.random_weights:
        seed = options.seed or 0
        model.randomise(seed)
        checkpoint = CheckpointInfo.random(seed)
        print(f"note: exporting random weights (seed {seed}); the flow means nothing", file=sys.stderr)
    else:
        state, checkpoint, digest = read_checkpoint(options.checkpoint)
        load_into(model, state, source=str(options.checkpoint), ignore_unexpected=(BACKBONE_PREFIX,))
        if options.f3_checkpoint is not None:
            warning = backbone_warning(digest, options.checkpoint, options.f3_checkpoint)
            if warning is not None:
                print(f"warning: {warning}", file=sys.stderr)
    export_flowhead(
        model,
        path,
        height=options.height,
        width=options.width,
        checkpoint=checkpoint,
        interval_us=round(options.interval_ms * 1000),
        precision=precision,
        device=device,
        depthwise=options.depthwise,
        backbone_digest=digest,
        engine_options=engine,
        rebuild_command=command,
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        print_latency(path, device, options.runs, options.warmup_runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
