# SPDX-License-Identifier: Apache-2.0
"""Samples -> maps in a store: the loop of `precompute_bev_features`, for any encoder and any source of samples.

A sample that fails is noted with its reason, and the others are done. Whatever happens, what is told as stored is
complete on the disk.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aot_runtime.errors import InputError
from bev_ros.prefetch import LoadedSample, load_samples, told
from bev_ros.store.disk import DiskFull, free_bytes, require_space
from bev_ros.store.formats import FileFormat
from bev_ros.store.index import MapRecord
from bev_ros.store.manifest import EncoderInfo, SplitInfo, StoreManifest, code_version
from bev_ros.store.store import BevStore, Plan, SampleWriter

if TYPE_CHECKING:
    from bev_ros.calibration import Rig
    from bev_ros.config import BevConfig
    from bev_ros.samples import SampleSource

_LOG = logging.getLogger("bev_ros.extraction")
_WRITES_AHEAD = 2
# Room kept free beside the next files, in files: the index, and what others write meanwhile.
_RESERVE = 2


class EncoderResult(Protocol):
    """What an encoder gives for a sample."""

    @property
    def features(self) -> np.ndarray:
        """(C, Y, X) float32."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that are in the map."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Cameras of the rig that are not."""


class Encoder(Protocol):
    """What makes maps: a `BevPipeline`, or whatever looks like one."""

    @property
    def identity(self) -> str:
        """SHA-256 over everything that computes."""

    @property
    def config(self) -> BevConfig:
        """Grid, shape and the rest."""

    @property
    def random_weights(self) -> bool:
        """The maps mean nothing."""

    @property
    def licence(self) -> str:
        """Of the weights."""

    def process(self, images: Mapping[str, np.ndarray], rig: Rig) -> EncoderResult:
        """The map of one instant; raises InputError for images or a rig that it cannot take."""


class Progress(Protocol):
    """Who is told how far the work is."""

    def begin(self, total: int) -> None:
        """So many samples are to be done."""

    def done(self, token: str, record: MapRecord) -> None:
        """A map is stored."""

    def failed(self, token: str, reason: str) -> None:
        """A sample has failed."""


class Silence:
    """Nobody is told."""

    def begin(self, total: int) -> None:
        pass

    def done(self, token: str, record: MapRecord) -> None:
        pass

    def failed(self, token: str, reason: str) -> None:
        pass


@dataclass(frozen=True)
class ExtractionOptions:
    """How to work through samples.

    Attributes:
        resume: go on with samples of an earlier run; otherwise there must be none.
        ahead: samples whose images are read ahead.
        readers: threads that read images.
        allow_missing_cameras: a camera whose image cannot be read is left out of the map; otherwise the sample fails.
    """

    resume: bool = False
    ahead: int = 4
    readers: int = 4
    allow_missing_cameras: bool = False


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        stored: maps computed and stored.
        adopted: maps that a killed run had stored, but not brought into the index.
        skipped: maps that were there.
        failed: samples without a map.
        stopped: name of the signal that ended the run early, or "".
        seconds: the run took.
        size: bytes of the maps that were stored.
        error: largest error that the dtype made, over the map's largest |value|.
    """

    stored: int = 0
    adopted: int = 0
    skipped: int = 0
    failed: int = 0
    stopped: str = ""
    seconds: float = 0.0
    size: int = 0
    error: float = 0.0

    @property
    def complete(self) -> int:
        """Maps that are there now."""
        return self.stored + self.adopted + self.skipped


def manifest_for(encoder: Encoder, files: FileFormat, frame: str = "base_link") -> StoreManifest:
    """The manifest of a folder of this encoder's maps.

    Raises:
        InputError: the encoder takes several sweeps; a sample is one instant.
    """
    config = encoder.config
    if config.sweeps != 1:
        raise InputError(
            f"expected an encoder of one sweep, found {config.name} of {config.sweeps}",
            "export it without --sweeps; its own loop can call BevPipeline.process_sweeps",
        )
    info = EncoderInfo(encoder.identity, config.to_json(), encoder.random_weights, encoder.licence)
    return StoreManifest(info, config.grid, config.shape, files, frame, code_version())


def split_for(source: SampleSource, split: str, cameras: Sequence[str] = ()) -> SplitInfo:
    """What the manifest says of a split of a source."""
    calibration = getattr(source, "calibration", "")
    return SplitInfo(source.identity, tuple(cameras), str(calibration), len(source.tokens(split)))


def refuse_random_weights(encoder: Encoder, allowed: bool) -> None:
    """Checks that maps will mean something.

    Raises:
        InputError: the encoder has random weights, and nobody allowed it.
    """
    if encoder.random_weights and not allowed:
        raise InputError(
            "expected an encoder with trained weights, found random ones: its maps mean nothing",
            "export it with --checkpoint, or say --allow-random-weights for a trial",
        )


def encode(encoder: Encoder, loaded: LoadedSample, options: ExtractionOptions) -> EncoderResult:
    """The map of a sample.

    Raises:
        InputError: the sample or one of its images could not be read.
    """
    if loaded.sample is None:
        raise InputError(loaded.reason)
    if loaded.problems and not options.allow_missing_cameras:
        name, reason = next(iter(loaded.problems.items()))
        raise InputError(f"camera {name}: {reason}")
    if not loaded.images:
        raise InputError("expected an image of at least one camera, found none")
    return encoder.process(loaded.images, loaded.sample.rig)


def plan_extraction(store: BevStore, split: str, tokens: Sequence[str], options: ExtractionOptions) -> Plan:
    """What is to be done for these tokens.

    Raises:
        InputError: there are maps already and `options.resume` is not set.
        DiskFull: no space for the others.
    """
    plan = store.plan(split, tokens)
    if not options.resume and (there := len(plan.stored) + len(plan.unindexed)):
        raise InputError(
            f"expected none of these {len(tokens)} samples in {store.folder(split)}, found {there}",
            "say --resume to go on with them, or choose another --output_dir",
        )
    _require_space(store, split, plan)
    return plan


def extract(
    store: BevStore,
    split: str,
    tokens: Sequence[str],
    source: SampleSource,
    encoder: Encoder,
    *,
    writer: str = "main",
    options: ExtractionOptions | None = None,
    stop: Callable[[], str] = lambda: "",
    progress: Progress | None = None,
    summary: Summary | None = None,
    plan: Plan | None = None,
) -> Summary:
    """Makes and stores the maps of these tokens, those that are there already left out.

    Args:
        store: begun with the encoder's manifest.
        split, tokens: which samples, in this order.
        source: of the samples.
        encoder: of the maps.
        writer: name of this run among those that write to the store at the same time.
        options: how.
        stop: asked before each sample; a text that is not empty ends the run.
        progress: who is told.
        summary: to fill in, so that it is known also after an error.
        plan: as `plan_extraction` gives it, if somebody asked already.

    Raises:
        InputError: there are maps already and `options.resume` is not set, or another run has the writer's name.
        DiskFull: no space for the maps; what was stored before stays.
    """
    options = options or ExtractionOptions()
    if plan is None:
        plan = plan_extraction(store, split, tokens, options)
    run = _Run(store, split, source, encoder, writer, options, stop, progress or Silence(), summary or Summary())
    try:
        return run.work(plan)
    finally:
        run.close()


class _Run:
    """One call of `extract`."""

    def __init__(
        self,
        store: BevStore,
        split: str,
        source: SampleSource,
        encoder: Encoder,
        writer: str,
        options: ExtractionOptions,
        stop: Callable[[], str],
        progress: Progress,
        summary: Summary,
    ) -> None:
        self._store = store
        self._split = split
        self._source = source
        self._encoder = encoder
        self._options = options
        self._stop = stop
        self._progress = progress
        self._summary = summary
        self._warned: set[str] = set()
        self._each = store.manifest.files.largest(store.manifest.shape)
        # What one thread computes, another one writes: waiting for the disk takes as long as a GPU takes for a map.
        self._writing = ThreadPoolExecutor(1, "bev-writer")
        self._waiting: deque[tuple[LoadedSample, Future[MapRecord]]] = deque()
        self._writer = SampleWriter(store, split, writer)

    def work(self, plan: Plan) -> Summary:
        """All of it."""
        begun, summary = time.monotonic(), self._summary
        summary.skipped = len(plan.stored)
        self._writer.sweep([*plan.unindexed, *plan.todo])
        todo = set(plan.todo)
        for token in plan.unindexed:
            if self._writer.adopt(token) is None:
                todo.add(token)
            else:
                summary.adopted += 1
        self._progress.begin(len(todo))
        try:
            order = [token for token in (*plan.todo, *plan.unindexed) if token in todo]
            self._encode_all(order)
        finally:
            self._finish_writes(0)
            summary.seconds = time.monotonic() - begun
        return summary

    def close(self) -> None:
        """Ends the writing thread and releases the writer's files."""
        self._writing.shutdown(wait=True)
        self._writer.close()

    def _encode_all(self, tokens: Sequence[str]) -> None:
        options = self._options
        if not tokens or self._stopped():
            return
        samples = load_samples(self._source, self._split, tokens, ahead=options.ahead, readers=options.readers)
        left = len(tokens)
        with contextlib.closing(samples):
            for loaded in samples:
                self._encode(loaded)
                left -= 1
                if self._summary.stored == 1:
                    self._check_forecast(left)
                if not left or self._stopped():
                    return

    def _stopped(self) -> bool:
        self._summary.stopped = self._stop()
        return bool(self._summary.stopped)

    def _encode(self, loaded: LoadedSample) -> None:
        begun = time.perf_counter()
        try:
            result = encode(self._encoder, loaded, self._options)
        except Exception as error:
            self._fail(loaded.token, told(error))
            return
        seconds = time.perf_counter() - begun
        assert loaded.sample is not None
        for text in getattr(result, "warnings", ()):
            if text not in self._warned:
                self._warned.add(text)
                _LOG.warning("%s: %s", loaded.token, text)
        missing = tuple(dict.fromkeys((*result.missing, *loaded.problems)))
        # The encoder may use its memory again for the next map.
        features = np.array(result.features, np.float32)
        self._check_space()
        future = self._writing.submit(
            self._writer.write, loaded.sample, features, tuple(result.cameras), missing, seconds
        )
        self._waiting.append((loaded, future))
        self._finish_writes(_WRITES_AHEAD - 1)

    def _finish_writes(self, leave: int) -> None:
        """Waits until at most so many writes are under way."""
        while len(self._waiting) > leave:
            loaded, future = self._waiting.popleft()
            try:
                record = future.result()
            except DiskFull:
                raise
            except Exception as error:
                self._fail(loaded.token, told(error))
                continue
            summary = self._summary
            summary.stored += 1
            summary.size += record.size
            summary.error = max(summary.error, record.error)
            self._progress.done(loaded.token, record)

    def _fail(self, token: str, reason: str) -> None:
        self._summary.failed += 1
        self._writing.submit(self._writer.fail, token, reason).result()
        self._progress.failed(token, reason)

    def _check_space(self) -> None:
        free = free_bytes(self._store.root)
        if free < (_RESERVE + len(self._waiting)) * self._each:
            self._finish_writes(0)
            require_space(self._store.root, _RESERVE, self._each)

    def _check_forecast(self, left: int) -> None:
        """Where maps differ in size, the first one tells how much room all need."""
        require_space(self._store.root, left, self._summary.size // self._summary.stored)


def _require_space(store: BevStore, split: str, plan: Plan) -> None:
    files = store.manifest.files
    count = len(plan.todo)
    if files.layout in ("dense", "guide"):
        require_space(store.root, count, files.largest(store.manifest.shape))
        return
    records, _ = store.records(split)
    if records and count:
        require_space(store.root, count, sum(record.size for record in records.values()) // len(records))
