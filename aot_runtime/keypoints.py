# SPDX-License-Identifier: Apache-2.0
"""Keypoints of two runs on one image, matched by place: their order hangs on the last bit of their scores.

Artifacts are recognised by outputs named `keypoints` (1, K, 2) in pixels, with `scores` (1, K) or `descriptors`
(1, K, D) beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import ExportError

if TYPE_CHECKING:
    import torch

POINTS = "keypoints"
COMPANIONS = ("scores", "descriptors")
_Array = npt.NDArray[np.float64]


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


_S = TypeVar("_S", bound=_Shaped)


def is_keypoints(outputs: Mapping[str, _S]) -> bool:
    """Whether these are keypoints (1, K, 2) with scores or descriptors of as many."""
    points = outputs.get(POINTS)
    if points is None or len(points.shape) != 3 or points.shape[0] != 1 or points.shape[2] != 2:
        return False
    others = [outputs[name] for name in COMPANIONS if name in outputs]
    return bool(others) and all(tuple(other.shape[:2]) == tuple(points.shape[:2]) for other in others)


def per_point(outputs: Mapping[str, _S]) -> tuple[str, ...]:
    """The names of the outputs that have one row per keypoint."""
    rows = tuple(outputs[POINTS].shape[:2])
    return tuple(name for name, value in outputs.items() if tuple(value.shape[:2]) == rows)


def mutual_nearest(a: _Array, b: _Array, distance: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(i, j): a[i] and b[j] are each other's nearest, at most `distance` apart; a (N, 2) and b (M, 2) in pixels."""
    if not len(a) or not len(b):
        none = np.zeros(0, np.int64)
        return none, none
    # |a - b|^2 from differences, not from products, which would lose the small distances that count here.
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(2)
    nearest_b, nearest_a = squared.argmin(1), squared.argmin(0)
    rows = np.arange(len(a))
    kept = (nearest_a[nearest_b] == rows) & (squared[rows, nearest_b] <= distance * distance)
    return rows[kept], nearest_b[kept]


def align_keypoints(
    reference: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], *, missing: float, distance: float = 1.0
) -> dict[str, torch.Tensor]:
    """`found` in the order of the reference's keypoints; those without a match take the reference's values.

    Args:
        missing: share of keypoints that may have no match within `distance` pixels (always one).

    Raises:
        ExportError: more have none.
    """
    import torch

    if found[POINTS].shape != reference[POINTS].shape:
        return dict(found)
    points = [outputs[POINTS][0].double().cpu().numpy() for outputs in (reference, found)]
    rows, index = mutual_nearest(points[0], points[1], distance)
    count = len(points[0])
    if count - len(rows) > max(1, math.ceil(missing * count)):
        raise ExportError(
            f"expected all but {100 * missing:g} % of {count} keypoints within {distance:g} px of the reference's, "
            f"found {count - len(rows)} without",
            "nothing was written; build with another precision or more calibration data",
        )
    aligned = dict(found)
    for name in per_point(reference):
        result = reference[name].clone()
        at = torch.from_numpy(rows).to(result.device)
        result[:, at] = found[name].to(result.device)[:, torch.from_numpy(index).to(result.device)]
        aligned[name] = result.to(found[name].dtype)
    return aligned
