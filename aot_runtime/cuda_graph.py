# SPDX-License-Identifier: Apache-2.0
"""A loaded model as one CUDA graph: no launch overhead per kernel, at the price of fixed sizes and fixed buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from aot_runtime import golden as goldens
from aot_runtime.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel

_WARMUP_RUNS = 3


class CudaGraph:
    """Replays a model on buffers of its own. Made by CompiledModel.capture_cuda_graph().

    Attributes:
        inputs: name -> the static input; writing into it and calling replay() avoids a copy.
        outputs: name -> the static output; the next replay overwrites it.
    """

    def __init__(self, model: CompiledModel, sizes: Mapping[str, int] | None = None) -> None:
        """Capture on the model's device.

        Args:
            sizes: dynamic dim -> the size to fix; every dynamic dim of an input needs one.

        Raises:
            ArtifactError: the model is not on CUDA, or has one runner too many for a capture.
            InputError: a dynamic dim has no size, or one out of range.
        """
        import torch

        if model.device.type != "cuda":
            raise ArtifactError(
                f"expected a model on CUDA to capture, found {model.path} on {model.device}", "load it with device cuda"
            )
        if model.num_runners != 1:
            raise ArtifactError(
                f"expected a model with one runner to capture, found {model.num_runners}", "load it with num_runners=1"
            )
        self._model = model
        self.inputs = _static_inputs(model, dict(sizes or {}))
        ordered = model.check_inputs(self.inputs)
        with torch.cuda.device(model.device):
            stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARMUP_RUNS):
                    model.run_positional(ordered)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                results = model.run_positional(ordered)
        self.outputs = dict(zip((spec.name for spec in model.manifest.outputs), results))

    def replay(self) -> dict[str, torch.Tensor]:
        """Run on what `inputs` holds, on the current stream; returns `outputs`."""
        self._graph.replay()
        return self.outputs

    def run(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Check and copy inputs into the static ones, then replay.

        Raises:
            InputError: as CompiledModel.run(), or a size differs from the captured one.
        """
        self._model.check_inputs(tensors)
        for name, buffer in self.inputs.items():
            if tensors[name].shape != buffer.shape:
                raise InputError(
                    f"input {name}: expected the captured shape {tuple(buffer.shape)}, "
                    f"found {tuple(tensors[name].shape)}",
                    "capture another graph for this size",
                )
        for name, buffer in self.inputs.items():
            buffer.copy_(tensors[name], non_blocking=True)
        return self.replay()


def _static_inputs(model: CompiledModel, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """Golden inputs at the given sizes, as buffers."""
    specs = model.manifest.inputs
    dynamic = {size for spec in specs for size in spec.shape if isinstance(size, str)}
    missing, unknown = sorted(dynamic - set(sizes)), sorted(set(sizes) - dynamic)
    if missing or unknown:
        problem = f"no size for {missing[0]}" if missing else f"a size for {unknown[0]}"
        raise InputError(
            f"expected sizes of the dynamic dims {sorted(dynamic)} to capture {model.path}, found {problem}",
            "a CUDA graph has fixed sizes: pass sizes={dim: size}",
        )
    drawn = tuple(
        replace(item, shape=tuple(sizes[want] if isinstance(want, str) else want for want in spec.shape))
        for item, spec in zip(model.manifest.golden.inputs, specs)
    )
    dtypes = {spec.name: spec.dtype for spec in specs}
    return goldens.make_inputs(drawn, dtypes, model.manifest.golden.seed, str(model.device))
