# SPDX-License-Identifier: Apache-2.0
"""How far ALIKED in half precision may be from the official outputs in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aliked_ros.alignment import nearest


def compare_half(outputs: dict[str, torch.Tensor], golden: Any, cosine: float) -> None:
    """Outputs of an artifact or module in half precision against a golden, `cosine` for all but 1 % of descriptors."""
    arrays = golden.arrays
    assert {value.dtype for value in outputs.values()} == {torch.float32}
    distance, index = nearest(torch.from_numpy(arrays["keypoints"]), outputs["keypoints"][0])
    same = (distance < 1).numpy()
    assert same.mean() >= 0.996
    assert float(distance[same].median()) <= 2e-3
    assert float(distance[same].quantile(0.99)) <= 2e-2
    rows = {name: value[0][index].numpy()[same] for name, value in outputs.items() if value.shape[1] == len(index)}
    for name, wanted in (("scores", "scores"), ("peak_scores", "nms_scores")):
        assert np.quantile(np.abs(rows[name] - arrays[wanted][same]), 0.99) <= 5e-3
    cosines = (rows["descriptors"].astype(np.float64) * arrays["descriptors"][same]).sum(1)
    assert np.quantile(cosines, 0.01) >= cosine
    # The worst pixel of the map. Float32 arithmetic on the rounded weights is as far off: it is they that err.
    assert np.abs(outputs["score_map"][0].numpy() - golden.score_map).max() <= 1e-2
