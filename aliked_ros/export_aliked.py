# SPDX-License-Identifier: Apache-2.0
"""Command `export_aliked`: an ALIKED network and its official checkpoint become one compiled artifact."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aliked_ros.config import CONFIGS, THRESHOLD, from_name
from aot_runtime.errors import InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command
from aot_runtime.formats import (
    add_format_arguments,
    choose_device,
    output_path,
    print_latency,
    read_engine_options,
)

if TYPE_CHECKING:
    from aliked_ros.model import ALIKED
    from aot_runtime.manifest import CheckpointInfo, Manifest
    from aot_runtime.parity import Tolerance

DEFAULT_MODEL = "aliked-n16rot"
DEFAULT_TOP_K = 1000
PRECISIONS = ("fp32", "fp16")
LICENCE = "BSD-3-Clause"
# SHA-256 of the official files: n16 and n16rot have the same shapes, and only this tells them apart.
OFFICIAL_SHA256 = {
    "aliked-n16": "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
    "aliked-n16rot": "ddf3abbf38e86f6a74540d214e1a9712c54b2d8551abc864542199f2347d7332",
    "aliked-n32": "055283fd1624d3ab46a05c3b617b1a79a3f28d1f551737eef2d653e8c8232890",
    "aliked-t16": "56782336919db220144a884e710e2b6af13b3b8f8da15b915a239078ab471085",
}
OUTPUTS = (
    ("keypoints", "x, y of each point; (0, 0) is the centre of the first pixel", "px"),
    ("scores", "score map at the refined point", ""),
    ("peak_scores", "score map at the integer peak, falling; drop points where it is <= max(0, threshold)", ""),
    ("dispersity", "spread of the scores around the point", "4 px^2"),
    ("descriptors", "unit descriptor of each point; similarity is the dot product", ""),
    ("checks", "weighted means over the points that do not depend on their order, for the self-test", ""),
)
SCORE_MAP = ("score_map", "probability that a pixel is a keypoint", "")


def export_aliked(
    model: ALIKED,
    path: str | os.PathLike[str],
    *,
    checkpoint: CheckpointInfo,
    height: int,
    width: int,
    top_k: int = DEFAULT_TOP_K,
    nms_rounds: int = 3,
    score_map: bool = False,
    precision: str = "fp32",
    device: str = "cpu",
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
    **options: Any,
) -> Manifest:
    """Write the artifact of an ALIKED network.

    Args:
        model: the network with its weights; it is not changed.
        checkpoint: where the weights come from.
        height, width: of the image that the artifact takes.
        top_k, nms_rounds, score_map: see `aliked_ros.deploy.DeployedALIKED`.
        precision: fp32 or fp16.
        device: cpu, cuda or cuda:N, the kind of machine that it will run on, which must be this one.
        **options: further arguments of `aot_runtime.export.export_model`.

    Raises:
        InputError: the size, `top_k` or the precision is impossible.
        ExportError: see `aot_runtime.export.export_model`.
    """
    import torch

    from aliked_ros.alignment import align
    from aliked_ros.deploy import deployed_kind
    from aot_runtime import golden
    from aot_runtime.checkpoint import state_digest
    from aot_runtime.export import export_model

    if precision not in PRECISIONS:
        raise InputError(
            f"expected precision {' or '.join(PRECISIONS)} for ALIKED, found {precision}",
            "bfloat16 is too coarse: it moves keypoints by up to a quarter of a pixel",
        )
    if device.startswith("cuda"):
        # Where Inductor makes convolutions channels-last, an ahead-of-time package of torch 2.11 reads the input of the
        # 1x1 convolutions after a deformable one in another layout than it has: another score map, refused by the check
        # against eager. Compiled in time it is right, and ahead of time without that optimisation too (both measured).
        chosen = options.get("inductor_configs") or {}
        options["inductor_configs"] = {"layout_optimization": False, **chosen}
    kind = deployed_kind(path, precision, device)
    module = kind(model, height=height, width=width, top_k=top_k, nms_rounds=nms_rounds, score_map=score_map)
    return export_model(
        module,
        {"image": torch.zeros(1, height, width, 3, dtype=torch.uint8)},
        path=path,
        family="aliked",
        variant=model.config.name,
        task="keypoints",
        outputs=(*OUTPUTS, SCORE_MAP) if score_map else OUTPUTS,
        checkpoint=checkpoint,
        precision=precision,
        device=device,
        preprocessing={
            **preprocessing(height, width, top_k, nms_rounds),
            "descriptor_dim": model.config.dim,
            "weights_digest": state_digest(model.state_dict()),
        },
        input_meanings={"image": ("RGB image (1, H, W, 3), 0 to 255", "")},
        golden_laws={"image": golden.integer(0, 256)},
        tolerances=parity_tolerances(precision, score_map),
        align=functools.partial(align, missing=0.002 if precision == "fp32" else 0.01),
        self_test_tolerances=self_test_tolerances(height, width),
        rebuild_command=rebuild_command,
        progress=progress,
        **options,
    )


def preprocessing(height: int, width: int, top_k: int, nms_rounds: int) -> dict[str, Any]:
    """What the manifest tells a runner about images and keypoints."""
    return {
        "width": width,
        "height": height,
        "colour_order": "rgb",
        "input_layout": "(1, H, W, 3) uint8",
        "scale": "divided by 255 inside",
        "padding": "to multiples of 32 inside, edge pixels repeated",
        "resize": "fit: other sizes are scaled as a whole into the upper left corner, edge pixels repeated beyond",
        "grey": "channel repeated",
        "top_k": top_k,
        "threshold": THRESHOLD,
        "nms_rounds": nms_rounds,
        "keypoint_origin": "centre of the first pixel",
        "float32": ["scores", "coordinates", "offsets", "interpolation", "norms"],
    }


def parity_tolerances(precision: str, score_map: bool) -> Mapping[str, Tolerance]:
    """How far compiled may be from eager, keypoint by keypoint.

    A keypoint that crosses the border of a pixel looks at another patch, and its descriptor jumps a little.
    """
    from aot_runtime.parity import Tolerance

    half = precision != "fp32"
    tolerances = {
        "keypoints": Tolerance(1.0 if half else 1e-2, 0),
        "scores": Tolerance(3e-2 if half else 1e-3, 0),
        "peak_scores": Tolerance(2e-2 if half else 1e-4, 0),
        "dispersity": Tolerance(5e-2 if half else 2e-3, 0),
        "descriptors": Tolerance(0.2 if half else 5e-2, 0, cosine=0.999 if half else 0.99999),
        "checks": Tolerance(1e-2 if half else 2e-3, 0),
    }
    if score_map:
        tolerances["score_map"] = Tolerance(2e-2 if half else 1e-4, 0)
    return tolerances


def self_test_tolerances(height: int, width: int) -> dict[str, float]:
    """Outputs whose order is not stable are only tested to be in range; `checks` stands for them."""
    return {
        "keypoints": float(max(height, width)),
        "scores": 1.0,
        "peak_scores": 1.0,
        "dispersity": 2.0,
        "descriptors": 2.0,
    }


def read_network(name: str, checkpoint: str | os.PathLike[str]) -> tuple[ALIKED, CheckpointInfo]:
    """A network with the weights of a checkpoint.

    Raises:
        InputError: no such network, or the file is the official one of another.
        CheckpointError: the file is unreadable or does not fit.
    """
    from aliked_ros.model import ALIKED
    from aot_runtime.checkpoint import load_into, load_state_dict

    config = from_name(name)
    state, info = load_state_dict(checkpoint, licence=LICENCE)
    official = next((known for known, digest in OFFICIAL_SHA256.items() if digest == info.sha256), config.name)
    if official != config.name:
        raise InputError(
            f"expected weights of {config.name}, found the official ones of {official} in {checkpoint}",
            f"export with --model {official}, or give {config.name}.pth",
        )
    model = ALIKED(config)
    load_into(model, state, source=str(checkpoint))
    return model, info


def main(argv: list[str] | None = None) -> int:
    return run_command(_parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_aliked", description=__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help=f"one of: {', '.join(CONFIGS)} (default {DEFAULT_MODEL})")
    add("-c", "--checkpoint", help="official checkpoint (.pth or .safetensors)")
    add("-o", "--output-name", help="the artifact to write (default: <model>_<width>x<height>_k<top_k>.<format>)")
    add("--height", type=int, default=480, help="of the camera's images (default 480)")
    add("--width", type=int, default=640, help="of the camera's images (default 640)")
    add("--top_k", "--top-k", type=int, default=DEFAULT_TOP_K, help=f"keypoints (default {DEFAULT_TOP_K})")
    add("--nms-rounds", type=int, default=3, help="3 as the official code (default), 1 for strict maxima only")
    add("--score-map", action="store_true", help="a further output: the whole score map")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one for a .pt2, else cpu)")
    add_format_arguments(parser, PRECISIONS, "default: fp16 for engines and on cuda, else fp32")
    add_weight_arguments(parser, runs=100)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    from_name(options.model)
    check_weights(options)


def _run(options: argparse.Namespace, command: list[str]) -> int:
    _check(options)
    path = _output_path(options)
    engine, device = read_engine_options(options, path), choose_device(options.device, path)
    on_gpu = path.suffix == ".engine" or device.startswith("cuda")

    from aliked_ros.model import ALIKED
    from aot_runtime.manifest import CheckpointInfo

    if options.random_weights:
        seed = options.seed or 0
        model, checkpoint = ALIKED(from_name(options.model)).randomise(seed), CheckpointInfo.random(seed)
        print(f"note: exporting random weights (seed {seed}); the keypoints mean nothing", file=sys.stderr)
    else:
        model, checkpoint = read_network(options.model, options.checkpoint)
    export_aliked(
        model,
        path,
        checkpoint=checkpoint,
        height=options.height,
        width=options.width,
        top_k=options.top_k,
        nms_rounds=options.nms_rounds,
        score_map=options.score_map,
        precision=options.precision or ("fp16" if on_gpu else "fp32"),
        device=device,
        engine_options=engine,
        rebuild_command=command,
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if options.runs:
        print_latency(path, device, options.runs, options.warmup_runs)
    return 0


def _output_path(options: argparse.Namespace) -> Path:
    """The file to write, with the suffix that tells `export_model` what to make."""
    default = f"{from_name(options.model).name}_{options.width}x{options.height}_k{options.top_k}.pt2"
    return output_path(options.output_name or default, default, options.format)


if __name__ == "__main__":
    sys.exit(main())
