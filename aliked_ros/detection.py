# SPDX-License-Identifier: Apache-2.0
"""From a score map to keypoints (DKD, arXiv 2112.02906 section III-B): local maxima, a choice, sub-pixel refinement.

`strongest` chooses a fixed number, which compilers need; `above` chooses by threshold, on finished scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aliked_ros.config import DETECTION_RADIUS as RADIUS
from aot_runtime.deform_conv import gather_rows

WINDOW = 2 * RADIUS + 1
CELL = RADIUS + 1
TEMPERATURE = 0.1
NMS_ROUNDS = 3


@dataclass(frozen=True)
class Points:
    """Keypoints of one image.

    Attributes:
        xy: (N, 2) float32 pixels.
        scores: (N,) of the score map at the refined point; can be far above the peak's, where refinement climbed.
        peak_scores: (N,) of the score map at the integer peak, which choose and sort; 0 marks a filler.
        dispersity: (N,) how far the scores around the point spread, in (half window)^2.
    """

    xy: Tensor
    scores: Tensor
    peak_scores: Tensor
    dispersity: Tensor


def _pool(x: Tensor) -> Tensor:
    """The maximum of every 5x5 window."""
    rows = F.max_pool2d(x, (1, WINDOW), stride=1, padding=(0, RADIUS))
    return F.max_pool2d(rows, (WINDOW, 1), stride=1, padding=(RADIUS, 0))


def suppress(scores: Tensor, rounds: int = NMS_ROUNDS) -> Tensor:
    """Scores (B, 1, H, W) with all but local maxima zeroed; of equal neighbours all stay.

    Rounds after the first find maxima of what is left outside the windows of those found before.
    """
    maxima = scores == _pool(scores)
    for _ in range(rounds - 1):
        covered = _pool(maxima.to(scores.dtype)) > 0
        rest = torch.where(covered, 0.0, scores)
        maxima = maxima | ((rest == _pool(rest)) & ~covered)
    return torch.where(maxima, scores, 0.0)


def peaks(scores: Tensor, rounds: int = NMS_ROUNDS, right: int = 0, bottom: int = 0) -> Tensor:
    """The local maxima of scores (H, W) off the border, zero elsewhere; with columns and rows of zeros appended."""
    height, width = scores.shape
    inner = suppress(scores[None, None], rounds)[0, 0, RADIUS : height - RADIUS, RADIUS : width - RADIUS]
    return F.pad(inner, (RADIUS, RADIUS + right, RADIUS, RADIUS + bottom))


def cells(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells that hold at most one keypoint each."""
    return -(-height // CELL), -(-width // CELL)


def strongest(scores: Tensor, count: int, rounds: int = NMS_ROUNDS, *, by_rank: bool = False) -> Points:
    """The `count` keypoints of the highest peaks of scores (H, W) float32, falling; fixed shapes throughout.

    Peaks are three pixels apart unless they tie, so one candidate per 3x3 cell suffices, and there are nine times
    fewer to sort. With fewer than `count` peaks, the rest are fillers somewhere with `peak_scores` 0.

    `by_rank` sorts by comparing each with each, see `_top_by_rank`.
    """
    height, width = scores.shape
    rows, columns = cells(height, width)
    found = peaks(scores, rounds, columns * CELL - width, rows * CELL - height)
    best = F.max_pool2d(found[None, None], CELL, stride=CELL).flatten()
    values, chosen = _top_by_rank(best, count) if by_rank else torch.topk(best, count)
    # Which of the cell's nine pixels it was, asked of the chosen cells alone.
    steps = torch.arange(CELL, device=scores.device)
    inside = (steps[:, None] * (columns * CELL) + steps).flatten()
    row = torch.div(chosen, columns, rounding_mode="trunc")
    y, x = row * CELL, (chosen - row * columns) * CELL
    nine = gather_rows(found.reshape(-1, 1), (y * (columns * CELL) + x)[:, None] + inside)[..., 0]
    place = nine.argmax(dim=1)
    down = torch.div(place, CELL, rounding_mode="trunc")
    return _refine(scores, y + down, x + place - down * CELL, values)


def _top_by_rank(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of values (N,), falling, and their indices; of equals the first one first.

    A compiler makes one kernel of all comparisons, for a few thousand faster than a GPU's sort (20 us for 1000 on an
    H200, which is all about launches).
    """
    largest, index = torch.topk(values, count, sorted=False)
    before = (largest > largest[:, None]) | ((largest == largest[:, None]) & (index < index[:, None]))
    order = torch.zeros_like(index).scatter(0, before.sum(dim=1), index)
    return gather_rows(values[:, None], order)[:, 0], order


def above(scores: Tensor, threshold: float, limit: int, rounds: int = NMS_ROUNDS) -> Points:
    """The keypoints of scores (H, W) whose peaks are above `threshold`, in rows; eager only, as their number varies.

    Without any, and for a threshold <= 0, the threshold is the mean score. Of more than `limit` the strongest stay,
    falling.
    """
    found = peaks(scores, rounds)
    mask = found > threshold
    if threshold <= 0 or not bool(mask.any()):
        mask = found > scores.mean()
    index = mask.flatten().nonzero()[:, 0]
    values = found.flatten()[index]
    if len(index) > limit:
        values, order = values.sort(descending=True)
        values, index = values[:limit], index[order[:limit]]
    return _refine(scores, index // scores.shape[1], index % scores.shape[1], values)


def _refine(scores: Tensor, y: Tensor, x: Tensor, peak_scores: Tensor) -> Points:
    """Keypoints between pixels: the mean of the 5x5 window around each peak, weighted by exp(score / temperature)."""
    stride = scores.shape[1] + 2 * RADIUS
    padded = F.pad(scores, (RADIUS, RADIUS, RADIUS, RADIUS)).reshape(-1, 1)
    steps = torch.arange(WINDOW, device=scores.device)
    window = (steps[:, None] * stride + steps).flatten()
    patch = gather_rows(padded, (y * stride + x)[:, None] + window)[..., 0]
    delta = (steps - RADIUS).to(scores.dtype)
    down, right = delta[:, None].expand(-1, WINDOW).flatten(), delta.expand(WINDOW, -1).flatten()
    weights = torch.exp((patch - patch.amax(1, keepdim=True)) / TEMPERATURE)
    weights = weights / weights.sum(1, keepdim=True)
    shift_x, shift_y = (weights * right).sum(1, keepdim=True), (weights * down).sum(1, keepdim=True)
    square = ((right - shift_x) ** 2 + (down - shift_y) ** 2) / RADIUS**2
    # The refined point lies inside the window, so that its score is a bilinear blend of the patch.
    blend = (1 - (right - shift_x).abs()).clamp(min=0) * (1 - (down - shift_y).abs()).clamp(min=0)
    xy = torch.cat([x[:, None] + shift_x, y[:, None] + shift_y], dim=1)
    return Points(xy, (patch * blend).sum(1), peak_scores, (weights * square).sum(1))
