# SPDX-License-Identifier: Apache-2.0
"""A tiny lift-splat encoder with random weights, its artifacts, and a rig and images for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kept_artifacts import cached

SOURCES = (
    "test/support/bev_artifacts.py",
    "aot_runtime/backends",
    *(f"aot_runtime/{name}.py" for name in ("export", "makers", "golden", "manifest", "deform_conv")),
    "bev_ros/model",
    *(f"bev_ros/{name}.py" for name in ("artifact", "config", "custom", "deploy", "geometry", "grid", "lifted")),
    *(f"bev_ros/{name}.py" for name in ("pooling", "tables")),
)
SEED = 4


def tiny_encoder(seed: int = SEED, **changes: Any) -> Any:
    """The preset "tiny", with some fields of its configuration changed, and random weights."""
    from bev_ros.config import preset
    from bev_ros.model.encoder import BevEncoder, randomise

    encoder = BevEncoder(preset("tiny", **changes)).eval()
    randomise(encoder, seed)
    return encoder


def tiny_artifact(folder: Path, part: str = "fused", suffix: str = ".pt2", seed: int = SEED, **changes: Any) -> Path:
    """An artifact of it, compiled once and kept: 3 cameras of 96 x 64, 8 channels, 20 x 20 cells of 1 m.

    Args:
        part: a member of `bev_ros.artifact.PARTS`.
        seed: of the weights.
        **changes: of the configuration.
    """
    from aot_runtime.manifest import CheckpointInfo
    from bev_ros.artifact import export_part

    encoder = tiny_encoder(seed, **changes)
    key = hashlib.sha256(json.dumps([encoder.config.to_json(), seed], sort_keys=True).encode()).hexdigest()[:8]
    return cached(
        folder,
        f"bev_{part}_{key}",
        suffix,
        SOURCES,
        lambda path: export_part(encoder, part, path, checkpoint=CheckpointInfo.random(seed), progress=False),
    )


def tiny_rig(names: tuple[str, ...] = ("front", "left", "right"), size: tuple[int, int] = (160, 90)) -> Any:
    """Cameras of (width, height) that look forward, to the left and to the right, 1.5 m above the ground."""
    from bev_ros.calibration import CameraCalibration, Rig

    width, height = size
    matrix = np.array([[0.6 * width, 0, width / 2 - 0.5], [0, 0.6 * width, height / 2 - 0.5], [0, 0, 1]])
    # Columns: where the camera's x (right), y (down) and z (forward) point to.
    forward = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    cameras = []
    for index, name in enumerate(names):
        angle = np.deg2rad((0, 70, -70, 180, 110, -110)[index])
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = turn @ forward
        pose[:3, 3] = turn @ [1.0, 0.0, 0.0] + [0, 0, 1.5]
        cameras.append(CameraCalibration(name, width, height, matrix, pose))
    return Rig(tuple(cameras))


def tiny_images(rig: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Smooth noise for every camera, (H, W, 3) uint8 RGB."""
    import cv2

    random = np.random.default_rng(seed)
    images = {}
    for camera in rig:
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        images[camera.name] = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC)
    return images


def renamed(rig: Any, prefix: str) -> Any:
    """The same rig with a prefix before the cameras' names."""
    from bev_ros.calibration import Rig

    return Rig(tuple(replace(camera, name=f"{prefix}{camera.name}") for camera in rig), rig.frame)
