# SPDX-License-Identifier: Apache-2.0
"""The one interface of the three runtimes, and the choice among them by an artifact's suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from aot_runtime.container import ENGINE, ONNX, container_of
from aot_runtime.manifest import Manifest

if TYPE_CHECKING:
    import torch


class Runner(Protocol):
    """A loaded artifact that takes and gives tensors by position, unchecked."""

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can capture run()."""

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Outputs as new tensors; on CUDA the work is queued on the current stream."""


def open_runner(
    path: str | os.PathLike[str],
    manifest: Manifest,
    device: str,
    device_index: int = 0,
    num_runners: int = 1,
    providers: Sequence[str] = (),
) -> Runner:
    """Load an artifact whose verdict is OK.

    Args:
        providers: execution providers of ONNX Runtime, in order of preference; for `.onnx` only.

    Raises:
        ArtifactError: the runtime rejects the file.
    """
    container = container_of(path)
    if container is ONNX:
        from aot_runtime.backends.onnx import OnnxRunner

        return OnnxRunner(path, device, device_index, providers=providers)
    if container is ENGINE:
        from aot_runtime.backends.tensorrt_run import TensorRtRunner

        return TensorRtRunner(path, manifest, device_index, num_runners)
    from aot_runtime.backends.aoti import AotiRunner

    return AotiRunner(path, device, device_index, num_runners, exact=manifest.precision == "fp32")
