# SPDX-License-Identifier: Apache-2.0
"""ONNX file -> TensorRT engine, in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aot_runtime.backends.tensorrt import TensorRt, target_name
from aot_runtime.errors import ExportError
from aot_runtime.files import atomic_write

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of an input."""


@dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        capability: compute capability of the GPU, "8.9".
        profile: input -> range of shapes, for inputs with dynamic dims.
        workspace_bytes: scratch memory that kernels may use; None leaves it to TensorRT (all of the GPU's).
        optimization_level: 0 (quick build) to 5 (most tactics tried); None for TensorRT's default.
        timing_cache: file of kernel timings that makes the next build for this GPU quick; None for none.
    """

    capability: str
    profile: Mapping[str, Range] = field(default_factory=dict)
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Built:
    """An engine's bytes, and (name, dtype) of what it takes and gives."""

    engine: bytes
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


def build(
    library: TensorRt, onnx_path: Path, settings: BuildSettings, on_progress: Callable[[str], None] | None = None
) -> Built:
    """Parse and build.

    Args:
        on_progress: told the phase that is going on, as "phase 3/14".

    Raises:
        ExportError: the parser does not know an operator, or the builder fails; the message has TensorRT's words.
        KeyboardInterrupt: Ctrl-C stops the build at TensorRT's next step.
    """
    trt = library.module
    library.log.messages.clear()
    library.init_plugins()
    builder = trt.Builder(library.log)
    if builder is None:
        raise ExportError(f"expected {library.name} to start, found: {library.errors()}", "check nvidia-smi")
    network = builder.create_network(library.network_flags())
    parser = trt.OnnxParser(network, library.log)
    if not parser.parse_from_file(os.fspath(onnx_path)):
        raise ExportError(
            f"expected an ONNX file that {library.name} {library.version} parses, found {_parser_errors(parser)} in "
            f"{onnx_path}",
            "export with operators that TensorRT has, or at an older opset",
        )
    config = builder.create_builder_config()
    library.set_target(config, settings.capability)
    # On by default in TensorRT; fp32 in the graph means fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.profile:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in settings.profile.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    cache = _load_timing_cache(config, settings.timing_cache)
    monitor = _make_monitor(trt, on_progress) if on_progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.cancelled:
        raise KeyboardInterrupt
    if engine is None:
        raise ExportError(
            f"expected {library.name} {library.version} to build {onnx_path} for {target_name(settings.capability)}, "
            f"found: {library.errors()}",
            "less --workspace-gb or another --precision may help",
        )
    if cache is not None and settings.timing_cache is not None:
        _save_timing_cache(config, settings.timing_cache)
    return Built(
        bytes(engine),
        tuple(_name_and_dtype(library, network.get_input(i)) for i in range(network.num_inputs)),
        tuple(_name_and_dtype(library, network.get_output(i)) for i in range(network.num_outputs)),
    )


def _name_and_dtype(library: TensorRt, tensor: Any) -> tuple[str, str]:
    return str(tensor.name), library.dtype(tensor.dtype)


def _parser_errors(parser: Any) -> str:
    told = []
    for index in range(min(parser.num_errors, 3)):
        error = parser.get_error(index)
        where = ""
        with contextlib.suppress(AttributeError):
            where = f" at node {error.node_name()} ({error.node_operator()})" if error.node_name() else ""
        told.append(f"{' '.join(error.desc().split())}{where}")
    more = parser.num_errors - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "") or "no reason given"


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    cache = config.create_timing_cache(data)
    # A cache of another GPU or version is left aside, and replaced after the build.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save_timing_cache(config: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))


def _make_monitor(trt: Any, on_progress: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the innermost phase. TensorRT may call it from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, step: int) -> None:
            # An exception must not pass through TensorRT.
            try:
                on_progress(f"{phase} {step}/{self._steps.get(phase, step)}")
            except KeyboardInterrupt:
                self.cancelled = True

    return Monitor()
