# SPDX-License-Identifier: Apache-2.0
"""TensorRT 10 (JetPack's 10.3 among them), TensorRT 11 and TensorRT-RTX as one API: what differs between them is here.

TensorRT (`import tensorrt`) times kernels on the GPU, so it builds for the GPU of this machine alone. TensorRT-RTX
(`import tensorrt_rtx`) leaves that to the first load on the GPU, so it builds for any GPU it knows (sm_75 to sm_121,
without sm_87 and sm_90) on a machine without one. Networks are strongly typed everywhere, as version 11 asks: every
precision is in the ONNX graph.
"""

from __future__ import annotations

import importlib
import re
import threading
from dataclasses import dataclass
from typing import Any

from aot_runtime.environment import cuda_devices
from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.manifest import TENSORRT_RUNTIMES

_INSTALL = "run: pip install tensorrt (on Jetson it comes with JetPack), or pip install tensorrt-rtx"
# TensorRT's names of data types -> the manifest's.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_MAX_MESSAGES = 20
_MAX_TEXT = 600


@dataclass(frozen=True)
class TensorRt:
    """One of the two libraries, loaded.

    Attributes:
        name: tensorrt or tensorrt_rtx.
        module: its Python module.
        version: as the module tells it.
        log: keeps the last errors, so that exceptions can tell them.
    """

    name: str
    module: Any
    version: str
    log: Any

    def network_flags(self) -> int:
        """Flags of a strongly typed network; where the flag is gone every network is."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def init_plugins(self) -> None:
        """Register the plugins that parsed graphs and engines may name; TensorRT-RTX has none."""
        initialise = getattr(self.module, "init_libnvinfer_plugins", None)
        if initialise is not None:
            initialise(self.log, "")

    def set_target(self, config: Any, capability: str) -> None:
        """Aim a builder configuration at a GPU.

        Raises:
            ExportError: this library cannot build for it here.
        """
        if self.name == "tensorrt_rtx":
            known = self.module.ComputeCapability.__members__
            wanted = known.get(f"SM{capability.replace('.', '')}")
            if wanted is None:
                raise ExportError(
                    f"expected a GPU that tensorrt_rtx {self.version} builds for "
                    f"({', '.join(name.replace('SM', 'sm_') for name in known if name.startswith('SM'))}), found "
                    f"{target_name(capability)}",
                    "build with TensorRT on a machine that has this GPU",
                )
            config.num_compute_capabilities = 1
            config.set_compute_capability(wanted, 0)
            return
        here = [found for _, found in cuda_devices()]
        if capability not in here:
            raise ExportError(
                f"expected a GPU {target_name(capability)} to build for with TensorRT {self.version}, found "
                f"{', '.join(map(target_name, here)) or 'none'}",
                "build on the robot, or use tensorrt_rtx, which builds for other GPUs: --runtime tensorrt_rtx",
            )

    def dtype(self, data_type: Any) -> str:
        """The manifest's name of a data type.

        Raises:
            ArtifactError: a type that no artifact has (fp8, int4).
        """
        name = str(getattr(data_type, "name", data_type)).rsplit(".", 1)[-1]
        if name not in _DTYPES:
            raise ArtifactError(f"expected an input or output of {', '.join(_DTYPES.values())}, found {name}")
        return _DTYPES[name]

    def errors(self) -> str:
        """What the library said went wrong since the last call, on one line."""
        text = "; ".join(self.log.messages)
        self.log.messages.clear()
        # Some name a whole graph with its weights.
        return (text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...") or "no reason given"


_LOADED: dict[str, TensorRt] = {}
_LOCK = threading.Lock()


def load(name: str) -> TensorRt:
    """The library `tensorrt` or `tensorrt_rtx`.

    Raises:
        ArtifactError: it is not installed or does not start.
    """
    if name not in TENSORRT_RUNTIMES:
        raise ArtifactError(f"expected tensorrt or tensorrt_rtx, found {name!r}")
    with _LOCK:
        if name not in _LOADED:
            module = _import(name)
            _LOADED[name] = TensorRt(name, module, str(module.__version__), _make_log(module))
        return _LOADED[name]


def _import(name: str) -> Any:
    problems = []
    # The wheel `tensorrt_rtx` is a source package that only renames the bindings.
    for module in (name, f"{name}_bindings"):
        try:
            return importlib.import_module(module)
        except (ImportError, OSError) as error:
            problems.append(str(error))
    raise ArtifactError(f"expected the Python package {name}, found {problems[0]}", _INSTALL)


def _make_log(module: Any) -> Any:
    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.messages.append(" ".join(message.split()))
                del self.messages[:-_MAX_MESSAGES]

    return Log()


def choose(capability: str, name: str | None = None) -> TensorRt:
    """The library that builds for a GPU: `tensorrt` where this machine has such a GPU, else `tensorrt_rtx`.

    Raises:
        ArtifactError: neither (or not the one named) is installed.
    """
    if name is not None:
        return load(name)
    if any(found == capability for _, found in cuda_devices()):
        try:
            return load("tensorrt")
        except ArtifactError:
            pass
    try:
        return load("tensorrt_rtx")
    except ArtifactError as error:
        raise ArtifactError(
            f"expected TensorRT with a GPU {target_name(capability)} here, or tensorrt_rtx, found neither", _INSTALL
        ) from error


def parse_target(text: str) -> str:
    """ "sm_89" -> "8.9", "sm_120" -> "12.0".

    Raises:
        ExportError: anything else.
    """
    match = re.fullmatch(r"sm_?(\d{1,2})(\d)", text)
    if match is None:
        raise ExportError(f"expected a target such as sm_89, found {text!r}")
    return f"{match.group(1)}.{match.group(2)}"


def target_name(capability: str) -> str:
    """ "8.9" -> "sm_89"."""
    return f"sm_{capability.replace('.', '')}"


def own_target() -> str:
    """The compute capability of this machine's first GPU.

    Raises:
        ExportError: there is none.
    """
    devices = cuda_devices()
    if not devices:
        raise ExportError("expected a GPU to build an engine for, found none here", "say which: --target sm_89")
    return devices[0][1]
