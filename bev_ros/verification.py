# SPDX-License-Identifier: Apache-2.0
"""Whether a folder of BEV features is what its manifest and index say, and what the source and the encoder say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import AotError, InputError
from aot_runtime.files import sha256_file
from bev_ros.extraction import Encoder, ExtractionOptions, Progress, Summary, encode, extract
from bev_ros.prefetch import load_sample, told
from bev_ros.store.index import MapRecord, pose_rows
from bev_ros.store.store import BevStore

if TYPE_CHECKING:
    from bev_ros.samples import SampleSource

TOLERANCE = 1e-3
"""How far a map may be from one that is computed again, beside what its dtype makes, over its largest |value|: another
number of threads changes the order of sums."""
_FEW = 0.5

BROKEN = ("missing", "size", "digest", "file", "values", "record", "stale", "recomputed")
"""Kinds of problems of a map that computing it again mends."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        kind: what is wrong.
            "index": a line of the index is none.
            "count": there are fewer maps than the source has samples.
            "missing": a sample without a map.
            "unindexed": a map that the index does not know.
            "extra": a map or file that nobody asked for.
            "size", "digest": the file's are not the index's.
            "file": it cannot be read, or holds another shape or dtype.
            "values": they are not finite, or all zero.
            "record": the file says something else than the index.
            "stale": the source says something else.
            "recomputed": a map that was computed again is another one.
            "encoder": the encoder given is another one.
        token: of the sample; "" if it is about none.
        text: "expected A, found B".
    """

    kind: str
    token: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}{f' {self.token}' if self.token else ''}: {self.text}"


@dataclass(frozen=True)
class MapStatistics:
    """Numbers of one map, taken from its values as stored."""

    coverage: float
    largest: float
    mean: float


@dataclass
class Report:
    """What was found about a split.

    Attributes:
        split: its name.
        expected: samples that should be there, or None if nobody said.
        indexed: maps in the index.
        failed: samples in failed.jsonl.
        size: bytes of all maps.
        problems: as found.
        warnings: what is strange without being wrong.
        statistics: of the maps, as plain numbers.
        recomputed: maps that were computed again.
    """

    split: str
    expected: int | None = None
    indexed: int = 0
    failed: int = 0
    size: int = 0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    statistics: dict[str, float] = field(default_factory=dict)
    recomputed: int = 0

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {**asdict(self), "good": self.good}


@dataclass(frozen=True)
class VerifyOptions:
    """What to look at.

    Attributes:
        quick: sizes and headers only, neither digests nor values.
        recompute: so many maps, chosen by `seed`, are computed again, if there are source and encoder.
        seed: of the choice.
        readers: threads.
        tolerance: see `TOLERANCE`.
    """

    quick: bool = False
    recompute: int = 4
    seed: int = 0
    readers: int = 4
    tolerance: float = TOLERANCE


def verify(
    store: BevStore,
    split: str,
    *,
    tokens: Sequence[str] | None = None,
    source: SampleSource | None = None,
    encoder: Encoder | None = None,
    options: VerifyOptions | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Looks at everything that is known of a split.

    Args:
        store: with the split in its manifest.
        split: to look at.
        tokens: that should be there; None: as many as the manifest says, whichever.
        source: to compare stamps, calibrations and poses with, and to compute maps again.
        encoder: to compute maps again.
        options: what to look at.
        advance: called with numbers of maps done and in all.
    """
    options = options or VerifyOptions()
    return _Verification(store, split, source, encoder, options).run(tokens, advance)


class _Verification:
    """One call of `verify`."""

    def __init__(
        self,
        store: BevStore,
        split: str,
        source: SampleSource | None,
        encoder: Encoder | None,
        options: VerifyOptions,
    ) -> None:
        self._store = store
        self._split = split
        self._source = source
        self._encoder = encoder
        self._options = options
        self._report = Report(split)

    def run(self, tokens: Sequence[str] | None, advance: Callable[[int, int], None]) -> Report:
        report, store = self._report, self._store
        records, wrong = store.records(self._split)
        failed, _ = store.failures(self._split).read()
        sizes = store.sizes(self._split)
        report.indexed, report.failed = len(records), len(failed)
        report.problems += [Problem("index", "", text) for text in wrong]
        self._compare_lists(tokens, records, sizes, {token: str(row.get("reason")) for token, row in failed.items()})
        here = [record for _, record in sorted(records.items()) if record.file in sizes]
        report.size = sum(sizes[record.file] for record in here)
        statistics: list[tuple[str, MapStatistics]] = []
        with ThreadPoolExecutor(self._options.readers) as pool:
            looked = pool.map(lambda record: self._look(record, sizes[record.file]), here)
            for done, (record, (problem, numbers)) in enumerate(zip(here, looked), 1):
                if problem is not None:
                    report.problems.append(problem)
                if numbers is not None:
                    statistics.append((record.token, numbers))
                advance(done, len(here))
        self._summarise(statistics)
        if self._source is not None and not self._options.quick:
            broken = {problem.token for problem in report.problems}
            sound = [record for record in here if record.token not in broken]
            self._compare_source(sound)
            self._recompute(sound)
        return report

    def _compare_lists(
        self,
        tokens: Sequence[str] | None,
        records: dict[str, MapRecord],
        sizes: dict[str, int],
        failed: dict[str, str],
    ) -> None:
        report, store = self._report, self._store
        add = report.problems.append
        if tokens is None:
            report.expected = store.manifest.splits[self._split].samples
            if len(records) < report.expected:
                why = f", {len(failed)} failed" if failed else ""
                text = f"expected maps of {report.expected} samples, found {len(records)}{why}"
                add(Problem("count", "", text))
        wanted = set(records if tokens is None else tokens)
        for token in sorted({*wanted, *records}):
            there = store.file_name(token) in sizes
            if token not in wanted:
                add(Problem("extra", token, "expected none of a sample that is not in the list, found a map"))
            elif there and token not in records:
                add(Problem("unindexed", token, "expected a row in the index, found only the file"))
            elif not there:
                add(Problem("missing", token, f"expected a map, found {failed.get(token, 'no file')}"))
        if tokens is not None:
            report.expected = len(wanted)
        known = {store.file_name(token) for token in {*wanted, *records}}
        line_sets = (store.index(self._split), store.failures(self._split), store.timings(self._split))
        lines = {path.name for line_set in line_sets for path in (line_set.path, *line_set.parts())}
        for name in sorted(set(sizes) - known - lines):
            suffix = store.manifest.files.suffix
            if name.endswith(suffix) and tokens is None:
                add(Problem("unindexed", name.removesuffix(suffix), "expected a row in the index, found only the file"))
            else:
                add(Problem("extra", "", f"expected only files of the features, found {name}"))

    def _look(self, record: MapRecord, size: int) -> tuple[Problem | None, MapStatistics | None]:
        """What is wrong with a file, and the numbers of its values."""
        token, path = record.token, self._store.path(self._split, record.token)
        if size != record.size:
            return Problem("size", token, f"expected {record.size} bytes, found {size}"), None
        try:
            if not self._options.quick and (found := sha256_file(path)) != record.sha256:
                return Problem("digest", token, f"expected {record.sha256[:12]}, found {found[:12]}"), None
            stored = self._store.read(self._split, token)
        except FileNotFoundError:
            return Problem("missing", token, "expected a map, found no file"), None
        except AotError as error:
            return Problem("file", token, error.reason), None
        inside = stored.record
        row = {**record.to_row(), "split": self._split, "encoder": self._store.manifest.encoder.identity}
        differ = sorted(name for name in row if name in inside and _plain(row[name]) != inside[name])
        if differ:
            name = differ[0]
            text = f"expected {name} {_plain(row[name])!r:.60}, found {inside[name]!r:.60} in the file"
            return Problem("record", token, text), None
        if self._options.quick:
            return None, None
        features = stored.dense().numpy()
        finite = np.isfinite(features)
        if not finite.all():
            return Problem("values", token, f"expected finite values, found {int((~finite).sum())} others"), None
        occupied = features.any(axis=0)
        numbers = MapStatistics(float(occupied.mean()), float(np.abs(features).max()), float(features.mean()))
        if not numbers.largest:
            return Problem("values", token, "expected features, found zeros only"), numbers
        # Small values may have become zero, none something else.
        if numbers.coverage > record.coverage + 1e-9:
            text = f"expected {record.coverage:.3f} of the cells occupied, found {numbers.coverage:.3f}"
            return Problem("record", token, text), numbers
        return None, numbers

    def _summarise(self, statistics: Sequence[tuple[str, MapStatistics]]) -> None:
        if not statistics:
            return
        report = self._report
        for name in ("coverage", "largest", "mean"):
            values = np.array([getattr(numbers, name) for _, numbers in statistics])
            for kind, value in (("min", values.min()), ("mean", values.mean()), ("max", values.max())):
                report.statistics[f"{name}_{kind}"] = float(value)
        middle = float(np.median([numbers.coverage for _, numbers in statistics]))
        few = [token for token, numbers in statistics if numbers.coverage < _FEW * middle]
        if few:
            report.warnings.append(
                f"{len(few)} maps occupy less than half of the usual {middle:.0%} of the cells, among them {few[0]}"
            )

    def _compare_source(self, records: Iterable[MapRecord]) -> None:
        assert self._source is not None
        known = set(self._source.tokens(self._split))
        for record in records:
            if record.token not in known:
                continue
            try:
                sample = self._source.sample(self._split, record.token)
            except Exception as error:
                self._report.problems.append(Problem("stale", record.token, f"the source now says: {told(error)}"))
                continue
            pairs = (
                ("stamp", record.stamp_ns, int(sample.stamp_ns)),
                ("calibration", record.calibration, sample.rig.hash),
                ("ego pose", record.ego_pose, pose_rows(sample.ego_pose)),
                ("scene", record.scene, sample.scene),
            )
            for name, ours, theirs in pairs:
                if ours != theirs:
                    text = f"expected the source's {name} {theirs!r:.60}, found {ours!r:.60}"
                    self._report.problems.append(Problem("stale", record.token, text))
                    break

    def _recompute(self, records: Sequence[MapRecord]) -> None:
        source, encoder, options, report = self._source, self._encoder, self._options, self._report
        if source is None or encoder is None or not options.recompute:
            return
        manifest = self._store.manifest
        if encoder.identity != manifest.encoder.identity:
            text = f"expected the encoder {manifest.encoder.identity[:12]}, found {encoder.identity[:12]}"
            report.problems.append(Problem("encoder", "", text))
            return
        known = set(source.tokens(self._split))
        able = [record for record in records if record.token in known]
        chosen = random.Random(options.seed).sample(able, min(options.recompute, len(able)))
        for record in sorted(chosen, key=lambda item: item.token):
            report.recomputed += 1
            loaded = load_sample(source, self._split, record.token)
            try:
                features = encode(encoder, loaded, ExtractionOptions(allow_missing_cameras=True)).features
            except Exception as error:
                report.problems.append(Problem("recomputed", record.token, f"expected a map, found {told(error)}"))
                continue
            stored = self._store.read(self._split, record.token).dense().numpy()
            largest = max(float(np.abs(features).max()), float(np.abs(stored).max()))
            differ = float(np.abs(features - stored).max()) / largest if features.shape == stored.shape else np.inf
            if not differ <= record.error + options.tolerance:
                text = f"expected the map that is computed now, found one that differs by {differ:.2g} of its maximum"
                report.problems.append(Problem("recomputed", record.token, text))


def repair(
    store: BevStore,
    report: Report,
    source: SampleSource,
    encoder: Encoder,
    *,
    options: ExtractionOptions | None = None,
    stop: Callable[[], str] = lambda: "",
    progress: Progress | None = None,
) -> Summary:
    """Computes again what is broken or missing, and nothing else; what is in the folder beside is left.

    Args:
        store: begun with the encoder's manifest.
        report: of `verify`, with the tokens that should be there.
        source, encoder: of the maps.
        options, stop, progress: as of `extract`.

    Raises:
        InputError, DiskFull: as of `extract`.
    """
    known = set(source.tokens(report.split))
    tokens = []
    for problem in report.problems:
        if problem.kind not in (*BROKEN, "unindexed") or problem.token not in known:
            continue
        tokens.append(problem.token)
        if problem.kind != "unindexed":
            store.path(report.split, problem.token).unlink(missing_ok=True)
    # What the writer of a broken index line was called does not matter: merging drops the line.
    store.finish(report.split)
    options = options or ExtractionOptions()
    again = ExtractionOptions(True, options.ahead, options.readers, options.allow_missing_cameras)
    todo = sorted(dict.fromkeys(tokens))
    try:
        return extract(
            store, report.split, todo, source, encoder, writer="repair", options=again, stop=stop, progress=progress
        )
    finally:
        store.finish(report.split)


def leftovers(folder: Path) -> list[str]:
    """Temporary files that killed writers left, by name."""
    return sorted(path.name for path in folder.glob(".*.tmp"))


def _plain(value: Any) -> Any:
    """A value of a row as JSON gives it back."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def require_source(store: BevStore, split: str, source: SampleSource) -> None:
    """Checks that a source is the one the maps were made of.

    Raises:
        InputError: it is another one.
    """
    there = store.manifest.splits[split].source
    if source.identity != there:
        raise InputError(
            f"expected the source that split {split!r} was made of, {there[:120]}, found {source.identity[:120]}",
            "give the same --source with the same options",
        )
