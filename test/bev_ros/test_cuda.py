# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: packages with the pooling's kernel, graphs, fp16, and calibrations that change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_artifacts import tiny_encoder, tiny_images, tiny_rig

from aot_runtime.compiled_model import load_model
from aot_runtime.manifest import CheckpointInfo
from bev_ros.artifact import export_part
from bev_ros.chain import ArtifactChain, EagerChain
from bev_ros.pipeline import BevPipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
INFO = CheckpointInfo.random(4)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """packages(part, precision) for this GPU, made once."""
    folder = tmp_path_factory.mktemp("bev_cuda")

    def get(part: str = "fused", precision: str = "fp32", **changes: Any) -> Path:
        path = folder / f"{part}_{precision}_{len(changes)}.pt2"
        if not path.is_file():
            options: dict[str, Any] = {"precision": precision, "device": "cuda", "progress": False}
            export_part(tiny_encoder(**changes), part, path, checkpoint=INFO, **options)
        return path

    return get


def on_cpu(images: dict[str, np.ndarray], rig: Any, **changes: Any) -> np.ndarray:
    with BevPipeline(EagerChain(tiny_encoder(**changes), INFO)) as pipeline:
        return pipeline.process(images, rig).features


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("kind", ["fused", "split", "library", "eager"])
def test_the_map_is_the_cpus(packages: Callable[..., Path], kind: str, cuda_graph: bool) -> None:
    rig = tiny_rig()
    model: Any = {
        "fused": lambda: packages(),
        "split": lambda: [packages("image"), packages("pool")],
        "library": lambda: packages("image"),
        "eager": lambda: EagerChain(tiny_encoder(), INFO, "cuda"),
    }[kind]()
    with BevPipeline(model, "cuda", cuda_graph=cuda_graph) as pipeline:
        for seed in range(4):
            images = tiny_images(rig, seed)
            result = pipeline.process(images, rig)
            assert result.warnings == ()
            assert pipeline.graphed == (cuda_graph and seed > 0)
            assert error(result.features, on_cpu(images, rig)) < 2e-5


def test_graphs_follow_the_calibration(packages: Callable[..., Path]) -> None:
    rig = tiny_rig()
    pose = rig.cameras[0].sensor_to_ego.copy()
    pose[0, 3] += 2.0
    moved = rig.moved({"front": pose})
    images = tiny_images(rig)
    fewer = {name: image for name, image in images.items() if name != "left"}
    wanted = {id(r): on_cpu(images, r) for r in (rig, moved)}
    with BevPipeline(packages(), "cuda") as pipeline:
        for which in (rig, rig, rig, moved, rig, moved, moved, moved, rig):
            assert error(pipeline.process(images, which).features, wanted[id(which)]) < 2e-5
        # A camera that drops out and comes back.
        lost = on_cpu(fewer, rig)
        for given, expected in ((fewer, lost), (images, wanted[id(rig)])) * 3:
            assert error(pipeline.process(given, rig).features, expected) < 2e-5


def test_more_calibrations_than_are_kept(packages: Callable[..., Path]) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    with BevPipeline(packages(), "cuda") as pipeline:
        for _ in range(3):
            pipeline.process(images, rig)
        assert pipeline.graphed
        for step in range(6):
            pose = rig.cameras[0].sensor_to_ego.copy()
            pose[0, 3] += 0.3 * step + 0.3
            pipeline.process(images, rig.moved({"front": pose}))
        # The graph reads its own tables, which nobody has freed.
        assert error(pipeline.process(images, rig).features, on_cpu(images, rig)) < 2e-5


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("bf16", 0.08)])
def test_half_precision(packages: Callable[..., Path], precision: str, limit: float) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    path = packages("fused", precision)
    with BevPipeline(path, "cuda") as pipeline:
        found = pipeline.process(images, rig).features
    assert 1e-5 < error(found, on_cpu(images, rig)) < limit
    with load_model(path, "cuda") as model:
        assert model.manifest.preprocessing["kernel"]
        assert 0 < model.manifest.preprocessing["float32_error"]["bev"] < limit


def test_a_bev_stage_and_depth_refinement(packages: Callable[..., Path]) -> None:
    from bev_ros.grid import BevGrid

    rig = tiny_rig()
    images = tiny_images(rig)
    grid = BevGrid((-8.0, 8.0, 1.0), (-8.0, 8.0, 1.0), (-5.0, 5.0, 10.0), "floor")
    changes: dict[str, Any] = {"grid": grid, "bev_stage": "resnet18", "bev_base": 8, "bev_channels": 4}
    with BevPipeline([packages("image", **changes), packages("bev", **changes)], "cuda") as pipeline:
        assert error(pipeline.process(images, rig).features, on_cpu(images, rig, **changes)) < 2e-5
    with BevPipeline(packages(use_da=True), "cuda") as pipeline:
        assert error(pipeline.process(images, rig).features, on_cpu(images, rig, use_da=True)) < 2e-5


def test_the_same_bits_every_time(packages: Callable[..., Path]) -> None:
    rig = tiny_rig()
    images = tiny_images(rig)
    with BevPipeline(packages(), "cuda") as pipeline:
        first = [pipeline.process(images, rig).features for _ in range(5)]
    # Launched one by one, and as a graph.
    assert all(np.array_equal(features, first[0]) for features in first)


def test_a_chain_on_the_device_by_itself(packages: Callable[..., Path]) -> None:
    from bev_ros.geometry import camera_vectors
    from bev_ros.tables import build_tables

    rig, config = tiny_rig(), tiny_encoder().config
    chain = ArtifactChain([load_model(packages(), "cuda")])
    vectors = torch.from_numpy(camera_vectors(rig, config.frustum)).cuda()
    images = torch.randn(3, 3, *config.image, device="cuda")
    # Padding belongs to no cell.
    tables = build_tables(rig, config.frustum, config.grid)
    plain = chain.run(images, vectors, tables.tensors("cuda"))
    filled = chain.run(images, vectors, tables.tensors("cuda", points=config.lifted_points))
    assert torch.equal(plain, filled)
    chain.close()
