# SPDX-License-Identifier: Apache-2.0
"""One VGGT network -> one artifact: what its manifest says, and how far it is from float32."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from vggt_ros import quantise
from vggt_ros.config import MEAN, STD, VggtConfig

if TYPE_CHECKING:
    import torch

    from aot_runtime.manifest import CheckpointInfo, Manifest
    from vggt_ros.deploy import DeployedVggt, Form
    from vggt_ros.model.vggt import Vggt

DEFAULT_CAMS, DEFAULT_SIZE = 8, 518
DIM = "cams"
"""Name of the dynamic number of frames."""
EXAMPLE_CAMS = 3
"""Frames that a graph for any number is traced and tested with: not one, which torch would take for a rule."""
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
    example = example_cams(cams)
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


def example_cams(cams: int | tuple[int, int]) -> int:
    """Frames that an artifact is traced, calibrated and tested with."""
    return cams if isinstance(cams, int) else min(max(EXAMPLE_CAMS, cams[0]), cams[1])


def artifact_name(cams: int | tuple[int, int], height: int, width: int, pcd_only: bool, precision: str) -> str:
    """ "vggt-8x3x518x518-pcd_fp16", without a suffix; "dyn" stands for a free number of frames."""
    count = cams if isinstance(cams, int) else "dyn"
    return (
        f"vggt-{count}x3x{height}x{width}{'-pcd' if pcd_only else ''}{'' if precision == 'fp32' else f'_{precision}'}"
    )


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
