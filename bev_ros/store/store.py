# SPDX-License-Identifier: Apache-2.0
"""A folder of BEV features as a whole: begun or continued, written by one or more writers, read by token."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write, remove_leftovers, sha256_file
from bev_ros.samples import checked_name
from bev_ros.store.disk import told_when_full
from bev_ros.store.formats import StoredMap, pack, read_map, to_bytes
from bev_ros.store.index import MapRecord, pose_rows
from bev_ros.store.lines import LineSet, locked
from bev_ros.store.manifest import NAME, SplitInfo, StoreManifest

if TYPE_CHECKING:
    from bev_ros.samples import Sample

_IN_FILE_ONLY = ("split", "encoder", "source")
_BESIDE_FILE = ("file", "size", "sha256")


@dataclass(frozen=True)
class Plan:
    """What is to be done for a list of tokens.

    Attributes:
        stored: tokens whose file is there, with the size that the index tells.
        unindexed: tokens whose file is there, but not in the index: a writer was killed between the two.
        todo: the others.
    """

    stored: tuple[str, ...]
    unindexed: tuple[str, ...]
    todo: tuple[str, ...]


class BevStore:
    """A folder of BEV features, see `bev_ros.store`.

    Args:
        root: the folder.
        manifest: what is in it; `open` reads it, `begin` writes it.
    """

    def __init__(self, root: Path, manifest: StoreManifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, root: Path) -> BevStore:
        """A folder that is there.

        Raises:
            InputError: it is none, or its manifest cannot be read.
        """
        return cls(root, StoreManifest.read(root))

    @classmethod
    def begin(cls, root: Path, manifest: StoreManifest, split: str, info: SplitInfo) -> BevStore:
        """A folder to write samples of `split` into: a new one, or one that was begun with the same manifest.

        Raises:
            InputError: the folder holds something else: features of another encoder, grid, format or source.
            DiskFull: no space for the manifest.
        """
        checked_name(split, "split", "--split")
        if split == NAME:
            raise InputError(f"expected another name for a split, found {split}")
        with told_when_full(root):
            root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".lock"):
            if (root / NAME).exists():
                there = StoreManifest.read(root)
                differ = there.differences(manifest) + _split_differences(there.splits.get(split), info, split)
                if differ:
                    holds = any(cls(root, there).records(name)[0] for name in there.splits)
                    raise InputError(
                        f"expected the features that {root} was begun with, found others: {'; '.join(differ)}",
                        "use what it was begun with, or another --output_dir"
                        if holds
                        else f"no map is stored there: remove {root}, or use another --output_dir",
                    )
                manifest = there.with_split(split, there.splits[split]) if split in there.splits else there
            else:
                strange = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
                if strange:
                    raise InputError(
                        f"expected an empty folder or one of BEV features, found {strange[0]} and no {NAME} in {root}",
                        "choose another --output_dir",
                    )
            if split not in manifest.splits:
                manifest = manifest.with_split(split, info)
                manifest.write(root)
        store = cls(root, manifest)
        with told_when_full(root):
            store.folder(split).mkdir(exist_ok=True)
        return store

    def folder(self, split: str) -> Path:
        """Of the files of a split."""
        return self.root / split

    def path(self, split: str, token: str) -> Path:
        """Of the map of a token; a token that would lead elsewhere is an InputError."""
        return self.folder(split) / self.file_name(token)

    def file_name(self, token: str) -> str:
        """Of the map of a token, in the folder of its split."""
        return checked_name(token, "token", "the samples") + self.manifest.files.suffix

    def index(self, split: str) -> LineSet:
        """A row for each map."""
        return LineSet(self.folder(split), "index")

    def failures(self, split: str) -> LineSet:
        """A row for each sample that could not be done."""
        return LineSet(self.folder(split), "failed")

    def timings(self, split: str) -> LineSet:
        """A row with the seconds of each map: kept apart, so that equal runs make equal indices."""
        return LineSet(self.folder(split), "timings")

    def records(self, split: str) -> tuple[dict[str, MapRecord], list[str]]:
        """What the index tells of each token, and what is wrong with its lines."""
        rows, broken = self.index(split).read()
        records: dict[str, MapRecord] = {}
        problems = [str(problem) for problem in broken]
        for token, row in rows.items():
            try:
                record = MapRecord.from_row(row, str(self.index(split).path))
                if record.file != self.file_name(token):
                    raise InputError(f"expected the file {self.file_name(token)}, found {record.file} in the index")
                records[token] = record
            except InputError as error:
                problems.append(error.reason)
        return records, problems

    def read(self, split: str, token: str) -> StoredMap:
        """The map of a token; raises InputError as `read_map` does."""
        return read_map(self.path(split, token), self.manifest.files, self.manifest.shape)

    def sizes(self, split: str) -> dict[str, int]:
        """Sizes in bytes of the visible files in a split's folder, by name."""
        found: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder(split)) as entries:
            for entry in entries:
                # Another writer may be merging its part just now.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file() and not entry.name.startswith("."):
                        found[entry.name] = entry.stat().st_size
        return found

    def plan(self, split: str, tokens: Sequence[str]) -> Plan:
        """What is stored of these tokens."""
        records, _ = self.records(split)
        sizes = self.sizes(split)
        stored, unindexed, todo = [], [], []
        for token in tokens:
            size, record = sizes.get(self.file_name(token)), records.get(token)
            if size is not None and record is not None and size == record.size:
                stored.append(token)
            elif size is not None and record is None:
                unindexed.append(token)
            else:
                todo.append(token)
        return Plan(tuple(stored), tuple(unindexed), tuple(todo))

    def finish(self, split: str, samples: int | None = None) -> SplitInfo:
        """Merges what writers left, and counts; several processes may do so, one after the other.

        Args:
            split: to finish.
            samples: how many the source has; None: as the manifest says.
        """
        # Merged under the manifest's lock: who merges last counts last.
        with locked(self.root / ".lock"):
            rows = self.index(split).merge()
            failed = self.failures(split).merge(drop=rows)
            self.timings(split).merge()
            manifest = StoreManifest.read(self.root)
            info = manifest.splits[split]
            counted = dataclasses.replace(
                info, samples=info.samples if samples is None else samples, stored=len(rows), failed=len(failed)
            )
            self.manifest = manifest.with_split(split, counted)
            if counted != info:
                self.manifest.write(self.root)
        return counted


class SampleWriter:
    """Writes maps of a split and their rows; close it, then `BevStore.finish`. Used by one thread at a time.

    Args:
        store: to write to.
        split: of all samples.
        name: of this writer; no two at a time may have the same.

    Raises:
        InputError: another process writes under this name.
        DiskFull: no space.
    """

    def __init__(self, store: BevStore, split: str, name: str) -> None:
        checked_name(name, "writer", "this run")
        self._store = store
        self._split = split
        self._index = store.index(split).writer(name)
        self._failures = store.failures(split).writer(name)
        self._timings = store.timings(split).writer(name, sync=False)

    def sweep(self, tokens: Iterable[str]) -> None:
        """Removes what dead processes left of files of these tokens."""
        remove_leftovers(self._store.folder(self._split), {self._store.file_name(token) for token in tokens})

    def write(
        self,
        sample: Sample,
        features: np.ndarray,
        cameras: Sequence[str],
        missing: Sequence[str],
        seconds: float = 0.0,
    ) -> MapRecord:
        """Stores a map; it is on the disk and in the index when this returns.

        Args:
            sample: that the map is of.
            features: (C, Y, X) float32.
            cameras, missing: that are in it, and that are not.
            seconds: that it took.

        Raises:
            InputError: a wrong shape, numbers that are not finite or do not fit the dtype, or a map of zeros.
            DiskFull: no space; nothing of the sample is left.
        """
        manifest, files = self._store.manifest, self._store.manifest.files
        if features.shape != manifest.shape:
            raise InputError(f"expected a map {list(manifest.shape)}, found {list(features.shape)}")
        packed, error = pack(features, files)
        if packed.coverage == 0:
            raise InputError(
                "expected features, found a map of zeros only", "check that the cameras' calibration meets the grid"
            )
        record = MapRecord(
            token=sample.token,
            file=self._store.file_name(sample.token),
            size=0,
            sha256="0" * 64,
            stamp_ns=int(sample.stamp_ns),
            ego_pose=pose_rows(sample.ego_pose),
            scene=sample.scene,
            calibration=sample.rig.hash,
            cameras=tuple(cameras),
            missing=tuple(missing),
            coverage=packed.coverage,
            error=error,
        )
        inside = {name: value for name, value in record.to_row().items() if name not in _BESIDE_FILE}
        data = to_bytes(packed, files, {**inside, **self._of_this_store()})
        record = dataclasses.replace(record, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        path = self._store.path(self._split, sample.token)
        with told_when_full(path), atomic_write(path, sweep=False) as temporary:
            temporary.write_bytes(data)
        self._index.add(record.to_row())
        self._timings.add({"token": sample.token, "seconds": round(seconds, 6)})
        return record

    def adopt(self, token: str) -> MapRecord | None:
        """Takes a file that is complete, but not in the index, into the index; None if it is not complete."""
        path = self._store.path(self._split, token)
        try:
            row = dict(self._store.read(self._split, token).record)
            of_store = {name: row.pop(name, None) for name in _IN_FILE_ONLY}
            if of_store != self._of_this_store() or row.get("token") != token:
                return None
            beside = {"file": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}
            record = MapRecord.from_row({**row, **beside}, str(path))
        except (InputError, OSError):
            return None
        self._index.add(record.to_row())
        return record

    def fail(self, token: str, reason: str) -> None:
        """Notes why there is no map of a token."""
        self._failures.add({"token": token, "reason": reason})

    def close(self) -> None:
        """Lets others merge what was written."""
        for lines in (self._index, self._failures, self._timings):
            lines.close()

    def _of_this_store(self) -> dict[str, Any]:
        manifest = self._store.manifest
        return {
            "split": self._split,
            "encoder": manifest.encoder.identity,
            "source": manifest.splits[self._split].source,
        }


def _split_differences(there: SplitInfo | None, here: SplitInfo, split: str) -> list[str]:
    if there is None:
        return []
    found = []
    for name in ("source", "cameras", "calibration"):
        old, new = getattr(there, name), getattr(here, name)
        if old != new:
            found.append(f"splits.{split}.{name} is {json.dumps(old)[:240]} there and {json.dumps(new)[:240]} here")
    return found
