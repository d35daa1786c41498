# SPDX-License-Identifier: Apache-2.0
"""One encoder, or a stage of one -> one artifact: what its inputs are and what its manifest says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import ExportError, InputError
from bev_ros.config import BevConfig
from bev_ros.geometry import VECTOR
from bev_ros.images import MEAN, STD
from bev_ros.tables import MIN_POINTS

if TYPE_CHECKING:
    import torch

    from aot_runtime.golden import Law
    from aot_runtime.manifest import CheckpointInfo, DynamicDim, Manifest
    from bev_ros.model.encoder import BevEncoder

FAMILY = "bev"
PARTS = ("fused", "image", "pool", "bev")
"""A whole encoder, or its image stage, pooling and BEV stage."""
POINTS = "points"
"""Name of the dynamic number of points that lie in the grid."""
FUSED_ENGINE = (
    "expected an image or BEV stage for an engine, found the pooling in it: TensorRT has no embedding bag, and has "
    "built scatters of sums that overwrite instead of adding, without a word (onnx-tensorrt issue 957)",
    "add --split-stages: engines of the image and BEV stages, and the pooling as a .pt2 between them",
)
"""Why there is no fused engine, and what to do."""
_TASKS = {"fused": "bev_features", "image": "bev_image_stage", "pool": "bev_pooling", "bev": "bev_stage"}
# fx, fy, cx, cy; ida; bda; sensor_to_ego: (count, divisor) of values from 0, such as cameras of cars have.
_CAMERA_COLUMNS = (
    *((1500, 1), (1500, 1), (1600, 1), (900, 1)),
    *((64, 100), (1, 1), (60, 1), (1, 1), (64, 100), (150, 1)),
    *((101, 100), (1, 1), (1, 1), (101, 100), (101, 100)),
    *((101, 100), (101, 100), (101, 100), (30, 10)) * 3,
)


@dataclass
class _Signature:
    """Inputs of a part: examples, how the self-test draws them, what they mean."""

    examples: dict[str, torch.Tensor] = field(default_factory=dict)
    laws: dict[str, Law] = field(default_factory=dict)
    meanings: dict[str, tuple[str, str]] = field(default_factory=dict)
    dims: dict[str, dict[int, DynamicDim]] = field(default_factory=dict)

    def add(self, name: str, example: torch.Tensor, law: Law, meaning: str, unit: str = "") -> None:
        self.examples[name] = example
        self.laws[name] = law
        self.meanings[name] = (meaning, unit)


def export_part(
    encoder: BevEncoder,
    part: str,
    path: str | os.PathLike[str],
    *,
    checkpoint: CheckpointInfo,
    precision: str = "fp32",
    device: str = "cpu",
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
    **options: Any,
) -> Manifest:
    """Write the artifact of a whole encoder or of one of its stages; the suffix of `path` says which kind.

    Tables of the pooling are inputs: `ranks_feat`, `ranks_depth` and `offsets` (see `bev_ros.tables.TableTensors`) of a
    `.pt2`, `planes` (see `PoolingTables.planes`) of an `.onnx`. So one artifact serves every calibration.

    Args:
        encoder: with its weights; it is not changed.
        part: a member of PARTS.
        checkpoint: where the weights come from.
        precision: fp32, fp16 or bf16; inputs, outputs and sums of the pooling are float32 with each.
        device: cpu, cuda or cuda:N; for a `.pt2` the kind of machine that it will run on, which must be this one.
        **options: further arguments of `aot_runtime.export.export_model`.

    Raises:
        InputError: an argument is impossible.
        ExportError: a fused engine, or an engine of the pooling; else see `aot_runtime.export.export_model`.
    """
    from aot_runtime.checkpoint import state_digest
    from aot_runtime.export import export_model
    from bev_ros.deploy import inductor_options
    from bev_ros.pooling import kernel_for

    suffix = Path(path).suffix
    config = encoder.config
    _check_part(config, part, suffix)
    kernel = kernel_for(suffix, device) and not config.volume
    module = _module(encoder, part, planes=suffix == ".onnx", kernel=kernel)
    signature = _signature(config, part, planes=suffix == ".onnx")
    outputs = _outputs(config, part)
    error = None
    if precision in ("fp16", "bf16") and part != "pool":
        error = _half_error(module, signature, [name for name, _, _ in outputs], precision, device)
    chosen = options.pop("inductor_configs", None) or {}
    if signature.dims:
        options.setdefault("check_sizes", [{POINTS: config.lifted_points}])
    return export_model(
        module,
        signature.examples,
        path=path,
        family=FAMILY,
        variant=config.name,
        task=_TASKS[part],
        outputs=outputs,
        checkpoint=checkpoint,
        precision=precision,
        device=device,
        preprocessing={
            "part": part,
            "config": config.to_json(),
            "weights": state_digest(encoder.state_dict()),
            "input": "rgb_cameras",
            "colour_order": config.order.upper(),
            "mean": list(MEAN),
            "std": list(STD),
            "range": [0, 255],
            "resize": "Pillow's bicubic to the smallest size that covers the image; cut on top and on both sides",
            "cells": None if part in ("image", "bev") else "planes" if suffix == ".onnx" else "tables",
            "kernel": kernel and part in ("fused", "pool"),
            "axis_order": "C,Y,X",
            "axes": "rows are y, growing to the left; columns are x, growing forward; see bev_ros.grid",
            "float32": ["camera numbers and gates", "softmax", "pooling", "inputs", "outputs"],
            "float32_error": error,
        },
        dynamic_dims=signature.dims,
        input_meanings=signature.meanings,
        golden_laws=signature.laws,
        inductor_configs={**inductor_options(device), **chosen},
        rebuild_command=rebuild_command,
        progress=progress,
        **options,
    )


def part_path(path: str | os.PathLike[str], part: str) -> Path:
    """The file of a stage beside the name of the whole: "x.engine" -> "x_image.engine", "x_pool.pt2", "x_bev.engine".

    The pooling is no engine: see `export_part`.
    """
    file = Path(path)
    suffix = ".pt2" if part == "pool" and file.suffix == ".engine" else file.suffix
    return file.with_name(f"{file.stem}_{part}{suffix}")


def parts_of(config: BevConfig) -> tuple[str, ...]:
    """The stages that a split export of an encoder has."""
    return ("image", "pool") if config.bev_stage == "none" else ("image", "pool", "bev")


def _check_part(config: BevConfig, part: str, suffix: str) -> None:
    if part not in PARTS:
        raise InputError(f"expected a part {', '.join(PARTS)}, found {part!r}")
    if part == "bev" and config.bev_stage == "none":
        raise InputError(f"expected an encoder with a BEV stage, found {config.name} without", "leave this part out")
    if suffix == ".engine" and part in ("fused", "pool"):
        raise ExportError(*FUSED_ENGINE)


def _module(encoder: BevEncoder, part: str, *, planes: bool, kernel: bool) -> torch.nn.Module:
    from bev_ros.deploy import BevOnly, Fused, ImageOnly, PoolOnly

    if part == "fused":
        return Fused(encoder, planes=planes, kernel=kernel)
    if part == "image":
        return ImageOnly(encoder)
    return PoolOnly(encoder, planes=planes, kernel=kernel) if part == "pool" else BevOnly(encoder)


def _signature(config: BevConfig, part: str, *, planes: bool) -> _Signature:
    import torch

    from aot_runtime import golden

    made = _Signature()
    cameras, (height, width), bins = config.slots, config.frustum.size, config.frustum.bins
    if part in ("fused", "image"):
        law = golden.uniform(-2.0, 2.5)
        made.add(
            "images", torch.zeros(cameras, 3, *config.image), law, f"{config.order.upper()} (N, 3, H, W), normalised"
        )
        if config.camera_aware:
            law = golden.grid(*_CAMERA_COLUMNS)
            made.add("cameras", torch.zeros(cameras, VECTOR), law, "27 numbers of each camera, see bev_ros.geometry")
    if part == "pool":
        for name, shape, law in _lifted(config):
            made.add(name, torch.zeros(shape), law, _LIFTED[name])
    if part in ("fused", "pool"):
        if planes:
            example = torch.zeros(bins, cameras * height * width, dtype=torch.int64)
            made.add("planes", example, golden.integer(0, config.cells + 1), "cell of each point by depth bin")
        else:
            _add_tables(made, config)
    if part == "bev":
        shape = (config.pooled_channels, *config.grid.shape)
        made.add("pooled", torch.zeros(shape), golden.uniform(-1.0, 1.0), "pooled map (C, Y, X)")
    return made


def _add_tables(made: _Signature, config: BevConfig) -> None:
    import torch

    from aot_runtime import golden
    from aot_runtime.manifest import DynamicDim

    most = config.lifted_points
    # About the share that a rig of six cameras has in its grid.
    points = max(MIN_POINTS, most * 7 // 8)
    pixels = most // config.frustum.bins
    dim = DynamicDim(POINTS, MIN_POINTS, most)
    for name, law, meaning in (
        ("ranks_feat", golden.integer(0, pixels), "pixel of each point in the grid, in order of cells"),
        ("ranks_depth", golden.integer(0, most), "depth bin and pixel of each point"),
    ):
        made.add(name, torch.zeros(points, dtype=torch.int32), law, meaning)
        made.dims[name] = {0: dim}
    offsets = torch.zeros(config.cells + 2, dtype=torch.int32)
    made.add("offsets", offsets, golden.ramp(0, points), "where the points of each cell begin")


_LIFTED = {
    "depth": "distribution over depth bins (N, D, h, w)",
    "context": "features (N, C, h, w)",
    "volume": "features at every depth (N, D, h, w, C)",
}


def _lifted(config: BevConfig) -> list[tuple[str, tuple[int, ...], Law]]:
    """(name, shape, law) of what the image stage gives."""
    from aot_runtime import golden

    cameras, bins, size = config.slots, config.frustum.bins, config.frustum.size
    if config.volume:
        return [("volume", (cameras, bins, *size, config.channels), golden.uniform(-0.1, 0.1))]
    return [
        ("depth", (cameras, bins, *size), golden.uniform(0.0, 2.0 / bins)),
        ("context", (cameras, config.channels, *size), golden.uniform(-1.0, 1.0)),
    ]


def _outputs(config: BevConfig, part: str) -> list[tuple[str, str, str]]:
    if part == "image":
        return [(name, _LIFTED[name], "") for name, _, _ in _lifted(config)]
    if part == "pool":
        return [("pooled", "features summed over the points of each cell (C, Y, X)", "")]
    return [("bev", "features of the map (C, Y, X)", "")]


def _half_error(
    module: torch.nn.Module, signature: _Signature, outputs: Sequence[str], precision: str, device: str
) -> dict[str, float]:
    """Largest difference of each output to float32 over the largest value, both eager, on the self-test's inputs."""
    import copy

    import torch

    from aot_runtime import golden
    from aot_runtime.backends.aoti import exact_float32

    drawn: Mapping[str, torch.Tensor] = {
        name: torch.from_numpy(golden.draw(law, tuple(signature.examples[name].shape), golden.DEFAULT_SEED, stream))
        .to(signature.examples[name].dtype)
        .to(device)
        for stream, (name, law) in enumerate(signature.laws.items())
    }
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.no_grad(), exact_float32():
        exact = module.to(device)(*drawn.values())
        half = copy.deepcopy(module).cast_precision(dtype)(*drawn.values())  # type: ignore[operator]
    pairs = zip((exact,), (half,)) if isinstance(exact, torch.Tensor) else zip(exact, half)
    return {
        name: float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
        for name, (wanted, found) in zip(outputs, pairs)
    }
