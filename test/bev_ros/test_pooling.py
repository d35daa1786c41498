# SPDX-License-Identifier: Apache-2.0
"""Pooling and its tables against the float64 goldens."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_rigs import ring
from safetensors.numpy import load_file

from aot_runtime.errors import InputError
from bev_ros import pooling
from bev_ros.geometry import Frustum
from bev_ros.grid import RULES, BevGrid
from bev_ros.pooling import PlanePooling, Pooling, pixel_rows, pool
from bev_ros.tables import PoolingTables, build_tables, sort_points

NAMES = ("small", "zbins", "all_out", "one_cell")
BOUNDS = (-50.0, 50.0, 1.0)
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


def test_gradients(case: Callable[..., Case]) -> None:
    """Of depth and context, against the definition: for those who train an encoder."""
    one = case("small")
    depth, context = (tensor[0].double().requires_grad_() for tensor in (one.depth, one.context))
    assert torch.autograd.gradcheck(lambda d, c: pool(d, c, one.tables[0]), (depth, context))


@pytest.mark.alone
def test_much_faster_than_a_loop_or_the_volume() -> None:
    """The accepted ratios, at full size and 80 channels, in CPU time; benchmarks/bev_pooling.py has the numbers."""
    tables = build_tables(ring(), Frustum((256, 704), 16, (2.0, 58.0, 0.5)), BevGrid(BOUNDS, BOUNDS, (-10, 10, 20)))
    depth, context = torch.rand(tables.shape), torch.rand(6, 80, 16, 44)
    cells, rows, values = tables.planes(), pixel_rows(context), depth.flatten()
    n, d, h, w = tables.shape
    flat = torch.from_numpy(cells.reshape(d, n, h * w).transpose(1, 0, 2).reshape(-1).copy())
    tensors = tables.tensors()

    def volume() -> None:
        lifted = (depth[..., None] * context.permute(0, 2, 3, 1)[:, None]).reshape(-1, 80)
        torch.zeros(tables.cells + 1, 80).index_add_(0, flat, lifted)

    part = 20_000
    listed = list(zip(tables.ranks_bev[:part].tolist(), tables.ranks_feat[:part].tolist(), range(part)))
    total = torch.zeros(tables.cells, 80)

    def loop() -> None:
        for cell, pixel, point in listed:
            total[cell] += values[point] * rows[pixel]

    ours = cpu_time(lambda: pool(depth, context, tensors, tables.map_shape))
    assert cpu_time(volume, 2) > 5 * ours
    assert cpu_time(loop, 1) * tables.points / part > 50 * ours


def cpu_time(call: Callable[[], object], runs: int = 5) -> float:
    """Seconds of this process's CPU time, the best of several runs, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    torch.set_num_threads(threads)
    return best


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
