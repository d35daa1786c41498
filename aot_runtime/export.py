# SPDX-License-Identifier: Apache-2.0
"""A network and example inputs -> one artifact that is checked against eager before it exists."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime import golden as goldens
from aot_runtime.backends import aoti, onnx
from aot_runtime.container import SUFFIXES
from aot_runtime.errors import ExportError
from aot_runtime.makers import Maker, OnnxMaker, PackageMaker
from aot_runtime.manifest import (
    CheckpointInfo,
    DynamicDim,
    Golden,
    GoldenInput,
    Manifest,
    OutputParity,
    TensorSpec,
)
from aot_runtime.parity import Tolerance, choose_tolerances, compare_outputs, require_finite
from aot_runtime.progress import Steps
from aot_runtime.runner import Runner
from aot_runtime.verdict import parse_device

if TYPE_CHECKING:
    import torch

    from aot_runtime.engine import EngineOptions

# What a network can be cast to; int8 and fp8 come from calibrated Q/DQ graphs when an engine is built.
CAST_PRECISIONS = ("fp32", "fp16", "bf16")

Output = tuple[str, str, str]
"""An output's (name, meaning, unit)."""

Align = Callable[[Mapping[str, "torch.Tensor"], Mapping[str, "torch.Tensor"]], Mapping[str, "torch.Tensor"]]
"""(eager, compiled) outputs by name -> compiled in the order of eager; see `export_model`."""


def export_model(
    module: torch.nn.Module,
    example_inputs: Mapping[str, torch.Tensor],
    *,
    path: str | os.PathLike[str],
    family: str,
    variant: str,
    task: str,
    outputs: Sequence[Output],
    checkpoint: CheckpointInfo,
    precision: str = "fp32",
    device: str = "cpu",
    preprocessing: Mapping[str, Any] | None = None,
    dynamic_dims: Mapping[str, Mapping[int, DynamicDim]] | None = None,
    input_meanings: Mapping[str, tuple[str, str]] | None = None,
    golden_laws: Mapping[str, goldens.Law] | None = None,
    golden_seed: int = goldens.DEFAULT_SEED,
    tolerances: Tolerance | Mapping[str, Tolerance] | None = None,
    align: Align | None = None,
    self_test_tolerances: Mapping[str, float] | None = None,
    check_sizes: Sequence[Mapping[str, int]] = (),
    inductor_configs: Mapping[str, Any] | None = None,
    rebuild_command: Sequence[str] = (),
    progress: bool = True,
    onnx_options: onnx.OnnxOptions | None = None,
    engine_options: EngineOptions | None = None,
) -> Manifest:
    """Export, compile, reload, compare with eager, and only then write `path`.

    The suffix of `path` chooses what is made: `.pt2` by AOTInductor, `.onnx` for ONNX Runtime, `.engine` by TensorRT
    from an ONNX file that lies in a temporary folder (or at `engine_options.keep_onnx`).

    The module is put into eval mode, moved to `device` and cast to `precision` **in place**: by its own method
    `cast_precision(dtype)` if it has one (to keep islands in float32), else by `.to(dtype)`. Inputs keep the dtype of
    the example; the module casts them where it wants to. It is called with the inputs in order, positionally, and
    returns a tensor, a sequence in the order of `outputs`, or a dict by their names.

    Args:
        module: the network; nothing of it is needed to run the artifact.
        example_inputs: name -> tensor, in the order of forward(). Only shapes and dtypes matter.
        outputs: (name, meaning, unit) of each output.
        precision: fp32, fp16 or bf16, the dtype of weights and arithmetic; an engine can be int8 or fp8 too.
        device: cpu, cuda or cuda:N; for an engine only where eager runs, its GPU is `engine_options.target`.
        dynamic_dims: input name -> {axis: DynamicDim}. The example's size must lie in the range.
        input_meanings: input name -> (meaning, unit).
        golden_laws: input name -> law of golden.py; by default uniform [0, 1) for float inputs.
        tolerances: one for all outputs or by name; by default DEFAULT_TOLERANCES[precision].
        align: for networks that sort by nearly equal numbers (keypoints): puts the compiled rows in the order of
            eager's before they are compared; raises ExportError where they don't fit.
        self_test_tolerances: output name -> max abs error of the self-test where parity's is not it, because the
            self-test compares without `align`.
        check_sizes: further sizes {dim name: size} at which parity is checked too.
        inductor_configs: options of torch._inductor.config, e.g. {"max_autotune": True}.
        rebuild_command: the command line that makes this artifact again, shown by verdicts.
        onnx_options: opset, simplification, where large weights go; for `.onnx` and `.engine`.
        engine_options: target, calibration, workspace ...; for `.engine`.

    Raises:
        ExportError: parity failed (the message names output, numbers and tolerance), an output is not finite, the
            network cannot be exported or compiled, or an argument is wrong. Nothing is left at `path`, and a file
            that was there before stays as it was.
    """
    import torch

    suffix = Path(path).suffix
    if suffix == ".engine":
        from aot_runtime.engine import EngineOptions, export_engine

        return export_engine(
            lambda onnx_path, onnx_precision: export_model(
                module,
                example_inputs,
                path=onnx_path,
                family=family,
                variant=variant,
                task=task,
                outputs=outputs,
                checkpoint=checkpoint,
                precision=onnx_precision,
                device=device,
                preprocessing=preprocessing,
                dynamic_dims=dynamic_dims,
                input_meanings=input_meanings,
                golden_laws=golden_laws,
                golden_seed=golden_seed,
                tolerances=tolerances,
                align=align,
                self_test_tolerances=self_test_tolerances,
                check_sizes=check_sizes,
                rebuild_command=rebuild_command,
                progress=progress,
                onnx_options=onnx_options,
            ),
            path,
            precision,
            engine_options or EngineOptions(),
            tolerances=tolerances,
            align=align,
            rebuild_command=rebuild_command,
            progress=progress,
        )
    if suffix not in SUFFIXES:
        raise ExportError(f"expected a file name that ends in {', '.join(SUFFIXES)}, found {path}")
    names = [name for name, _, _ in outputs]
    _check_arguments(example_inputs, names, precision)
    kind, index = parse_device(device)
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ExportError(
            f"expected CUDA device {index}, found {torch.cuda.device_count()} CUDA devices", "export with --device cpu"
        )
    if suffix == ".onnx":
        onnx.require_exporter()
    else:
        aoti.require_compiler()
    place = torch.device(kind, index) if kind == "cuda" else torch.device("cpu")
    axes = dynamic_dims or {}
    dims = _collect_dims(example_inputs, axes)
    specs = _input_specs(example_inputs, axes, input_meanings or {})
    drawn = _golden_inputs(example_inputs, golden_laws or {})
    dtypes = {spec.name: spec.dtype for spec in specs}
    chosen = choose_tolerances(names, precision, tolerances)
    unknown = sorted(set(self_test_tolerances or {}) - set(names))
    if unknown:
        raise ExportError(f"expected tolerances of the self-test for outputs {names}, found {unknown}")
    steps = Steps(f"export {family} {variant}", 5 + len(check_sizes), enabled=progress)

    exact = aoti.exact_float32(precision == "fp32" and kind == "cuda")
    with torch.no_grad(), exact, _current_device(place), tempfile.TemporaryDirectory(prefix="aot_export_") as scratch:
        stem = Path(path).stem
        maker: Maker = (
            OnnxMaker(Path(scratch), stem, place, onnx_options or onnx.OnnxOptions())
            if suffix == ".onnx"
            else PackageMaker(Path(scratch), stem, place, inductor_configs)
        )
        with steps.step(f"eager {precision} on {device}"):
            network = _prepare(module, names, precision, place)
            inputs = goldens.make_inputs(drawn, dtypes, golden_seed, str(place))
            eager = _run_eager(network, inputs)
            if len(eager) != len(names):
                raise ExportError(f"expected {len(names)} outputs {names}, found {len(eager)} from the network")
            for name, tensor in zip(names, eager):
                require_finite(name, tensor, "eager")
        with steps.step("torch.export"):
            program = _export_program(network, inputs, axes)
            output_shapes = _output_shapes(program, inputs, axes, names)
        with steps.step("compile (can take minutes)"):
            maker.compile(program, specs, names, lambda loaded: _compare(loaded, inputs, eager, chosen, align))
            del program
        with steps.step("reload and compare with eager"):
            runner = maker.runner()
            parity, compiled = _compare(runner, inputs, eager, chosen, align)
        for sizes in check_sizes:
            where = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            with steps.step(f"compare at {where}"):
                resized = _resize(drawn, specs, dims, sizes)
                other = goldens.make_inputs(resized, dtypes, golden_seed, str(place))
                wanted, found = _run_eager(network, other), runner.run(list(other.values()))
                compare_outputs(wanted, _aligned(align, names, wanted, found), chosen, f" at {where}")
        with steps.step(f"write {path}"):
            allowed = {item.name: item.tolerance for item in parity} | dict(self_test_tolerances or {})
            manifest = Manifest(
                family=family,
                variant=variant,
                task=task,
                inputs=specs,
                outputs=tuple(
                    TensorSpec(name, dtype_name(tensor.dtype), output_shapes[name][0], meaning, unit)
                    for (name, meaning, unit), tensor in zip(outputs, compiled)
                ),
                dims=dims + tuple(dim for _, derived in output_shapes.values() for dim in derived),
                preprocessing=dict(preprocessing or {}),
                precision=precision,
                target=maker.target(),
                checkpoint=checkpoint,
                exporter=_exporter(),
                parity=parity,
                golden=Golden(
                    seed=golden_seed,
                    inputs=drawn,
                    outputs=tuple(
                        goldens.describe_output(name, reference, result, golden_seed, position, allowed[name])
                        for position, (name, reference, result) in enumerate(zip(names, eager, compiled))
                    ),
                ),
                rebuild_command=tuple(rebuild_command),
                created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            )
            text = manifest.to_json()
            # What load_model would refuse must not be written.
            parsed = Manifest.from_json(text, source=str(path))
            maker.write(path, text)
    return parsed


def _compare(
    runner: Runner,
    inputs: Mapping[str, torch.Tensor],
    eager: Sequence[torch.Tensor],
    tolerances: Mapping[str, Tolerance],
    align: Align | None,
) -> tuple[tuple[OutputParity, ...], list[torch.Tensor]]:
    """(parity, outputs) of a compiled network on the golden inputs; raises ExportError."""
    compiled = runner.run(list(inputs.values()))
    return compare_outputs(eager, _aligned(align, list(tolerances), eager, compiled), tolerances), compiled


def dtype_name(dtype: torch.dtype) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def _check_arguments(example_inputs: Mapping[str, torch.Tensor], names: Sequence[str], precision: str) -> None:
    if precision not in CAST_PRECISIONS:
        raise ExportError(f"expected precision {', '.join(CAST_PRECISIONS)}, found {precision!r}")
    if not example_inputs:
        raise ExportError("expected one or more example inputs, found none")
    if not names or len(set(names)) != len(names):
        raise ExportError(f"expected one or more outputs of different names, found {list(names)}")


def _aligned(
    align: Align | None, names: list[str], eager: Sequence[torch.Tensor], compiled: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    if align is None or len(compiled) != len(eager):
        return compiled
    ordered = align(dict(zip(names, eager)), dict(zip(names, compiled)))
    return [ordered[name] for name in names]


def _collect_dims(
    example_inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, DynamicDim]]
) -> tuple[DynamicDim, ...]:
    found: dict[str, DynamicDim] = {}
    for name, by_axis in axes.items():
        if name not in example_inputs:
            raise ExportError(f"expected dynamic dims of inputs {list(example_inputs)}, found {name!r}")
        for axis, dim in by_axis.items():
            shape = tuple(example_inputs[name].shape)
            if not 0 <= axis < len(shape) or not dim.min <= shape[axis] <= dim.max:
                raise ExportError(
                    f"expected the example of input {name} with axis {axis} in {dim.min} .. {dim.max} ({dim.name}), "
                    f"found shape {shape}"
                )
            if found.setdefault(dim.name, dim) != dim:
                raise ExportError(f"expected one range for dynamic dim {dim.name}, found {found[dim.name]} and {dim}")
    return tuple(found.values())


def _input_specs(
    example_inputs: Mapping[str, torch.Tensor],
    axes: Mapping[str, Mapping[int, DynamicDim]],
    meanings: Mapping[str, tuple[str, str]],
) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in example_inputs.items():
        by_axis = axes.get(name, {})
        shape = tuple(by_axis[axis].name if axis in by_axis else int(size) for axis, size in enumerate(tensor.shape))
        specs.append(TensorSpec(name, dtype_name(tensor.dtype), shape, *meanings.get(name, ("", ""))))
    return tuple(specs)


def _golden_inputs(
    example_inputs: Mapping[str, torch.Tensor], laws: Mapping[str, goldens.Law]
) -> tuple[GoldenInput, ...]:
    unknown = sorted(set(laws) - set(example_inputs))
    if unknown:
        raise ExportError(f"expected golden laws of inputs {list(example_inputs)}, found {unknown}")
    drawn = []
    for name, tensor in example_inputs.items():
        law = laws.get(name, goldens.uniform() if tensor.is_floating_point() else None)
        if law is None:
            raise ExportError(f"expected a golden law for the {dtype_name(tensor.dtype)} input {name}, found none")
        drawn.append(GoldenInput(name, tuple(int(size) for size in tensor.shape), law))
    return tuple(drawn)


def _resize(
    drawn: tuple[GoldenInput, ...],
    specs: tuple[TensorSpec, ...],
    dims: tuple[DynamicDim, ...],
    sizes: Mapping[str, int],
) -> tuple[GoldenInput, ...]:
    unknown = sorted(set(sizes) - {dim.name for dim in dims})
    if unknown:
        raise ExportError(f"expected sizes of dynamic dims {[dim.name for dim in dims]}, found {unknown}")
    return tuple(
        replace(
            item,
            shape=tuple(
                sizes.get(want, size) if isinstance(want, str) else size for size, want in zip(item.shape, spec.shape)
            ),
        )
        for item, spec in zip(drawn, specs)
    )


def _prepare(module: torch.nn.Module, names: list[str], precision: str, place: torch.device) -> torch.nn.Module:
    """The module in eval mode at its precision and place, behind a forward that returns a flat tuple."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.network(*inputs)
            if isinstance(result, torch.Tensor):
                result = (result,)
            elif isinstance(result, Mapping):
                result = tuple(result[name] for name in names)
            # Contiguous, so that the layout of every output is the one its shape tells.
            return tuple(tensor.contiguous() for tensor in result)

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    module.eval()
    cast = getattr(module, "cast_precision", None)
    if callable(cast):
        cast(dtype)
    else:
        module.to(dtype)
    module.to(place)
    return Flat().eval()


def _run_eager(network: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    try:
        result = list(network(*inputs.values()))
    except Exception as error:
        # Whatever a network raises, the user needs to know at which inputs.
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        raise ExportError(
            f"expected the network to run on inputs {shapes}, found {type(error).__name__}: {error}",
            "see the chained error above",
        ) from error
    return result


def _export_program(
    network: torch.nn.Module, inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, DynamicDim]]
) -> torch.export.ExportedProgram:
    import torch

    made: dict[str, Any] = {}

    def axis_dim(dim: DynamicDim) -> Any:
        return made.setdefault(dim.name, torch.export.Dim(dim.name, min=dim.min, max=dim.max))

    shapes = tuple({axis: axis_dim(dim) for axis, dim in axes.get(name, {}).items()} for name in inputs)
    try:
        # forward(*inputs) is one variadic argument, hence the tuple in a tuple.
        return torch.export.export(
            network, tuple(inputs.values()), dynamic_shapes=(shapes,) if axes else None, strict=False
        )
    except Exception as error:
        # torch.export raises many types; what matters is its text.
        raise ExportError(
            f"expected a network that torch.export accepts, found {type(error).__name__}: {error}",
            "see the chained error above",
        ) from error


def _output_shapes(
    program: torch.export.ExportedProgram,
    inputs: Mapping[str, torch.Tensor],
    axes: Mapping[str, Mapping[int, DynamicDim]],
    names: Sequence[str],
) -> dict[str, tuple[tuple[int | str, ...], tuple[DynamicDim, ...]]]:
    """Output name -> (shape with the names of dynamic dims, dims that had to be invented for it).

    A size that is an input's dynamic dim carries its name. A size computed from one (2 n + 1) gets a dim of its own,
    "<output>.<axis>", whose range is not known.
    """
    import torch

    nodes = {node.name: node for node in program.graph.nodes}
    symbols: dict[str, str] = {}
    for name, placeholder in zip(inputs, program.graph_signature.user_inputs):
        for axis, dim in axes.get(name, {}).items():
            symbols[str(nodes[str(placeholder)].meta["val"].shape[axis])] = dim.name
    result = {}
    for name, output in zip(names, program.graph_signature.user_outputs):
        shape: list[int | str] = []
        invented = []
        for axis, size in enumerate(nodes[str(output)].meta["val"].shape):
            if not isinstance(size, torch.SymInt):
                shape.append(int(size))
                continue
            label = symbols.get(str(size), f"{name}.{axis}")
            if label not in symbols.values():
                invented.append(DynamicDim(label, 0, (1 << 31) - 1))
            shape.append(label)
        result[name] = (tuple(shape), tuple(invented))
    return result


def _exporter() -> str:
    try:
        return f"aot_perception {metadata.version('aot_perception')}"
    except metadata.PackageNotFoundError:
        return "aot_perception (not installed)"


@contextlib.contextmanager
def _current_device(place: torch.device) -> Iterator[None]:
    """Make a CUDA device current, so that Inductor compiles for it."""
    import torch

    if place.type == "cuda":
        with torch.cuda.device(place):
            yield
    else:
        yield
