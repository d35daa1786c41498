# SPDX-License-Identifier: Apache-2.0
"""The live node's features from a file, without ROS: command `f3_offline`.

Packets of the file go through the same `EventStreamProcessor` and `F3Pipeline` as in `f3_node`, so the features are
the same, byte by byte, as those the node publishes when the file is replayed to it in lock-step with recorded stamps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aot_runtime.errors import AotError, InputError
from f3_ros.events.readers import open_events
from f3_ros.stream import EventStreamProcessor, StreamConfig, StreamWindow

if TYPE_CHECKING:
    from f3_ros.events.types import Packet
    from f3_ros.pipeline import F3Pipeline, F3Result


def stream_windows(packets: Iterable[Packet], processor: EventStreamProcessor) -> Iterator[StreamWindow]:
    """All windows of a finished stream, the open one at its end included."""
    for packet in packets:
        yield from processor.push(packet)
    yield from processor.flush()


def run_file(
    file: str | Path,
    pipeline: F3Pipeline,
    config: StreamConfig,
    *,
    start_us: int = 0,
    duration_us: int | None = None,
    packet_us: int = 4000,
    processor: EventStreamProcessor | None = None,
    **options: Any,
) -> Iterator[tuple[StreamWindow, F3Result]]:
    """Features of every window of a recording.

    Args:
        file: what `open_events` reads; `options` go there (topic, camera, sensor_size).
        pipeline: the loaded artifact.
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


class _Sink(Protocol):
    """Takes results one by one."""

    def add(self, index: int, item: StreamWindow, result: F3Result) -> None: ...

    def close(self) -> None: ...


class _NpyFolder:
    """One features_NNNNNN.npy (C, H, W) per window, and windows.npz with their times and counts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rows: list[tuple[int, int, int, int, int, bool]] = []

    def add(self, index: int, item: StreamWindow, result: F3Result) -> None:
        np.save(self._folder / f"features_{index:06d}.npy", result.features)
        self._rows.append(window_row(item, result))

    def close(self) -> None:
        columns: dict[str, Any] = window_columns(self._rows)
        np.savez(self._folder / "windows.npz", **columns)


class _Npz:
    """One .npz: features (windows, C, H, W) and the windows' times and counts. Holds everything in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._features: list[np.ndarray] = []
        self._rows: list[tuple[int, int, int, int, int, bool]] = []

    def add(self, index: int, item: StreamWindow, result: F3Result) -> None:
        self._features.append(result.features)
        self._rows.append(window_row(item, result))

    def close(self) -> None:
        features = np.stack(self._features) if self._features else np.zeros((0, 0, 0, 0), np.float32)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        columns: dict[str, Any] = {"features": features, **window_columns(self._rows)}
        np.savez(self._file, **columns)


class _Bag:
    """A rosbag2 (mcap) with the node's message on the node's topic, /f3/features. Needs no ROS."""

    def __init__(self, folder: Path) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        from f3_ros.events.readers.bag_types import event_typestore

        if folder.exists():
            raise InputError(f"expected a new bag, found {folder}", "remove it or choose another --output")
        self._store = event_typestore()
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connection = self._writer.add_connection("/f3/features", "sensor_msgs/msg/Image", typestore=self._store)

    def add(self, index: int, item: StreamWindow, result: F3Result) -> None:
        types = self._store.types
        channels, height, width = result.features.shape
        time = types["builtin_interfaces/msg/Time"](item.stamp_ns // 10**9, item.stamp_ns % 10**9)
        pixels = np.ascontiguousarray(result.features.transpose(1, 2, 0), "<f4")
        image = types["sensor_msgs/msg/Image"](
            header=types["std_msgs/msg/Header"](time, item.frame_id),
            height=height,
            width=width,
            encoding=f"32FC{channels}",
            is_bigendian=0,
            step=width * channels * 4,
            data=pixels.reshape(-1).view(np.uint8),
        )
        raw = self._store.serialize_cdr(image, "sensor_msgs/msg/Image")
        self._writer.write(self._connection, item.stamp_ns, raw)

    def close(self) -> None:
        self._writer.close()


def window_row(item: StreamWindow, result: F3Result) -> tuple[int, int, int, int, int, bool]:
    """stamp_ns, start_us, end_us, n_received, n_used, complete."""
    window = item.window
    return (item.stamp_ns, window.start_us, window.end_us, window.n_received, result.n_events_used, window.complete)


def window_columns(rows: Sequence[tuple[int, int, int, int, int, bool]]) -> dict[str, np.ndarray]:
    """The rows as arrays by name."""
    names = ("stamp_ns", "start_us", "end_us", "n_received", "n_used", "complete")
    columns = list(zip(*rows)) if rows else [()] * len(names)
    return {name: np.array(column, bool if name == "complete" else np.int64) for name, column in zip(names, columns)}


def make_sink(output: Path) -> _Sink:
    """By the name: X.npz one file, X.mcap a bag folder, anything else a folder of .npy files."""
    if output.suffix == ".npz":
        return _Npz(output)
    if output.suffix == ".mcap":
        return _Bag(output)
    return _NpyFolder(output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="f3_offline", description="F3 features of a recording, the same as the live node's."
    )
    parser.add_argument("file", type=Path, help="recording: .raw, .dat, .aedat4, HDF5, or a rosbag2")
    parser.add_argument("--artifact", type=Path, required=True, help="model made by export_f3_to_pt2")
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
        TextColumn("features"), BarColumn(), TextColumn("{task.completed:.2f} s"), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("features", total=None if total_us is None else total_us * 1e-6)
        yield lambda done_us: bar.update(task, completed=done_us * 1e-6)


def _run(arguments: argparse.Namespace) -> None:
    from f3_ros.parameters import stream_config
    from f3_ros.pipeline import F3Pipeline

    values = _parameters(arguments.params_file, arguments.param)
    pipeline = F3Pipeline(arguments.artifact, arguments.device, allow_list=arguments.allow_list)
    if pipeline.model.manifest.checkpoint.is_random:
        print("the artifact has random weights: its features mean nothing", file=sys.stderr)
    processor = EventStreamProcessor(config := stream_config(pipeline, values))
    options = {"topic": arguments.topic, "camera": arguments.camera, "sensor_size": arguments.sensor_size}
    if arguments.sensor_size:
        options["sensor_size"] = tuple(arguments.sensor_size)
    duration_us = round(arguments.duration * 1e6) or None
    with open_events(arguments.file, **options) as reader:
        for notice in reader.metadata.get("notices", ()):
            print(notice, file=sys.stderr)
        total_us = duration_us or reader.duration_us
    sink = make_sink(arguments.output)
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
                sink.add(n, item, result)
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
