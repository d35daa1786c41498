# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what computed the features of a folder, on which grid, and how they are stored. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from bev_ros.grid import BevGrid
from bev_ros.store.disk import told_when_full
from bev_ros.store.formats import FileFormat

NAME = "manifest.json"
SCHEMA_VERSION = 1
KIND = "bev_features"
AXES = {
    "order": "C,Y,X",
    "frame": "x forward, y left, z up, metres; the origin is the vehicle's frame at the sample's stamp",
    "row": "a cell of y: row 0 begins at the low bound, y grows to the left",
    "column": "a cell of x: column 0 begins at the low bound, x grows forward",
    "centre": "of column i: x = low + (i + 1/2) * step; of row j: y = low + (j + 1/2) * step",
}
_REMEDY = "run precompute_bev_features into a new folder"


@dataclass(frozen=True)
class EncoderInfo:
    """What computed the maps.

    Attributes:
        identity: SHA-256 over everything that computes: the artifact, or the weights and the configuration.
        config: of the encoder, as JSON; the grid in it is that of the maps.
        random_weights: the maps mean nothing.
        licence: of the weights.
    """

    identity: str
    config: Mapping[str, Any]
    random_weights: bool
    licence: str


@dataclass(frozen=True)
class SplitInfo:
    """Where the samples of a split come from, and how many there are.

    Attributes:
        source: identity of the source of samples.
        cameras: chosen with --cameras; empty: all of the source's.
        calibration: where the cameras' poses come from, in words.
        samples: of the split in the source.
        stored: maps in the index when a writer ended.
        failed: samples in failed.jsonl then.
    """

    source: str
    cameras: tuple[str, ...] = ()
    calibration: str = ""
    samples: int = 0
    stored: int = 0
    failed: int = 0


@dataclass(frozen=True)
class StoreManifest:
    """What is true of all maps of a folder.

    Attributes:
        encoder: what computed them.
        grid: of their cells.
        shape: (C, Y, X).
        files: how they are stored.
        frame: name of the vehicle's frame.
        code_version: of the program that began the folder.
        splits: by name.
    """

    encoder: EncoderInfo
    grid: BevGrid
    shape: tuple[int, int, int]
    files: FileFormat
    frame: str = "base_link"
    code_version: str = ""
    splits: Mapping[str, SplitInfo] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "encoder": {**dataclasses.asdict(self.encoder), "config": dict(self.encoder.config)},
            "grid": self.grid.to_json(),
            "shape": list(self.shape),
            "axes": AXES,
            "frame": self.frame,
            "files": dataclasses.asdict(self.files),
            "code_version": self.code_version,
            "splits": {name: _plain(dataclasses.asdict(self.splits[name])) for name in sorted(self.splits)},
        }

    def differences(self, other: StoreManifest) -> list[str]:
        """What keeps maps of `other` out of this folder: "NAME is A there and B here", sorted."""
        ours, theirs = self.to_json(), other.to_json()
        for told in (ours, theirs):
            for key in ("splits", "code_version"):
                told.pop(key)
        return _differences(ours, theirs)

    def with_split(self, name: str, info: SplitInfo) -> StoreManifest:
        """The manifest with another or one more split."""
        return dataclasses.replace(self, splits={**self.splits, name: info})

    def write(self, root: Path) -> None:
        """Writes ROOT/manifest.json."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
        with told_when_full(root / NAME), atomic_write(root / NAME) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, root: Path) -> StoreManifest:
        """The manifest of a folder.

        Raises:
            InputError: there is none, or it is malformed or of another schema version; the message names the field.
        """
        path = root / NAME
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise InputError(
                f"expected a folder of BEV features, found no {NAME} in {root}",
                "give the --output_dir of precompute_bev_features",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a manifest, found {error} in {path}", _REMEDY) from error
        try:
            told = json.loads(text, parse_constant=_refuse_constant)
            return cls.from_json(told)
        except InputError as error:
            raise InputError(f"{error.reason} in {path}", error.remedy or _REMEDY) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"expected JSON, found {error} in {path}", _REMEDY) from error

    @classmethod
    def from_json(cls, told: Any) -> StoreManifest:
        """What `to_json` gave.

        Raises:
            InputError: a field is missing, unknown or malformed.
        """
        found = told.get("schema_version") if isinstance(told, dict) else told
        if found != SCHEMA_VERSION or type(found) is not int:
            raise InputError(
                f"expected BEV features of schema version {SCHEMA_VERSION}, found {found!r:.60}",
                "read them with the version of aot_perception that wrote them",
            )
        names = {"schema_version", "kind", "encoder", "grid", "shape", "axes", "frame", "files", "code_version"}
        _expect_fields(told, names | {"splits"}, "the manifest")
        if told["kind"] != KIND or told["axes"] != AXES:
            raise InputError(f"expected kind {KIND!r} and axes {AXES['order']}, found others")
        shape = told["shape"]
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
            raise InputError(f"expected shape [C, Y, X], found {shape!r:.60}")
        grid = BevGrid.from_json(told["grid"])
        if tuple(shape[1:]) != grid.shape:
            raise InputError(f"expected a shape that fits the grid, {list(grid.shape)}, found {shape[1:]}")
        files = told["files"]
        _expect_fields(files, {"format", "dtype", "layout"}, "files")
        splits = told["splits"]
        if not isinstance(splits, dict):
            raise InputError(f"expected splits by name, found {type(splits).__name__}")
        return cls(
            encoder=_parsed(EncoderInfo, told["encoder"], "encoder"),
            grid=grid,
            shape=(shape[0], shape[1], shape[2]),
            files=FileFormat(**files),
            frame=_text(told["frame"], "frame"),
            code_version=_text(told["code_version"], "code_version"),
            splits={name: _parsed(SplitInfo, info, f"splits.{name}") for name, info in splits.items()},
        )


def code_version() -> str:
    """Name and version of this program."""
    try:
        return f"aot_perception {metadata.version('aot_perception')}"
    except metadata.PackageNotFoundError:
        return "aot_perception (not installed)"


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        found: list[str] = []
        for key in sorted({*there, *here}):
            found += _differences(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
        return found
    if json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True):
        return []
    return [f"{name} is {there!r:.80} there and {here!r:.80} here"]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON number")


def _expect_fields(told: Any, names: set[str], where: str) -> None:
    if not isinstance(told, dict) or set(told) != names:
        found = ", ".join(sorted(map(str, told)))[:200] if isinstance(told, dict) else type(told).__name__
        raise InputError(f"expected {', '.join(sorted(names))} at {where}, found {found or 'nothing'}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"expected a text at {where}, found {value!r:.60}")
    return value


def _parsed(kind: Any, told: Any, where: str) -> Any:
    """A flat dataclass of texts, counts, truths, lists of texts and objects."""
    items = dataclasses.fields(kind)
    _expect_fields(told, {item.name for item in items}, where)
    made: dict[str, Any] = {}
    for name, value in told.items():
        wanted: Iterator[Any] = (item.type for item in items if item.name == name)
        annotation = next(wanted)
        good = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "int": type(value) is int and value >= 0,
            "tuple[str, ...]": isinstance(value, list) and all(isinstance(text, str) for text in value),
            "Mapping[str, Any]": isinstance(value, dict),
        }[annotation]
        if not good:
            raise InputError(f"expected {annotation} at {where}.{name}, found {value!r:.60}")
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)
