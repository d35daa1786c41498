# SPDX-License-Identifier: Apache-2.0
"""Command `run_exported`: compiled F3, depth and flow on one instant of a recording, or on all of it; pictures, times.

The flags of the official script `test_exported_pt2.py` mean what they mean there, and its five pictures are written
exactly; `--events` (any recording, not only M3ED), `--camera`, `--topic`, `--sensor_size`, `--all`, `--stride_ms`,
`--device`, `--output`, `--json`, `--cuda_graph` and `--allow_list` are ours. Flags may be spelt with dashes.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import AotError, ArtifactError, InputError
from aot_runtime.files import atomic_write
from f3_ros.instants import every_instant, instant, time_origin_us
from f3_ros.result_pictures import Painter, write_picture
from f3_ros.stage_latency import COMPILED, StageTime, count_stages, measure_stages, print_times, times_as_json

if TYPE_CHECKING:
    from aot_runtime.environment import Stamp
    from f3_ros.events.readers import EventReader
    from f3_ros.perception import PerceptionPipeline

DEFAULT_RECORDING = "car_urban_day_penno_small_loop_data.h5"
DEFAULT_TIME_MS = 30_000


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        _run(options, None if argv is None else ["run_exported", *argv])
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_exported", description=__doc__, allow_abbrev=False)

    def add(*names: str, **settings: Any) -> None:
        """An argument under its names with underscores, as in the official script, and with dashes."""
        spelt = [other for name in names for other in (name, "--" + name[2:].replace("_", "-"))]
        parser.add_argument(*dict.fromkeys(spelt), dest=names[0][2:], **settings)

    add("--f3_pt2_path", type=Path, required=True, metavar="FILE", help="F3, made by export_f3_to_pt2")
    add("--dav2_pt2_path", type=Path, metavar="FILE", help="depth head, made by export_dav2_to_pt2 (optional)")
    add("--flowhead_pt2_path", type=Path, metavar="FILE", help="flow head, by export_flowhead_to_pt2 (optional)")
    add(
        *("--h5_file", "--events"),
        type=Path,
        metavar="FILE",
        default=Path(DEFAULT_RECORDING),
        help=f"HDF5 (M3ED, DSEC, MVSEC, TartanAir), .raw, .dat, .aedat4 or rosbag2 (default {DEFAULT_RECORDING})",
    )
    add("--time_ms", type=int, help=f"end of the window, in the file's own time [ms] (default {DEFAULT_TIME_MS})")
    for head, name in (("depth", "dav2"), ("flow", "flow")):
        for side in ("height", "width"):
            add(f"--{name}_{side}", type=int, help=f"{side} of the {head} head: the artifact's, or an error")
    add("--runs", type=int, default=200, help="runs to measure, 0 for none (default 200)")
    add("--warmup_runs", type=int, default=20, help="runs before the clock starts (default 20)")
    add("--camera", choices=("left", "right"), default="left", help="camera of a file with two (default left)")
    add("--topic", help="event topic of a bag with several")
    add("--sensor_size", type=int, nargs=2, metavar=("W", "H"), help="if the file does not say")
    add("--all", action="store_true", help="every window of the file; pictures are numbered in a folder each")
    add("--stride_ms", type=int, help="with --all, from one window to the next (default: its length)")
    add("--device", help="cpu, cuda or cuda:N (default: what the F3 artifact was made for)")
    add("--output", type=Path, default=Path(), metavar="DIR", help="where pictures go (default: the current folder)")
    add("--json", metavar="FILE", help="write the times here as well ('-' for standard output, instead of tables)")
    add("--cuda_graph", action="store_true", help="measure replayed CUDA graphs too")
    add("--allow_list", type=Path, metavar="FILE", help="file of SHA-256 digests that may be loaded")
    return parser


def _run(options: argparse.Namespace, command: list[str] | None) -> None:
    _check(options)
    from aot_runtime.environment import stamp
    from f3_ros.events.readers import open_events

    size = tuple(options.sensor_size) if options.sensor_size else None
    with open_events(options.h5_file, topic=options.topic, camera=options.camera, sensor_size=size) as reader:
        _note(*reader.notices)
        pipeline = _load(options)
        try:
            _check_sizes(options, pipeline)
            _note(*pipeline.warnings)
            rows, told = _every(options, reader, pipeline) if options.all else _one(options, reader, pipeline)
            times = _measure(options, pipeline, rows) if options.runs else []
            _report(options, reader, pipeline, times, told, stamp(command))
        finally:
            pipeline.close()


def _check(options: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow happens."""
    if options.runs < 0 or options.warmup_runs < 0:
        raise InputError("expected counts of runs from 0, found a negative one")
    if options.all and options.time_ms is not None:
        raise InputError("expected either --all or --time_ms, found both", "leave one of them out")
    if options.stride_ms is not None and not options.all:
        raise InputError("expected --stride_ms only with --all, found it without", "add --all")
    if importlib.util.find_spec("cv2") is None:
        raise InputError(
            "expected the library OpenCV for pictures, found none",
            "install it with: python -m pip install opencv-python-headless",
        )
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"expected a folder for pictures, found a file {options.output}", "choose another --output")


def _load(options: argparse.Namespace) -> PerceptionPipeline:
    """The artifacts on one device.

    Raises:
        ArtifactError: one is missing, may not run here, is of another family, or does not fit the others.
    """
    from aot_runtime.progress import Steps
    from f3_ros.perception import PerceptionPipeline

    device = options.device or _device_of(options.f3_pt2_path)
    if options.cuda_graph and not device.startswith("cuda"):
        raise InputError(f"expected a CUDA device for --cuda_graph, found {device}", "leave the flag out")
    with Steps("run_exported", 1, enabled=sys.stderr.isatty()).step("load and test the artifacts"):
        return PerceptionPipeline.load(
            options.f3_pt2_path,
            device,
            depth=options.dav2_pt2_path,
            flow=options.flowhead_pt2_path,
            allow_list=options.allow_list,
        )


def _check_sizes(options: argparse.Namespace, pipeline: PerceptionPipeline) -> None:
    """The heads must have the sizes that the command line tells; those of a head that is not there do not matter.

    Raises:
        ArtifactError: one has another.
    """
    for family, flag in (("depth", "dav2"), ("flow", "flow")):
        head = pipeline.heads.get(family)
        given = (getattr(options, f"{flag}_height"), getattr(options, f"{flag}_width"))
        if head is None:
            continue
        wanted = tuple(own if side is None else side for side, own in zip(given, head.info.size))
        if wanted != head.info.size:
            height, width = head.info.size
            raise ArtifactError(
                f"expected a {family} head for {wanted[0]}x{wanted[1]} (height x width) as --{flag}_height and "
                f"--{flag}_width say, found one for {height}x{width} in {head.model.path}",
                "leave the flags out, or export the head for that size",
            )


def _device_of(path: Path) -> str:
    """The device an artifact was made for; what is wrong with a file without manifest is for `load_model` to say."""
    from aot_runtime.verdict import read_manifest

    try:
        return read_manifest(path).target.device
    except (AotError, OSError):
        return "cpu"


def _one(
    options: argparse.Namespace, reader: EventReader, pipeline: PerceptionPipeline
) -> tuple[np.ndarray, dict[str, Any]]:
    """The pictures of one instant. Returns the events that the networks saw, and what the JSON shall tell."""
    time_ms = DEFAULT_TIME_MS if options.time_ms is None else options.time_ms
    window = instant(reader, time_ms, pipeline.f3.window_us)
    if not window.complete:
        _note(f"the window {window.start_us / 1e3:g} .. {time_ms} ms reaches out of the recording")
    painter = Painter(pipeline, (reader.width, reader.height))
    result = pipeline.process(window, reader.width, reader.height)
    _note(*result.warnings)
    if result.n_events_used == 0:
        raise InputError(
            f"expected events on the network's {pipeline.f3.width}x{pipeline.f3.height} pixels, found "
            f"{window.n_received} outside of them in {reader.path}",
            "choose another instant, or an F3 for this sensor",
        )
    pictures = painter.paint(window, result)
    for name, picture in pictures.items():
        write_picture(options.output / f"{name}.png", picture)
    _note(
        f"{time_ms} ms: {result.n_events_used} of {window.n_received} events; "
        f"{', '.join(f'{name}.png' for name in pictures)} are in {options.output.resolve()}"
    )
    return pipeline.f3.thin(painter.rows(window)), {
        "time_ms": time_ms,
        "events": window.n_received,
        "events_used": result.n_events_used,
        "complete": window.complete,
        "pictures": list(pictures),
    }


def _every(
    options: argparse.Namespace, reader: EventReader, pipeline: PerceptionPipeline
) -> tuple[np.ndarray, dict[str, Any]]:
    """Numbered pictures of every window that holds events, and `windows.csv` about them.

    Returns the events of the fullest window, which the stages are measured on, and what the JSON shall tell.
    """
    painter = Painter(pipeline, (reader.width, reader.height))
    fullest = np.zeros((0, 4), np.float32)
    lines: list[WindowLine] = []
    pictures: dict[str, np.ndarray] = {}
    with _progress(reader) as show:
        for number, window in enumerate(every_instant(reader, pipeline.f3.window_us, options.stride_ms)):
            start = time.perf_counter()
            result = pipeline.process(window, reader.width, reader.height)
            took_ms = (time.perf_counter() - start) * 1e3
            pictures = painter.paint(window, result)
            for name, picture in pictures.items():
                write_picture(options.output / name / f"{number:06d}.png", picture)
            used = result.n_events_used
            lines.append(WindowLine(number, window.end_us // 1000, window.n_received, used, window.complete, took_ms))
            if used > len(fullest):
                fullest = pipeline.f3.thin(painter.rows(window))
            show(window.end_us)
    if not len(fullest):
        raise InputError(
            f"expected events on the network's {pipeline.f3.width}x{pipeline.f3.height} pixels, found none in "
            f"{reader.path}",
            "choose an F3 for this sensor",
        )
    write_lines(options.output / "windows.csv", lines)
    left_out = sum(line.events - line.events_used for line in lines)
    _note(
        f"{len(lines)} windows of {sum(line.events for line in lines)} events, {left_out} of them left out; "
        f"windows.csv and the folders {', '.join(pictures)} are in {options.output.resolve()}"
    )
    return fullest, {"windows": [asdict(line) for line in lines], "pictures": list(pictures)}


@dataclass(frozen=True)
class WindowLine:
    """A line of `windows.csv`.

    Attributes:
        number: in the names of the pictures.
        time_ms: end of the window in the file's own time.
        events, events_used: before and after thinning and the frame.
        complete: whether the recording covers the window.
        process_ms: events on the host to results on the host, one run; the first window warms up.
    """

    number: int
    time_ms: int
    events: int
    events_used: int
    complete: bool
    process_ms: float


def write_lines(path: Path, lines: Sequence[WindowLine]) -> None:
    """The table as CSV, whole or not at all."""
    names = [field.name for field in fields(WindowLine)]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for line in lines:
            row = {**asdict(line), "complete": int(line.complete), "process_ms": f"{line.process_ms:.3f}"}
            writer.writerow([row[name] for name in names])


def _measure(options: argparse.Namespace, pipeline: PerceptionPipeline, rows: np.ndarray) -> list[StageTime]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    rounds = count_stages(pipeline.heads.keys(), options.cuda_graph) * (options.runs + options.warmup_runs)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=rounds)
        return measure_stages(
            pipeline,
            rows,
            runs=options.runs,
            warmup_runs=options.warmup_runs,
            cuda_graph=options.cuda_graph,
            on_run=lambda: progress.advance(task),
        )


def _report(
    options: argparse.Namespace,
    reader: EventReader,
    pipeline: PerceptionPipeline,
    times: Sequence[StageTime],
    told: Mapping[str, Any],
    environment: Stamp,
) -> None:
    """The table, or the JSON; both hold what was run, on what, and where."""
    models: dict[str, dict[str, Any]] = {
        name: {
            "file": str(model.path),
            "model": f"{model.manifest.family} {model.manifest.variant}",
            "precision": model.manifest.precision,
            "size": list(pipeline.f3.feature_shape[1:] if name == "f3" else pipeline.heads[name].info.size),
            "random_weights": model.manifest.checkpoint.is_random,
        }
        for name, model in pipeline.models.items()
    }
    if options.json:
        text = times_as_json(
            times,
            {
                "recording": {"file": str(reader.path), "format": reader.format, "size": [reader.width, reader.height]},
                "device": str(pipeline.f3.model.device),
                "models": models,
                **told,
            },
            environment,
        )
        if options.json == "-":
            print(text)
            return
        try:
            with atomic_write(options.json) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"expected to write {options.json}, found {error.strerror or error}", "choose another --json"
            ) from error
    if times:
        title = "; ".join(
            f"{one['model']} {one['precision']} {one['size'][1]}x{one['size'][0]}" for one in models.values()
        )
        print_times(times, title, environment)
        total = [row for row in times if row.mode == COMPILED][-1].timing
        print(f"Average inference time over {total.runs} runs: {total.mean_ms:.2f} ms")


def _note(*texts: str) -> None:
    for text in texts:
        print(text, file=sys.stderr)


@contextmanager
def _progress(reader: EventReader) -> Iterator[Callable[[int], None]]:
    """A function that takes the file's own time reached [us]."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    total = reader.duration_us
    first = (reader.t_first_us or 0) - time_origin_us(reader)
    with Progress(
        TextColumn("windows"), BarColumn(), TextColumn("{task.completed:.2f} s"), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("windows", total=None if total is None else total * 1e-6)
        yield lambda time_us: bar.update(task, completed=(time_us - first) * 1e-6)


if __name__ == "__main__":
    sys.exit(main())
