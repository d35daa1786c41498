# SPDX-License-Identifier: Apache-2.0
"""Which of ONNX Runtime's execution providers run a model, and how."""

from __future__ import annotations

from collections.abc import Sequence

from aot_runtime.errors import ArtifactError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def choose_providers(
    wanted: Sequence[str], device_index: int, available: Sequence[str], file: str
) -> list[tuple[str, dict[str, str]]]:
    """The execution providers in order of preference, with their options.

    Args:
        wanted: names; nodes that the first does not have go to the next. Behind TensorRT's comes CUDA's where it is
            there, behind all the CPU's.
        available: those of this onnxruntime.
        file: named in the error.

    Raises:
        ArtifactError: a wanted one is not there.
    """
    missing = [name for name in wanted if name not in available]
    if missing:
        gpu = missing[0] in (CUDA, TENSORRT)
        raise ArtifactError(
            f"expected onnxruntime with {missing[0]} to run {file}, found {', '.join(available)}",
            "install onnxruntime-gpu in place of onnxruntime, or load it with device cpu"
            if gpu
            else f"name one of {', '.join(available)}",
        )
    names = list(wanted)
    if names[0] == TENSORRT and CUDA not in names and CUDA in available:
        names.append(CUDA)
    if CPU not in names:
        names.append(CPU)
    # fp32 means float32: by default CUDA's convolutions and products round to TF32.
    options = {CUDA: {"device_id": str(device_index), "use_tf32": "0"}, CPU: {}}
    return [(name, options.get(name, {"device_id": str(device_index)})) for name in names]
