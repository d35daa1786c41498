# SPDX-License-Identifier: Apache-2.0
"""Rigs of cameras around a vehicle, for tests of BEV."""

from __future__ import annotations

import numpy as np

from bev_ros.calibration import CameraCalibration, Rig


def looking(yaw: float, position: tuple[float, float, float], pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(4, 4) vehicle <- optical camera: yaw grows to the left from 0 = forward, pitch downwards; radians."""
    level = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]]) @ level
    pose[:3, 3] = position
    return pose


def ring(count: int = 6, width: int = 1600, height: int = 900, focal: float = 1266.0) -> Rig:
    """Cameras all around, each a little different, as on a real vehicle."""
    cameras = []
    for index in range(count):
        yaw = 2 * np.pi * index / count + 0.01 * index
        matrix = np.array([[focal + index, 0, width / 2 - 7.3], [0, focal - 2, height / 2 + 5.1], [0, 0, 1]])
        position = (1.5 * np.cos(yaw), 0.7 * np.sin(yaw), 1.5 + 0.01 * index)
        pose = looking(yaw, position, 0.02 - 0.01 * index, 0.003 * index)
        cameras.append(CameraCalibration(f"camera_{index}", width, height, matrix, pose))
    return Rig(tuple(cameras))
