# SPDX-License-Identifier: Apache-2.0
"""Command `export_bev`: a lift-splat encoder and its weights become one compiled artifact, or one for each stage.

Takes BEVDepth's checkpoints (by the names of its whole model, or of its parts). A fused `.pt2` or `.onnx` goes from
images to the map; with --split-stages the image stage, the pooling and the BEV stage are files of their own, and the
networks may be engines. Calibrations are inputs: nothing is exported anew for another vehicle.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aot_runtime.errors import ExportError, InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command
from aot_runtime.formats import add_format_arguments, choose_device, output_path, print_latency, read_engine_options
from bev_ros.artifact import FUSED_ENGINE, export_part, part_path, parts_of
from bev_ros.config import BACKBONES, BEV_STAGES, HEADS, NECKS, PRESETS, STRIDES, BevConfig, preset
from bev_ros.encoders import make_encoder, read_config
from bev_ros.geometry import PIXEL_RULES
from bev_ros.grid import RULES, BevGrid
from bev_ros.images import ORDERS

PRECISIONS = ("fp32", "fp16", "bf16")
DEFAULT_PRESET = "bevdepth-r50-256x704"
# Option -> field of the configuration, where both hold the same.
_FIELDS = (
    *("backbone", "base_channels", "neck", "neck_channels", "head", "mid_channels", "channels", "stride", "sweeps"),
    *("bev_stage", "pixels", "order", "custom_encoder"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """0 success, 2 the export was refused, or an argument or file is wrong."""
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_bev", description=(__doc__ or "").split("\n\n", 1)[-1])
    add = parser.add_argument
    add("-c", "--checkpoint", help="official weights: .pth of BEVDepth, or .safetensors")
    add("-o", "--output-name", help="file to write (default: bev_<name>.<format>)")
    add("--preset", choices=tuple(PRESETS), help=f"what the other options change (default {DEFAULT_PRESET})")
    add("--config", metavar="FILE", help="instead of --preset: .json or .yaml with the fields of bev_ros.config")
    add("--name", help="of the encoder, in the manifest (default: the preset's)")
    add("--backbone", choices=tuple(BACKBONES), help="of the images")
    add("--base-channels", type=int, help="of the backbone's first stage (64)")
    add("--neck", choices=NECKS, help="between backbone and head")
    add("--neck-channels", type=int, help="that it gives")
    add("--head", choices=HEADS, help="how depth and context are made")
    add("--mid-channels", type=int, help="inside the head bevdepth")
    add("--use-da", action="store_true", default=None, help="BEVDepth's depth refinement (needs the whole volume)")
    add("--channels", type=int, help="of the pooled map")
    add("--grid", nargs=9, type=float, metavar="M", help="x, y and z: low, high, step each, in metres")
    add("--index-rule", choices=RULES, help="trunc as the checkpoints expect, or floor, the right one")
    add("--keep-z", action="store_true", default=None, help="heights of the grid as channels, not summed")
    add("--depth", nargs=3, type=float, metavar="M", help="depth bins: first, end, step in metres")
    add("--image-size", nargs=2, type=int, metavar=("H", "W"), help="what the network takes, in pixels")
    add("--stride", type=int, choices=STRIDES, help="image pixels per pixel of the features")
    add("--pixels", choices=PIXEL_RULES, help="where pixels lie, see bev_ros.geometry")
    add("--order", choices=ORDERS, help="of the network's channels")
    add("--num-cams", type=int, help="images of an instant; a rig may have fewer")
    add("--sweeps", type=int, help="instants at a time, whose maps are joined on channels (default 1)")
    add("--bev-stage", choices=BEV_STAGES, help="network on the pooled map")
    add("--custom-encoder", metavar="MODULE:CLASS", help="your own network of the images, see bev_ros.custom")
    add("--split-stages", action="store_true", help="<name>_image, <name>_pool and <name>_bev instead of one file")
    add("--licence", help="of the weights, for the manifest (default: MIT for BEVDepth's, none for others)")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add_format_arguments(parser, PRECISIONS, "default fp32; bf16 for a .pt2 or an engine")
    add_weight_arguments(parser, runs=50)
    return parser


def read_options(options: argparse.Namespace) -> BevConfig:
    """The configuration that the options ask for.

    Raises:
        InputError: contradictions, or something impossible.
    """
    if options.config is not None and options.preset is not None:
        raise InputError("expected --config or --preset, found both", "leave one out")
    base = preset(options.preset or DEFAULT_PRESET) if options.config is None else read_config(options.config)
    changes: dict[str, Any] = {
        name: getattr(options, name) for name in (*_FIELDS, "use_da", "keep_z") if getattr(options, name) is not None
    }
    if options.grid is not None or options.index_rule is not None:
        grid = base.grid
        if options.grid is not None:
            x, y, z = (tuple(options.grid[start : start + 3]) for start in (0, 3, 6))
            grid = BevGrid(x, y, z, grid.rule)  # type: ignore[arg-type]
        changes["grid"] = replace(grid, rule=options.index_rule or grid.rule)
    for name, value in (("depth", options.depth), ("image", options.image_size)):
        if value is not None:
            changes[name] = tuple(value)
    if options.num_cams is not None:
        changes["cameras"] = options.num_cams
    if options.name is not None:
        changes["name"] = options.name
    return replace(base, **changes)


def _run(options: argparse.Namespace, command: list[str]) -> int:
    check_weights(options)
    config = read_options(options)
    default = f"bev_{config.name}.pt2"
    path = output_path(options.output_name or default, default, options.format)
    engine = read_engine_options(options, path)
    precision = options.precision or "fp32"
    if precision == "bf16" and path.suffix == ".onnx":
        raise InputError(
            f"expected fp32 or fp16 for an ONNX file, found bf16 for {path}",
            "export fp32; build_engine --precision bf16 makes an engine of an image or BEV stage from it",
        )
    if options.checkpoint is not None and not Path(options.checkpoint).is_file():
        raise InputError(f"expected a checkpoint, found no file {options.checkpoint}", "check the path")
    if path.suffix == ".engine" and not options.split_stages:
        # Before anything slow happens; `export_part` refuses it too.
        raise ExportError(*FUSED_ENGINE)

    device = choose_device(options.device, path)
    encoder, checkpoint = make_encoder(config, options.checkpoint, seed=options.seed or 0, licence=options.licence)
    if checkpoint.is_random:
        print(f"note: exporting random weights (seed {options.seed or 0}); the map means nothing", file=sys.stderr)
    parts = [(part, part_path(path, part)) for part in parts_of(config)] if options.split_stages else [("fused", path)]
    for part, file in parts:
        engine_options = engine if file.suffix == ".engine" else None
        if engine_options is not None and engine_options.keep_onnx is not None:
            engine_options = replace(engine_options, keep_onnx=os.fspath(part_path(engine_options.keep_onnx, part)))
        manifest = export_part(
            encoder,
            part,
            file,
            checkpoint=checkpoint,
            precision="fp32" if part == "pool" else precision,
            device=device,
            engine_options=engine_options,
            rebuild_command=command,
        )
        error = manifest.preprocessing["float32_error"]
        if error:
            shown = ", ".join(f"{name} {value:.2g}" for name, value in error.items())
            print(f"{precision} differs from fp32 by, over the largest value: {shown}", file=sys.stderr)
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        for _, file in parts:
            print_latency(file, device, options.runs, options.warmup_runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
