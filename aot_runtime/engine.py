# SPDX-License-Identifier: Apache-2.0
"""ONNX artifact -> TensorRT engine with the contract of every artifact.

The ONNX file brings the manifest with the golden that eager PyTorch computed. The graph is changed to the precision
asked for (explicit casts, or quantise/dequantise pairs), run in ONNX Runtime on the golden inputs and compared with
the graph as it was, and only then built. Where the GPU is here the engine is run too; elsewhere the manifest says that
it was not, and the self-test on activation is its first run.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime import engine_graph
from aot_runtime.backends import engine_file, quantise, tensorrt, tensorrt_build
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.calibration import Sample
from aot_runtime.engine_checks import EngineChecks, Measured
from aot_runtime.environment import cuda_devices
from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.files import sha256_file
from aot_runtime.manifest import (
    PRECISIONS,
    DynamicDim,
    Manifest,
    Target,
    TensorSpec,
)
from aot_runtime.parity import Tolerance
from aot_runtime.progress import Steps
from aot_runtime.verdict import judge, read_manifest

if TYPE_CHECKING:
    from aot_runtime.export import Align
    from aot_runtime.runner import Runner

# Where a graph made from an fp32 ONNX file computes something else.
_REMEDIES = {
    "fp16": "export the network itself with --precision fp16, which keeps in fp32 what must be, or build fp32",
    "bf16": "build with --precision fp16 or fp32",
    "int8": "give more --calib-data, leave nodes unquantised with --exclude NODE, or build with --precision fp16",
    "fp8": "give more --calib-data, leave nodes unquantised with --exclude NODE, or build with --precision fp16",
}


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        target: GPU as "sm_89"; None for the one of this machine.
        runtime: tensorrt or tensorrt_rtx; None: tensorrt where the target's GPU is here, else tensorrt_rtx.
        sizes: dynamic dim -> (smallest, usual, largest) size; by default the dim's range and the golden's size.
        workspace_gb: scratch memory that kernels may use (10^9 bytes); None leaves it to TensorRT.
        optimization_level: 0 to 5; None for TensorRT's default.
        timing_cache: file of kernel timings; None for one in the user's cache folder (TensorRT only).
        calib_data: file, folder or pattern of calibration inputs, see calibration.read_samples().
        calib_batches: at most so many samples of it.
        samples: calibration inputs in memory, instead of `calib_data`.
        quantiser: modelopt or onnxruntime; None: modelopt where it is installed.
        quantise_exclude: names of ONNX nodes that stay in fp32.
        keep_onnx: where export_model leaves the ONNX file; None for a temporary one.
        wait: wait for another process that builds the same file, and take its engine if it is the one asked for.
    """

    target: str | None = None
    runtime: str | None = None
    sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    workspace_gb: float | None = None
    optimization_level: int | None = None
    timing_cache: str | None = None
    calib_data: str | None = None
    calib_batches: int = 32
    samples: Sequence[Sample] = ()
    quantiser: str | None = None
    quantise_exclude: Sequence[str] = ()
    keep_onnx: str | None = None
    wait: bool = True


def export_engine(
    export_onnx: Callable[[Path, str], Manifest],
    path: str | os.PathLike[str],
    precision: str,
    options: EngineOptions,
    *,
    tolerances: Tolerance | Mapping[str, Tolerance] | None = None,
    align: Align | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
) -> Manifest:
    """The engine of a network: an ONNX file by `export_onnx(path, precision)`, then build_engine().

    An fp16 network is cast by itself (with its islands in fp32); bf16, int8 and fp8 come from the fp32 graph, since
    ONNX Runtime has no bf16 kernels on a CPU to check another one with.

    Raises:
        ExportError, as export_model and build_engine.
    """
    _check_precision(precision)
    _check_library(options)
    with tempfile.TemporaryDirectory(prefix="aot_export_") as scratch:
        onnx_path = Path(options.keep_onnx or Path(scratch) / f"{Path(path).stem}.onnx")
        if onnx_path.suffix != ".onnx":
            raise ExportError(f"expected a name that ends in .onnx for the ONNX file, found {onnx_path}")
        export_onnx(onnx_path, precision if precision == "fp16" else "fp32")
        return build_engine(
            onnx_path,
            path,
            precision,
            options,
            tolerances=tolerances,
            align=align,
            rebuild_command=rebuild_command,
            progress=progress,
        )


def build_engine(
    onnx_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    precision: str | None = None,
    options: EngineOptions | None = None,
    *,
    tolerances: Tolerance | Mapping[str, Tolerance] | None = None,
    align: Align | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
) -> Manifest:
    """Build `path` (`.engine`, and `.engine.json` beside it) from an ONNX artifact.

    Args:
        precision: fp32, fp16, bf16, int8 or fp8; None for that of the ONNX file, which must be fp32 for another one.
        tolerances: against the ONNX file, for all outputs or by name; by default DEFAULT_TOLERANCES[precision], or what
            the exporter allowed the ONNX file if that is more and the precision the same.
        align: see export_model; by default keypoints are matched by place.

    Raises:
        ExportError: the ONNX file is no artifact, its graph at this precision computes something else than eager, or
            TensorRT cannot build it. What was at `path` before stays.
        InputError: the calibration data is unusable.
    """
    options = options or EngineOptions()
    source = Path(onnx_path)
    if Path(path).suffix != ".engine":
        raise ExportError(f"expected a file name that ends in .engine, found {path}")
    manifest = _read_source(source)
    chosen = precision or manifest.precision
    _check_precision(chosen)
    if options.calib_data is not None and chosen not in quantise.MODES:
        raise ExportError(
            f"expected calibration data for {' or '.join(quantise.MODES)} only, found it with {chosen}",
            "leave it out, or give --precision int8",
        )
    if chosen != manifest.precision and manifest.precision != "fp32":
        raise ExportError(
            f"expected an fp32 ONNX file to build {chosen} from, found {manifest.precision} in {source}",
            f"export the ONNX file with --precision fp32, or build with --precision {manifest.precision}",
        )
    library = _check_library(options)
    capability = tensorrt.parse_target(options.target) if options.target else tensorrt.own_target()
    ranges = _ranges(manifest, options.sizes)
    steps = Steps(f"build {Path(path).name}", 4, enabled=progress)
    with engine_file.build_lock(path, wait=options.wait) as waited, tempfile.TemporaryDirectory() as scratch:
        digest = sha256_file(source)
        if waited:
            finished = _finished(path, digest, chosen, capability, library.name)
            if finished is not None:
                return finished
        with steps.step(f"{chosen} graph"):
            graph, simulated = engine_graph.make_graph(source, Path(scratch), manifest, chosen, options)
        with steps.step("run it in onnxruntime"):
            checks = EngineChecks(source, manifest, chosen, tolerances, align)
            if simulated == source:
                parity_of, measured = "onnx", checks.source()
            else:
                parity_of, measured = "graph", _measure_graph(checks, simulated, chosen)
        with steps.step(f"{library.name} {library.version} for {tensorrt.target_name(capability)}"):
            settings = tensorrt_build.BuildSettings(
                capability=capability,
                profile=_profile(manifest, ranges),
                workspace_bytes=None if options.workspace_gb is None else int(options.workspace_gb * 1e9),
                optimization_level=options.optimization_level,
                timing_cache=_timing_cache(options, library, capability),
            )
            built = tensorrt_build.build(library, graph, settings, steps.detail)
            _check_tensors(built, manifest, source)
        made = replace(
            manifest,
            dims=tuple(
                DynamicDim(dim.name, ranges[dim.name][0], ranges[dim.name][2]) if dim.name in ranges else dim
                for dim in manifest.dims
            ),
            precision=chosen,
            target=_target(library, capability, manifest),
            parity=measured.parity,
            golden=measured.golden,
            rebuild_command=tuple(rebuild_command),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            file_sha256=_sha256(built.engine),
            source_sha256=digest,
            parity_of=parity_of,
        )
        with steps.step(f"write {path}"):
            here = _open_here(built.engine, Path(scratch), made)
            if here is not None:
                measured = checks.measure(here[0], " of the engine", here[1])
                made = replace(made, parity=measured.parity, golden=measured.golden, parity_of="")
            # What load_model would refuse must not be written.
            parsed = Manifest.from_json(made.to_json(), source=str(path))
            engine_file.write(path, built.engine, made.to_json(indent=2))
    return parsed


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ExportError(f"expected precision {', '.join(PRECISIONS)}, found {precision!r}")


def _check_library(options: EngineOptions) -> tensorrt.TensorRt:
    """The library that builds; found before the time for an export is spent."""
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ExportError(
                f"expected the Python package {name} to build an engine, found none", f"pip install {name}"
            )
    capability = tensorrt.parse_target(options.target) if options.target else tensorrt.own_target()
    try:
        return tensorrt.choose(capability, options.runtime)
    except ArtifactError as error:
        raise ExportError(error.reason, error.remedy) from error


def _read_source(source: Path) -> Manifest:
    verdict = judge(source, "cpu") if source.suffix == ".onnx" else None
    if verdict is None:
        raise ExportError(f"expected a .onnx artifact, found {source}", "export the model with --format onnx")
    if not verdict.ok:
        raise ExportError(f"{verdict.code}: {verdict.reason}", verdict.remedy)
    return read_manifest(source)


def _ranges(manifest: Manifest, given: Mapping[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    """Dynamic dim of an input -> (smallest, usual, largest)."""
    usual = {
        want: size
        for spec, item in zip(manifest.inputs, manifest.golden.inputs)
        for want, size in zip(spec.shape, item.shape)
        if isinstance(want, str)
    }
    unknown = sorted(set(given) - set(usual))
    if unknown:
        raise ExportError(f"expected sizes of dynamic dims {sorted(usual)}, found {unknown[0]}")
    ranges = {}
    for name, golden_size in usual.items():
        dim = manifest.dim(name)
        low, middle, high = given.get(name, (dim.min, golden_size, dim.max))
        if not dim.min <= low <= middle <= high <= dim.max:
            raise ExportError(
                f"expected smallest <= usual <= largest size of {name} within {dim.min} .. {dim.max}, "
                f"found {low}, {middle}, {high}"
            )
        if not low <= golden_size <= high:
            raise ExportError(
                f"expected sizes of {name} around {golden_size}, at which the self-test runs, found {low} .. {high}"
            )
        ranges[name] = (low, middle, high)
    return ranges


def _profile(manifest: Manifest, ranges: Mapping[str, tuple[int, int, int]]) -> dict[str, tensorrt_build.Range]:
    def shape(spec: TensorSpec, which: int) -> tuple[int, ...]:
        return tuple(ranges[size][which] if isinstance(size, str) else size for size in spec.shape)

    return {
        spec.name: (shape(spec, 0), shape(spec, 1), shape(spec, 2))
        for spec in manifest.inputs
        if any(isinstance(size, str) for size in spec.shape)
    }


def _measure_graph(checks: EngineChecks, graph: Path, precision: str) -> Measured:
    try:
        return checks.measure(OnnxRunner(graph, optimize=precision != "fp8"), f" of {precision}")
    except ExportError as error:
        raise ExportError(error.reason, f"nothing was written; {_REMEDIES[precision]}") from error


def _check_tensors(built: tensorrt_build.Built, manifest: Manifest, source: Path) -> None:
    for what, found, specs in (("input", built.inputs, manifest.inputs), ("output", built.outputs, manifest.outputs)):
        wanted = {(spec.name, spec.dtype) for spec in specs}
        if set(found) != wanted:
            raise ExportError(
                f"expected the engine's {what}s to be {sorted(wanted)}, found {sorted(found)} from {source}",
                "export the ONNX file again with types that TensorRT has (no float64)",
            )


def _target(library: tensorrt.TensorRt, capability: str, manifest: Manifest) -> Target:
    names = [name for name, found in cuda_devices() if found == capability]
    return Target(
        device="cuda",
        os=sys.platform,
        machine=platform.machine(),
        torch=manifest.target.torch,
        compute_capability=capability,
        device_name=names[0] if names else tensorrt.target_name(capability),
        runtime=library.name,
        runtime_version=library.version,
    )


def _timing_cache(options: EngineOptions, library: tensorrt.TensorRt, capability: str) -> Path | None:
    if options.timing_cache is not None:
        return Path(options.timing_cache)
    if library.name != "tensorrt":
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aot_perception"
    return folder / f"tensorrt_{library.version}_{tensorrt.target_name(capability)}.timing"


def _open_here(engine: bytes, scratch: Path, manifest: Manifest) -> tuple[Runner, str] | None:
    """(the engine loaded, its device) where the GPU it is for is in this machine."""
    devices = [found for _, found in cuda_devices()]
    if manifest.target.compute_capability not in devices:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    from aot_runtime.backends.tensorrt_run import TensorRtRunner

    file = scratch / "built.engine"
    file.write_bytes(engine)
    index = devices.index(manifest.target.compute_capability)
    return TensorRtRunner(file, manifest, index), f"cuda:{index}"


def _finished(
    path: str | os.PathLike[str], digest: str, precision: str, capability: str, runtime: str
) -> Manifest | None:
    """The engine that the process before this one built, if it is the one asked for."""
    try:
        engine_file.check_digest(path)
        manifest = read_manifest(path)
    except (ArtifactError, OSError):
        return None
    target = manifest.target
    wanted = (digest, precision, capability, runtime)
    return (
        manifest
        if (manifest.source_sha256, manifest.precision, target.compute_capability, target.runtime) == wanted
        else None
    )


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
