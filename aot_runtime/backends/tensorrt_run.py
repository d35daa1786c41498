# SPDX-License-Identifier: Apache-2.0
"""Run a TensorRT engine on tensors of torch: TensorRT reads and writes their memory in place, on torch's stream."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.backends.tensorrt import TensorRt, load
from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import Manifest

if TYPE_CHECKING:
    import torch


class EngineRejected(ArtifactError):
    """TensorRT does not load these bytes on this machine."""


class _Slot:
    """A context and the stream of its last run, because a context has one scratch memory."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._stream: Any = None

    def follow(self, device: torch.device) -> None:
        """Let the current stream wait for the last run where that was on another one."""
        import torch

        if device.type != "cuda":
            return
        current = torch.cuda.current_stream(device)
        # A capture may not depend on work outside of it; whoever captures has waited.
        if self._stream is not None and self._stream != current and not torch.cuda.is_current_stream_capturing():
            current.wait_stream(self._stream)
        self._stream = current


class TensorRtRunner:
    """One engine and a context per concurrent call. Outputs are new tensors, in the manifest's order.

    Tensors are bound by name, so that the order in which an engine lists them does not matter. Nothing synchronises:
    the work is queued on torch's current stream, and a CUDA graph can capture it.
    """

    capturable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest,
        device_index: int = 0,
        num_runners: int = 1,
        *,
        library: TensorRt | None = None,
        device: str = "cuda",
    ) -> None:
        """Load an engine whose verdict is OK.

        Args:
            library, device: for tests, which have no GPU.

        Raises:
            EngineRejected: TensorRT refuses the bytes, or the engine's tensors are not those of the manifest.
            ArtifactError: TensorRT is not installed.
        """
        import torch

        self._library = library or load(manifest.target.runtime)
        self._device = torch.device(device, device_index) if device == "cuda" else torch.device(device)
        self._path = os.fspath(path)
        self._inputs = tuple(spec.name for spec in manifest.inputs)
        self._outputs = tuple((spec.name, getattr(torch, spec.dtype)) for spec in manifest.outputs)
        self._contexts: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        trt = self._library.module
        self._library.log.messages.clear()
        with _current(self._device):
            self._library.init_plugins()
            # The runtime has to outlive the engine.
            self._runtime = trt.Runtime(self._library.log)
            self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
            if self._engine is None:
                raise self._rejected(f"the engine rejected: {self._library.errors()}")
            self._check_tensors(manifest)
            for _ in range(num_runners):
                context = self._engine.create_execution_context()
                if context is None:
                    raise self._rejected(f"no execution context: {self._library.errors()}")
                self._contexts.put(_Slot(context))

    def _rejected(self, found: str) -> EngineRejected:
        return EngineRejected(
            f"expected an engine that {self._library.name} {self._library.version} can load, found {found} in "
            f"{self._path}",
            "build it again on this machine",
        )

    def _check_tensors(self, manifest: Manifest) -> None:
        trt = self._library.module
        engine = self._engine
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[name] = (is_input, self._library.dtype(engine.get_tensor_dtype(name)))
        wanted = {spec.name: (True, spec.dtype) for spec in manifest.inputs}
        wanted.update({spec.name: (False, spec.dtype) for spec in manifest.outputs})
        if found != wanted:
            raise self._rejected(f"tensors {_tell(found)} where the manifest has {_tell(wanted)}")

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Queue one run on the current stream. The caller has checked the inputs.

        Raises:
            ArtifactError: TensorRT refuses shapes or addresses, or cannot start; the message has its words.
        """
        slot = self._contexts.get()
        try:
            with _current(self._device):
                slot.follow(self._device)
                return self._run(slot.context, inputs)
        finally:
            self._contexts.put(slot)

    def _run(self, context: Any, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        # Kept until the work is queued; torch's allocator reuses memory in the order of the stream.
        kept = []
        for name, tensor in zip(self._inputs, inputs):
            memory = tensor if tensor.numel() else tensor.new_empty(1)
            kept.append(memory)
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise self._failed(f"shape {tuple(tensor.shape)} of input {name} refused")
            context.set_tensor_address(name, memory.data_ptr())
        results = []
        for name, dtype in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise self._failed(f"output {name} of shape {shape}, whose size only its values tell")
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
            memory = tensor if tensor.numel() else tensor.new_empty(1)
            kept.append(memory)
            context.set_tensor_address(name, memory.data_ptr())
            results.append(tensor)
        if not context.execute_async_v3(_current_stream(self._device)):
            raise self._failed("that it did not start")
        return results

    def _failed(self, found: str) -> ArtifactError:
        return ArtifactError(
            f"expected {self._library.name} to run {self._path}, found {found}: {self._library.errors()}",
            "check nvidia-smi and the sizes the engine was built for with inspect_artifact",
        )


def _tell(tensors: dict[str, tuple[bool, str]]) -> str:
    return ", ".join(f"{'in' if is_input else 'out'}put {name} {dtype}" for name, (is_input, dtype) in tensors.items())


def _current(device: torch.device) -> Any:
    """A context in which a CUDA device is current; nothing on others."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _current_stream(device: torch.device) -> int:
    import torch

    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0
