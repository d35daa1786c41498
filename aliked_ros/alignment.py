# SPDX-License-Identifier: Apache-2.0
"""Two runs of one network on one image, keypoint by keypoint: matched by place, because their order is not stable.

Keypoints come sorted by peak score, and neighbours in that order differ by as little as 3e-8: two correct builds swap
some, and at the end of the list exchange some for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aot_runtime.errors import ExportError

if TYPE_CHECKING:
    import torch

PER_POINT = ("keypoints", "scores", "peak_scores", "dispersity", "descriptors")
RADIUS = 1.0
"""Pixels within which two keypoints are the same; no two keypoints of one image are nearer than half a pixel."""


def nearest(wanted: torch.Tensor, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each keypoint in `wanted` (N, 2): the distance to the nearest in `found` (M, 2), and its index."""
    import torch

    distances = torch.cdist(wanted.double(), found.double(), compute_mode="donot_use_mm_for_euclid_dist")
    values, index = distances.min(dim=1)
    return values, index


def align(
    eager: Mapping[str, torch.Tensor], compiled: Mapping[str, torch.Tensor], missing: float = 0.01
) -> dict[str, torch.Tensor]:
    """The compiled outputs in the order of the eager keypoints.

    A filler, and one of the few keypoints that compiled did not find, takes eager's values: it has none to compare.

    Args:
        missing: share of keypoints that may have no counterpart within `RADIUS` (always one).

    Raises:
        ExportError: more have none.
    """
    import torch

    if compiled["keypoints"].shape != eager["keypoints"].shape:
        return dict(compiled)
    distance, index = nearest(eager["keypoints"][0].float(), compiled["keypoints"][0].float())
    real = eager["peak_scores"][0] > 0
    lost = real & ~(distance <= RADIUS)
    allowed = max(1, math.ceil(missing * len(lost)))
    if int(lost.sum()) > allowed:
        raise ExportError(
            f"expected all but {allowed} of {int(real.sum())} eager keypoints within {RADIUS:g} px of a compiled one, "
            f"found {int(lost.sum())} without",
            "nothing was written; export with --precision fp32, or look for an operation that is compiled wrongly",
        )
    matched = real & ~lost
    aligned = dict(compiled)
    for name in PER_POINT:
        wanted, found = eager[name], compiled[name][:, index.to(compiled[name].device)]
        keep = matched.view(1, -1, *[1] * (wanted.dim() - 2))
        aligned[name] = torch.where(keep, found, wanted)
    return aligned
