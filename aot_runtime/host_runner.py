# SPDX-License-Identifier: Apache-2.0
"""A loaded model of one input as a function from host memory to host memory, with all that CUDA needs in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from aot_runtime.errors import ArtifactError

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel
    from aot_runtime.cuda_graph import CudaGraph

    Finish = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


class HostRunner:
    """Runs a model on inputs in host memory; on CUDA with its own stream, pinned copies and, if it can, as a graph.

    Calls of `run` wait for each other.

    Args:
        model: a loaded artifact with one input.
        cuda_graph: on CUDA, replay the network as one graph where sizes are fixed and the runtime allows it (ONNX
            Runtime does not).

    Raises:
        ArtifactError: the network has several inputs, or it cannot be captured.
    """

    def __init__(self, model: CompiledModel, cuda_graph: bool = True) -> None:
        inputs = model.manifest.inputs
        if len(inputs) != 1:
            raise ArtifactError(f"expected a network of one input, found {len(inputs)} in {model.path}")
        self._model = model
        self._name = inputs[0].name
        self._dtype = inputs[0].dtype
        self._static = all(isinstance(size, int) for size in inputs[0].shape)
        self._lock = threading.Lock()
        self._graph: CudaGraph | None = None
        self._input: torch.Tensor | None = None
        self._on_cuda = model.device.type == "cuda"
        if self._on_cuda:
            self._open_cuda(cuda_graph)

    def _open_cuda(self, cuda_graph: bool) -> None:
        import torch

        model = self._model
        with torch.cuda.device(model.device):
            self._stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            if not self._static:
                return
            if cuda_graph and model.capturable:
                try:
                    self._graph = model.capture_cuda_graph()
                except RuntimeError as error:  # torch's errors of a capture; our own are AotErrors of this kind too
                    raise ArtifactError(
                        f"expected a network that a CUDA graph can hold, found {error} in {model.path}",
                        "set cuda_graph to false",
                    ) from error
                self._input = self._graph.inputs[self._name]
            else:
                shape = tuple(int(size) for size in model.manifest.inputs[0].shape)
                self._input = torch.zeros(shape, dtype=getattr(torch, self._dtype), device=model.device)
            torch.cuda.synchronize()

    @property
    def graphed(self) -> bool:
        """Whether a CUDA graph is replayed."""
        return self._graph is not None

    def make_input(self, shape: Sequence[int]) -> torch.Tensor:
        """Zeros of this shape and the input's dtype for `run` to read, pinned on CUDA: its upload needs no copy."""
        import torch

        return torch.zeros(tuple(shape), dtype=getattr(torch, self._dtype), pin_memory=self._on_cuda)

    def run(self, host: torch.Tensor, finish: Finish | None = None) -> dict[str, torch.Tensor]:
        """The outputs for an input of `make_input`, on the host, when the device is done.

        Args:
            host: the input; it may be overwritten when this returns.
            finish: from the outputs, on the device, to what is wanted on the host; it runs on the runner's stream.

        Raises:
            InputError: the input has another shape or dtype.
        """
        import torch

        with self._lock, torch.inference_mode():
            if not self._on_cuda:
                outputs = self._model.run(**{self._name: host})
                return dict(finish(outputs) if finish else outputs)
            with torch.cuda.device(self._model.device), torch.cuda.stream(self._stream):
                device_outputs = self._run_cuda(host)
                results = finish(device_outputs) if finish else device_outputs
                copies = {}
                for name, tensor in results.items():
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                    copies[name].copy_(tensor, non_blocking=True)
                self._stream.synchronize()
            return copies

    def _run_cuda(self, host: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if self._input is None:
            return self._model.run(**{self._name: host.to(self._model.device, non_blocking=True)})
        self._input.copy_(host, non_blocking=True)
        return self._graph.replay() if self._graph else self._model.run(**{self._name: self._input})

    def close(self) -> None:
        """Free the graph's memory; the model stays open."""
        self._graph = None
        self._input = None
