# SPDX-License-Identifier: Apache-2.0
"""The live node's features, depth and flow from a file, without ROS: command `f3_offline`.

Packets of the file go through the same `EventStreamProcessor`, `PerceptionPipeline` and `finish_heads` as in `f3_node`,
so the results are the same, byte by byte, as those the node publishes when the file is replayed to it in lock-step with
recorded stamps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from aot_runtime.errors import AotError, InputError
from f3_ros.events.readers import open_events
from f3_ros.result_files import make_sink
from f3_ros.stream import EventStreamProcessor, StreamConfig, StreamWindow

if TYPE_CHECKING:
    from f3_ros.events.types import Packet
    from f3_ros.events.windows import EventWindow
    from f3_ros.head_outputs import HeadOptions
    from f3_ros.perception import PerceptionPipeline, PerceptionResult

Result_co = TypeVar("Result_co", covariant=True)


class Pipeline(Protocol[Result_co]):
    """What turns windows into results: an `F3Pipeline` or a `PerceptionPipeline`."""

    def process(self, window: EventWindow, width: int, height: int) -> Result_co: ...


def stream_windows(packets: Iterable[Packet], processor: EventStreamProcessor) -> Iterator[StreamWindow]:
    """All windows of a finished stream, the open one at its end included."""
    for packet in packets:
        yield from processor.push(packet)
    yield from processor.flush()


def run_file(
    file: str | Path,
    pipeline: Pipeline[Result_co],
    config: StreamConfig,
    *,
    start_us: int = 0,
    duration_us: int | None = None,
    packet_us: int = 4000,
    processor: EventStreamProcessor | None = None,
    **options: Any,
) -> Iterator[tuple[StreamWindow, Result_co]]:
    """The pipeline's result of every window of a recording.

    Args:
        file: what `open_events` reads; `options` go there (topic, camera, sensor_size).
        pipeline: the loaded artifacts.
        config: how to cut windows; `f3_ros.parameters.stream_config` gives the node's defaults.
        start_us, duration_us, packet_us: see `EventReader.packets`; the same as in the replay for the same features.
        processor: to look at its counters afterwards; made from `config` otherwise.

    Raises:
        InputError: the file cannot be read, or its sensor is larger than the model's frame.
    """
    processor = processor or EventStreamProcessor(config)
    with open_events(Path(file), **options) as reader:
        packets = reader.packets(start_us=start_us, duration_us=duration_us, packet_us=packet_us)
        for item in stream_windows(packets, processor):
            yield item, pipeline.process(item.window, item.width, item.height)


def published_arrays(
    pipeline: PerceptionPipeline, item: StreamWindow, result: PerceptionResult, options: HeadOptions
) -> dict[str, np.ndarray]:
    """What the node publishes of a window, by the names of its topics: float32 (H, W), or channels first (C, H, W)."""
    from f3_ros.head_outputs import depth_topic, finish_heads

    heads = finish_heads(pipeline, result, item.window, item.width, item.height, options)
    arrays: dict[str, np.ndarray] = {}
    if result.features is not None:
        arrays["features"] = result.features
    if heads.depth is not None:
        arrays[depth_topic(pipeline.head_infos["depth"])] = heads.depth
    if heads.flow is not None:
        arrays["flow"] = heads.flow.transpose(2, 0, 1)
    return arrays


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="f3_offline", description="F3 features, depth and flow of a recording, the same as the live node's."
    )
    parser.add_argument("file", type=Path, help="recording: .raw, .dat, .aedat4, HDF5, or a rosbag2")
    parser.add_argument("--artifact", type=Path, required=True, help="model made by export_f3_to_pt2")
    parser.add_argument("--depth", type=Path, help="depth head for its features, made by export_dav2_to_pt2")
    parser.add_argument("--flow", type=Path, help="flow head for its features, made by export_flowhead_to_pt2")
    parser.add_argument("--no-features", action="store_true", help="write depth and flow only")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder (.npy each), FILE.npz, or FOLDER.mcap (a bag)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    parser.add_argument("--start", type=float, default=0.0, help="seconds to skip")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds to read; 0: to the end")
    parser.add_argument("--packet-us", type=int, default=4000, help="packet length for files without packets [us]")
    parser.add_argument("--topic", help="topic of a bag with several")
    parser.add_argument("--camera", default="left", choices=("left", "right"), help="camera of a file with two")
    parser.add_argument("--sensor-size", type=int, nargs=2, metavar=("W", "H"), help="if the file does not say")
    parser.add_argument("--params-file", type=Path, help="parameters of the node, e.g. config/f3.yaml")
    parser.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="a parameter of the node"
    )
    return parser


def _parameters(file: Path | None, given: Sequence[str]) -> dict[str, Any]:
    """Node parameters by name from a ROS parameter file and NAME:=VALUE arguments, which win."""
    import yaml

    values: dict[str, Any] = {}
    if file is not None:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            for section in document.values():
                values.update(section["ros__parameters"])
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"expected a ROS parameter file, found something else in {file} ({error})") from error
    for text in given:
        name, separator, value = text.partition(":=")
        if not separator:
            raise InputError(f"expected NAME:=VALUE, found '{text}'")
        values[name] = yaml.safe_load(value)
    return values


@contextmanager
def _progress(total_us: int | None) -> Iterator[Any]:
    """A function that takes the sensor time covered so far [us]."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("windows"), BarColumn(), TextColumn("{task.completed:.2f} s"), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("windows", total=None if total_us is None else total_us * 1e-6)
        yield lambda done_us: bar.update(task, completed=done_us * 1e-6)


def _load(arguments: argparse.Namespace) -> PerceptionPipeline:
    """The artifacts, with a word on those that mean nothing."""
    from f3_ros.perception import PerceptionPipeline

    pipeline = PerceptionPipeline.load(
        arguments.artifact,
        arguments.device,
        depth=arguments.depth,
        flow=arguments.flow,
        allow_list=arguments.allow_list,
    )
    for family, model in pipeline.models.items():
        if model.manifest.checkpoint.is_random:
            what = "its features mean" if family == "f3" else f"its {family} means"
            print(f"the {family} artifact has random weights: {what} nothing", file=sys.stderr)
    for text in pipeline.warnings:
        print(text, file=sys.stderr)
    return pipeline


def _run(arguments: argparse.Namespace) -> None:
    from f3_ros.head_outputs import describe_heads
    from f3_ros.parameters import head_options, stream_config

    values = _parameters(arguments.params_file, arguments.param)
    if arguments.no_features and not (arguments.depth or arguments.flow):
        raise InputError("expected something to write, found --no-features without --depth and --flow")
    heads = head_options(values)
    pipeline = _load(arguments)
    processor = EventStreamProcessor(config := stream_config(pipeline.f3, values))
    options = {"topic": arguments.topic, "camera": arguments.camera, "sensor_size": arguments.sensor_size}
    if arguments.sensor_size:
        options["sensor_size"] = tuple(arguments.sensor_size)
    duration_us = round(arguments.duration * 1e6) or None
    with open_events(arguments.file, **options) as reader:
        for notice in reader.metadata.get("notices", ()):
            print(notice, file=sys.stderr)
        total_us = duration_us or reader.duration_us
    sink = make_sink(arguments.output, describe_heads(pipeline.head_infos))
    n = used = 0
    first_us = None
    with _progress(total_us) as show:
        results = run_file(
            arguments.file,
            pipeline,
            config,
            start_us=round(arguments.start * 1e6),
            duration_us=duration_us,
            packet_us=arguments.packet_us,
            processor=processor,
            **options,
        )
        try:
            for item, result in results:
                arrays = published_arrays(pipeline, item, result, heads)
                if arguments.no_features:
                    arrays.pop("features", None)
                sink.add(n, item, arrays, result.n_events_used)
                n, used = n + 1, used + result.n_events_used
                first_us = item.window.start_us if first_us is None else first_us
                show(item.window.end_us - first_us)
        finally:
            sink.close()
    lost = ", ".join(f"{count} {cause}" for cause, count in sorted(processor.drops().items())) or "nothing"
    print(f"{arguments.output}: {n} windows, {used} events used; lost: {lost}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command `f3_offline`."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
