# SPDX-License-Identifier: Apache-2.0
"""A marker somewhere around the vehicle, seen by cameras, must come to its cell: the whole geometry in one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bev_rigs import ring

from bev_ros.geometry import PIXEL_RULES, Frustum
from bev_ros.grid import RULES, BevGrid
from bev_ros.images import prepare
from bev_ros.pooling import pool
from bev_ros.tables import build_tables

GRID = BevGrid((-20.0, 30.0, 1.0), (-25.0, 25.0, 1.0), (-4.0, 4.0, 8.0))
# Fine enough that a cell of features is much smaller than a cell of the grid.
FRUSTUM = Frustum((128, 320), 2, (1.0, 40.0, 0.25))
RIG = ring(6, 1280, 720, 700.0)
# Ahead; to the left; behind to the right; to the right, low; ahead to the left, high.
MARKERS = [(15.4, 0.5, 1.2), (0.6, 12.5, 1.0), (-14.5, -9.5, 1.5), (1.5, -16.5, 0.5), (20.5, 11.5, 3.0)]


def seen(point: tuple[float, float, float]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The images of a red ball at a point, black elsewhere, and its depth by camera."""
    images, depths = {}, {}
    for camera in RIG:
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        x, y, z = (np.linalg.inv(camera.sensor_to_ego) @ (*point, 1))[:3]
        if z > 1:
            u, v, _ = camera.matrix @ (x / z, y / z, 1)
            columns, rows = np.arange(camera.width), np.arange(camera.height)[:, None]
            radius = 0.2 * camera.matrix[0, 0] / z
            ball = (columns - u) ** 2 + (rows - v) ** 2 < radius**2
            image[ball, 0] = 255
            if ball.any():
                depths[camera.name] = z
        images[camera.name] = image
    return images, depths


@pytest.mark.parametrize(("rule", "pixels"), zip(RULES, PIXEL_RULES))
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_comes_to_its_cell(marker: tuple[float, float, float], rule: str, pixels: str) -> None:
    frustum = Frustum(FRUSTUM.image, FRUSTUM.stride, FRUSTUM.depth, pixels)
    grid = BevGrid(GRID.x, GRID.y, GRID.z, rule)
    images, depths = seen(marker)
    assert depths
    height, width = frustum.size
    depth, context = torch.zeros(6, frustum.bins, height, width), torch.zeros(6, 3, height, width)
    for index, camera in enumerate(RIG):
        transform = frustum.transform((camera.width, camera.height))
        image = prepare(images[camera.name], transform, mean=(0, 0, 0), std=(255, 255, 255))
        context[index] = torch.nn.functional.avg_pool2d(image, frustum.stride)
        if camera.name in depths:
            depth[index, int(np.abs(frustum.depths - depths[camera.name]).argmin())] = 1
    bev = pool(depth, context, build_tables(RIG, frustum, grid))
    assert bev.shape == (3, 50, 50)
    assert float(bev[1:].abs().max()) < 1e-6
    # Row = y, growing to the left; column = x, growing forward.
    row, column = int(np.floor(marker[1] + 25)), int(np.floor(marker[0] + 20))
    assert int(bev[0].argmax()) == row * 50 + column
    # Nearly all of it: the ball is smaller than a cell and lies in the middle of one.
    assert float(bev[0, row, column]) > 0.85 * float(bev[0].clamp(min=0).sum())
    # Turned for people: forward is up, left is left.
    picture = bev[0].numpy()[::-1, ::-1].T
    up, left = np.unravel_index(int(picture.argmax()), picture.shape)
    assert (30 - 0.5 - up, 25 - 0.5 - left) == (np.floor(marker[0]) + 0.5, np.floor(marker[1]) + 0.5)


def test_without_the_cameras_that_see_it_it_is_gone() -> None:
    images, depths = seen(MARKERS[0])
    blind = [name for name in RIG.names if name not in depths]
    assert blind
    row, column = 25, 35
    tables = build_tables(RIG, FRUSTUM, GRID, cameras=blind)
    assert tables.lengths.reshape(tables.map_shape)[row, column] == 0
    assert build_tables(RIG, FRUSTUM, GRID).lengths.reshape(tables.map_shape)[row, column] > 0
    assert set(images) == set(RIG.names)
