# SPDX-License-Identifier: Apache-2.0
"""The kernel of the pooling: in Triton's interpreter where Triton is installed, compiled where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_rigs import ring

from bev_ros.geometry import Frustum
from bev_ros.grid import BevGrid
from bev_ros.pooling import Pooling, as_map, kernel_for, pixel_rows, pool
from bev_ros.tables import PoolingTables, TableTensors, build_tables, sort_points

ROOT = Path(__file__).resolve().parent.parent.parent
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SHAPE, MAP = (2, 5, 3, 4), (4, 3)


def cases() -> dict[str, PoolingTables]:
    """Tables with long and short cells, empty ones first and last, all or no points."""
    random = np.random.default_rng(0)
    mixed = random.integers(-1, 11, 120).astype(np.int32)
    mixed[:50] = 3
    mixed[mixed == 0] = 5
    return {
        "mixed": sort_points(mixed, SHAPE, MAP),
        "last cell": sort_points(np.full(120, 11, np.int32), SHAPE, MAP),
        "nothing": sort_points(np.full(120, -1, np.int32), SHAPE, MAP),
    }


def check(launch: Any, device: str) -> None:
    """launch(depth, rows, *tables, out, cells=, points=, lanes=, warps=) against the plain pooling in float64."""
    generator = torch.Generator().manual_seed(0)
    for name, tables in cases().items():
        for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 2e-3)):
            for channels, *block in ((5, 1, 8, 16), (80, 1, 32, 32), (80, 8, 4, 128), (80, 2, 16, 64), (32, 16, 1, 16)):
                depth = torch.rand(SHAPE, generator=generator).to(dtype)
                context = torch.randn(2, channels, 3, 4, generator=generator).to(dtype)
                wanted = pool(depth.double(), context.double(), tables)
                # Tables that are filled up, as graphs of fixed sizes have them.
                tensors = tables.tensors(device, points=130)
                out = torch.full((12, channels), float("nan"), dtype=dtype, device=device)
                rows = pixel_rows(context).contiguous().to(device)
                options = dict(zip(("cells", "points", "lanes"), block))
                launch(depth.to(device), rows, *tensors, out, **options, warps=2)
                scale = max(1.0, float(wanted.abs().max()))
                found = as_map(out.cpu(), MAP).double()
                assert float((found - wanted).abs().max()) <= tolerance * scale, (name, dtype, channels, block)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which the kernel itself runs")
def test_in_the_interpreter() -> None:
    """In a process of its own: Triton reads the switch when it is imported."""
    paths = [str(Path(__file__).parent), str(ROOT / "test" / "support"), str(ROOT), *sys.path]
    told = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    subprocess.run([sys.executable, __file__], env=told, check=True, timeout=300)


def test_where_the_kernel_belongs() -> None:
    assert kernel_for(".pt2", "cuda:0") == (find_spec("triton") is not None)
    assert not kernel_for(".pt2", "cpu")
    assert not kernel_for(".onnx", "cuda")
    # Eager, the module does not need it.
    tables = cases()["mixed"]
    depth, context = torch.rand(SHAPE), torch.rand(2, 5, 3, 4)
    assert torch.equal(Pooling(MAP, kernel=True)(depth, context, *tables.tensors()), pool(depth, context, tables))


@cuda
def test_on_a_gpu() -> None:
    from bev_ros import pooling_kernels

    check(lambda *args, **options: pooling_kernels.launch(pooling_kernels._pool, *args, **options), "cuda")


@cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [80, 256])
def test_a_full_size_rig_on_a_gpu(channels: int, dtype: torch.dtype) -> None:
    """Against float64, and the same bits every time."""
    from bev_ros.pooling_kernels import pool_rows

    grid = BevGrid((-50.0, 50.0, 1.0), (-50.0, 50.0, 1.0), (-10.0, 10.0, 20.0))
    tables = build_tables(ring(), Frustum((256, 704), 16, (2.0, 58.0, 0.5)), grid)
    generator = torch.Generator("cuda").manual_seed(0)
    depth = torch.randn(tables.shape, generator=generator, device="cuda").softmax(1).to(dtype)
    context = torch.randn(6, channels, 16, 44, generator=generator, device="cuda").to(dtype)
    wanted = pool(depth.double(), context.double(), tables)
    rows = pixel_rows(context).contiguous()
    found = [pool_rows(depth, rows, *tables.tensors("cuda")) for _ in range(3)]
    assert all(torch.equal(found[0], other) for other in found[1:])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    error = (as_map(found[0], tables.map_shape).double() - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= tolerance


@cuda
def test_compiled_it_contains_the_kernel(tmp_path: Path) -> None:
    """One package, other calibrations; what is compiled calls the kernel."""
    module = Pooling(MAP, kernel=True)
    tables = cases()
    inputs = torch.rand(SHAPE, device="cuda"), torch.rand(2, 80, 3, 4, device="cuda")
    points = torch.export.Dim("points", min=2, max=130)
    program = torch.export.export(
        module, (*inputs, *tables["mixed"].tensors("cuda")), dynamic_shapes=(None, None, {0: points}, {0: points}, None)
    )
    assert "bev_pool" in str(program.graph)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "pool.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for name, one in tables.items():
        found = package(*inputs, *TableTensors(*one.tensors("cuda")))
        wanted = pool(inputs[0].double(), inputs[1].double(), one)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5, msg=name)


if __name__ == "__main__":
    from bev_ros import pooling_kernels

    check(lambda *args, **options: pooling_kernels.launch(pooling_kernels._pool, *args, **options), "cpu")
