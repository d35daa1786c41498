# SPDX-License-Identifier: Apache-2.0
"""Which weights an artifact stores in 8 bits, and how: the modes of `--quant-mode`. torch is imported when needed.

In a `.pt2` the linear layers of all transformer blocks are quantised by torchao; an engine gets quantise/dequantise
pairs with measured ranges (`aot_runtime.backends.quantise`). A mode that would change nothing, or that no kernel here
runs, is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import ExportError, InputError

if TYPE_CHECKING:
    from torch import nn

MODES = ("none", "int8-dynamic", "int8-weight-only", "int4-weight-only", "fp8", "nvfp4")
ALIASES: Mapping[str, str] = {
    "torch-int8-dynamic": "int8-dynamic",
    "bitsandbytes-8bit": "int8-weight-only",
    "bitsandbytes-nf4": "int4-weight-only",
    "bitsandbytes-fp4": "int4-weight-only",
    "modelopt-fp8": "fp8",
    "modelopt-nvfp4": "nvfp4",
}
"""Names that the modes have elsewhere."""
PACKAGE_MODES: Mapping[str, str] = {
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
    "int8-weight-only": "Int8WeightOnlyConfig",
    "fp8": "Float8WeightOnlyConfig",
}
"""Those of a `.pt2`, and torchao's names for them."""
_REFUSED = {
    "int4-weight-only": (
        "torchao keeps its portable 4-bit weights in one byte each, which is int8-weight-only with 17 times the error, "
        "and its packed ones need the CUDA-only package mslk",
        "use --quant-mode int8-weight-only",
    ),
    "nvfp4": (
        "4-bit floats need the tensor cores of compute capability 10.0 and newer; no kernel for other GPUs exists that "
        "would make it smaller or faster, so that it could not be checked here",
        "use --quant-mode fp8",
    ),
}


def choose(mode: str, suffix: str, precision: str | None) -> tuple[str, str | None]:
    """(mode for the network, precision) of what a user asked for; an engine's 8 bits are its precision.

    Args:
        mode: a member of MODES or ALIASES.
        suffix: of the artifact.
        precision: what the user asked for beside it, or None.

    Raises:
        InputError: no such mode, or one that this kind of artifact cannot have, with the reason.
    """
    mode = ALIASES.get(mode, mode)
    if mode not in MODES:
        raise InputError(f"expected --quant-mode {', '.join((*MODES, *ALIASES))}, found {mode!r}")
    if mode in _REFUSED:
        reason, remedy = _REFUSED[mode]
        raise InputError(f"expected --quant-mode that has an effect, found {mode}: {reason}", remedy)
    if mode == "none":
        return mode, precision
    if suffix == ".pt2":
        if precision in ("int8", "fp8"):
            raise InputError(
                f"expected --precision fp32, fp16 or bf16 beside --quant-mode {mode}, found {precision}",
                "the precision is that of everything that is not quantised",
            )
        return mode, precision
    if suffix == ".engine" and mode == "fp8":
        if precision not in (None, "fp8"):
            raise InputError(f"expected --precision fp8 beside --quant-mode fp8, found {precision}", "leave it out")
        return "none", "fp8"
    if suffix == ".engine":
        raise InputError(
            f"expected --quant-mode none or fp8 for an engine, found {mode}: TensorRT's int8 has ranges that are "
            "measured before it is built",
            "use --precision int8 with --calib-data",
        )
    raise InputError(
        f"expected --quant-mode none for an ONNX file, found {mode}: ONNX Runtime has no kernels for these weights",
        "use --format engine with --precision int8 or fp8, or --format pt2",
    )


def version() -> str:
    """torchao's.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import torchao
    except ImportError as error:
        raise ExportError(
            f"expected the Python package torchao to quantise a .pt2, found {error}", "pip install torchao"
        ) from error
    return str(torchao.__version__)


def quantise_blocks(network: nn.Module, mode: str) -> int:
    """Quantise the linear layers of a network's transformer blocks in place; returns how many there were.

    Everything else keeps its precision: patch embedding, norms, heads' convolutions, what gives the numbers of a pose.
    "int8-dynamic" leaves out the camera head: its blocks see one token a frame, and CUDA's product of 8-bit matrices
    takes no fewer than 17 rows.

    Raises:
        ExportError: torchao is missing, or refuses.
    """
    from depth_ros.model.vision_transformer import Block

    version()
    import torchao.quantization
    from torch import nn

    # Its settings for the compiler are the whole process's, tune every kernel for minutes and stay after the export;
    # what matters of them is in `vggt_ros.deploy.inductor_options`.
    config: Any = getattr(torchao.quantization, PACKAGE_MODES[mode])(set_inductor_config=False)
    blocks = {
        prefix: block
        for prefix, block in network.named_modules()
        if isinstance(block, Block) and not (mode == "int8-dynamic" and prefix.startswith("camera_head."))
    }
    names = {
        f"{prefix}.{name}"
        for prefix, block in blocks.items()
        for name, part in block.named_modules()
        if isinstance(part, nn.Linear)
    }
    try:
        torchao.quantization.quantize_(network, config, filter_fn=lambda part, name: name in names)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f"expected torchao {version()} to quantise to {mode}, found: {text}", "use --quant-mode none"
        ) from error
    if mode == "int8-weight-only" and next(network.parameters()).is_cuda:
        widen(network, names)
    return len(names)


def widen(network: nn.Module, names: Iterable[str]) -> None:
    """Replace linear layers of 8-bit weights, by name, by ones that multiply in 16 bits; see `model.widened`."""
    from vggt_ros.model.widened import Widened

    for name in names:
        network.set_submodule(name, Widened(network.get_submodule(name)))
