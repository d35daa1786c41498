# SPDX-License-Identifier: Apache-2.0
"""The pooling alone as `.pt2` and `.onnx`: one artifact for every calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept_artifacts import cached
from safetensors.numpy import load_file

from aot_runtime import golden as goldens
from aot_runtime.compiled_model import load_model
from aot_runtime.export import export_model
from aot_runtime.manifest import CheckpointInfo, DynamicDim
from bev_ros.grid import BevGrid
from bev_ros.pooling import PlanePooling, Pooling
from bev_ros.tables import PoolingTables, TableTensors, sort_points

SOURCES = (
    *("test/bev_ros/test_pooling_export.py", "bev_ros/pooling.py", "bev_ros/tables.py"),
    *("aot_runtime/export.py", "aot_runtime/backends/aoti.py"),
)
SHAPE, CHANNELS, MAP = (3, 7, 4, 6), 5, (6, 8)
CELLS, POINTS = MAP[0] * MAP[1], 3 * 7 * 4 * 6


@pytest.fixture(scope="module")
def artifact(artifact_cache: Path) -> Callable[[str], Path]:
    """Compiled once, and again when a source changes."""

    def get(suffix: str) -> Path:
        def make(path: Path) -> None:
            n, _, h, w = SHAPE
            inputs = {"depth": torch.zeros(SHAPE), "context": torch.zeros(n, CHANNELS, h, w)}
            options: dict[str, Any] = {}
            if suffix == ".pt2":
                module: torch.nn.Module = Pooling(MAP)
                many = torch.zeros(100, dtype=torch.int32)
                inputs |= {"ranks_feat": many, "ranks_depth": many, "offsets": many.new_zeros(CELLS + 2)}
                points = DynamicDim("points", 2, POINTS)
                options["dynamic_dims"] = {"ranks_feat": {0: points}, "ranks_depth": {0: points}}
                options["golden_laws"] = {
                    "ranks_feat": goldens.integer(0, n * h * w),
                    "ranks_depth": goldens.integer(0, POINTS),
                    "offsets": goldens.ramp(0, 100),
                }
            else:
                module = PlanePooling(MAP)
                inputs["planes"] = torch.zeros(SHAPE[1], n * h * w, dtype=torch.int64)
                options["golden_laws"] = {"planes": goldens.integer(0, CELLS + 1)}
            export_model(
                module,
                inputs,
                path=path,
                family="bev",
                variant="pooling",
                task="pooling",
                outputs=[("bev", "features", "")],
                checkpoint=CheckpointInfo("none", "0" * 64, ""),
                progress=False,
                **options,
            )

        return cached(artifact_cache, "bev_pooling", suffix, SOURCES, make)

    return get


def calibrations(shared: Path) -> list[tuple[str, torch.Tensor, torch.Tensor, PoolingTables, np.ndarray]]:
    """(name, depth, context, tables, wanted): goldens of one size, with other points and rules, and some of our own."""
    golden = load_file(shared / "golden" / "bev" / "pool_small.safetensors")
    x, y, z = (tuple(row) for row in golden["bounds"].tolist())
    cases = []
    for rule in ("trunc", "floor"):
        for batch in range(2):
            cells = BevGrid(x, y, z, rule).flat_cell_of(golden["points"][batch])
            tables = sort_points(cells.astype(np.int32), SHAPE, MAP)
            depth, context = (torch.from_numpy(golden[key][batch]) for key in ("depth", "feat"))
            cases.append((f"{rule} {batch}", depth, context, tables, golden[f"bev_{rule}_sum_z"][batch]))
    _, depth, context, _, _ = cases[0]
    nowhere = sort_points(np.full(POINTS, -1, np.int32), SHAPE, MAP)
    cases.append(("all out", depth, context, nowhere, np.zeros((CHANNELS, *MAP))))
    lonely = np.full(POINTS, -1, np.int32)
    lonely[100] = CELLS - 1
    wanted = np.zeros((CHANNELS, *MAP))
    wanted[:, -1, -1] = depth.flatten()[100].double() * context.permute(0, 2, 3, 1).reshape(-1, CHANNELS)[100 % 24]
    cases.append(("one point, last cell", depth, context, sort_points(lonely, SHAPE, MAP), wanted))
    everything = sort_points(np.full(POINTS, 17, np.int32), SHAPE, MAP)
    wanted = np.zeros((CHANNELS, CELLS))
    wanted[:, 17] = np.einsum("ndhw,nchw->c", depth.double().numpy(), context.double().numpy())
    cases.append(("all points, one cell", depth, context, everything, wanted.reshape(CHANNELS, *MAP)))
    return cases


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_one_artifact_for_every_calibration(suffix: str, artifact: Callable[[str], Path], shared: Path) -> None:
    seen = set()
    with load_model(artifact(suffix), "cpu") as model:
        for name, depth, context, tables, wanted in calibrations(shared):
            if suffix == ".pt2":
                told = dict(zip(TableTensors._fields, tables.tensors()))
            else:
                told = {"planes": torch.from_numpy(tables.planes())}
            found = model.run(depth=depth.contiguous(), context=context.contiguous(), **told)["bev"]
            tolerance = 1e-5 * max(float(np.abs(wanted).max()), 1e-30)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=tolerance, err_msg=name)
            seen.add(tables.points)
    assert {0, 1, POINTS} < seen


def test_onnx_never_holds_the_volume(artifact: Callable[[str], Path]) -> None:
    """No tensor of the graph has as many numbers as depth times context."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(artifact(".onnx")), data_prop=True)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds & {"ScatterND", "ScatterElements"}
    sizes = {
        value.name: int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        for value in model.graph.value_info
    }
    assert len(sizes) >= len(model.graph.node) // 2
    assert max(sizes.values()) < POINTS * CHANNELS / 2, sizes
