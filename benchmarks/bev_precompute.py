# SPDX-License-Identifier: Apache-2.0
"""BEV features computed on the fly against features read from files: memory, time and disk of a sample.

    python benchmarks/bev_precompute.py --json benchmarks/results/bev_precompute_cpu.json

The encoder is the preset `agentformer` (ResNet-50 at 256x704, 256 channels on 100 x 100 cells) with random weights: as
slow as with trained ones. Maps of one and of six cameras are computed once, then stored in every format; each row is
measured in processes of its own. "get" is until the map is there as float32, with reading and decoding the pictures on
the fly. Times are CPU times of one thread, so that others on the machine do not count; files are in the page cache.
Memory is the growth of the process's largest resident set over what it is after the imports, pages mapped from files
included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aot_runtime.environment import stamp  # noqa: E402
from bev_ros.store.formats import FileFormat, coverage_of  # noqa: E402

FORMATS = (
    FileFormat("pt", "float32", "guide"),
    FileFormat("safetensors", "float32", "dense"),
    FileFormat("pt", "float16", "dense"),
    FileFormat("safetensors", "float16", "dense"),
    FileFormat("safetensors", "float16", "sparse"),
    FileFormat("safetensors", "int8", "dense"),
    FileFormat("safetensors", "int8", "sparse"),
)
NUSCENES = 28_130
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Row:
    """One way to come by the map of a sample.

    Attributes:
        way: in words.
        cameras: in the map.
        coverage: share of occupied cells.
        get_ms: CPU time until the map is there as float32 [ms], the median.
        memory_mib: growth of the largest resident set.
        write_ms, sync_ms: CPU time and elapsed time of storing one, fsync included; None on the fly.
        sample_mb: on the disk [10^6 bytes].
        nuscenes_gb: of 28,130 such samples [10^9 bytes].
        error: largest error over the map's largest |value|.
    """

    way: str
    cameras: int
    coverage: float
    get_ms: float
    memory_mib: float
    write_ms: float | None = None
    sync_ms: float | None = None
    sample_mb: float = 0.0
    nuscenes_gb: float = 0.0
    error: float = 0.0


def write_samples(root: Path, count: int, cameras: int) -> None:
    """Pictures of 1600x900 and a rig that looks all around."""
    import cv2

    from bev_ros.calibration import CameraCalibration, Rig, write_rig

    random = np.random.default_rng(0)
    matrix = np.array([[1266.0, 0, 800], [0, 1266, 450], [0, 0, 1]])
    forward = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    rig = []
    for index in range(cameras):
        angle = 2 * np.pi * index / 6
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn @ forward, turn @ [1.5, 0, 0] + [0, 0, 1.5]
        rig.append(CameraCalibration(f"camera{index}", 1600, 900, matrix, pose))
    (root / "samples").mkdir(parents=True)
    write_rig(Rig(tuple(rig)), root / "calibration.yaml")
    for number in range(count):
        names = {}
        for camera in rig:
            coarse = random.integers(0, 256, (36, 64, 3), dtype=np.uint8)
            names[camera.name] = {"image": f"{camera.name}_{number}.jpg"}
            cv2.imwrite(str(root / names[camera.name]["image"]), cv2.resize(coarse, (1600, 900)))
        told = {"stamp_ns": 10**18 + number, "cameras": names, "ego_pose": np.eye(4).tolist()}
        (root / "samples" / f"s{number}.json").write_text(json.dumps(told), encoding="utf-8")


def encoder_for(cameras: int) -> Any:
    """The encoder, run without an export."""
    from bev_ros.chain import EagerChain
    from bev_ros.config import preset
    from bev_ros.encoders import make_encoder
    from bev_ros.pipeline import BevPipeline

    encoder, checkpoint = make_encoder(preset("agentformer", cameras=cameras), None)
    return BevPipeline(EagerChain(encoder, checkpoint), workers=1)


class Replay:
    """An encoder that gives maps computed before: what is measured is the storing."""

    random_weights, licence, identity = True, "", "0" * 64

    def __init__(self, config: Any) -> None:
        self.config = config


def resident_peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM"))) * 1024


def median_ms(work: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Median CPU time of work on each item, after one that does not count."""
    times = []
    for item in items:
        begun = time.process_time()
        work(item)
        times.append(1000 * (time.process_time() - begun))
    return float(np.median(times[1:]))


def on_the_fly(folder: Path, cameras: int, maps: Path) -> dict[str, float]:
    """Child process: reads images and runs the encoder; leaves the maps in `maps`."""
    import cv2
    import torch

    from bev_ros.pipeline import BevPipeline
    from bev_ros.prefetch import load_sample
    from bev_ros.sources.folder import FolderSource

    assert cv2
    assert BevPipeline
    torch.set_num_threads(1)
    torch.ones(8, 8) @ torch.ones(8, 8)
    source = FolderSource(folder)
    before = resident_peak()
    encoder = encoder_for(cameras)
    found: list[np.ndarray] = []

    def get(token: str) -> None:
        loaded = load_sample(source, "all", token)
        assert loaded.sample is not None
        found.append(encoder.process(loaded.images, loaded.sample.rig).features)

    spent = median_ms(get, source.tokens("all"))
    peak = resident_peak() - before - sum(item.nbytes for item in found[1:])
    np.save(maps, np.stack(found))
    return {"get_ms": spent, "memory": peak, "coverage": coverage_of(found[0])}


def write_store(samples: Path, folder: Path, cameras: int, maps: Path, how: FileFormat) -> dict[str, float]:
    """Child process: stores the maps."""
    from bev_ros.config import preset
    from bev_ros.extraction import manifest_for, split_for
    from bev_ros.sources.folder import FolderSource
    from bev_ros.store.store import BevStore, SampleWriter

    source = FolderSource(samples)
    encoder: Any = Replay(preset("agentformer", cameras=cameras))
    store = BevStore.begin(folder, manifest_for(encoder, how), "all", split_for(source, "all"))
    writer, features = SampleWriter(store, "all", "main"), np.load(maps)
    records, elapsed = [], []

    def put(pair: tuple[str, np.ndarray]) -> None:
        begun = time.perf_counter()
        sample = source.sample("all", pair[0])
        records.append(writer.write(sample, pair[1], sample.rig.names, ()))
        elapsed.append(1000 * (time.perf_counter() - begun))

    spent = median_ms(put, zip(source.tokens("all"), features))
    writer.close()
    store.finish("all")
    size = float(np.mean([record.size for record in records]))
    return {
        "write_ms": spent,
        "sync_ms": float(np.median(elapsed[1:])),
        "size": size,
        "error": max(record.error for record in records),
    }


def read_store(folder: Path, turns: int) -> dict[str, float]:
    """Child process: reads the maps as a training does."""
    import warnings

    import safetensors
    import torch

    from bev_ros.dataset import PrecomputedBevDataset

    assert safetensors
    torch.set_num_threads(1)
    torch.ones(8, 8) @ torch.ones(8, 8)
    warnings.simplefilter("ignore")
    dataset = PrecomputedBevDataset(folder, "all")
    before = resident_peak()

    def get(index: int) -> None:
        # Every value is touched: a mapped file is not read before.
        float(dataset[index % len(dataset)]["features"].sum())

    spent = median_ms(get, range(turns * len(dataset)))
    return {"get_ms": spent, "memory": resident_peak() - before}


def child(call: str, *arguments: object, exact_memory: bool = False) -> dict[str, float]:
    """The result of a function of this file in a new process.

    `exact_memory`: what is freed goes back to the system at once, so that the largest resident set is what was in use;
    it takes longer.
    """
    command = [sys.executable, str(Path(__file__)), "--child", call, *map(str, arguments)]
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if exact_memory else {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(call: str, given: list[str]) -> dict[str, float]:
    if call == "on_the_fly":
        return on_the_fly(Path(given[0]), int(given[1]), Path(given[2]))
    if call == "write_store":
        return write_store(Path(given[0]), Path(given[1]), int(given[2]), Path(given[3]), FileFormat(*given[4:]))
    return read_store(Path(given[0]), int(given[1]))


def measure(scratch: Path, cameras: int, count: int, turns: int) -> list[Row]:
    """All rows of a number of cameras."""
    samples, maps = scratch / f"samples{cameras}", scratch / f"maps{cameras}.npy"
    write_samples(samples, count, cameras)
    live = child("on_the_fly", samples, cameras, maps)
    rows = [Row("on the fly", cameras, live["coverage"], live["get_ms"], live["memory"] / MEBIBYTE)]
    for how in FORMATS:
        folder = scratch / f"{cameras}-{how.format}-{how.dtype}-{how.layout}"
        wrote = child("write_store", samples, folder, cameras, maps, how.format, how.dtype, how.layout)
        read = child("read_store", folder, turns)
        read["memory"] = child("read_store", folder, 2, exact_memory=True)["memory"]
        name = f"{how.format} {how.dtype}{'' if how.layout == 'dense' else f', {how.layout}'}"
        megabytes = wrote["size"] / 1e6
        row = Row(name, cameras, live["coverage"], read["get_ms"], read["memory"] / MEBIBYTE)
        row = replace(row, write_ms=wrote["write_ms"], sync_ms=wrote["sync_ms"], error=wrote["error"])
        rows.append(replace(row, sample_mb=megabytes, nuscenes_gb=megabytes * NUSCENES / 1e3))
        print(f"{cameras} cameras, {name}: {read['get_ms']:.2f} ms", file=sys.stderr)
    return rows


def table(rows: list[Row]) -> str:
    """As Markdown."""
    titles = (
        "cameras (cells)",
        "way",
        "get, ms",
        "memory, MiB",
        "write, ms (with fsync)",
        "MB",
        "GB nuScenes",
        "error",
    )
    lines = [" | ".join(titles), " | ".join("---" for _ in titles)]
    for row in rows:
        columns = [f"{row.cameras} ({row.coverage:.0%})", row.way]
        columns += [f"{row.get_ms:.0f}" if row.get_ms >= 100 else f"{row.get_ms:.1f}", f"{row.memory_mib:.0f}"]
        if row.write_ms is None:
            columns += [""] * 4
        else:
            columns += [f"{row.write_ms:.0f} ({row.sync_ms:.0f})", f"{row.sample_mb:.2f}", f"{row.nuscenes_gb:.0f}"]
            columns += [f"{row.error:.1e}" if row.error else "0"]
        lines.append(" | ".join(columns))
    lines = [f"| {line} |" for line in lines]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["--child"]:
        print(json.dumps(run_child(given[1], given[2:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5, help="to compute and store; the first does not count")
    parser.add_argument("--turns", type=int, default=10, help="times that they are read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, and a table beside as .md")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for cameras in (1, 6) for row in measure(Path(scratch), cameras, options.samples, options.turns)]
    environment = stamp(["benchmarks/bev_precompute.py", *given])
    print(table(rows))
    print(environment.line())
    if options.json:
        document = {"environment": environment.as_dict(), "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        text = f"{table(rows)}\n{' '.join((__doc__ or '').split(chr(10) * 2)[-1].split())}\n\n{environment.line()}\n"
        options.json.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
