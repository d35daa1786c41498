# SPDX-License-Identifier: Apache-2.0
"""Command `module_report`: every module of VitMatte compiled by itself, its error and its speed in two tables.

For each module: the inputs that it gets in one forward of the whole network are caught, and the module is run on them
in eager PyTorch (also in float64), as a `.pt2` and as an `.onnx`. The largest error against eager is also given
relative to the largest number that comes out, because some modules work on large ones. What fails becomes a row that
says why. Names of modules are those of Hugging Face.

    module_report --variant small --height 512 --width 512 --device cuda --markdown modules.md --json m.json
    module_report --variant tiny      a reduced network, for continuous integration
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.environment import Stamp, stamp
from aot_runtime.errors import AotError, InputError
from aot_runtime.files import atomic_write
from vitmatte_ros.config import CONFIGS, VitMatteConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from aot_runtime.runner import Runner
    from vitmatte_ros.model.vitmatte import VitMatte
    from vitmatte_ros.module_cases import Case

TINY = VitMatteConfig(
    "tiny",
    dim=32,
    heads=2,
    depth=4,
    window=3,
    windowed=(0, 2),
    residual=(1, 3),
    image_tokens=5,
    pretrain_grid=3,
    details=(8, 16, 24),
    fusion=(24, 16, 12, 8),
)
"""Every branch of the published networks at a size that compiles in seconds; that of golden/vitmatte."""
RUNTIMES = (".pt2", ".onnx")


@dataclass(frozen=True)
class Milliseconds:
    """Of one call: the best and the median of all runs."""

    best: float
    median: float


@dataclass
class Compiled:
    """What a module does as one kind of artifact; `failure` is a sentence where it does nothing."""

    max_abs: float | None = None
    relative: float | None = None
    time: Milliseconds | None = None
    compile_s: float | None = None
    failure: str = ""


@dataclass
class Row:
    """One module. `peak` is max |out| of eager; `float64_error` is of eager against the same in float64."""

    name: str
    shapes: str
    peak: float | None = None
    float64_error: float | None = None
    eager: Milliseconds | None = None
    compiled: dict[str, Compiled] = field(default_factory=dict)
    failure: str = ""


def report_row(case: Case, *, runs: int, device: torch.device, clock: str) -> Row:
    """Run one module in eager and as each kind of artifact; nothing that it raises leaves this function.

    Args:
        runs: timed calls of each, one after another in turn.
        clock: "wall", or "cpu" for the processor time of this process, which other processes disturb less.
    """
    import torch

    from aot_runtime.backends.aoti import exact_float32

    shapes = ", ".join("x".join(str(size) for size in tensor.shape) for tensor in case.inputs)
    row = Row(case.name, shapes)
    calls: dict[str, Callable[[], object]] = {}
    with (
        torch.no_grad(),
        exact_float32(device.type == "cuda"),
        tempfile.TemporaryDirectory(prefix="aot_module_") as folder,
    ):
        try:
            eager = case.module(*case.inputs)
            row.peak = max(float(tensor.abs().max()) for tensor in eager)
            precise = copy.deepcopy(case.module).double()(*(tensor.double() for tensor in case.inputs))
            row.float64_error = _worst(eager, precise)
            calls["eager"] = lambda: case.module(*case.inputs)
        except Exception as error:
            # Whatever a module raises belongs into its row.
            row.failure = _sentence(error)
            return row
        for suffix in RUNTIMES:
            found = row.compiled[suffix] = Compiled()
            start = time.perf_counter()
            try:
                runner = _compile(
                    case.exported.get(suffix, case.module), case.inputs, Path(folder) / f"m{suffix}", device
                )
                found.compile_s = time.perf_counter() - start
                found.max_abs = _worst(eager, runner.run(list(case.inputs)))
                found.relative = found.max_abs / row.peak if row.peak else found.max_abs
                calls[suffix] = lambda runner=runner: runner.run(list(case.inputs))  # type: ignore[misc]
            except Exception as error:
                found.failure = _sentence(error)
        times = _interleaved(calls, runs, device, clock)
    row.eager = times["eager"]
    for suffix, taken in times.items():
        if suffix in row.compiled:
            row.compiled[suffix].time = taken
    return row


def _compile(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, device: torch.device) -> Runner:
    import torch

    from aot_runtime.backends import aoti, onnx
    from aot_runtime.export import dtype_name
    from aot_runtime.manifest import TensorSpec
    from vitmatte_ros.deploy import inductor_options

    program = torch.export.export(module, inputs, strict=False)
    if path.suffix == ".pt2":
        aoti.compile_program(program, path, inductor_options(str(device)))
        return aoti.AotiRunner(path, device.type, device.index or 0, exact=True)
    specs = [TensorSpec(f"in{i}", dtype_name(x.dtype), tuple(x.shape)) for i, x in enumerate(inputs)]
    names = [f"out{i}" for i in range(len(program.graph_signature.user_outputs))]
    onnx.export_program(program, path, specs, names, onnx.OnnxOptions(), lambda _: None)
    return onnx.OnnxRunner(path, device.type, device.index or 0)


def _worst(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference; a NaN or another shape raises ValueError."""
    worst = 0.0
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"expected shape {tuple(one.shape)}, found {tuple(other.shape)}")
        difference = float((one.double() - other.double()).abs().max())
        if difference != difference:
            raise ValueError("expected numbers, found NaN")
        worst = max(worst, difference)
    return worst


def _interleaved(
    calls: Mapping[str, Callable[[], object]], runs: int, device: torch.device, clock: str
) -> dict[str, Milliseconds]:
    """Time all calls in turn, so that whatever else the machine does disturbs them alike; two rounds warm up."""
    import torch

    now = time.process_time if clock == "cpu" else time.perf_counter
    wait: Callable[[], object] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(2 + runs):
        for name, call in calls.items():
            wait()
            start = now()
            call()
            wait()
            if number >= 2:
                taken[name].append((now() - start) * 1e3)
    return {name: Milliseconds(min(samples), statistics.median(samples)) for name, samples in taken.items()}


def _sentence(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


@dataclass
class Report:
    """All rows, and what they were measured with."""

    model: str
    weights: str
    height: int
    width: int
    device: str
    clock: str
    runs: int
    stamp: Stamp
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def markdown(self) -> str:
        """The two tables."""
        head = (
            f"# VitMatte {self.model} module by module, {self.width} x {self.height}, {self.device}\n\n"
            f"Weights: {self.weights}. float32; inputs are those of one forward of the whole network. Milliseconds are "
            f"best (median) of {self.runs} runs in turn, {self.clock} time.\n\n{self.stamp.line()}\n\n"
        )
        errors = [
            "## Largest error against eager\n",
            "| Module | Input | `.pt2` | relative | `.onnx` | relative | eager against float64 | max abs of output |",
            "|---|---|---|---|---|---|---|---|",
        ]
        times = [
            "\n## Runtime, ms\n",
            "| Module | eager | `.pt2` | `.onnx` | seconds to compile (`.pt2`, `.onnx`) |",
            "|---|---|---|---|---|",
        ]
        notes = []
        for row in self.rows:
            kinds = [row.compiled.get(suffix, Compiled(failure=row.failure)) for suffix in RUNTIMES]
            cells = [cell for kind in kinds for cell in (_number(kind.max_abs), _number(kind.relative))]
            errors.append(_line(row.name, row.shapes, *cells, _number(row.float64_error), _number(row.peak)))
            took = ", ".join("failed" if kind.compile_s is None else f"{kind.compile_s:.0f}" for kind in kinds)
            times.append(_line(row.name, _time(row.eager), *(_time(kind.time) for kind in kinds), took))
            if row.failure:
                notes.append(f"* {row.name}, eager: {row.failure}")
            notes += [
                f"* {row.name}, {suffix}: {kind.failure}" for suffix, kind in row.compiled.items() if kind.failure
            ]
        failures = ["\n## Failures\n", *notes] if notes else []
        return head + "\n".join([*errors, *times, *failures]) + "\n"

    def failures(self) -> list[str]:
        """Names of the rows that are not whole."""
        return [row.name for row in self.rows if row.failure or any(kind.failure for kind in row.compiled.values())]


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.2g}"


def _time(value: Milliseconds | None) -> str:
    return "failed" if value is None else f"{value.best:.3g} ({value.median:.3g})"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def make_report(
    model: VitMatte,
    height: int,
    width: int,
    *,
    weights: str,
    device: str = "cpu",
    runs: int = 20,
    modules: Sequence[str] = ("*",),
    clock: str | None = None,
    progress: bool = True,
) -> Report:
    """All rows of a network at one size.

    Args:
        model: the network; it is moved to `device`.
        weights: where they come from, for people.
        modules: patterns of the names to report on ("VitDet*"); all by default.
        clock: see `report_row`; by default cpu for one thread on a CPU, else wall.

    Raises:
        InputError: no module fits, an impossible size, or no such device.
    """
    import torch

    from aot_runtime import golden
    from aot_runtime.progress import Steps
    from vitmatte_ros.deploy import check_size
    from vitmatte_ros.module_cases import cases

    check_size(height, width)
    if runs < 1:
        raise InputError(f"expected one or more runs, found {runs}")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"expected a CUDA device, found none for {device}", "use --device cpu")
    chosen = clock or ("cpu" if place.type == "cpu" and torch.get_num_threads() == 1 else "wall")
    drawn = golden.draw(golden.uniform(0.0, 1.0), (1, 4, height, width), golden.DEFAULT_SEED, 0)
    every = cases(model.to(place).eval(), torch.from_numpy(drawn).to(place))
    wanted = [case for case in every if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in modules)]
    if not wanted:
        raise InputError(
            f"expected patterns of names of modules, found none that fits {', '.join(modules)}",
            f"names are: {', '.join(case.name for case in every)}",
        )
    steps = Steps(f"VitMatte {model.config.name}", len(wanted), enabled=progress)
    rows = list(_rows(wanted, steps, runs, place, chosen))
    return Report(model.config.name, weights, height, width, device, chosen, runs, stamp(), rows)


def _rows(wanted: list[Case], steps: Any, runs: int, place: torch.device, clock: str) -> Iterator[Row]:
    for case in wanted:
        with steps.step(case.name):
            yield report_row(case, runs=runs, device=place, clock=clock)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 for whole tables, 1 where a row failed, 2 where there are none."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="module_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--variant", choices=(*CONFIGS, TINY.name), default="small", help="size of the network (default small)")
    add("--height", type=int, help="of the image (default 512; tiny 64)")
    add("--width", type=int, help="of the image (default 512; tiny 96)")
    add("-c", "--checkpoint", help="official checkpoint (default: random weights)")
    add("--seed", type=int, default=0, help="of random weights (default 0)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    add("--runs", type=int, default=20, help="timed runs of each (default 20)")
    add("--clock", choices=("cpu", "wall"), help="default: cpu for one thread on a CPU, else wall")
    add("--modules", default="*", help="names to report on, patterns with commas between (default *)")
    add("--markdown", metavar="FILE", help="where the tables go (default: standard output)")
    add("--json", metavar="FILE", help="where the same goes as data")
    return parser


def _run(options: argparse.Namespace) -> int:
    from vitmatte_ros.model.vitmatte import VitMatte
    from vitmatte_ros.weights import load_checkpoint

    tiny = options.variant == TINY.name
    model = VitMatte(TINY if tiny else CONFIGS[options.variant])
    weights = f"random, seed {options.seed}"
    if options.checkpoint is not None:
        info = load_checkpoint(model, options.checkpoint)
        weights = f"{info.file}, SHA-256 {info.sha256[:12]}"
    else:
        model.randomise(options.seed)
    report = make_report(
        model,
        options.height or (64 if tiny else 512),
        options.width or (96 if tiny else 512),
        weights=weights,
        device=options.device,
        runs=options.runs,
        modules=options.modules.split(","),
        clock=options.clock,
    )
    if options.json is not None:
        _write(options.json, json.dumps(report.as_dict(), indent=1) + "\n")
    if options.markdown is not None:
        _write(options.markdown, report.markdown())
    else:
        print(report.markdown(), end="")
    failed = report.failures()
    if failed:
        print(
            f"error: expected every module to compile and run, found failures in {', '.join(failed)}", file=sys.stderr
        )
    return 1 if failed else 0


def _write(path: str, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
