# SPDX-License-Identifier: Apache-2.0
"""Pooling and its tables against the float64 goldens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from aot_runtime.errors import InputError
from bev_ros import pooling
from bev_ros.grid import RULES, BevGrid
from bev_ros.pooling import PlanePooling, Pooling, pool
from bev_ros.tables import PoolingTables, sort_points

NAMES = ("small", "zbins", "all_out", "one_cell")
BATCH0 = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")


class Case:
    """A golden, its tables by one rule, its wanted map."""

    def __init__(self, golden: dict[str, np.ndarray], rule: str, keep_z: bool) -> None:
        self.golden = golden
        x, y, z = (tuple(row) for row in golden["bounds"].tolist())
        grid = BevGrid(x, y, z, rule)
        shape = golden["points"].shape[1:5]
        self.map_shape = (grid.nz, *grid.shape) if keep_z else grid.shape
        self.tables = [
            sort_points(grid.flat_cell_of(points, keep_z=keep_z).astype(np.int32), shape, self.map_shape)
            for points in golden["points"]
        ]
        self.depth, self.context = torch.from_numpy(golden["depth"]), torch.from_numpy(golden["feat"])
        self.wanted = golden[f"bev_{rule}_{'keep' if keep_z else 'sum'}_z"]

    def check(self, found: np.ndarray, wanted: np.ndarray) -> None:
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(self.wanted).max())


@pytest.fixture(scope="module")
def case(shared: Path) -> Callable[..., Case]:
    return lambda name, rule="trunc", keep_z=False: Case(
        load_file(shared / "golden" / "bev" / f"pool_{name}.safetensors"), rule, keep_z
    )


@pytest.mark.parametrize("name", NAMES)
def test_tables_bit_for_bit(name: str, case: Callable[..., Case]) -> None:
    one = case(name)
    for key in BATCH0:
        found, wanted = getattr(one.tables[0], key), one.golden[f"batch0_trunc.{key}"]
        assert found.dtype == wanted.dtype, key
        np.testing.assert_array_equal(found, wanted, err_msg=key)


@pytest.mark.parametrize("keep_z", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_goldens(name: str, rule: str, keep_z: bool, case: Callable[..., Case]) -> None:
    """As a batch whose elements have different tables, one by one, and by depth planes."""
    one = case(name, rule, keep_z)
    one.check(pool(one.depth, one.context, one.tables).numpy(), one.wanted)
    planes = PlanePooling(one.map_shape)
    for depth, context, tables, wanted in zip(one.depth, one.context, one.tables, one.wanted):
        one.check(pool(depth, context, tables).numpy(), wanted)
        one.check(planes(depth, context, torch.from_numpy(tables.planes())).numpy(), wanted)
        # Tables filled up to a fixed size.
        filled = tables.tensors(points=tables.points + 100)
        one.check(Pooling(one.map_shape)(depth, context, *filled).numpy(), wanted)


@pytest.mark.parametrize("scatters", [1, 2, 3, 16])
def test_however_many_planes_are_scattered_at_a_time(
    scatters: int, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case("small")
    monkeypatch.setattr(pooling, "SCATTERS", scatters)
    planes = torch.from_numpy(one.tables[0].planes())
    one.check(PlanePooling(one.map_shape)(one.depth[0], one.context[0], planes).numpy(), one.wanted[0])


def test_a_batch_of_one_calibration(case: Callable[..., Case]) -> None:
    one = case("small")
    alone = [pool(depth, context, one.tables[0]) for depth, context in zip(one.depth, one.context)]
    torch.testing.assert_close(pool(one.depth, one.context, one.tables[0]), torch.stack(alone), rtol=0, atol=0)


def test_the_same_bits_every_time(case: Callable[..., Case]) -> None:
    one = case("one_cell")
    first = pool(one.depth, one.context, one.tables)
    assert all(torch.equal(first, pool(one.depth, one.context, one.tables)) for _ in range(3))


def test_channels_last_gives_the_same(case: Callable[..., Case]) -> None:
    one = case("small")
    context = one.context[0].contiguous(memory_format=torch.channels_last)
    assert torch.equal(pool(one.depth[0], context, one.tables[0]), pool(one.depth[0], one.context[0], one.tables[0]))


def spoiled(what: str, depth: torch.Tensor, context: torch.Tensor, tables: PoolingTables) -> tuple[Any, ...]:
    return {
        "depth": (depth[:, :-1], context, tables),
        "context": (depth, context[..., :-1], tables),
        "cameras": (depth[:1], context[:1], tables),
        "dtype": (depth.double(), context, tables),
        "list": (depth, context, [tables]),
        "batch": (depth[None], context[None], [tables, tables]),
        "batches": (depth[None], context[None].repeat(2, 1, 1, 1, 1), tables),
    }[what]


@pytest.mark.parametrize("what", ["depth", "context", "cameras", "dtype", "list", "batch", "batches"])
def test_what_does_not_fit_is_refused(what: str, case: Callable[..., Case]) -> None:
    one = case("small")
    with pytest.raises(InputError, match="expected"):
        pool(*spoiled(what, one.depth[0], one.context[0], one.tables[0]))
