# SPDX-License-Identifier: Apache-2.0
"""A line of index.jsonl: what is known of one map without opening its file. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot_runtime.errors import InputError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MapRecord:
    """One map.

    Attributes:
        token: of the sample.
        file: name in the split's folder.
        size: of the file, in bytes.
        sha256: of the file.
        stamp_ns: the instant of the ego frame, nanoseconds since the epoch.
        ego_pose: (4, 4) world <- ego as rows, or None if it is not known.
        scene: the recording that the sample belongs to, or "".
        calibration: hash of the rig.
        cameras: that are in the map.
        missing: cameras of the rig that are not.
        coverage: share of the cells that are not zero.
        error: largest error that the dtype makes, over the map's largest |value|.
    """

    token: str
    file: str
    size: int
    sha256: str
    stamp_ns: int
    ego_pose: tuple[tuple[float, ...], ...] | None
    scene: str
    calibration: str
    cameras: tuple[str, ...]
    missing: tuple[str, ...]
    coverage: float
    error: float

    @property
    def pose(self) -> np.ndarray | None:
        """(4, 4) float64, world <- ego, or None."""
        return None if self.ego_pose is None else np.array(self.ego_pose, np.float64)

    def to_row(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any], where: str = "the index") -> MapRecord:
        """What `to_row` gave.

        Raises:
            InputError: a field is missing, unknown or malformed.
        """
        wrong = _what_is_wrong(cls, row)
        if wrong:
            raise InputError(f"expected a row of a map, found {wrong} in {where}", "run verify_bev_features --repair")
        pose = row["ego_pose"]
        made = {
            **row,
            "ego_pose": None if pose is None else tuple(tuple(float(value) for value in line) for line in pose),
            "cameras": tuple(row["cameras"]),
            "missing": tuple(row["missing"]),
        }
        return cls(**made)


def pose_rows(pose: np.ndarray | None) -> tuple[tuple[float, ...], ...] | None:
    """A pose (4, 4) as `MapRecord` keeps it."""
    return None if pose is None else tuple(tuple(float(value) for value in line) for line in np.asarray(pose))


def _what_is_wrong(kind: type[MapRecord], row: dict[str, Any]) -> str:
    names = {item.name for item in dataclasses.fields(kind)}
    if set(row) != names:
        return f"the fields {', '.join(sorted(map(str, row)))}"[:300]
    for name in ("token", "file", "scene", "calibration"):
        if not isinstance(row[name], str):
            return f"{name} {row[name]!r:.60}"
    # A file elsewhere is never opened.
    if not row["file"].startswith(f"{row['token']}.") or "/" in row["file"] or not row["token"]:
        return f"file {row['file']!r:.60}"
    if not (isinstance(row["sha256"], str) and _DIGEST.fullmatch(row["sha256"])):
        return f"sha256 {row['sha256']!r:.80}"
    if type(row["size"]) is not int or row["size"] < 0 or type(row["stamp_ns"]) is not int:
        return f"size {row['size']!r:.60} and stamp_ns {row['stamp_ns']!r:.60}"
    for name in ("cameras", "missing"):
        if not (isinstance(row[name], list | tuple) and all(isinstance(text, str) for text in row[name])):
            return f"{name} {row[name]!r:.60}"
    for name in ("coverage", "error"):
        if not _is_number(row[name]) or row[name] < 0:
            return f"{name} {row[name]!r:.60}"
    pose = row["ego_pose"]
    if pose is not None and not (
        isinstance(pose, list | tuple)
        and len(pose) == 4
        and all(isinstance(line, list | tuple) and len(line) == 4 and all(map(_is_number, line)) for line in pose)
    ):
        return f"ego_pose {pose!r:.60}"
    return ""


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
