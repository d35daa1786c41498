# SPDX-License-Identifier: Apache-2.0
"""The synthetic room of the reference data: frames with exact depth and poses, and exact distances to surfaces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.frames import read_image
from vggt_ros.fusion.bootstrap import Bootstrap, NpzSource
from vggt_ros.fusion.cameras import PosedCamera
from vggt_ros.fusion.scale import scaled_by_poses
from vggt_ros.fusion.streaming import StreamFrame

CAMERAS = ("left", "front", "right")
MOVER = 20


@dataclass(frozen=True)
class Room:
    """`data/synthetic_room`."""

    folder: Path

    @cached_property
    def frames(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "frames.npz") as file:
            return dict(file)

    @cached_property
    def static_depth(self) -> np.ndarray:
        return np.asarray(np.load(self.folder / "static_depth.npz")["depth"])

    @cached_property
    def relative(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "relative.npz") as file:
            return dict(file)

    @cached_property
    def scene(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "scene.json").read_text()))

    def index(self, camera: str, step: int) -> int:
        """The frame of a camera at a step."""
        return list(self.frames["names"]).index(f"{camera}_{step:02d}")

    def camera(self, frame: int) -> PosedCamera:
        return PosedCamera(self.frames["K"][frame], self.frames["T_wc"][frame], 160, 120)

    def colour(self, frame: int) -> np.ndarray:
        return read_image(self.folder / f"{self.frames['names'][frame]}.png")

    def still(self, frame: int) -> np.ndarray:
        """(H, W) bool: pixels that do not show the moving sphere."""
        return np.asarray(self.frames["label"][frame] != MOVER)

    def unscaled(self) -> Bootstrap:
        """Step 0 as VGGT would express it."""
        return NpzSource(self.folder / "vggt_like.npz", CAMERAS).bootstrap({})

    def metric(self) -> Bootstrap:
        """The same in metres, by the true poses."""
        return scaled_by_poses(self.unscaled(), {name: self.frames["T_wc"][self.index(name, 0)] for name in CAMERAS})

    def colours(self, step: int) -> dict[str, np.ndarray]:
        return {name: self.colour(self.index(name, step)) for name in CAMERAS}

    def batch(self, step: int, cameras: tuple[str, ...] = CAMERAS) -> list[StreamFrame]:
        """The frames of a step with their relative disparity."""
        found = []
        for name in cameras:
            frame = self.index(name, step)
            relative = self.relative["rel_disparity"][frame].astype(np.float32)
            found.append(StreamFrame(name, self.camera(frame), relative, self.colour(frame)))
        return found

    def seen(self, steps: tuple[int, ...], scale: float, turn: float, cameras: tuple[str, ...] = CAMERAS) -> Bootstrap:
        """A step of each camera as VGGT would express it, from the truth: in another unit, about another origin."""
        axis = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        world = np.eye(4)
        world[:3, :3], world[:3, 3] = axis, (0.3, -1.0, 2.0)
        frames = [self.index(name, step) for name, step in zip(cameras, steps)]
        poses = np.array([world @ self.frames["T_wc"][frame] for frame in frames])
        poses[:, :3, 3] *= scale
        depth = (self.frames["depth"][frames] * scale).astype(np.float32)
        return Bootstrap(cameras, poses, self.frames["K"][frames].astype(np.float64), depth, np.ones_like(depth))

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(...) signed distance to the static scene, positive in free space."""
        place = np.asarray(points, np.float64)
        low, high = np.array(self.scene["room"])
        nearest = np.minimum(place - low, high - place).min(-1)
        low, high = np.array(self.scene["box"])
        outside = np.abs(place - (low + high) / 2) - (high - low) / 2
        box = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(-1), 0)
        nearest = np.minimum(nearest, box)
        for centre, radius in self.scene["spheres"]:
            nearest = np.minimum(nearest, np.linalg.norm(place - np.array(centre), axis=-1) - radius)
        return np.asarray(nearest)
