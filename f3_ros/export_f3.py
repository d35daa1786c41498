# SPDX-License-Identifier: Apache-2.0
"""Command `export_f3_to_pt2`: an F3 network and its checkpoint become one compiled artifact.

The flags of the official export script mean what they mean there; `--downsample`, `--precision`, `--device`,
`--max-events`, `--random-weights` and `--seed` are ours.
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
from f3_ros.config import CONFIGS, F3Config, from_name

if TYPE_CHECKING:
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from f3_ros.model import EventPatchFF
    from f3_ros.unet import EventUNetFF

BIN_US = 1000
DEFAULT_MODEL = "1280x720x20_patchff_ds1_small"
DEFAULT_MAX_EVENTS = 1_000_000


def make_model(config: F3Config) -> EventPatchFF | EventUNetFF:
    """The network of a configuration, in eval mode, untrained."""
    if config.model == "EventUNetFF":
        from f3_ros.unet import EventUNetFF

        return EventUNetFF(config)
    from f3_ros.model import EventPatchFF

    return EventPatchFF(config).eval()


def export_f3(
    model: EventPatchFF | EventUNetFF,
    path: str | os.PathLike[str],
    *,
    checkpoint: CheckpointInfo,
    n_events: int = 200_000,
    variable: bool = False,
    max_events: int = DEFAULT_MAX_EVENTS,
    hashed: bool = False,
    downsample: tuple[int, int] | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    depthwise: str | None = None,
    logits: bool = False,
    inductor_configs: Mapping[str, Any] | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
) -> Manifest:
    """Write the artifact of an F3 network.

    Args:
        model: the network with its weights; it is not changed.
        checkpoint: where the weights come from.
        n_events: the number of events the artifact takes (fewer are padded with t < 0), or the example if variable.
        variable: take any number of events from 0 to max_events.
        hashed: look features up in a table of all voxels instead of the level tables.
        downsample: (W', H') of the field that the network sees.
        precision: fp32, fp16 or bf16.
        device: cpu, cuda or cuda:N, the kind of machine that it will run on, which must be this one.
        depthwise: see `f3_ros.deploy.DEPTHWISE`; by default what is fastest on the device.
        logits: a second output, the prediction head's logits (1, W, H, T).
        inductor_configs: options for the compiler on top of our own.

    Raises:
        InputError: arguments contradict each other or the configuration.
        ExportError: see `aot_runtime.export.export_model`.
    """
    import torch

    from aot_runtime import golden
    from aot_runtime.checkpoint import state_digest
    from aot_runtime.export import export_model
    from aot_runtime.manifest import DynamicDim
    from f3_ros.deploy import check_depthwise, deploy, fastest_depthwise

    config = model.config
    if n_events < 1:
        raise InputError(f"expected one or more events, found --n-events {n_events}")
    if variable and n_events > max_events:
        raise InputError(f"expected --n-events up to --max-events {max_events}, found {n_events}")
    if depthwise is None:
        depthwise = fastest_depthwise(device)
    check_depthwise(depthwise, device)
    weights_digest = state_digest(model.state_dict())
    module = deploy(model, hashed=hashed, downsample=downsample, depthwise=depthwise, logits=logits)
    width, height, bins = config.frame
    outputs = [("features", "feature field (1, W', H', C), W before H, channels last", "")]
    if logits:
        outputs.append(("logits", "logits of an event in each pixel and future bin (1, W, H, T)", ""))
    return export_model(
        module,
        {"events": torch.zeros(n_events, 4)},
        path=path,
        family="f3",
        variant=config.name,
        task="features",
        outputs=outputs,
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        preprocessing={
            **preprocessing(config, hashed=hashed, downsample=downsample, depthwise=depthwise),
            # Heads were trained on one backbone and carry its digest: a node compares the two.
            "weights_digest": weights_digest,
        },
        dynamic_dims={"events": {0: DynamicDim("n_events", 0, max_events)}} if variable else None,
        input_meanings={"events": ("columns x/W, y/H, k/T, p; bin k = 0 is the newest; t < 0 is padding", "")},
        golden_laws={"events": golden.grid(width, height, bins, (2, 1))},
        check_sizes=[{"n_events": 0}, {"n_events": 1}] if variable else (),
        inductor_configs=inductor_configs,
        rebuild_command=rebuild_command,
        progress=progress,
    )


def preprocessing(
    config: F3Config, *, hashed: bool, downsample: tuple[int, int] | None, depthwise: str
) -> dict[str, Any]:
    """What the manifest tells a runner about events and features."""
    width, height, bins = config.frame
    told: dict[str, Any] = {
        "width": width,
        "height": height,
        "bins": bins,
        "bin_us": BIN_US,
        "window_us": bins * BIN_US,
        "event_columns": ["x/width", "y/height", "k/bins, k = 0 is the newest bin", "p, 1 is positive"],
        "padding": "an event whose third column is negative contributes nothing",
        "smaller_sensors": "centred on the frame",
        "hashed": hashed,
        "downsample": list(downsample) if downsample else None,
        "feature_shape": list(config.feature_shape(downsample)),
        "output_layout": "(1, W', H', C)",
        "depthwise": depthwise,
    }
    if config.encoder is not None:
        told["resolutions"] = [list(level) for level in config.encoder.resolutions]
        told["hashed_levels"] = config.encoder.hashed_levels
        told["log2_entries"] = config.encoder.log2_entries
        told["float32"] = ["encoder", "pooled field", "first convolution", "LayerNorm", "GRN norms"]
    return told


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_f3_to_pt2", description=__doc__)
    add = parser.add_argument
    add("-m", "--model-name", default=DEFAULT_MODEL, help=f"official name, one of: {', '.join(CONFIGS)}")
    add("-c", "--checkpoint", help="official checkpoint (.pth or .safetensors)")
    add("-o", "--output-name", help="the artifact to write (default: <model name>.pt2)")
    add("-n", "--n-events", type=int, default=200_000, help="events per run; with -v the number to measure with")
    add("-v", "--variable-events", action="store_true", help="take any number of events up to --max-events, also 0")
    add("--max-events", type=int, help=f"with -v, the most events of one run (default {DEFAULT_MAX_EVENTS})")
    add("--build-hashed-feats", action="store_true", help="one lookup per event in a table of all voxels; a large file")
    add("--downsample", type=int, nargs=2, metavar=("W", "H"), help="size of the field that the network sees")
    add("--precision", choices=("fp32", "fp16", "bf16"), help="default: fp16 on cuda, fp32 on cpu")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add(
        "--depthwise",
        choices=("conv", "taps", "triton"),
        help="how depthwise convolutions are compiled (default: by device)",
    )
    add_weight_arguments(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    check_weights(options)
    if options.max_events is not None and not options.variable_events:
        raise InputError(
            "expected --max-events only with --variable-events, found it without",
            "add -v, or set the fixed number with --n-events",
        )


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    config = from_name(options.model_name)
    path = Path(options.output_name or f"{config.name}.pt2")
    if path.suffix != ".pt2":
        path = path.with_name(path.name + ".pt2")
    if options.checkpoint is not None and not Path(options.checkpoint).is_file():
        raise InputError(f"expected a checkpoint, found no file {options.checkpoint}", "check the path")

    import torch

    from aot_runtime.checkpoint import load_into, load_state_dict
    from aot_runtime.manifest import CheckpointInfo

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(config)
    if options.random_weights:
        seed = options.seed or 0
        model.randomise(seed)
        checkpoint = CheckpointInfo.random(seed)
        print(f"note: exporting random weights (seed {seed}); the features mean nothing", file=sys.stderr)
    else:
        state, checkpoint = load_state_dict(options.checkpoint, licence="Apache-2.0")
        load_into(model, state, source=str(options.checkpoint))
    export_f3(
        model,
        path,
        checkpoint=checkpoint,
        n_events=options.n_events,
        variable=options.variable_events,
        max_events=options.max_events or DEFAULT_MAX_EVENTS,
        hashed=options.build_hashed_feats,
        downsample=tuple(options.downsample) if options.downsample else None,
        precision=options.precision or ("fp16" if device.startswith("cuda") else "fp32"),
        device=device,
        depthwise=options.depthwise,
        rebuild_command=command,
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        _print_latency(path, device, options.runs, options.warmup_runs)
    return 0


def _print_latency(path: Path, device: str, runs: int, warmup_runs: int) -> None:
    from aot_runtime.benchmark import benchmark_artifact, print_results
    from aot_runtime.environment import stamp

    print_results(benchmark_artifact(path, device, runs=runs, warmup_runs=warmup_runs), stamp())


if __name__ == "__main__":
    sys.exit(main())
