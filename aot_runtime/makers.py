# SPDX-License-Identifier: Apache-2.0
"""What differs between the kinds of artifact when one is made: compile, load for the check, describe, write.

export.py does everything else the same way for all of them. An engine is made from an ONNX artifact: see engine.py.
"""

from __future__ import annotations

import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.backends import aoti, onnx, package
from aot_runtime.environment import cpu_flags, cpu_model, module_version
from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.files import atomic_write
from aot_runtime.manifest import Target, TensorSpec
from aot_runtime.runner import Runner

if TYPE_CHECKING:
    import torch


class Maker(ABC):
    """Makes one kind of artifact for one device, in a scratch folder first.

    Args:
        stem: name of the artifact, which becomes part of the file.
    """

    suffix = ""

    def __init__(self, scratch: Path, stem: str, device: torch.device) -> None:
        self.compiled = scratch / f"{stem}{self.suffix}"
        self.device = device

    @abstractmethod
    def compile(
        self,
        program: torch.export.ExportedProgram,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str],
        check: Callable[[Runner], object],
    ) -> None:
        """Compile; `check` raises ExportError where a runner computes something else than eager."""

    @abstractmethod
    def runner(self) -> Runner:
        """The compiled file, loaded."""

    @abstractmethod
    def target(self) -> Target:
        """What the compiled file was made for."""

    @abstractmethod
    def write(self, path: str | os.PathLike[str], manifest_json: str) -> None:
        """Write the artifact, atomically."""


class PackageMaker(Maker):
    """`.pt2` by AOTInductor."""

    suffix = ".pt2"

    def __init__(
        self, scratch: Path, stem: str, device: torch.device, inductor_configs: Mapping[str, Any] | None
    ) -> None:
        super().__init__(scratch, stem, device)
        self._inductor_configs = inductor_configs

    def compile(
        self,
        program: torch.export.ExportedProgram,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str],
        check: Callable[[Runner], object],
    ) -> None:
        aoti.compile_program(program, self.compiled, self._inductor_configs)

    def runner(self) -> Runner:
        return aoti.AotiRunner(self.compiled, self.device.type, self.device.index or 0)

    def target(self) -> Target:
        import torch

        told = package.read_metadata(self.compiled)
        on_gpu = self.device.type == "cuda"
        capability = name = ""
        if on_gpu:
            capability = ".".join(str(part) for part in torch.cuda.get_device_capability(self.device))
            name = torch.cuda.get_device_name(self.device)
        return Target(
            device=self.device.type,
            os=sys.platform,
            machine=platform.machine(),
            torch=str(torch.__version__),
            cpu_isa=told.get("AOTI_CPU_ISA", ""),
            cpu_flags=tuple(sorted(cpu_flags())),
            compute_capability=capability,
            cuda=str(torch.version.cuda or "") if on_gpu else "",
            device_name=name if on_gpu else cpu_model(),
        )

    def write(self, path: str | os.PathLike[str], manifest_json: str) -> None:
        with atomic_write(path) as temporary:
            package.write_with_manifest(self.compiled, temporary, manifest_json)


class OnnxMaker(Maker):
    """`.onnx` by torch's exporter, checked in ONNX Runtime."""

    suffix = ".onnx"

    def __init__(self, scratch: Path, stem: str, device: torch.device, options: onnx.OnnxOptions) -> None:
        super().__init__(scratch, stem, device)
        self._options = options

    def compile(
        self,
        program: torch.export.ExportedProgram,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str],
        check: Callable[[Runner], object],
    ) -> None:
        onnx.export_program(program, self.compiled, inputs, outputs, self._options, lambda _: check(self.runner()))

    def runner(self) -> Runner:
        try:
            return onnx.OnnxRunner(self.compiled, self.device.type, self.device.index or 0)
        except ArtifactError as error:
            raise ExportError(
                f"expected to check the ONNX file in onnxruntime, found: {error.reason}",
                "an operator may lack this precision on this device: export with --precision fp32, or with --device "
                "cuda and onnxruntime-gpu",
            ) from error

    def target(self) -> Target:
        import torch

        return Target(
            device=self.device.type,
            os=sys.platform,
            machine=platform.machine(),
            torch=str(torch.__version__),
            device_name=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_model(),
            runtime="onnxruntime",
            runtime_version=module_version("onnxruntime"),
        )

    def write(self, path: str | os.PathLike[str], manifest_json: str) -> None:
        onnx.write_artifact(self.compiled, path, manifest_json)
