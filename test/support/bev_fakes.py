# SPDX-License-Identifier: Apache-2.0
"""An encoder and a source of samples that cost next to nothing and are always the same, to test what is around them.

Run as a program it extracts: bev_fakes.py OUT SAMPLES [--delay S] [--shard I/N] [--resume] ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from bev_ros.calibration import CameraCalibration, Rig
from bev_ros.config import BevConfig, preset
from bev_ros.extraction import ExtractionOptions, extract, manifest_for, split_for
from bev_ros.grid import BevGrid
from bev_ros.samples import ALL, Sample, unknown_split, unknown_token
from bev_ros.stopping import StopOnSignals
from bev_ros.store.formats import FileFormat
from bev_ros.store.store import BevStore

START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class FakeResult:
    features: np.ndarray
    cameras: tuple[str, ...]
    missing: tuple[str, ...]


def fake_config(channels: int = 8, size: int = 20, rule: str = "floor") -> BevConfig:
    """A map of `channels` on `size` x (size / 2) cells of 1 m: x from -size/2, y from -size/4."""
    x, y = size / 2, size / 4
    return preset("tiny", channels=channels, grid=BevGrid((-x, x, 1.0), (-y, y, 1.0), (-10.0, 10.0, 20.0), rule))


class FakeEncoder:
    """A map that depends on every image, the rig and the seed.

    Args:
        config: the map's size is its.
        seed: of the map; another seed is another encoder.
        coverage: share of the rows that are not zero.
        delay: seconds that a map takes.
        random_weights: what it says of itself.
    """

    licence = "Apache-2.0"

    def __init__(
        self,
        config: BevConfig | None = None,
        seed: int = 0,
        coverage: float = 1.0,
        delay: float = 0.0,
        random_weights: bool = False,
    ) -> None:
        self.config = config or fake_config()
        self.random_weights = random_weights
        self.calls = 0
        self._seed = seed
        self._rows = max(1, round(coverage * self.config.shape[1]))
        self._delay = delay

    @property
    def identity(self) -> str:
        told = json.dumps([self.config.to_json(), self._seed, self._rows], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def process(self, images: Mapping[str, np.ndarray], rig: Rig) -> FakeResult:
        self.calls += 1
        time.sleep(self._delay)
        names = tuple(name for name in rig.names if name in images)
        digest = hashlib.sha256(f"{self._seed} {rig.hash}".encode())
        for name in names:
            digest.update(images[name].tobytes())
        features = np.zeros(self.config.shape, np.float32)
        seed = int.from_bytes(digest.digest()[:8], "little")
        random = np.random.default_rng(seed)
        features[:, : self._rows] = random.standard_normal((features.shape[0], self._rows, features.shape[2]))
        return FakeResult(features, names, tuple(name for name in rig.names if name not in images))


@dataclass
class FakeSource:
    """`count` samples of two cameras on a vehicle that drives along x.

    Attributes:
        broken: token -> why it cannot be read.
        dark: tokens whose second image cannot be read.
        salt: another one is another recording.
    """

    count: int
    broken: Mapping[str, str] = field(default_factory=dict)
    dark: Sequence[str] = ()
    salt: int = 0
    calibration = "made up"
    warnings: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return f"fake-{self.count}-{self.salt}"

    def splits(self) -> tuple[str, ...]:
        return ("train", "val", ALL)

    def tokens(self, split: str) -> list[str]:
        if split not in self.splits():
            raise unknown_split(split, self.splits(), "the fake")
        return [f"sample{index:05d}" for index in range(self.count)]

    def sample(self, split: str, token: str) -> Sample:
        if token not in self.tokens(split):
            raise unknown_token(split, token, "the fake")
        if token in self.broken:
            raise InputError(self.broken[token])
        index = int(token.removeprefix("sample"))
        pose = np.eye(4)
        pose[:3, 3] = [0.5 * index, 0.1 * index, 0.0]
        images = {name: partial(self._image, token, index, name) for name in fake_rig().names}
        return Sample(token, split, START_NS + index * 10**8, images, fake_rig(), pose, "scene-1")

    def _image(self, token: str, index: int, name: str) -> np.ndarray:
        if token in self.dark and name == "right":
            raise InputError(f"expected an image, found nothing for {token} {name}")
        seed = [index, self.salt, len(name)]
        return np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)


def fake_rig() -> Rig:
    matrix = np.array([[10.0, 0, 6], [0, 10.0, 4], [0, 0, 1]])
    forward = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    right = np.array([[-1.0, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    return Rig((CameraCalibration("front", 12, 8, matrix, forward), CameraCalibration("right", 12, 8, matrix, right)))


def make_store(
    root: Path,
    encoder: FakeEncoder | None = None,
    source: FakeSource | None = None,
    *,
    files: FileFormat | None = None,
    split: str = "train",
    tokens: Callable[[list[str]], list[str]] = lambda tokens: tokens,
    options: ExtractionOptions | None = None,
    writer: str = "main",
) -> BevStore:
    """A store with the samples of a fake source in it."""
    encoder, source = encoder or FakeEncoder(), source or FakeSource(6)
    manifest = manifest_for(encoder, files or FileFormat())
    store = BevStore.begin(root, manifest, split, split_for(source, split))
    extract(store, split, tokens(source.tokens(split)), source, encoder, writer=writer, options=options)
    store.finish(split)
    return store


def visible_files(root: Path) -> dict[str, bytes]:
    """What a run leaves, by path: hidden files (locks) and timings, which no two runs share, left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.startswith("timings")
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--format", default="safetensors")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--size", type=int, default=20)
    told = parser.parse_args(argv)

    def run() -> int:
        source = FakeSource(told.count)
        encoder = FakeEncoder(fake_config(size=told.size), delay=told.delay)
        files = FileFormat(told.format, told.dtype, told.layout)
        store = BevStore.begin(told.out, manifest_for(encoder, files), "train", split_for(source, "train"))
        index, count = map(int, told.shard.split("/"))
        with StopOnSignals() as stop:
            print("started", flush=True)
            summary = extract(
                store, "train", source.tokens("train")[index::count], source, encoder,
                writer=f"shard-{index}-of-{count}", options=ExtractionOptions(resume=told.resume), stop=stop,
            )  # fmt: skip
        store.finish("train")
        print(summary)
        return 128 + stop.number if summary.stopped else int(summary.failed > 0)

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
