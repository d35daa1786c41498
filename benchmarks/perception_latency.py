# SPDX-License-Identifier: Apache-2.0
"""Latency of F3 with its heads: compiled, and replayed as CUDA graphs; and from a packet's bytes to depth and flow.

    python benchmarks/perception_latency.py --device cuda --json benchmarks/results/perception_h200.json
    python benchmarks/perception_latency.py --device cpu --runs 10 --warmup-runs 2

F3 `1280x720x20_patchff_ds1_small` with its table, field 320x240, 200,000 events; Depth Anything V2 vitb and FlowHead of
32 channels at 238x308; random weights (speed does not depend on them). Inputs of the stages lie on the device. "End to
end" starts with the bytes of an EVT3 packet that holds the whole window and ends with depth in its final unit and flow
with its validity, on the host, as the message takes them. Where the official code was measured (one NVIDIA H200, torch
2.11.0+cu130), its numbers stand in the last column: compare ratios on other cards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aot_runtime.errors import AotError
from f3_ros.stage_latency import COMPILED, GRAPH, StageTime, measure_stages

MODEL = "1280x720x20_patchff_ds1_small"
HEIGHT, WIDTH = 238, 308
# (stage, mode) -> official code on an H200, ms: F3 fp16, DAv2 vitb bf16, FlowHead fp16.
OFFICIAL_H200 = {
    ("F3", COMPILED): 0.715,
    ("F3", GRAPH): 0.637,
    ("depth", COMPILED): 1.83,
    ("depth", GRAPH): 1.47,
    ("flow", COMPILED): 2.05,
    ("flow", GRAPH): 2.01,
    ("F3 + depth", COMPILED): 2.60,
    ("F3 + depth", GRAPH): 2.15,
    ("F3 + flow", COMPILED): 2.82,
    ("F3 + flow", GRAPH): 2.68,
    ("all", COMPILED): 4.71,
    ("all", GRAPH): 4.20,
}


def export(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The three artifacts, made where they are not there yet."""
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2
    from f3_ros.config import from_name
    from f3_ros.export_f3 import export_f3, make_model
    from f3_ros.export_flowhead import export_flowhead
    from f3_ros.flow_head import FlowHead

    random = CheckpointInfo.random(0)
    on_cuda = options.device.startswith("cuda")
    half = "fp16" if on_cuda else "fp32"
    depth_precision = options.depth_precision or "bf16"
    paths = {name: folder / f"{name}.pt2" for name in ("f3", "depth", "flow")}
    if not paths["f3"].is_file():
        export_f3(
            make_model(from_name(MODEL)).randomise(0),
            paths["f3"],
            checkpoint=random,
            n_events=options.n_events,
            hashed=True,
            downsample=(320, 240),
            precision=half,
            device=options.device,
        )
    if not paths["depth"].is_file():
        model = DepthAnythingV2(replace(ENCODERS[options.encoder], input_channels=32)).randomise(0)
        export_dav2(
            model,
            paths["depth"],
            height=HEIGHT,
            width=WIDTH,
            checkpoint=random,
            precision=depth_precision,
            device=options.device,
            inductor_configs=dict(options.inductor),
        )
    if not paths["flow"].is_file():
        export_flowhead(
            FlowHead().randomise(0),
            paths["flow"],
            height=HEIGHT,
            width=WIDTH,
            checkpoint=random,
            precision=half,
            device=options.device,
            depthwise=options.depthwise,
        )
    return paths


def random_packet(n_events: int, window_us: int, seed: int = 0) -> Any:
    """One EVT3 packet with events uniform over the sensor and the window, in order of time."""
    from f3_ros.events.codecs import Evt3Encoder
    from f3_ros.events.types import Events, Packet

    rng = np.random.default_rng(seed)
    events = Events(
        rng.integers(0, 1280, n_events).astype(np.uint16),
        rng.integers(0, 720, n_events).astype(np.uint16),
        np.sort(rng.integers(0, window_us, n_events)).astype(np.int64),
        rng.integers(0, 2, n_events).astype(np.uint8),
    )
    payload = Evt3Encoder().encode(events, window_us)
    return Packet(0, "event_camera", 1280, 720, 0, 0, "evt3", False, payload)


def measure_end_to_end(pipeline: Any, n_events: int, runs: int, warmup_runs: int) -> StageTime:
    """Bytes of a packet -> depth and flow on the host, window by window, each with a decoder that starts anew."""
    from aot_runtime.benchmark import measure
    from f3_ros.events.windows import WindowConfig
    from f3_ros.head_outputs import HeadOptions, finish_heads
    from f3_ros.stream import EventStreamProcessor, StreamConfig

    packet = random_packet(n_events, pipeline.f3.window_us)
    processor = EventStreamProcessor(StreamConfig(window=WindowConfig(duration_us=pipeline.f3.window_us)))
    options = HeadOptions()

    def call() -> object:
        processor.reset()
        (item, *_) = processor.push(packet) + processor.flush()
        result = pipeline.process(item.window, item.width, item.height, want=("depth", "flow"))
        outputs = finish_heads(pipeline, result, item.window, item.width, item.height, options)
        assert outputs.depth is not None
        return memoryview(outputs.depth).cast("B"), memoryview(np.ascontiguousarray(outputs.flow)).cast("B")

    timing = measure(call, runs=runs, warmup_runs=warmup_runs, synchronize=None)
    return StageTime("end to end", GRAPH if pipeline.cuda_graphs else COMPILED, timing)


def print_table(rows: list[StageTime], on_cuda: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "mode")
    for column in ("p50 ms", "p99 ms", *(("official H200 ms", "times faster") if on_cuda else ())):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.stage, row.mode, f"{row.timing.p50_ms:.3f}", f"{row.timing.p99_ms:.3f}"]
        if on_cuda:
            official = OFFICIAL_H200.get((row.stage, row.mode))
            cells += [f"{official:.3f}", f"{official / row.timing.p50_ms:.2f}"] if official else ["", ""]
        table.add_row(*cells)
    Console(width=120).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add("--encoder", default="vitb", help="of Depth Anything V2: vits, vitb, vitl (default vitb)")
    add("--depth-precision", choices=("fp32", "fp16", "bf16"), help="default: bf16")
    add("--depthwise", help="of the flow head: conv, taps, triton (default: the export command's choice)")
    add("--n-events", type=int, default=200_000)
    add("--runs", type=int, default=200)
    add("--warmup-runs", type=int, default=20)
    add("--inductor", type=_option, action="append", default=[], metavar="KEY=JSON", help="compiler option for depth")
    add("--keep", metavar="FOLDER", help="keep artifacts here, and use those already there")
    add("--json", metavar="FILE", help="write the numbers here too")
    options = parser.parse_args(argv)

    import torch

    from aot_runtime.environment import stamp
    from f3_ros.perception import PerceptionPipeline
    from f3_ros.stage_latency import times_as_json

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_cuda = options.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        try:
            paths = export(options, folder)
            pipeline = PerceptionPipeline.load(paths["f3"], options.device, depth=paths["depth"], flow=paths["flow"])
        except AotError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(f"artifacts ready after {time.perf_counter() - started:.0f} s", file=sys.stderr)
        rng = np.random.default_rng(0)
        events = rng.random((options.n_events, 4), dtype=np.float32) * np.float32(0.9)
        counts = {"runs": options.runs, "warmup_runs": options.warmup_runs}
        rows = measure_stages(pipeline, events, cuda_graph=on_cuda, **counts)
        rows.append(measure_end_to_end(pipeline, options.n_events, **counts))
        pipeline.close()
    print_table(rows, on_cuda)
    environment = stamp()
    print(f"{options.n_events} events, {options.runs} runs after {options.warmup_runs}; {environment.line()}")
    if options.json:
        told = {"command": ["benchmarks/perception_latency.py", *(sys.argv[1:] if argv is None else argv)]}
        Path(options.json).write_text(times_as_json(rows, told, environment) + "\n", encoding="utf-8")
    return 0


def _option(text: str) -> tuple[str, Any]:
    """ "key=value" with a JSON value, for Inductor."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected KEY=JSON, found {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
