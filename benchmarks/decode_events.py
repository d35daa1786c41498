# SPDX-License-Identifier: Apache-2.0
"""Speed of the event path on one core: decoding alone, and decoding + windows + tensors.

    python benchmarks/decode_events.py ../shared/data/events/evt3_gen41_1280x720.raw

Takes any EVT 3.0 .raw file, repeats it in memory with its time going on, cuts it into packets and measures CPU time
of the thread (the machine may be shared), best and median of several runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aot_runtime.errors import AotError, InputError  # noqa: E402
from f3_ros.events.binning import events_to_tensor  # noqa: E402
from f3_ros.events.codecs import Evt3Encoder, make_decoder  # noqa: E402
from f3_ros.events.packet_decoder import PacketDecoder  # noqa: E402
from f3_ros.events.types import Events, Packet  # noqa: E402
from f3_ros.events.windows import EventWindower, WindowConfig  # noqa: E402

SHARED = Path(os.environ.get("AOT_PERCEPTION_SHARED", ROOT.parent / "shared"))
DEFAULT = SHARED / "data" / "events" / "evt3_gen41_1280x720.raw"


def environment() -> str:
    """One line that says where the numbers come from."""
    import numba

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{cpu}, {os.cpu_count()} cores{load}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"
    )


def read_raw(path: Path) -> np.ndarray:
    """Words of an EVT 3.0 .raw file."""
    if not path.is_file():
        raise InputError(f"expected a recording, found nothing at {path}", "give the path of an EVT 3.0 .raw file")
    data = path.read_bytes()
    start = 0
    header = []
    while data[start : start + 2] == b"% ":
        end = data.index(b"\n", start) + 1
        header.append(data[start:end])
        start = end
    if not any(line.lower().startswith((b"% evt 3", b"% format evt3")) for line in header):
        raise InputError(f"expected an EVT 3.0 recording, found another format in {path}")
    return np.frombuffer(data, "<u2", (len(data) - start) // 2, start)


def repeated_packets(words: np.ndarray, repeats: int, width: int, height: int, packet_us: int) -> list[Packet]:
    """The recording again and again as packets, with the camera's own words and only TIME_HIGH moved on."""
    high = (words >> 12) == 8
    times = words[high].astype(np.int64) & 0xFFF
    wraps = np.cumsum(np.diff(times, prepend=times[0]) < -2048) * 4096
    times += wraps
    span = int(times[-1] - times[0]) + 1
    packets = []
    n_packets = max(1, (span * 4096) // packet_us)
    cuts = np.linspace(0, len(words), n_packets + 1).astype(int)
    for i in range(repeats):
        copy = words.copy()
        copy[high] = (0x8000 | ((times + i * span) & 0xFFF)).astype(np.uint16)
        for a, b in itertools.pairwise(cuts):
            seq = len(packets)
            packets.append(
                Packet(seq * packet_us * 1000, "", width, height, seq, 0, "evt3", False, copy[a:b].tobytes())
            )
    return packets


def measure(work: Callable[[], int], runs: int) -> dict[str, float]:
    """Million events per second of thread CPU time; `work` returns its number of events."""
    work()  # compile, touch the memory
    rates = []
    for _ in range(runs):
        start = time.thread_time()
        n = work()
        rates.append(n / (time.thread_time() - start) / 1e6)
    return {"best": round(max(rates), 1), "median": round(float(np.median(rates)), 1)}


def main(argv: list[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description="Measure event decoding, windows and tensors on one core.")
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT, help="EVT 3.0 .raw file")
    parser.add_argument("--size", nargs=2, type=int, default=(1280, 720), metavar=("W", "H"), help="sensor size")
    parser.add_argument("--repeats", type=int, default=100, help="how often to repeat the recording")
    parser.add_argument("--packet-us", type=int, default=1000, help="length of a packet, microseconds")
    parser.add_argument("--window-us", type=int, default=20_000, help="length of a window, microseconds")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    try:
        words = read_raw(arguments.file)
        result = run(words, arguments)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(result["environment"])
    print(
        f"{arguments.file.name} x {arguments.repeats}: {result['events']:,} events in {result['packets']:,} packets, "
        f"{result['bytes_per_event']:.2f} bytes per event"
    )
    print(f"{'Mev per second of CPU time':<34}{'best':>8}{'median':>8}")
    for name, rate in result["mev_per_s"].items():
        print(f"{name:<34}{rate['best']:>8.1f}{rate['median']:>8.1f}")
    return 0


def run(words: np.ndarray, arguments: argparse.Namespace) -> dict:
    """All measurements."""
    width, height = arguments.size
    packets = repeated_packets(words, arguments.repeats, width, height, arguments.packet_us)
    payloads = [packet.events for packet in packets]
    config = WindowConfig(duration_us=arguments.window_us)

    def decode() -> int:
        decoder = make_decoder("evt3", width, height)
        return sum(len(decoder.decode(payload)) for payload in payloads)

    def decode_packets() -> int:
        decoder = PacketDecoder()
        return sum(len(decoder.decode(packet).events) for packet in packets)

    def windows(tensors: bool) -> int:
        decoder, windower = PacketDecoder(), EventWindower(config)
        out = np.empty((config.max_events or 0, 4), np.float32)
        n = 0
        for packet in packets:
            decoded = decoder.decode(packet)
            n += len(decoded.events)
            for window in windower.push(decoded.events, decoded.time_us, decoded.gap):
                if tensors:
                    events_to_tensor(window, width, height, config.bins, out=out)
        return n

    def encode() -> int:
        events = make_decoder("evt3", width, height).decode(words)
        encoder = Evt3Encoder()
        for i in range(10):
            encoder.encode(Events(events.x, events.y, events.t + i * 10_000, events.p))
        return 10 * len(events)

    events = decode()
    return {
        "environment": environment(),
        "file": arguments.file.name,
        "events": events,
        "packets": len(packets),
        "bytes_per_event": sum(len(payload) for payload in payloads) / max(events, 1),
        "window_us": arguments.window_us,
        "mev_per_s": {
            "decode": measure(decode, arguments.runs),
            "packet decoder": measure(decode_packets, arguments.runs),
            "packet decoder + windows": measure(lambda: windows(False), arguments.runs),
            "packet decoder + windows + tensor": measure(lambda: windows(True), arguments.runs),
            "encode": measure(encode, arguments.runs),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
