# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bev_artifacts import tiny_encoder, tiny_rig

from aot_runtime.compiled_model import load_model
from bev_ros.geometry import camera_vectors
from bev_ros.tables import build_tables


def test_one_artifact_serves_every_calibration(bev_artifact: Path) -> None:
    encoder = tiny_encoder()
    config = encoder.config
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 3, *config.image)).astype(np.float32))
    points = set()
    with load_model(bev_artifact) as model, torch.inference_mode():
        for rig, used in (
            (tiny_rig(), None),
            (tiny_rig(size=(200, 100)), None),
            (tiny_rig(), ["left"]),
            # Nothing at all lies in the grid.
            (tiny_rig(), []),
        ):
            tables = build_tables(rig, config.frustum, config.grid, cameras=used)
            vectors = torch.from_numpy(camera_vectors(rig, config.frustum))
            inputs: dict[str, Any] = {"images": images, "cameras": vectors, **tables.tensors()._asdict()}
            wanted = encoder(*inputs.values())
            found = model.run(**inputs)["bev"]
            assert found.shape == config.shape == (8, 20, 20)
            assert float((found - wanted).abs().max()) <= 1e-5 * max(float(wanted.abs().max()), 1e-3)
            points.add(tables.points)
    assert len(points) == 4
    assert min(points) == 0
