# SPDX-License-Identifier: Apache-2.0
"""A tiny data set in nuScenes' format: key frames of a few cameras on a vehicle that drives a curve."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.transforms import to_parts

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
YAWS = (55.0, 0.0, -55.0, 110.0, 180.0, -110.0)
START_US = 1_530_000_000_000_000
_SAMPLE_US = 500_000
_LATER_US = 12_000  # each camera takes its picture so much after the one before it, the first so much after the lidar


def token_of(*parts: object) -> str:
    """32 hexadecimal digits, the same for the same parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def ego_to_world(stamp_us: int) -> np.ndarray:
    """(4, 4): where the vehicle is: 8 m/s along a circle of 40 m."""
    angle = 8.0 / 40.0 * (stamp_us - START_US) * 1e-6
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    pose[:3, 3] = 100 + 40 * math.sin(angle), 200 + 40 * (1 - math.cos(angle)), 0.5
    return pose


def camera_to_ego(yaw_degrees: float) -> np.ndarray:
    """(4, 4): a level camera (x right, y down, z forward) 1.5 m above the ground that looks at a yaw."""
    yaw = math.radians(yaw_degrees)
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, [0, 0, -1.0], forward], axis=1)
    pose[:3, 3] = 1.2 * forward + [0, 0, 1.5]
    return pose


def _quaternion(pose: np.ndarray) -> list[float]:
    """w, x, y, z, as nuScenes writes it."""
    x, y, z, w = to_parts(pose)[1].tolist()
    return [w, x, y, z]


@dataclass(frozen=True)
class NuScenesFolder:
    """What was written.

    Attributes:
        root: folder with samples/ and the version.
        tokens: of the samples, by scene name, in order of time.
        images: (token, channel) -> (H, W, 3) uint8 RGB.
        matrix: (3, 3) of every camera.
        yaws: channel -> degrees.
        stamps_us: (token, channel or "LIDAR_TOP") -> microseconds.
    """

    root: Path
    version: str
    tokens: dict[str, list[str]] = field(default_factory=dict)
    images: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    yaws: dict[str, float] = field(default_factory=dict)
    stamps_us: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def tables(self) -> Path:
        """The folder of the tables."""
        return self.root / self.version

    def read(self, table: str) -> list[dict[str, Any]]:
        """The records of a table."""
        return json.loads((self.tables / f"{table}.json").read_text())

    def write(self, table: str, records: object) -> None:
        """Replaces a table."""
        (self.tables / f"{table}.json").write_text(json.dumps(records, indent=0))


def write_nuscenes(
    root: Path,
    *,
    version: str = "v1.0-mini",
    scenes: int = 2,
    samples: int = 3,
    cameras: Sequence[str] = CAMERAS,
    size: tuple[int, int] = (64, 36),
    lidar: bool = True,
    splits: bool = True,
    seed: int = 0,
) -> NuScenesFolder:
    """Writes it: scene-0001 ... of `samples` key frames half a second apart, with a sweep between.

    Args:
        root: made if it does not exist.
        cameras: channels; their yaws are nuScenes', roughly.
        size: (width, height) of the images, which are smooth noise in PNG.
        lidar: whether there are key frames of LIDAR_TOP (records only, no points).
        splits: writes splits.json: the last scene is "val", the others are "train".
    """
    import cv2

    width, height = size
    matrix = np.array([[0.8 * width, 0, width / 2 - 0.5], [0, 0.8 * width, height / 2 - 0.5], [0, 0, 1.0]])
    yaws = {channel: YAWS[CAMERAS.index(channel)] if channel in CAMERAS else 0.0 for channel in cameras}
    told = NuScenesFolder(root, version, matrix=matrix, yaws=yaws)
    told.tables.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    channels = (*(("LIDAR_TOP",) if lidar else ()), *cameras)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("scene", "sample", "sensor", "calibrated_sensor", "sample_data", "ego_pose", "log")
    }
    for channel in channels:
        modality = "camera" if channel in cameras else "lidar"
        tables["sensor"].append({"token": token_of("sensor", channel), "channel": channel, "modality": modality})
        (root / "samples" / channel).mkdir(parents=True)
    for number in range(scenes):
        name = f"scene-{number + 1:04d}"
        told.tokens[name] = [token_of(name, index) for index in range(samples)]
        log = token_of("log", name)
        tables["log"].append({"token": log, "logfile": name, "vehicle": "n0", "date_captured": "", "location": ""})
        tables["scene"].append({"token": token_of(name), "log_token": log, "name": name, "nbr_samples": samples})
        for channel in channels:
            pose = camera_to_ego(yaws[channel]) if channel in yaws else np.eye(4)
            tables["calibrated_sensor"].append(
                {
                    "token": token_of("calibration", name, channel),
                    "sensor_token": token_of("sensor", channel),
                    "translation": pose[:3, 3].tolist(),
                    "rotation": _quaternion(pose),
                    "camera_intrinsic": matrix.tolist() if channel in yaws else [],
                }
            )
        for index, token in enumerate(told.tokens[name]):
            time_us = START_US + number * 60_000_000 + index * _SAMPLE_US
            tables["sample"].append({"token": token, "timestamp": time_us, "scene_token": token_of(name)})
            for position, channel in enumerate(channels):
                for key_frame in (True, False):
                    stamp_us = time_us + (position + (not lidar)) * _LATER_US + (0 if key_frame else _SAMPLE_US // 2)
                    data = token_of(token, channel, key_frame)
                    folder = "samples" if key_frame else "sweeps"
                    file = f"{folder}/{channel}/{name}__{channel}__{stamp_us}.png"
                    is_camera = channel in yaws
                    tables["sample_data"].append(
                        {
                            "token": data,
                            "sample_token": token,
                            "ego_pose_token": data,
                            "calibrated_sensor_token": token_of("calibration", name, channel),
                            "timestamp": stamp_us,
                            "fileformat": "png" if is_camera else "pcd",
                            "is_key_frame": key_frame,
                            "height": height if is_camera else 0,
                            "width": width if is_camera else 0,
                            "filename": file,
                        }
                    )
                    pose = ego_to_world(stamp_us)
                    tables["ego_pose"].append(
                        {
                            "token": data,
                            "timestamp": stamp_us,
                            "rotation": _quaternion(pose),
                            "translation": pose[:3, 3].tolist(),
                        }
                    )
                    if not key_frame:
                        continue
                    told.stamps_us[token, channel] = stamp_us
                    if is_camera:
                        coarse = rng.integers(0, 256, (5, 8, 3), np.uint8)
                        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
                        cv2.imwrite(str(root / file), image[:, :, ::-1])
                        told.images[token, channel] = image
    for table, records in tables.items():
        told.write(table, records)
    if splits:
        names = list(told.tokens)
        (told.tables / "splits.json").write_text(json.dumps({"train": names[:-1], "val": names[-1:]}))
    return told
