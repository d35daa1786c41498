# SPDX-License-Identifier: Apache-2.0
"""Load an artifact and run it: verdict first, then the self-test, then inputs that are checked every time."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aot_runtime import golden as goldens
from aot_runtime.backends.tensorrt_run import EngineRejected
from aot_runtime.container import ONNX, container_of
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.files import AllowList
from aot_runtime.manifest import Manifest, TensorSpec
from aot_runtime.runner import Runner, open_runner
from aot_runtime.verdict import (
    Verdict,
    VerdictError,
    judge,
    parse_device,
    read_manifest,
    rejected_verdict,
    self_test_verdict,
)

if TYPE_CHECKING:
    import torch

    from aot_runtime.cuda_graph import CudaGraph

logger = logging.getLogger(__name__)

# Inductor's kernels read inputs with vector loads; PyTorch's own allocations are aligned at least so.
_ALIGNMENT = 64
_LOAD_LOCK = threading.Lock()


def load_model(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    allow_list: AllowList | Collection[str] | str | os.PathLike[str] | None = None,
    self_test: bool = True,
    num_runners: int = 1,
    onnx_providers: Sequence[str] = (),
) -> CompiledModel:
    """Load a `.pt2`, `.onnx` or `.engine` that may run here. One load at a time in a process.

    Args:
        device: cpu, cuda or cuda:N.
        allow_list: digests that may run: an AllowList, the path of its file, or a collection of digests.
        self_test: rerun the golden and refuse an artifact that computes something else.
        num_runners: concurrent calls of run() that may proceed at once; each has its own activation memory.
        onnx_providers: execution providers of ONNX Runtime in order of preference (TensorrtExecutionProvider builds
            engines of its own, which takes minutes); by default CUDA's or the CPU's, as `device` says.

    Raises:
        VerdictError: (an ArtifactError) it may not run here; `.verdict` has kind, code, reason and remedy.
        ArtifactError: the runtime rejects the file, or an argument is wrong.
    """
    kind, index = parse_device(device)
    if isinstance(allow_list, (str, os.PathLike)):
        allow_list = AllowList.read(allow_list)
    with _LOAD_LOCK:
        verdict = judge(path, device, allow_list)
        if not verdict.ok:
            raise VerdictError(verdict)
        if verdict.random_weights:
            logger.warning("%s; %s", verdict.reason, verdict.remedy)
        manifest = read_manifest(path)
        if onnx_providers and container_of(path) is not ONNX:
            raise ArtifactError(f"expected a .onnx file for onnx_providers, found {path}")
        try:
            runner = open_runner(path, manifest, kind, index, num_runners, onnx_providers)
        except EngineRejected as error:
            raise VerdictError(rejected_verdict(manifest, error.reason)) from error
        model = CompiledModel(Path(path), manifest, verdict, runner, kind, index, num_runners)
        if self_test:
            try:
                model.self_test()
            except BaseException:
                model.close()
                raise
        return model


class CompiledModel:
    """A loaded artifact. Thread-safe: with one runner, calls of run() wait for each other."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        verdict: Verdict,
        runner: Runner,
        device: str,
        device_index: int,
        num_runners: int = 1,
    ) -> None:
        import torch

        self.path = path
        self.manifest = manifest
        self.verdict = verdict
        self.device = torch.device(device, device_index) if device == "cuda" else torch.device("cpu")
        self._runner: Runner | None = runner
        self._guard: contextlib.AbstractContextManager[Any] = (
            threading.RLock() if num_runners == 1 else threading.BoundedSemaphore(num_runners)
        )
        self.num_runners = num_runners
        self._output_names = tuple(spec.name for spec in manifest.outputs)
        self._checks = tuple(InputCheck(spec, manifest, self.device) for spec in manifest.inputs)

    def run(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run on checked inputs, by name; outputs are new, contiguous tensors, by name, on the model's device.

        On CUDA the work is queued on the current stream, as with any PyTorch operation.

        Raises:
            InputError: an input is missing, unknown, or has the wrong dtype, shape, strides or device; the message
                names it.
            ArtifactError: the model is closed.
        """
        return dict(zip(self._output_names, self.run_positional(self.check_inputs(tensors))))

    def check_inputs(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The inputs in the artifact's order, every one checked as run() does.

        Raises:
            InputError: see run().
        """
        wanted = [check.spec.name for check in self._checks]
        missing = [name for name in wanted if name not in tensors]
        unknown = sorted(set(tensors) - set(wanted))
        if missing or unknown:
            problem = f"no input {missing[0]}" if missing else f"an unknown input {unknown[0]}"
            raise InputError(f"expected inputs {', '.join(wanted)}, found {problem} for {self.path}")
        sizes: dict[str, int] = {}
        return [check(tensors[check.spec.name], sizes) for check in self._checks]

    def run_positional(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run **unchecked** inputs, in the artifact's order. Wrong ones read foreign memory: see check_inputs()."""
        import torch

        with self._guard, torch.inference_mode():
            if self._runner is None:
                raise ArtifactError(f"expected an open model, found {self.path} closed", "load it again")
            return self._runner.run(inputs)

    def golden_inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the self-test, on the model's device; also good for warming up and measuring."""
        dtypes = {spec.name: spec.dtype for spec in self.manifest.inputs}
        return goldens.make_inputs(self.manifest.golden.inputs, dtypes, self.manifest.golden.seed, str(self.device))

    def self_test(self) -> None:
        """Run the golden inputs and compare.

        Raises:
            VerdictError: SELF_TEST_NON_FINITE or SELF_TEST_WRONG.
        """
        mismatch = goldens.compare(self.manifest.golden, self.run(**self.golden_inputs()))
        if mismatch is not None:
            raise VerdictError(
                self_test_verdict(self.manifest, str(self.path), mismatch.output, mismatch.text, mismatch.non_finite)
            )

    @property
    def capturable(self) -> bool:
        """Whether the runtime's calls can be captured in a CUDA graph (ONNX Runtime's synchronise)."""
        return self._runner is None or self._runner.capturable

    def capture_cuda_graph(self, sizes: Mapping[str, int] | None = None) -> CudaGraph:
        """This model as a CUDA graph; `sizes` fixes every dynamic dim. See cuda_graph.CudaGraph.

        Raises:
            ArtifactError: the model is not on CUDA, or its runtime cannot be captured.
            InputError: a dynamic dim has no size or one out of range.
        """
        from aot_runtime.cuda_graph import CudaGraph

        if not self.capturable:
            raise ArtifactError(f"expected a .pt2 or .engine to capture, found {self.path}", "use it without a graph")
        return CudaGraph(self, sizes)

    def close(self) -> None:
        """Free the model's memory; run() raises afterwards. Closing twice is fine."""
        with self._guard:
            self._runner = None

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InputCheck:
    """Checks one input against its spec, because the compiled code checks nothing."""

    def __init__(self, spec: TensorSpec, manifest: Manifest, device: torch.device) -> None:
        import torch

        self.spec = spec
        self._dtype = getattr(torch, spec.dtype)
        self._device = device
        self._ranges = {dim.name: dim for dim in manifest.dims}

    def __call__(self, tensor: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """The tensor, copied only if its memory is not aligned. `sizes` collects dynamic sizes over the inputs.

        Raises:
            InputError: what is wrong, with the input's name.
        """
        import torch

        if not isinstance(tensor, torch.Tensor):
            raise self._error("a torch.Tensor", type(tensor).__name__, "convert it with torch.from_numpy")
        if tensor.dtype != self._dtype:
            raise self._error(
                f"dtype {self.spec.dtype}", str(tensor.dtype).removeprefix("torch."), "convert it with .to()"
            )
        self._check_shape(tuple(tensor.shape), sizes)
        if tensor.device != self._device:
            raise self._error(f"device {self._device}", str(tensor.device), "move it with .to()")
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            found = f"strides {tuple(tensor.stride())}" if tensor.layout == torch.strided else str(tensor.layout)
            raise self._error(f"a contiguous tensor of shape {tuple(tensor.shape)}", found, "call .contiguous()")
        if tensor.data_ptr() % _ALIGNMENT:
            return tensor.clone()
        return tensor

    def _check_shape(self, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        wanted = self.spec.shape
        text = f"shape ({', '.join(str(size) for size in wanted)})"
        if len(shape) != len(wanted):
            raise self._error(text, f"shape {shape}")
        for axis, (size, want) in enumerate(zip(shape, wanted)):
            if isinstance(want, str):
                dim = self._ranges[want]
                if not dim.min <= size <= dim.max:
                    raise self._error(f"{text} with {want} in {dim.min} .. {dim.max}", f"{want} = {size}")
                if sizes.setdefault(want, size) != size:
                    raise self._error(f"{text} with {want} = {sizes[want]} as in an earlier input", f"{want} = {size}")
            elif size != want:
                raise self._error(text, f"shape {shape} (axis {axis} is {size})")

    def _error(self, expected: str, found: str, remedy: str = "") -> InputError:
        return InputError(f"input {self.spec.name}: expected {expected}, found {found}", remedy)
