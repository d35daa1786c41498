# SPDX-License-Identifier: Apache-2.0
"""The network itself, run by PyTorch, with the interface of a loaded artifact: for commands that compare or need none.

It is the module that is exported (`aliked_ros.deploy`), so that eager and compiled differ by the compiler only.
"""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aliked_ros.deploy import DeployedALIKED
from aliked_ros.export_aliked import OUTPUTS, preprocessing
from aot_runtime import golden
from aot_runtime.backends.aoti import exact_float32
from aot_runtime.compiled_model import CompiledModel
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.manifest import CheckpointInfo, Golden, GoldenInput, Manifest, Target, TensorSpec
from aot_runtime.verdict import Verdict, parse_device

if TYPE_CHECKING:
    from aliked_ros.model import ALIKED

# bf16 is not exported (it moves keypoints); here it can be measured why.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class EagerRunner:
    """Runs the module on one image; with `compiled` through `torch.compile`, which compiles at the first call.

    Args:
        exact: on CUDA, float32 is not replaced by TF32.

    Raises:
        ArtifactError: (from run) the module cannot run here, for instance for want of a compiler or of memory.
    """

    capturable = True

    def __init__(self, module: DeployedALIKED, *, compiled: bool, exact: bool) -> None:
        self._call: Any = torch.compile(module, fullgraph=True, dynamic=False) if compiled else module
        self._exact = exact
        self._compiled = compiled

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with exact_float32(self._exact):
            try:
                outputs = self._call(inputs[0])
            except Exception as error:
                # torch.compile raises everything from ImportError to errors of the C++ compiler.
                text = (str(error).strip().splitlines() or [""])[0]
                raise ArtifactError(
                    f"expected PyTorch to {'compile and ' if self._compiled else ''}run the network, found "
                    f"{type(error).__name__}: {text:.200}"
                ) from error
        return [outputs[name].contiguous() for name, _, _ in OUTPUTS]


def eager_model(
    network: ALIKED,
    checkpoint: CheckpointInfo,
    *,
    height: int,
    width: int,
    top_k: int,
    precision: str = "fp32",
    device: str = "cpu",
    nms_rounds: int = 3,
    compiled: bool = False,
) -> CompiledModel:
    """A network that takes images of one size, not compiled, or by `torch.compile` if `compiled`.

    Raises:
        InputError: the size, `top_k` or the precision is impossible.
        ArtifactError: there is no such device.
    """
    if precision not in DTYPES:
        raise InputError(f"expected precision {', '.join(DTYPES)}, found {precision}")
    kind, index = parse_device(device)
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ArtifactError(
            f"expected CUDA device {index}, found {torch.cuda.device_count()} CUDA devices", "use the device cpu"
        )
    module = DeployedALIKED(network, height=height, width=width, top_k=top_k, nms_rounds=nms_rounds)
    module.cast_precision(DTYPES[precision])
    module.to(torch.device(kind, index) if kind == "cuda" else torch.device("cpu"))
    told = {**preprocessing(height, width, top_k, nms_rounds), "descriptor_dim": network.config.dim}
    dim = network.config.dim
    shapes: dict[str, tuple[int, ...]] = {
        "keypoints": (1, top_k, 2),
        "descriptors": (1, top_k, dim),
        "checks": (1, 4, dim + 5),
    }
    size = (1, height, width, 3)
    manifest = Manifest(
        family="aliked",
        variant=network.config.name,
        task="keypoints",
        inputs=(TensorSpec("image", "uint8", size),),
        outputs=tuple(
            TensorSpec(name, "float32", shapes.get(name, (1, top_k)), meaning, unit) for name, meaning, unit in OUTPUTS
        ),
        precision=precision,
        target=Target(kind, sys.platform, platform.machine(), str(torch.__version__)),
        checkpoint=checkpoint,
        exporter="not exported",
        # No expected outputs: the self-test compares an artifact with this very network.
        golden=Golden(golden.DEFAULT_SEED, (GoldenInput("image", size, golden.integer(0, 256)),), ()),
        preprocessing=told,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    runner = EagerRunner(module, compiled=compiled, exact=precision == "fp32" and kind == "cuda")
    verdict = Verdict("OK", "EAGER", f"{network.config.name} from {checkpoint.file}, run by PyTorch")
    return CompiledModel(Path(checkpoint.file), manifest, verdict, runner, kind, index)
