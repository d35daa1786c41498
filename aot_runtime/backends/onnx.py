# SPDX-License-Identifier: Apache-2.0
"""ONNX: write an exported program as a checked `.onnx`, and run one with ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.backends import onnx_file
from aot_runtime.backends.onnx_providers import CPU, CUDA, choose_providers
from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.files import atomic_write, sha256_file
from aot_runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# GridSample is spelled "bilinear" up to opset 19 and "linear" from 20 on, which TensorRT's parser (10.13, 11.1) takes
# for nearest without a word (NVIDIA/TensorRT issue 4646); DeformConv exists from 19 on.
DEFAULT_OPSET = 19
# protobuf's limit is 2^31 - 1 bytes; the graph needs room too.
MAX_INLINE_BYTES = 1_900_000_000


@dataclass(frozen=True)
class OnnxOptions:
    """How to write an ONNX file.

    Attributes:
        opset: version of the operator set.
        simplify: fold constants and remove what is redundant (onnxscript's optimiser), kept only if parity holds.
        max_inline_bytes: weights above it go to a file beside the model.
    """

    opset: int = DEFAULT_OPSET
    simplify: bool = True
    max_inline_bytes: int = MAX_INLINE_BYTES


def require_exporter() -> None:
    """Raises ExportError unless onnx, onnxscript and onnxruntime can be imported."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ExportError(
                f"expected the Python package {name} to export ONNX, found {error}",
                "run: pip install onnx onnxscript onnxruntime",
            ) from error


def export_program(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    options: OnnxOptions,
    check: Callable[[Path], object],
) -> None:
    """Write a program as ONNX without a manifest; weights above the limit beside it as `<name>.data`.

    Args:
        inputs: names, and shapes whose named dims name the file's symbolic sizes too.
        check: raises ExportError where the file at a path computes something else than it should; a simplified graph
            that fails is replaced by the plain one, which the caller checks again.

    Raises:
        ExportError: an operator that ONNX does not have at this opset, or an invalid model.
    """
    import torch

    names = [spec.name for spec in inputs]
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=options.opset,
                input_names=names,
                output_names=list(outputs),
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        # The exporter raises several types of its own and of onnxscript.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"expected a network that torch.onnx exports, found {type(error).__name__}: {lines[0] if lines else ''}",
            "see the chained error above, or try another opset",
        ) from error
    assert exported is not None
    _name_dims(exported.model, inputs)
    if options.simplify:
        _save(exported, path, options)
        plain = path.with_name(f"{path.name}.plain")
        # optimize() works in place, so the plain graph is kept as a file.
        path.replace(plain)
        data = _data_file(path)
        data_plain = data.with_name(f"{data.name}.plain")
        if data.exists():
            data.replace(data_plain)
        try:
            with _quiet():
                exported.optimize()
            _save(exported, path, options)
            check(path)
        except Exception as error:
            logger.warning("the simplified ONNX graph is left out: %s", error)
            plain.replace(path)
            data.unlink(missing_ok=True)
            if data_plain.exists():
                data_plain.replace(data)
        plain.unlink(missing_ok=True)
        data_plain.unlink(missing_ok=True)
    else:
        _save(exported, path, options)


def _data_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _name_dims(model: Any, inputs: Sequence[TensorSpec]) -> None:
    """Give the exporter's symbols (s77) the names of the manifest's dims."""
    import onnx_ir

    names = {}
    for value, spec in zip(model.graph.inputs, inputs):
        for size, want in zip(value.shape or (), spec.shape):
            if isinstance(want, str) and isinstance(size, onnx_ir.SymbolicDim) and size.value is not None:
                names[size.value] = want
    if not names:
        return
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        value.shape = onnx_ir.Shape(
            [
                onnx_ir.SymbolicDim(names[size.value])
                if isinstance(size, onnx_ir.SymbolicDim) and size.value in names
                else size
                for size in value.shape
            ]
        )


def _save(exported: Any, path: Path, options: OnnxOptions) -> None:
    import onnx

    size = sum(tensor.const_value.nbytes for tensor in exported.model.graph.initializers.values())
    external = size > options.max_inline_bytes
    _data_file(path).unlink(missing_ok=True)
    with _quiet():
        exported.save(path, external_data=external)
    try:
        onnx.checker.check_model(str(path), full_check=not external)
    except Exception as error:
        # ValidationError, or a shape-inference error of another type.
        raise ExportError(
            f"expected a valid ONNX model of opset {options.opset}, found {str(error).splitlines()[0]}",
            "try another opset, or --precision fp32 (an engine of another precision can be built from it)",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about packages that are not installed, and its deprecation warnings."""
    source = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = source.level
    source.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        source.setLevel(level)


def write_artifact(exported: Path, path: str | os.PathLike[str], manifest_json: str) -> None:
    """Write the file of export_program() as an artifact, atomically.

    A file of weights gets a name that holds its digest, so that the model that is there before stays whole until the
    new one replaces it; then the weights of the older one are removed.
    """
    target = Path(path)
    data = _data_file(exported)
    external = None
    if data.exists():
        import onnx

        digest = sha256_file(data)
        name = f"{target.name}.{digest[:12]}.data"
        with atomic_write(target.parent / name) as temporary:
            shutil.copyfile(data, temporary)
        model = onnx.load(str(exported), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = name
        exported.write_bytes(model.SerializeToString())
        external = (digest, name)
    with atomic_write(target) as temporary:
        onnx_file.write_with_manifest(exported, temporary, manifest_json, external)
    for old in target.parent.glob(f"{target.name}.????????????.data"):
        if external is None or old.name != external[1]:
            old.unlink(missing_ok=True)


class OnnxRunner:
    """One ONNX Runtime session on tensors of torch, whose memory it shares. Outputs are new tensors."""

    # A session synchronises, which a capture forbids.
    capturable = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        device_index: int = 0,
        *,
        providers: Sequence[str] = (),
        optimize: bool = True,
    ) -> None:
        """Load a file.

        Args:
            device: cpu or cuda, where the inputs lie.
            providers: see `choose_providers`; by default CPU's, or CUDA's.
            optimize: let ONNX Runtime fuse; off for graphs of 8-bit floats, whose fused kernels it lacks.

        Raises:
            ArtifactError: ONNX Runtime rejects the file, or does not have the provider.
        """
        import torch

        onnxruntime = _import_onnxruntime()
        self._device = torch.device(device, device_index) if device == "cuda" else torch.device("cpu")
        chosen = choose_providers(
            tuple(providers) or (CUDA if device == "cuda" else CPU,),
            device_index,
            onnxruntime.get_available_providers(),
            os.fspath(path),
        )
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), _session_options(onnxruntime, optimize), providers=chosen
            )
        except Exception as error:
            # onnxruntime has one exception type per status code, without a common base.
            raise ArtifactError(
                f"expected a model that onnxruntime {onnxruntime.__version__} can load, found {path} rejected: "
                f"{_first_line(error)}",
                "update onnxruntime, or export the model again",
            ) from error
        # ONNX Runtime falls back to the CPU with no more than a line on stderr.
        if self._session.get_providers()[0] != chosen[0][0]:
            raise ArtifactError(
                f"expected {chosen[0][0]} to run {path}, found that it does not start here and "
                f"{self._session.get_providers()[0]} would",
                "check that CUDA and cuDNN are those that this onnxruntime-gpu was built for",
            )
        self._inputs = self._session.get_inputs()
        self._outputs = self._session.get_outputs()

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run; on CUDA it waits for the current stream first and returns when the outputs are there."""
        import torch

        place, index = self._device.type, self._device.index or 0
        if place == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        binding = self._session.io_binding()
        sizes: dict[str, int] = {}
        kept = []
        for node, tensor in zip(self._inputs, inputs):
            # An empty tensor has no address; ONNX Runtime wants one.
            memory = tensor if tensor.numel() else tensor.new_empty(1)
            kept.append(memory)
            for size, want in zip(tensor.shape, node.shape):
                if isinstance(want, str):
                    sizes[want] = int(size)
            binding.bind_input(node.name, place, index, _element_type(node.type), list(tensor.shape), memory.data_ptr())
        results: list[torch.Tensor | None] = []
        for node in self._outputs:
            shape = _output_shape(node.shape, sizes)
            if shape is None:
                # A size computed from the inputs: ONNX Runtime allocates.
                binding.bind_output(node.name, "cpu", 0)
                results.append(None)
                continue
            tensor = torch.empty(shape, dtype=_torch_dtype(node.type), device=self._device)
            memory = tensor if tensor.numel() else tensor.new_empty(1)
            kept.append(memory)
            binding.bind_output(node.name, place, index, _element_type(node.type), shape, memory.data_ptr())
            results.append(tensor)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise ArtifactError(
                f"expected onnxruntime to run the model, found {_first_line(error)}", "export the model again"
            ) from error
        binding.synchronize_outputs()
        allocated = binding.get_outputs() if None in results else []
        return [
            torch.from_numpy(allocated[position].numpy()).to(self._device) if tensor is None else tensor
            for position, tensor in enumerate(results)
        ]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ArtifactError(
            f"expected onnxruntime, found {error}", "run: pip install onnxruntime (or onnxruntime-gpu)"
        ) from error
    return onnxruntime


def _session_options(onnxruntime: Any, optimize: bool) -> Any:
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # ONNX Runtime does not read OpenMP's variables; what they say is meant for every pool of threads.
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _output_shape(shape: Sequence[int | str | None], sizes: Mapping[str, int]) -> list[int] | None:
    """An output's shape from the sizes of the inputs' symbolic dims, or None where they do not tell."""
    known = [sizes.get(size) if isinstance(size, str) else size for size in shape]
    return None if None in known else [int(size) for size in known if size is not None]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ONNX Runtime's type names and the numbers of TensorProto.DataType.
_TYPES = {
    "float": ("float32", 1),
    "uint8": ("uint8", 2),
    "int8": ("int8", 3),
    "int16": ("int16", 5),
    "int32": ("int32", 6),
    "int64": ("int64", 7),
    "bool": ("bool", 9),
    "float16": ("float16", 10),
    "double": ("float64", 11),
    "bfloat16": ("bfloat16", 16),
}


def _type(text: str) -> tuple[str, int]:
    name = text.removeprefix("tensor(").removesuffix(")")
    if name not in _TYPES:
        raise ArtifactError(f"expected a tensor of {', '.join(_TYPES)}, found {text}", "export the model again")
    return _TYPES[name]


def _element_type(text: str) -> int:
    return _type(text)[1]


def _torch_dtype(text: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, _type(text)[0])
    return dtype
