# SPDX-License-Identifier: Apache-2.0
"""Maps and the world, on a map whose features are the coordinates of its cells: what comes out is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aot_runtime.errors import InputError
from bev_ros.grid import BevGrid
from bev_ros.warp import cells_of, sample_at, sample_world, warp_map, world_to_ego

# Not square, not symmetric: x and y cannot be confused.
GRID = BevGrid((-20.0, 40.0, 0.8), (-12.0, 20.0, 0.5), (-5.0, 3.0, 8.0), "floor")
FAR = np.array([681_234.5, 5_406_789.25, 312.0])


def pose(yaw: float, at: np.ndarray | tuple[float, ...], roll: float = 0.0) -> np.ndarray:
    c, s, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix[:3, 3] = at
    return matrix


def coordinates(dtype: torch.dtype = torch.float64, grid: BevGrid = GRID) -> torch.Tensor:
    """(2, Y, X): x and y of each cell's centre."""
    x, y, _ = grid.centres()
    return torch.tensor(np.stack(np.broadcast_arrays(x[None, :], y[:, None])), dtype=dtype)


def random_points(count: int, margin: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    low, high = np.array([GRID.x[0], GRID.y[0]]) + margin, np.array([GRID.x[1], GRID.y[1]]) - margin
    return random.uniform(low, high, (count, 2))


def test_whole_cells_are_centres() -> None:
    x, y, _ = GRID.centres()
    cells = cells_of(GRID, [[x[0], y[0]], [x[7], y[3]], [GRID.x[0], GRID.y[1]]])
    np.testing.assert_allclose(cells, [[0, 0], [7, 3], [-0.5, GRID.ny - 0.5]], atol=1e-12)
    np.testing.assert_allclose(cells, GRID.position_of(np.array([[x[0], y[0]], [x[7], y[3]], [-20, 20]])), atol=1e-12)


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_between_centres_coordinates_come_back(dtype: torch.dtype, exact: float) -> None:
    points = random_points(1000, 0.4)
    values, inside = sample_at(coordinates(dtype), GRID, points)
    assert values.dtype == dtype
    assert inside.all()
    assert np.abs(values.double().numpy() - points).max() < exact


def test_the_outer_half_of_a_border_cell_has_its_value_and_outside_is_nothing() -> None:
    low_x, high_y = GRID.x[0], GRID.y[1]
    values, inside = sample_at(
        coordinates(), GRID, [[low_x + 0.1, 0], [low_x - 1e-6, 0], [0, high_y], [0, high_y + 1e-6], [np.nan, 0]]
    )
    assert inside.tolist() == [True, False, True, False, False]
    assert values[0, 0] == low_x + 0.4
    assert values[2, 1] == high_y - 0.25
    assert (values[[1, 3, 4]] == 0).all()


@pytest.mark.parametrize("at", [np.zeros(3), FAR])
def test_points_of_the_world_meet_their_cells(at: np.ndarray) -> None:
    ego = pose(2.1, at, roll=0.05)
    points = np.column_stack([random_points(500, 0.4), np.linspace(-2, 2, 500)])
    world = points @ ego[:3, :3].T + ego[:3, 3]
    np.testing.assert_allclose(world_to_ego(world, ego), points, atol=1e-8)
    values, inside = sample_world(coordinates(), GRID, ego, world)
    assert inside.all()
    np.testing.assert_allclose(values, points[:, :2], atol=1e-8)


def test_batches_have_a_pose_each() -> None:
    poses = np.stack([pose(0.3, (5, 1, 0)), pose(-2, (0, 9, 1))])
    points = np.stack([random_points(50, 0.4, seed) for seed in range(2)])
    flat = np.concatenate([points, np.zeros((2, 50, 1))], axis=-1)
    world = flat @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]
    maps = torch.stack([coordinates(), 10 * coordinates()])
    values, inside = sample_world(maps, GRID, torch.tensor(poses), torch.tensor(world))
    assert inside.shape == (2, 50)
    np.testing.assert_allclose(values, points * np.array([1, 10])[:, None, None], atol=1e-10)
    warped = warp_map(maps, GRID, poses, poses)
    np.testing.assert_allclose(warped.features, maps, atol=1e-10)
    single = sample_world(maps[1], GRID, poses[1], world[1])
    np.testing.assert_array_equal(single.values, values[1])


def test_a_map_seen_from_another_pose_has_the_coordinates_of_the_first() -> None:
    first, second = pose(0.4, FAR), pose(0.4 + 0.5, FAR + [6, -2, 0.0])
    warped, inside = warp_map(coordinates(), GRID, first, second)
    x, y, _ = GRID.centres()
    for row, column in ((5, 10), (30, 40), (60, 20)):
        world = second @ [x[column], y[row], 0, 1]
        there = np.linalg.inv(first) @ world
        seen = GRID.x[0] <= there[0] <= GRID.x[1] and GRID.y[0] <= there[1] <= GRID.y[1]
        assert bool(inside[row, column]) == seen
        if seen:
            np.testing.assert_allclose(warped[:, row, column], there[:2], atol=1e-6)
    assert 0.3 < inside.double().mean() < 0.95
    assert (warped[:, ~inside] == 0).all()


def test_there_and_back_is_the_map_again_where_both_saw() -> None:
    first, second = pose(0.0, (0, 0, 0)), pose(0.7, (3, 1, 0))
    there, _ = warp_map(coordinates(), GRID, first, second)
    back, inside = warp_map(there, GRID, second, first)
    # Only where all four neighbours were seen, both times, and none of them in the outer half of a border cell.
    clear = torch.zeros(1, *GRID.shape, dtype=torch.float64)
    clear[:, 1:-1, 1:-1] = 1
    once = (warp_map(clear, GRID, first, second).features == 1).double() * clear
    whole = inside & (warp_map(once, GRID, second, first).features[0] == 1)
    assert whole.sum() > 500
    np.testing.assert_allclose(back[:, whole], coordinates()[:, whole], atol=1e-9)


def test_another_grid_may_be_wanted() -> None:
    finer = BevGrid((-5.0, 5.0, 0.25), (-3.0, 3.0, 0.25), GRID.z, "floor")
    warped, inside = warp_map(coordinates(), GRID, np.eye(4), np.eye(4), finer)
    assert inside.all()
    np.testing.assert_allclose(warped, coordinates(grid=finer), atol=1e-12)


def test_gradients_reach_the_features() -> None:
    features = coordinates().requires_grad_()
    sample_at(features, GRID, [[1.0, 2.0]]).values.sum().backward()
    assert features.grad is not None
    assert features.grad.sum() == pytest.approx(2)


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match=r"expected maps \(\[B,\] C, 64, 75\) and points .* found \(2, 75, 64\)"):
        sample_at(coordinates().transpose(1, 2), GRID, [[0.0, 0.0]])
    with pytest.raises(InputError, match="expected the vehicle's pose, found none"):
        sample_world(coordinates(), GRID, torch.full((4, 4), torch.nan), [[0.0, 0.0, 0.0]])
