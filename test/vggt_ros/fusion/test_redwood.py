# SPDX-License-Identifier: Apache-2.0
"""Fusion of a depth camera's real-sized frames (Redwood RGB-D): frames that were not fused tell how good the map is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros.fusion.alignment import depth_from_disparity, fit_disparity
from vggt_ros.fusion.cameras import PosedCamera, depth_view
from vggt_ros.fusion.maps import make_map
from vggt_ros.fusion.tsdf import TsdfConfig

_MATRIX = np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def frames(shared: Path) -> list[tuple[PosedCamera, np.ndarray]]:
    """Five cameras of 320 x 240 and their depth in metres, NaN where unknown."""
    folder = shared / "data" / "multiview" / "redwood_rgbd"
    rows = [line.split() for line in (folder / "trajectory.log").read_text().splitlines() if line.strip()]
    poses = [np.array(rows[5 * index + 1 : 5 * index + 5], np.float64) for index in range(5)]
    found = []
    for index, pose in enumerate(poses):
        raw = cv2.imread(str(folder / f"{index:05d}_depth.png"), cv2.IMREAD_UNCHANGED)
        depth = np.where(raw > 0, raw / 1000.0, np.nan).astype(np.float32)[::2, ::2]
        # Every second pixel, so its centre keeps its ray: u' = u / 2.
        matrix = _MATRIX.copy()
        matrix[:2] /= 2
        found.append((PosedCamera(matrix, pose, 320, 240), depth))
    return found


@pytest.mark.parametrize("kind", ["surfel", "tsdf"])
def test_the_map_of_four_frames_shows_the_fifth(frames: list[tuple[PosedCamera, np.ndarray]], kind: str) -> None:
    fused = make_map(kind, tsdf=TsdfConfig(0.02))
    for camera, depth in frames[:4]:
        fused.fuse(depth_view(camera, depth, noise=0.005, window=2))
    camera, depth = frames[4]
    shown = fused.render(camera)
    both = np.isfinite(depth) & (shown.index >= 0).numpy()
    assert both.mean() > 0.7
    error = np.abs(shown.depth.numpy() - depth)[both]
    # Warping a single frame gives 5 mm.
    assert np.median(error) < 0.006
    # What a relative network would say is aligned to it.
    relative = (1 / depth - 0.1) / 0.4
    fit = fit_disparity(relative, shown.depth.numpy())
    assert fit.accepted, fit.problem
    np.testing.assert_allclose(fit.parameters, [0.4, 0.1], atol=0.005)
    back = depth_from_disparity(relative, fit.parameters)
    assert np.nanmedian(np.abs(back - depth)) < 0.01


def test_poses_taken_the_wrong_way_round_show(frames: list[tuple[PosedCamera, np.ndarray]]) -> None:
    camera, depth = frames[0]
    fused = make_map("surfel")
    fused.fuse(depth_view(camera, depth))
    last, true = frames[4]
    shown = fused.render(PosedCamera(last.matrix, np.linalg.inv(last.pose), 320, 240))
    both = np.isfinite(true) & (shown.index >= 0).numpy()
    assert np.median(np.abs(shown.depth.numpy() - true)[both]) > 0.05
