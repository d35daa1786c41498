# SPDX-License-Identifier: Apache-2.0
"""Fields that are affine in the frame's coordinates survive the way to the grid and back exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aot_runtime.errors import InputError
from f3_ros.sensor_grid import grid_camera_matrix, grid_scale, resize_depth_to_sensor, resize_flow_to_sensor

FRAME, GRID = (128, 72), (44, 34)


def on_grid(frame: tuple[int, int], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Frame coordinates of the grid's pixels."""
    v, u = np.mgrid[0 : grid[1], 0 : grid[0]].astype(np.float64)
    return u * (frame[0] - 1) / (grid[0] - 1), v * (frame[1] - 1) / (grid[1] - 1)


def affine_flow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Expansion, rotation and a shift, in frame pixels."""
    return np.stack([3.0 + 0.05 * u - 0.02 * v, -2.0 + 0.01 * u + 0.07 * v])


@pytest.mark.parametrize("sensor", [FRAME, (64, 48), (63, 47), (2, 2)])
def test_affine_flow_is_exact_in_sensor_pixels(sensor: tuple[int, int]) -> None:
    scale = np.array(grid_scale(FRAME, GRID))[:, None, None]
    flow = (affine_flow(*on_grid(FRAME, GRID)) * scale).astype(np.float32)
    found = resize_flow_to_sensor(flow, FRAME, sensor)
    v, u = np.mgrid[0 : sensor[1], 0 : sensor[0]]
    expected = affine_flow(u + (FRAME[0] - sensor[0]) // 2, v + (FRAME[1] - sensor[1]) // 2)
    assert found.shape == (2, sensor[1], sensor[0])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_full_frame_is_the_align_corners_resize() -> None:
    depth = np.random.default_rng(0).random((GRID[1], GRID[0]), np.float32)
    # In double: in float32 torch rounds the positions.
    wide = torch.from_numpy(depth)[None, None].double()
    expected = F.interpolate(wide, FRAME[::-1], mode="bilinear", align_corners=True)
    np.testing.assert_allclose(resize_depth_to_sensor(depth, FRAME, FRAME), expected[0, 0].numpy(), atol=1e-6)
    assert np.array_equal(resize_depth_to_sensor(depth, GRID, GRID), depth)


def test_affine_disparity_of_a_centred_sensor() -> None:
    u, v = on_grid(FRAME, GRID)
    found = resize_depth_to_sensor((0.1 * u + 0.2 * v).astype(np.float32), FRAME, (64, 40))
    rows, columns = np.mgrid[0:40, 0:64]
    np.testing.assert_allclose(found, 0.1 * (columns + 32) + 0.2 * (rows + 16), atol=1e-5)


def test_a_sensor_beyond_the_frame_is_nan_there() -> None:
    found = resize_depth_to_sensor(np.ones((5, 7), np.float32), (16, 12), (20, 12))
    assert np.isnan(found[:, :2]).all()
    assert np.isnan(found[:, 18:]).all()
    assert (found[:, 2:18] == 1).all()


def test_a_point_projects_to_the_same_place_through_either_matrix() -> None:
    sensor = (64, 48)
    k = np.array([[50.0, 0.3, 31.2], [0, 52.0, 24.9], [0, 0, 1]])
    point = np.array([0.3, -0.2, 1.7])
    on_sensor = k @ point / point[2]
    on_frame = on_sensor[:2] + [(FRAME[0] - 64) // 2, (FRAME[1] - 48) // 2]
    expected = on_frame * grid_scale(FRAME, GRID)
    found = grid_camera_matrix(k, FRAME, sensor, GRID) @ point / point[2]
    np.testing.assert_allclose(found, [*expected, 1.0], atol=1e-12)
    np.testing.assert_allclose(grid_camera_matrix(k, sensor, sensor, sensor), k)


def test_what_cannot_be_resized_is_named() -> None:
    with pytest.raises(InputError, match="2 x 2"):
        resize_depth_to_sensor(np.zeros((1, 4)), FRAME, FRAME)
    with pytest.raises(InputError, match=r"\(2, H, W\)"):
        resize_flow_to_sensor(np.zeros((3, 4, 4)), FRAME, FRAME)
    with pytest.raises(InputError, match=r"\(H, W\)"):
        resize_depth_to_sensor(np.zeros((1, 4, 4)), FRAME, FRAME)
