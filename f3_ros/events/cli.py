# SPDX-License-Identifier: Apache-2.0
"""The command `events`: describe, convert, simulate and plot event recordings."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.errors import AotError, InputError
from f3_ros.events.packetize import ENCODINGS, packets_from_chunks
from f3_ros.events.readers import EventReader, open_events
from f3_ros.events.summary import Summary, summarise

if TYPE_CHECKING:
    from f3_ros.events.types import Events, Packet

_UPSTREAM_ENCODINGS = ("evt3", "libcaer", "libcaer_cmp", "mono")
_KINDS = "Prophesee .raw and .dat, AEDAT4, HDF5 (M3ED, DSEC, MVSEC, TartanAir), rosbag2 (folder, .mcap, .db3)"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 2 after an error that is printed in one line."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.strerror or error} ({error.filename or 'file system'})", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="events", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser(
        "info",
        help="what a recording holds",
        description=f"Describe a recording: size, counts, rates, drops. {_KINDS}.",
    )
    _reading(info)
    _part(info)
    info.add_argument("--json", action="store_true", help="print JSON instead of a table")
    info.set_defaults(run=_info)

    convert = commands.add_parser(
        "convert",
        help="to HDF5, rosbag2 or RAW",
        description="Convert any readable recording. OUT's name decides: .h5 or .hdf5 gives HDF5 in M3ED's layout, "
        ".raw a Prophesee RAW file (EVT3), .mcap or .db3 a single bag file, any other name a rosbag2 folder of "
        "EventPackets.",
    )
    _reading(convert)
    convert.add_argument("out", type=Path, metavar="OUT", help="what to write")
    _part(convert)
    _packets(convert)
    convert.add_argument(
        "--encoding",
        choices=ENCODINGS,
        help="encoding of the packets in a bag; default: the recording's own words where ROS decoders know them "
        "(evt3, libcaer, libcaer_cmp, mono), else evt3",
    )
    _force(convert)
    convert.set_defaults(run=_convert)

    simulate = commands.add_parser(
        "simulate",
        help="a textured room before a moving event camera",
        description="Simulate events of a textured room under 6-DoF camera motion, deterministic per seed. OUT's name "
        "decides as in convert; .h5 also holds exact depth, optical flow, poses and noise marks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    simulate.add_argument("out", type=Path, metavar="OUT", help="what to write")
    simulate.add_argument("--width", type=_positive, default=346, help="sensor width [px]")
    simulate.add_argument("--height", type=_positive, default=260, help="sensor height [px]")
    simulate.add_argument("--duration", type=float, default=0.5, help="length [s]")
    simulate.add_argument("--seed", type=int, default=1, help="textures, motion, thresholds, noise")
    simulate.add_argument("--speed", type=float, default=1.0, help="factor on all velocities")
    simulate.add_argument("--threshold", type=float, default=0.25, help="contrast threshold in log intensity")
    simulate.add_argument("--noise-hz", type=float, default=0.1, help="background activity per pixel [Hz]")
    simulate.add_argument("--hot-pixels", type=int, default=8, help="pixels that fire at 500 Hz")
    simulate.add_argument("--gt-us", type=int, default=50_000, help="interval of the ground truth [us]; 0 = none")
    simulate.add_argument("--step-us", type=_positive, default=250, help="time between rendered frames [us]")
    simulate.add_argument("--no-moving-object", action="store_true", help="leave out the board that moves by itself")
    _packets(simulate)
    simulate.add_argument("--encoding", choices=ENCODINGS, default="evt3", help="encoding of the packets in a bag")
    _force(simulate)
    simulate.set_defaults(run=_simulate)

    plot = commands.add_parser(
        "plot",
        help="picture of a window and the rate curve",
        description="Write a PNG: the events of one window (ON blue, OFF red) above the event rate over time.",
    )
    _reading(plot)
    plot.add_argument("out", type=Path, metavar="OUT.png", help="picture to write")
    plot.add_argument("--time-ms", type=float, help="start of the window after the first event; default: the middle")
    plot.add_argument("--window-ms", type=float, default=20.0, help="length of the window (default: 20)")
    plot.set_defaults(run=_plot)
    return parser


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="recording: file or bag folder")
    parser.add_argument("--topic", help="event topic of a bag; default: the only one")
    parser.add_argument("--camera", default="left", help="camera of an HDF5 file with two (default: left)")
    parser.add_argument(
        "--sensor-size", type=_size, metavar="WxH", help="sensor size, for files that do not say it themselves"
    )
    parser.add_argument("--rectify", action="store_true", help="DSEC: move events to rectified pixels")


def _part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="skip this much [s]")
    parser.add_argument("--duration", type=float, metavar="S", help="read this much [s]; default: all")


def _packets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="storage of a bag folder")
    parser.add_argument("--out-topic", default="/event_camera/events", help="topic in the bag")
    parser.add_argument("--packet-us", type=_positive, default=4000, help="sensor time per packet [us] in a bag")


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text}")
    return value


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a size like 640x480, found {text}")
    return int(width), int(height)


def _open(arguments: argparse.Namespace) -> EventReader:
    reader = open_events(
        arguments.file,
        topic=arguments.topic,
        camera=arguments.camera,
        sensor_size=arguments.sensor_size,
        rectify=arguments.rectify,
    )
    for notice in reader.notices:
        print(f"notice: {notice}", file=sys.stderr)
    return reader


def _range(arguments: argparse.Namespace) -> tuple[int, int | None]:
    duration = None if arguments.duration is None else round(arguments.duration * 1e6)
    return round(arguments.start * 1e6), duration


@contextlib.contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal; yields the function that takes what is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def _watched(chunks: Iterator[Events], report: Callable[[int], None]) -> Iterator[Events]:
    """The same chunks, reporting the sensor time since the first event."""
    first: int | None = None
    for events in chunks:
        first = int(events.t[0]) if first is None else first
        yield events
        report(int(events.t[-1]) - first)


# ---------------------------------------------------------------------------------------------- info


def _info(arguments: argparse.Namespace) -> int:
    start, duration = _range(arguments)
    with _open(arguments) as reader, _progress("reading", reader.duration_us) as report:
        summary = summarise(reader, start, duration, report)
    if arguments.json:
        print(json.dumps(summary.to_dict(), indent=2, default=str))
    else:
        _print_table(summary)
    return 0


def _print_table(summary: Summary) -> None:
    from rich.table import Table

    from aot_runtime.progress import table_console

    table = Table(show_header=False, title=summary.path)
    n, on = summary.n_events, summary.n_on
    table.add_row("format", f"{summary.format}, {summary.encoding}")
    table.add_row("sensor", f"{summary.width} x {summary.height} ({summary.metadata.get('geometry_source', 'file')})")
    table.add_row("events", f"{n:,}")
    if summary.t_first_us is not None:
        table.add_row("duration", f"{summary.duration_us / 1e6:.6f} s")
        table.add_row("sensor time", f"{summary.t_first_us} .. {summary.t_last_us} us")
        table.add_row("rate", f"{summary.rate_per_s / 1e6:.3f} Mev/s")
        table.add_row("polarity", f"{on:,} ON ({on / n:.1%}), {n - on:,} OFF")
        per_ms = summary.per_ms
        table.add_row(
            "events per ms",
            f"mean {per_ms['mean']:.1f}, p50 {per_ms['p50']:.0f}, p99 {per_ms['p99']:.0f}, max {per_ms['max']:.0f}, "
            f"{per_ms['quiet_fraction']:.1%} quiet",
        )
        table.add_row("time steps back", f"{summary.time_steps_back:,}")
    table.add_row("triggers", f"{summary.n_triggers:,}")
    dropped = [f"{cause}: {count:,}" for cause, count in summary.dropped.items()]
    table.add_row("dropped", "\n".join(dropped) or "nothing")
    for key, value in summary.metadata.items():
        table.add_row(f"[dim]{key}[/dim]", f"[dim]{value}[/dim]")
    table_console().print(table)


# ---------------------------------------------------------------------------------------------- convert


def _kind(out: Path) -> str:
    return {".h5": "h5", ".hdf5": "h5", ".raw": "raw"}.get(out.suffix.lower(), "bag")


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise InputError(f"expected a new name, found an existing {out}", "choose another or add --force")
    if _kind(out) == "bag" and out.suffix not in ("", ".mcap", ".db3") and not out.is_dir():
        raise InputError(
            f"expected OUT named .h5, .raw, .mcap, .db3 or a folder name without a dot, found {out.name}",
            "choose another name",
        )


def _convert(arguments: argparse.Namespace) -> int:
    from f3_ros.events.writers import write_m3ed_h5, write_packet_bag, write_raw

    start, duration = _range(arguments)
    out: Path = arguments.out
    if out.exists() and arguments.file.exists() and out.samefile(arguments.file):
        raise InputError(f"expected OUT to differ from FILE, found both to be {out}", "choose another name")
    _check_out(out, arguments.force)
    with _open(arguments) as reader, _progress("converting", duration or reader.duration_us) as report:
        if _kind(out) == "bag":
            native = reader.encoding if reader.encoding in _UPSTREAM_ENCODINGS else "evt3"
            packets = reader.packets(start, duration, arguments.packet_us, encoding=arguments.encoding or native)
            stamps = _watched_packets(packets, report)
            n = write_packet_bag(
                out, stamps, storage=arguments.storage, topic=arguments.out_topic, overwrite=arguments.force
            )
            print(f"{out}: {n} packets")
            return 0
        chunks = _watched(reader.chunks(start, duration), report)
        write = write_m3ed_h5 if _kind(out) == "h5" else write_raw
        print(f"{out}: {write(out, chunks, reader.width, reader.height)} events")
        for cause, count in sorted(reader.stats.dropped.items()):
            if count:
                print(f"dropped {cause}: {count}", file=sys.stderr)
    return 0


def _watched_packets(packets: Iterator[Packet], report: Callable[[int], None]) -> Iterator[Packet]:
    """The same packets, reporting the time since the first stamp in microseconds."""
    first: int | None = None
    for packet in packets:
        first = packet.stamp_ns if first is None else first
        yield packet
        report((packet.stamp_ns - first) // 1000)


# ---------------------------------------------------------------------------------------------- simulate


def _simulate(arguments: argparse.Namespace) -> int:
    from f3_ros.events.simulator import SensorParams, batches, demo_scene, simulate, write_simulation_h5
    from f3_ros.events.writers import write_packet_bag, write_raw

    out: Path = arguments.out
    _check_simulation(arguments)
    _check_out(out, arguments.force)
    threshold = arguments.threshold
    sensor = SensorParams(threshold, threshold, 0.15 * threshold, 100, arguments.noise_hz, arguments.hot_pixels, 500.0)
    scene = demo_scene(
        arguments.width, arguments.height, arguments.seed, arguments.speed, not arguments.no_moving_object
    )
    simulation = simulate(scene, arguments.duration, arguments.step_us, sensor, arguments.seed)
    with _progress("simulating", simulation.n_steps) as report:
        if _kind(out) == "h5":
            names = "width height duration seed speed threshold noise_hz hot_pixels gt_us step_us no_moving_object"
            params = {name: getattr(arguments, name) for name in names.split()}
            n = write_simulation_h5(out, simulation, gt_us=arguments.gt_us, params=params, progress=report)
            print(f"{out}: {n} events")
            return 0
        chunks = (events for events, _ in batches(simulation, report))
        if _kind(out) == "raw":
            print(f"{out}: {write_raw(out, chunks, arguments.width, arguments.height)} events")
            return 0
        packets = packets_from_chunks(
            chunks, arguments.width, arguments.height, encoding=arguments.encoding, packet_us=arguments.packet_us
        )
        n = write_packet_bag(
            out, packets, storage=arguments.storage, topic=arguments.out_topic, overwrite=arguments.force
        )
        print(f"{out}: {n} packets")
    return 0


def _check_simulation(arguments: argparse.Namespace) -> None:
    checks = (
        ("--duration", arguments.duration, 0 < arguments.duration <= 3600, "above 0 and up to 3600 s"),
        ("--threshold", arguments.threshold, 0.02 <= arguments.threshold <= 5, "in 0.02..5"),
        ("--noise-hz", arguments.noise_hz, 0 <= arguments.noise_hz <= 1e4, "in 0..10000"),
        ("--hot-pixels", arguments.hot_pixels, 0 <= arguments.hot_pixels <= 10**6, "in 0..1000000"),
        ("--seed", arguments.seed, 0 <= arguments.seed < 1 << 32, "in 0..2^32-1"),
        ("--speed", arguments.speed, 0 <= arguments.speed <= 100, "in 0..100"),
        ("--width", arguments.width, arguments.width <= 8192, "up to 8192"),
        ("--height", arguments.height, arguments.height <= 8192, "up to 8192"),
        ("--gt-us", arguments.gt_us, arguments.gt_us >= 0, "from 0 on"),
    )
    for flag, value, ok, expected in checks:
        if not ok:
            raise InputError(f"expected {flag} {expected}, found {value}", "give another value")


# ---------------------------------------------------------------------------------------------- plot


def _plot(arguments: argparse.Namespace) -> int:
    from f3_ros.events.plot import plot_recording

    if arguments.window_ms <= 0 or (arguments.time_ms is not None and arguments.time_ms < 0):
        raise InputError(
            f"expected --window-ms above 0 and --time-ms from 0 on, "
            f"found {arguments.window_ms} and {arguments.time_ms}",
            "give other values",
        )
    with _open(arguments) as reader, _progress("plotting", reader.duration_us) as report:
        start = None if arguments.time_ms is None else round(arguments.time_ms * 1000)
        n = plot_recording(
            reader, arguments.out, start_us=start, window_us=round(arguments.window_ms * 1000), progress=report
        )
    print(f"{arguments.out}: {n} events in the window")
    return 0


if __name__ == "__main__":
    sys.exit(main())
