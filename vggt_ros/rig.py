# SPDX-License-Identifier: Apache-2.0
"""A rig's calibration from files: the intrinsics of each camera, and its poses, fixed or frame by frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import checked_pose
from vggt_ros.fusion.npz import read_npz


@dataclass(frozen=True)
class Rig:
    """What is known of the cameras beforehand.

    Attributes:
        intrinsics: camera -> (3, 3) of its images as they come in.
        poses: camera -> {frame number, or None for all frames: (4, 4) world <- camera, metres}.
    """

    intrinsics: Mapping[str, np.ndarray] = field(default_factory=dict)
    poses: Mapping[str, Mapping[int | None, np.ndarray]] = field(default_factory=dict)

    def pose(self, camera: str, frame: int) -> np.ndarray | None:
        """The camera's pose at a frame; None if it is not known."""
        known = self.poses.get(camera, {})
        return known.get(frame, known.get(None))

    def poses_at(self, frame: int) -> dict[str, np.ndarray]:
        """All known poses at a frame."""
        found = {camera: self.pose(camera, frame) for camera in self.poses}
        return {camera: pose for camera, pose in found.items() if pose is not None}


def read_intrinsics(path: Path) -> dict[str, np.ndarray]:
    """Camera matrices from .json, .yaml or .npz.

    JSON and YAML: {camera: 3x3}, or a list of {camera or id, matrix}, either of them under "intrinsics" if you like.
    NPZ: one array a camera.

    Raises:
        InputError: the file is malformed.
    """
    found = {}
    for (camera, _), matrix in _entries(path, "intrinsics").items():
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
            raise InputError(f"expected a (3, 3) camera matrix of '{camera}', found {matrix.tolist()} in {path}")
        found[camera] = matrix
    return found


def read_poses(path: Path) -> dict[str, dict[int | None, np.ndarray]]:
    """Poses, world <- camera in metres, from .json, .yaml or .npz.

    JSON and YAML: {camera: 4x4}, or a list of {camera or cam, matrix, optionally frame or t}, either of them under
    "poses" if you like. NPZ: arrays named "camera", or "camera/frame".

    Raises:
        InputError: the file is malformed.
    """
    found: dict[str, dict[int | None, np.ndarray]] = {}
    for (camera, frame), matrix in _entries(path, "poses").items():
        found.setdefault(camera, {})[frame] = checked_pose(matrix, f"'{camera}' in {path}")
    return found


def _entries(path: Path, kind: str) -> dict[tuple[str, int | None], np.ndarray]:
    if path.suffix.lower() == ".npz":
        named = [(name, None, array) for name, array in read_npz(path, kind).items()]
    else:
        try:
            text = path.read_text(encoding="utf-8")
            told = yaml.safe_load(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
            named = _listed(told.get(kind, told) if isinstance(told, dict) else told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise InputError(
                f"expected {kind} as JSON, YAML or NPZ, found {error!r} in {path}",
                f"see the help of --{kind} for the format",
            ) from error
    try:
        found = {_key(name, frame): np.array(matrix, np.float64) for name, frame, matrix in named}
    except (ValueError, TypeError) as error:
        raise InputError(f"expected matrices of numbers, found {error} in {path}") from error
    if not found:
        raise InputError(f"expected {kind} of some camera, found none in {path}")
    return found


def _listed(told: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(told, dict):
        return [(str(name), None, matrix) for name, matrix in told.items()]
    found = []
    for one in told:
        name = one.get("camera", one.get("cam", one.get("id")))
        if name is None:
            raise KeyError("camera")
        found.append((str(name), one.get("frame", one.get("t")), one["matrix"]))
    return found


def _key(name: str, frame: Any) -> tuple[str, int | None]:
    camera, slash, number = name.rpartition("/")
    if slash:
        return camera, int(number)
    return name, None if frame is None else int(frame)
