# SPDX-License-Identifier: Apache-2.0
"""What an artifact says about itself. Plain data and JSON only: importing this module imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from aot_runtime.errors import ArtifactError

SCHEMA_VERSION = 1
METADATA_KEY = "aot_perception.manifest"
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
TENSORRT_RUNTIMES = ("tensorrt", "tensorrt_rtx")
RUNTIMES = ("", "onnxruntime", *TENSORRT_RUNTIMES)
# Fields that came after the first artifacts of schema version 1; left out of the JSON where they are empty, so that
# older readers, who refuse unknown fields, read everything that they can run.
_LATER_FIELDS = ("file_sha256", "source_sha256", "parity_of")
_LATER_TARGET_FIELDS = ("runtime", "runtime_version")


@dataclass(frozen=True)
class DynamicDim:
    """A dimension whose size is chosen at run time, min <= size <= max (both inclusive)."""

    name: str
    min: int
    max: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; a str in `shape` names one of the manifest's dynamic dims."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str = ""
    unit: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """Where the weights come from: an official file, or a seed (`random_seed` is then set and `sha256` is empty)."""

    file: str
    sha256: str
    licence: str
    random_seed: int | None = None

    @classmethod
    def random(cls, seed: int) -> CheckpointInfo:
        """Weights drawn at random; every user of the artifact is warned."""
        return cls(file="random", sha256="", licence="", random_seed=seed)

    @property
    def is_random(self) -> bool:
        return self.random_seed is not None


@dataclass(frozen=True)
class Target:
    """The machine and the libraries an artifact was compiled for.

    Inductor compiles host code with -march=native, so `cpu_flags` (the instruction-set extensions of the CPU that
    compiled, from a fixed list, see environment.ISA_FLAGS) is what another CPU must offer; `cpu_isa` is the vector
    width that Inductor names (AOTI_CPU_ISA), kept for people.

    `runtime` is what runs the file: "" AOTInductor (`.pt2`), "onnxruntime" (`.onnx`), "tensorrt" or "tensorrt_rtx"
    (`.engine`); `runtime_version` is the version that made an engine, or that checked an ONNX file.
    """

    device: str
    os: str
    machine: str
    torch: str
    cpu_isa: str = ""
    cpu_flags: tuple[str, ...] = ()
    compute_capability: str = ""
    cuda: str = ""
    device_name: str = ""
    runtime: str = ""
    runtime_version: str = ""


@dataclass(frozen=True)
class OutputParity:
    """Compiled against eager at export: largest absolute error, that error over the largest |eager|, cosine or None."""

    name: str
    max_abs: float
    max_rel: float
    cosine: float | None
    tolerance: float


@dataclass(frozen=True)
class GoldenInput:
    """How golden.py draws one input: the shape used and the law (see golden.py) as plain JSON."""

    name: str
    shape: tuple[int, ...]
    law: dict[str, Any]


@dataclass(frozen=True)
class GoldenOutput:
    """What eager computes from the golden inputs.

    `values` are the sampled elements at golden.sample_indices(); an artifact passes when every one differs by at most
    `tolerance`, the statistics do too, and nothing is NaN or infinite. `sha256` is of the compiled output's bytes at
    export, for people: another number of threads may change the order of sums.
    """

    name: str
    shape: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    std: float
    min: float
    max: float
    finite_fraction: float
    sha256: str
    tolerance: float


@dataclass(frozen=True)
class Golden:
    """The self-test: a seed, the laws of the inputs and the expected outputs."""

    seed: int
    inputs: tuple[GoldenInput, ...]
    outputs: tuple[GoldenOutput, ...]


@dataclass(frozen=True)
class Manifest:
    """The whole contract of one artifact.

    `file_sha256` binds an engine to the manifest beside it; `source_sha256` is the digest of the ONNX file it was
    built from. `parity_of` is "" where `parity` was measured on this very artifact. Where no device was there to run
    an engine, its self-test is the first check on one, and `parity` was measured in ONNX Runtime: "onnx" of the ONNX
    file against eager, "graph" of the graph at the engine's precision against an ONNX file of another.
    """

    family: str
    variant: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    target: Target
    checkpoint: CheckpointInfo
    exporter: str
    golden: Golden
    dims: tuple[DynamicDim, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    parity: tuple[OutputParity, ...] = ()
    rebuild_command: tuple[str, ...] = ()
    created: str = ""
    schema_version: int = SCHEMA_VERSION
    file_sha256: str = ""
    source_sha256: str = ""
    parity_of: str = ""

    def to_json(self, indent: int | None = None) -> str:
        """ASCII JSON, so that every reader (nlohmann in C++ too) sees the same bytes.

        Raises:
            ArtifactError: a number is NaN or infinite, or `preprocessing` holds something JSON has no word for.
        """
        document = dataclasses.asdict(self)
        for part, names in ((document, _LATER_FIELDS), (document["target"], _LATER_TARGET_FIELDS)):
            for name in names:
                if not part[name]:
                    del part[name]
        try:
            return json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=True)
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"expected a manifest of finite numbers and plain JSON values, found {error}"
            ) from error

    @classmethod
    def from_json(cls, text: str, source: str = "the manifest") -> Manifest:
        """Parse and check; `source` names the file in errors.

        Raises:
            ArtifactError: not JSON, another schema version, or a field is missing, unknown or of the wrong type; the
                message names the field. UnsupportedSchema for another schema version.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"expected JSON, found {error} in {source}", "export the artifact again") from error
        if not isinstance(data, dict):
            raise ArtifactError(
                f"expected a JSON object, found {type(data).__name__} in {source}", "export the artifact again"
            )
        version = data.get("schema_version")
        if type(version) is not int:
            raise ArtifactError(
                f"expected an integer schema_version, found {version!r:.60} in {source}", "export the artifact again"
            )
        if version != SCHEMA_VERSION:
            raise UnsupportedSchema(version, source)
        manifest = _parse(cls, data, "manifest", source)
        assert isinstance(manifest, Manifest)
        _check_consistency(manifest, source)
        return manifest

    def dim(self, name: str) -> DynamicDim:
        """The dynamic dim of this name."""
        return next(dim for dim in self.dims if dim.name == name)


class UnsupportedSchema(ArtifactError):
    """The manifest is of a schema version that this software does not read."""

    def __init__(self, version: int, source: str) -> None:
        super().__init__(
            f"expected manifest schema version {SCHEMA_VERSION}, found {version} in {source}",
            "export the artifact again with this version of aot_perception",
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON number")


def _bad(where: str, expected: str, value: object, source: str) -> ArtifactError:
    found = repr(value)
    return ArtifactError(
        f"expected {expected} at {where}, found {found[:60] + '...' if len(found) > 63 else found} in {source}",
        "export the artifact again",
    )


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _parse(kind: Any, value: Any, where: str, source: str) -> Any:
    """Turn parsed JSON into `kind` (a dataclass or one of the few annotations used above), checking every type."""
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, where, source)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _parse_union(arguments, value, where, source)
    if origin is tuple:
        if not isinstance(value, list):
            raise _bad(where, "a list", value, source)
        return tuple(_parse(arguments[0], item, f"{where}[{i}]", source) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _bad(where, "an object", value, source)
        return value
    if kind is float:
        return _parse_float(value, where, source)
    if type(value) is not kind:
        raise _bad(where, {int: "an integer", str: "a string"}[kind], value, source)
    return value


def _parse_float(value: Any, where: str, source: str) -> float:
    if type(value) not in (int, float):
        raise _bad(where, "a finite number", value, source)
    try:
        number = float(value)
    except OverflowError:
        raise _bad(where, "a finite number", value, source) from None
    if not math.isfinite(number):
        raise _bad(where, "a finite number", value, source)
    return number


def _parse_union(members: tuple[Any, ...], value: Any, where: str, source: str) -> Any:
    for member in members:
        if (member is type(None) and value is None) or (member in (int, str) and type(value) is member):
            return value
        if member is float and type(value) in (int, float):
            return _parse_float(value, where, source)
    names = {int: "an integer", str: "a string", float: "a number", type(None): "null"}
    raise _bad(where, " or ".join(names[member] for member in members), value, source)


def _parse_dataclass(kind: Any, value: Any, where: str, source: str) -> Any:
    if not isinstance(value, dict):
        raise _bad(where, "an object", value, source)
    hints = _hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise _bad(where, f"only the fields of schema version {SCHEMA_VERSION}", unknown, source)
    parsed = {}
    for item in dataclasses.fields(kind):
        if item.name in value:
            parsed[item.name] = _parse(hints[item.name], value[item.name], f"{where}.{item.name}", source)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise _bad(f"{where}.{item.name}", "a value", "nothing", source)
    return kind(**parsed)


def _check_consistency(manifest: Manifest, source: str) -> None:
    """What types cannot say: names are unique, dims are declared, sizes are sane, the golden fits the inputs."""
    dims = {dim.name: dim for dim in manifest.dims}
    if len(dims) != len(manifest.dims):
        raise _bad("manifest.dims", "dims of different names", [dim.name for dim in manifest.dims], source)
    for dim in manifest.dims:
        if not 0 <= dim.min <= dim.max:
            raise _bad(f"manifest.dims {dim.name}", "0 <= min <= max", (dim.min, dim.max), source)
    for group, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        names = [spec.name for spec in specs]
        if not specs or len(set(names)) != len(names):
            raise _bad(f"manifest.{group}", "one or more tensors of different names", names, source)
        for spec in specs:
            if spec.dtype not in DTYPES:
                raise _bad(f"manifest.{group} {spec.name}.dtype", f"one of {', '.join(DTYPES)}", spec.dtype, source)
            for size in spec.shape:
                if size not in dims if isinstance(size, str) else size < 0:
                    raise _bad(f"manifest.{group} {spec.name}.shape", "sizes >= 0 or names of dims", spec.shape, source)
    if manifest.precision not in PRECISIONS:
        raise _bad("manifest.precision", f"one of {', '.join(PRECISIONS)}", manifest.precision, source)
    if manifest.target.device not in ("cpu", "cuda"):
        raise _bad("manifest.target.device", "cpu or cuda", manifest.target.device, source)
    if manifest.target.runtime not in RUNTIMES:
        raise _bad("manifest.target.runtime", f"one of {', '.join(RUNTIMES[1:])}", manifest.target.runtime, source)
    if not 0 <= manifest.golden.seed < 1 << 64:
        raise _bad("manifest.golden.seed", "an unsigned 64-bit integer", manifest.golden.seed, source)
    _check_golden("inputs", manifest.golden.inputs, manifest.inputs, dims, source)
    _check_golden("outputs", manifest.golden.outputs, manifest.outputs, dims, source)


def _check_golden(
    group: str,
    golden: Sequence[GoldenInput | GoldenOutput],
    specs: Sequence[TensorSpec],
    dims: dict[str, DynamicDim],
    source: str,
) -> None:
    where = f"manifest.golden.{group}"
    names = [item.name for item in golden]
    if names != [spec.name for spec in specs]:
        raise _bad(where, "the manifest's names in order", names, source)
    for item, spec in zip(golden, specs):
        if not _shape_fits(item.shape, spec.shape, dims):
            raise _bad(f"{where} {item.name}.shape", f"a shape that fits {spec.shape}", item.shape, source)


def _shape_fits(shape: tuple[int, ...], wanted: tuple[int | str, ...], dims: dict[str, DynamicDim]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted):
        if isinstance(want, str):
            if not dims[want].min <= size <= dims[want].max:
                return False
        elif size != want:
            return False
    return True
