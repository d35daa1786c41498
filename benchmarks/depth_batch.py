# SPDX-License-Identifier: Apache-2.0
"""Depth of several cameras' images: one after the other, by a pool of threads, or as one batch.

    OMP_NUM_THREADS=2 python benchmarks/depth_batch.py --encoder vits --images 4 --folder /tmp/artifacts

Random weights; from images in memory to depth in memory, preparation included. Artifacts are made in the folder, and
used again if they are there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aot_runtime.manifest import CheckpointInfo
from depth_ros.export_dav2 import export_dav2
from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2, DepthConfig
from depth_ros.pipeline import ImageDepthPipeline
from depth_ros.pool import DepthAnythingPool

TINY = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 16, 16, 16), image_size=56)


def made(told: argparse.Namespace, batch: int | tuple[int, int]) -> Path:
    """The artifact for so many images."""
    name = "-".join(map(str, batch)) if isinstance(batch, tuple) else str(batch)
    path: Path = told.folder / f"{told.encoder}_{told.height}x{told.width}_{told.device.split(':')[0]}_b{name}.pt2"
    if not path.is_file():
        told.folder.mkdir(parents=True, exist_ok=True)
        config = TINY if told.encoder == "tiny" else replace(ENCODERS[told.encoder], input_channels=3)
        export_dav2(
            DepthAnythingV2(config).eval().randomise(0),
            path,
            height=told.height,
            width=told.width,
            checkpoint=CheckpointInfo.random(0),
            precision=told.precision,
            device=told.device,
            batch=batch,
        )
    return path


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """Of `rounds` calls after three."""
    times = []
    for number in range(rounds + 3):
        begun = time.perf_counter()
        work()
        if number >= 3:
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--encoder", choices=("tiny", *ENCODERS), default="tiny")
    add("--height", type=int, default=238)
    add("--width", type=int, default=308)
    add("--images", type=int, default=4)
    add("--workers", type=int, nargs="+", default=[2])
    add("--precision", default="fp32")
    add("--device", default="cpu")
    add("--rounds", type=int, default=20)
    add("--folder", type=Path, required=True)
    told = parser.parse_args()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(told.images)]

    def row(name: str, work: Callable[[], object]) -> None:
        total = median_ms(work, told.rounds)
        print(f"{name:34s} {total:9.1f} ms  {total / told.images:9.1f} ms an image", flush=True)

    single = made(told, 1)
    alone = ImageDepthPipeline(single, told.device)
    row("one after the other", lambda: [alone.process(image) for image in images])
    alone.close()
    for workers in told.workers:
        with DepthAnythingPool(single, told.device, workers=workers) as pool:
            row(f"pool of {workers}", lambda pool=pool: pool.infer_batch(images))  # type: ignore[misc]
    for name, batch in ((f"batch {told.images}", told.images), ("batch 1..8", (1, 8))):
        together = ImageDepthPipeline(made(told, batch), told.device)
        row(name, lambda together=together: together.process_batch(images))  # type: ignore[misc]
        together.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
