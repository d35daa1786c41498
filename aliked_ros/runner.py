# SPDX-License-Identifier: Apache-2.0
"""The network of an artifact as a function of one image in host memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import ArtifactError

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel
    from aot_runtime.cuda_graph import CudaGraph

OUTPUTS = ("keypoints", "scores", "peak_scores", "descriptors")


class ImageRunner:
    """Runs a loaded ALIKED artifact; on CUDA with a stream and a pinned input of its own. Calls wait for each other.

    Args:
        cuda_graph: on CUDA, replay the network as one graph where the runtime allows it (ONNX Runtime does not).

    Raises:
        ArtifactError: the network cannot be captured.
    """

    def __init__(self, model: CompiledModel, cuda_graph: bool = True) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._graph: CudaGraph | None = None
        if model.device.type == "cuda":
            self._open_cuda(cuda_graph)

    def _open_cuda(self, cuda_graph: bool) -> None:
        import torch

        model = self._model
        shape = tuple(int(size) for size in model.manifest.inputs[0].shape)
        with torch.cuda.device(model.device):
            self._stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            self._pinned = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
            if cuda_graph and model.capturable:
                try:
                    self._graph = model.capture_cuda_graph()
                except RuntimeError as error:  # torch's errors of a capture; our own are AotErrors of this kind too
                    raise ArtifactError(
                        f"expected a network that a CUDA graph can hold, found {error} in {model.path}",
                        "set cuda_graph to false",
                    ) from error
                self._input = self._graph.inputs["image"]
            else:
                self._input = torch.zeros(shape, dtype=torch.uint8, device=model.device)
            torch.cuda.synchronize()

    @property
    def graphed(self) -> bool:
        """Whether a CUDA graph is replayed."""
        return self._graph is not None

    def run(self, canvas: np.ndarray) -> dict[str, np.ndarray]:
        """`OUTPUTS` by name, float32, without the batch; all finished.

        Args:
            canvas: (H, W, 3) uint8 of the artifact's size, contiguous.
        """
        import torch

        with self._lock:
            if self._model.device.type != "cuda":
                if not canvas.flags.writeable:  # pixels of a bag; PyTorch has no tensors that are read-only
                    canvas = canvas.copy()
                return _to_host(self._model.run(image=torch.from_numpy(canvas)[None]))
            with torch.cuda.device(self._model.device), torch.cuda.stream(self._stream), torch.inference_mode():
                self._pinned.numpy()[0] = canvas
                self._input.copy_(self._pinned, non_blocking=True)
                outputs = self._graph.replay() if self._graph else self._model.run(image=self._input)
                return _to_host(outputs)

    def close(self) -> None:
        """Free the graph's memory; the model stays open."""
        self._graph = None


def _to_host(outputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Copies to the host wait for the current stream."""
    return {name: outputs[name][0].float().cpu().numpy() for name in OUTPUTS}
