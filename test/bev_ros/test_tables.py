# SPDX-License-Identifier: Apache-2.0
"""Tables from calibrations, against brute force; what they keep in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bev_rigs import ring
from safetensors.numpy import load_file, save_file

from aot_runtime.errors import InputError
from bev_ros.geometry import Frustum, Lift, lifts
from bev_ros.grid import RULES, BevGrid
from bev_ros.table_cache import ARRAYS, TableCache
from bev_ros.tables import (
    PoolingTables,
    TableTensors,
    build_tables,
    camera_cells,
    join_tables,
    merge_cells,
    sort_points,
)

FRUSTUM = Frustum((64, 96), 8, (2.0, 50.0, 2.0))
GRID = BevGrid((-50.0, 50.0, 1.0), (-40.0, 40.0, 0.8), (-6.0, 6.0, 4.0))
RIG = ring(4, 640, 480, 500.0)


def same(one: PoolingTables, other: PoolingTables) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


@pytest.mark.parametrize("keep_z", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_brute_force(rule: str, keep_z: bool) -> None:
    """Every point by itself, in float64, and a stable sort."""
    grid = replace(GRID, rule=rule)
    points = np.stack([lift.points(FRUSTUM.points()) for lift in lifts(RIG, FRUSTUM)])
    place = (points - grid.low) / grid.step
    assert np.abs(place - np.round(place)).min() > 1e-9, "no point may lie on a border, where rounding decides"
    flat = grid.flat_cell_of(points, keep_z=keep_z).ravel()
    kept = np.flatnonzero(flat >= 0)
    wanted = kept[np.argsort(flat[kept], kind="stable")]
    tables = build_tables(RIG, FRUSTUM, grid, keep_z=keep_z)
    np.testing.assert_array_equal(tables.ranks_depth, wanted)
    np.testing.assert_array_equal(tables.ranks_bev, flat[wanted])
    height, width = FRUSTUM.size
    pixels = height * width
    np.testing.assert_array_equal(tables.ranks_feat, wanted // (FRUSTUM.bins * pixels) * pixels + wanted % pixels)
    assert tables.offsets[-1] == tables.points == len(wanted)
    assert tables.map_shape == ((3, 100, 100) if keep_z else (100, 100))
    assert tables.coverage == len(set(flat[wanted].tolist())) / tables.cells
    planes = tables.planes()
    by_depth = flat.reshape(len(RIG), FRUSTUM.bins, pixels).transpose(1, 0, 2).reshape(FRUSTUM.bins, -1)
    np.testing.assert_array_equal(planes, np.where(by_depth < 0, tables.cells, by_depth))


def test_indices_of_the_reference_encoder(shared: Path) -> None:
    """golden/bev/lss_tiny: from its matrices to the indices that the reference computed in float32."""
    folder = shared / "golden" / "bev"
    told = json.loads((folder / "lss_tiny_config.json").read_text())
    golden = load_file(folder / "lss_tiny_case.safetensors")
    height, width = told["final_dim"]
    frustum = Frustum((height, width), told["downsample_factor"], tuple(told["d_bound"]))
    grid = BevGrid(tuple(told["x_bound"]), tuple(told["y_bound"]), tuple(told["z_bound"]))
    index = golden["index_trunc"][0].reshape(3, -1, 3)
    inside = ((index >= 0) & (index < grid.counts)).all(-1)
    wanted = np.where(inside, index[..., 1] * grid.nx + index[..., 0], -1)
    keys = ("intrin_mats", "sensor2ego_mats", "ida_mats")
    matrices = [golden[key].astype(np.float64).reshape(3, 4, 4) for key in keys]
    found = np.stack(
        [camera_cells(Lift.of(*one, golden["bda_mat"][0].astype(float)), frustum, grid) for one in zip(*matrices)]
    )
    # Float32 moves a point by 2e-5 m: only those may differ that lie as near to a border.
    place = (golden["points"][0].astype(np.float64).reshape(3, -1, 3) - grid.low) / grid.step
    near = (np.abs(place - np.round(place)) < 5e-5).any(-1)
    assert near.mean() < 1e-3
    np.testing.assert_array_equal(found[~near], wanted[~near])


def test_a_missing_camera_leaves_its_points_out() -> None:
    tables = build_tables(RIG, FRUSTUM, GRID)
    names = [RIG.names[3], RIG.names[0], RIG.names[1]]
    fewer = build_tables(RIG, FRUSTUM, GRID, cameras=names)
    assert fewer.cameras == (RIG.names[0], RIG.names[1], RIG.names[3])
    assert fewer.shape == tables.shape
    height, width = FRUSTUM.size
    kept = tables.ranks_feat // (height * width) != 2
    assert 0 < kept.mean() < 1
    np.testing.assert_array_equal(fewer.ranks_depth, tables.ranks_depth[kept])
    np.testing.assert_array_equal(fewer.ranks_bev, tables.ranks_bev[kept])
    assert build_tables(RIG, FRUSTUM, GRID, cameras=[]).points == 0
    with pytest.raises(InputError, match="camera_0"):
        build_tables(RIG, FRUSTUM, GRID, cameras=["nobody"])


def test_a_batch_of_calibrations() -> None:
    first, second = build_tables(RIG, FRUSTUM, GRID), build_tables(ring(4, 640, 400, 450.0), FRUSTUM, GRID)
    joined = join_tables([first, second])
    assert joined.map_shape == (2, *first.map_shape)
    assert joined.shape == (8, *first.shape[1:])
    np.testing.assert_array_equal(joined.lengths, np.concatenate([first.lengths, second.lengths]))
    np.testing.assert_array_equal(joined.ranks_bev[first.points :] - first.cells, second.ranks_bev)
    with pytest.raises(InputError, match="one size"):
        join_tables([first, build_tables(ring(3), FRUSTUM, GRID)])
    with pytest.raises(InputError, match="one size"):
        join_tables([])


def test_tensors_are_filled_up() -> None:
    empty = build_tables(RIG, FRUSTUM, GRID, cameras=[])
    tensors = empty.tensors()
    assert isinstance(tensors, TableTensors)
    assert [len(tensor) for tensor in tensors] == [2, 2, empty.cells + 2]
    assert tensors.offsets[-2:].tolist() == [0, 2]
    tables = build_tables(RIG, FRUSTUM, GRID)
    assert all(tensor.dtype == torch.int32 for tensor in tables.tensors())
    assert len(tables.tensors(points=tables.points + 5).ranks_depth) == tables.points + 5
    with pytest.raises(InputError, match="at most"):
        tables.tensors(points=tables.points - 1)


def test_cells_that_do_not_fit_are_refused() -> None:
    cells = np.zeros(24, np.int32)
    with pytest.raises(InputError, match="points"):
        sort_points(cells, (1, 2, 3, 5), (2, 2))
    with pytest.raises(InputError, match="from 0 to 3"):
        sort_points(cells + 4, (1, 2, 3, 4), (2, 2))
    assert merge_cells([None], FRUSTUM, GRID).points == 0


@pytest.fixture
def cache(tmp_path: Path) -> Callable[..., TableCache]:
    return lambda **options: TableCache(FRUSTUM, GRID, **({"folder": tmp_path / "tables"} | options))


def test_memory_then_disk_then_built(cache: Callable[..., TableCache]) -> None:
    one = cache()
    origins = [one.find(RIG).origin for _ in range(2)]
    other = cache().find(RIG)
    assert (origins, other.origin, other.problem) == (["built", "memory"], "disk", "")
    wanted = build_tables(RIG, FRUSTUM, GRID)
    assert same(other.tables, wanted)
    assert (other.tables.shape, other.tables.map_shape, other.tables.cameras) == (
        wanted.shape,
        wanted.map_shape,
        wanted.cameras,
    )
    # Whatever the cameras are called, but not whatever they see.
    renamed = replace(RIG, cameras=tuple(replace(camera, name=f"x{camera.name}") for camera in RIG))
    assert one.find(renamed).origin == "memory"
    assert one.find(RIG, RIG.names[:3]).origin == "built"
    assert one.find(RIG.ordered(RIG.names[::-1])).origin == "built"
    assert one.find(RIG, bda=np.diag([1.0, -1, 1, 1])).origin == "built"
    for changed in (replace(GRID, rule="floor"), replace(GRID, x=(-50.0, 50.0, 2.0))):
        assert TableCache(FRUSTUM, changed, folder=one._folder).find(RIG).origin == "built"
    assert cache(keep_z=True).find(RIG).origin == "built"


def test_a_camera_that_moves(cache: Callable[..., TableCache]) -> None:
    one = cache(folder=None)
    one.get(RIG)
    pose = RIG.cameras[1].sensor_to_ego.copy()
    pose[0, 3] += 0.3
    moved = RIG.moved({RIG.names[1]: pose})
    cells = dict(one._cells)
    found = one.find(moved)
    assert found.origin == "built"
    assert same(found.tables, build_tables(moved, FRUSTUM, GRID))
    # Only that camera was projected anew.
    assert len(one._cells) == len(cells) + 1
    assert same(one.get(RIG, RIG.names[1:]), build_tables(RIG, FRUSTUM, GRID, cameras=RIG.names[1:]))
    assert len(one._cells) == len(cells) + 1


def test_memory_is_bounded(cache: Callable[..., TableCache]) -> None:
    one = cache(folder=None, capacity=2)
    for shift in range(20):
        pose = RIG.cameras[0].sensor_to_ego.copy()
        pose[1, 3] = shift
        one.get(RIG.moved({RIG.names[0]: pose}))
    assert len(one._tables) == 2
    assert len(one._cells) <= 16
    with pytest.raises(InputError, match="1 table"):
        cache(capacity=0)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "flipped":
        data[-100] ^= 4
    elif how == "text":
        data = bytearray(b"not a file of tables at all")
    else:
        arrays = load_file(path)
        save_file({name: arrays[name] for name in (ARRAYS if how == "unsigned" else ARRAYS[:2])}, path)
        return
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "text", "unsigned", "partial"])
def test_a_damaged_file_is_told_and_written_anew(how: str, cache: Callable[..., TableCache]) -> None:
    folder = cache()._folder
    assert folder is not None
    cache().get(RIG)
    (path,) = folder.iterdir()
    damage(path, how)
    found = cache().find(RIG)
    assert found.origin == "built"
    assert str(path) in found.problem
    assert "built them anew" in found.problem
    assert same(found.tables, build_tables(RIG, FRUSTUM, GRID))
    assert cache().find(RIG).origin == "disk"
    assert [entry.name for entry in folder.iterdir()] == [path.name]


def test_tables_of_another_rig_under_this_name(cache: Callable[..., TableCache]) -> None:
    folder = cache()._folder
    assert folder is not None
    cache().get(RIG)
    (first,) = folder.iterdir()
    data = first.read_bytes()
    cache().get(RIG, RIG.names[:2])
    (second,) = set(folder.iterdir()) - {first}
    second.write_bytes(data)
    assert "found others" in cache().find(RIG, RIG.names[:2]).problem


def test_a_folder_that_cannot_be_written(tmp_path: Path, cache: Callable[..., TableCache]) -> None:
    (tmp_path / "file").write_text("")
    found = cache(folder=tmp_path / "file" / "tables").find(RIG)
    assert found.origin == "built"
    assert "expected to keep tables" in found.problem
