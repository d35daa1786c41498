# SPDX-License-Identifier: Apache-2.0
"""The module that is exported: one image of a fixed size in, a fixed number of keypoints out."""

from __future__ import annotations

import copy
import os
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.config import STRIDE
from aliked_ros.descriptors import Pyramid
from aliked_ros.detection import NMS_ROUNDS, Points, cells, strongest
from aliked_ros.model import ALIKED, padding
from aot_runtime.errors import InputError

PIXEL_STEPS = 256
"""Pixels are divided by a power of two, exact in half precision, and the first convolution makes up for 255."""


class DeployedALIKED(nn.Module):
    """ALIKED for one image of a fixed size, ready for export: every shape fixed, nothing waits for the device.

    Args:
        model: the network with its weights (left untouched).
        height, width: of the image, any size from 32.
        top_k: keypoints to return; at most one per 3x3 pixels.
        nms_rounds: 3 as the official code; 1 keeps the strict maxima only, without near-duplicates.
        score_map: also return the whole score map.

    The forward takes `image` (1, H, W, 3) uint8 RGB and returns a dict, see `forward`. After `cast_precision`
    convolutions and products run in half precision; scores, coordinates, offsets, interpolation and norms stay float32.
    """

    def __init__(
        self,
        model: ALIKED,
        *,
        height: int,
        width: int,
        top_k: int = 1000,
        nms_rounds: int = NMS_ROUNDS,
        score_map: bool = False,
    ) -> None:
        super().__init__()
        if min(height, width) < STRIDE:
            raise InputError(f"expected an image from {STRIDE}x{STRIDE} pixels, found {width}x{height}")
        rows, columns = cells(height, width)
        if not 1 <= top_k <= rows * columns:
            raise InputError(
                f"expected --top_k from 1 to {rows * columns} for {width}x{height} pixels (one keypoint per 3x3), "
                f"found {top_k}",
                "ask for fewer keypoints, or export for a larger image",
            )
        if nms_rounds < 1:
            raise InputError(f"expected one or more rounds of non-maximum suppression, found {nms_rounds}")
        self.height, self.width, self.top_k = height, width, top_k
        self.nms_rounds = nms_rounds
        self.return_score_map = score_map
        self.network = copy.deepcopy(model).fold_batch_norm().requires_grad_(False).eval()
        first = self.network.block1.conv1
        first.weight = nn.Parameter(first.weight * (PIXEL_STEPS / 255), requires_grad=False)

    def cast_precision(self, dtype: torch.dtype) -> DeployedALIKED:
        """Run convolutions and products in `dtype`, in place.

        Images are bright: the rounding of the first convolution's weights would be the largest error of all (measured
        on golden/aliked: half of the score map's). So they are a sum of two numbers, on pixels given twice.
        bfloat16 is too coarse for this network: it moves points by up to a quarter of a pixel (reference aliked.md).
        """
        first = self.network.block1.conv1
        exact = first.weight.float().clone()
        self.network.to(dtype)
        if dtype != torch.float32 and first.in_channels == 3:
            first.weight = nn.Parameter(
                torch.cat([first.weight, (exact - first.weight.float()).to(dtype)], dim=1), False
            )
            first.in_channels = 6
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Keypoints of an image.

        Args:
            image: (1, H, W, 3) uint8 RGB.

        Returns:
            keypoints (1, K, 2), scores (1, K), peak_scores (1, K), dispersity (1, K), descriptors (1, K, D), all
            float32, see `detection.Points`; checks, see `moments`; score_map (1, H, W) float32 if wanted.
        """
        scores, branches = self.dense(image)
        points = self.detect(scores)
        descriptors = self.describe(points.xy, branches)
        outputs = {
            "keypoints": points.xy,
            "scores": points.scores,
            "peak_scores": points.peak_scores,
            "dispersity": points.dispersity,
            "descriptors": descriptors,
            "checks": self.moments(points, descriptors),
        }
        if self.return_score_map:
            outputs["score_map"] = scores
        return {name: value[None] for name, value in outputs.items()}

    def dense(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The score map (H, W) float32 of an image (1, H, W, 3), and the branches at padded size for `describe`."""
        left, right, top, bottom = padding(self.height, self.width)
        dtype = self.network.conv1.weight.dtype
        pixels = (image.float() / PIXEL_STEPS).to(dtype).permute(0, 3, 1, 2)
        if self.network.block1.conv1.in_channels == 6:
            pixels = torch.cat([pixels, pixels], dim=1)
        padded = F.pad(pixels, (left, right, top, bottom), mode="replicate")
        branches = self.network.branches(self.network.encode(padded))
        return self.network.scores(branches)[0, 0, top : top + self.height, left : left + self.width], branches

    def detect(self, scores: Tensor) -> Points:
        """The keypoints of a score map (H, W)."""
        return strongest(scores, self.top_k, self.nms_rounds)

    def describe(self, points: Tensor, branches: list[Tensor]) -> Tensor:
        """Descriptors (K, D) float32 of points (K, 2)."""
        left, _, top, _ = padding(self.height, self.width)
        return self.network.desc_head(points, Pyramid(branches, (self.height, self.width), (top, left)))  # type: ignore[no-any-return]

    def moments(self, points: Points, descriptors: Tensor) -> Tensor:
        """What a self-test can compare: (4, D + 5) sums over the points that do not depend on their order.

        The order of keypoints is that of scores that may differ by 1e-8 only, so that two correct builds of the network
        swap some. Rows are means weighted by 1, x, y and score; columns are x, y, score, peak score, dispersity and the
        descriptor; x and y in units of the image's size. Fillers count nothing.
        """
        scale = torch.stack([points.xy[:, 0] / self.width, points.xy[:, 1] / self.height])
        real = (points.peak_scores > 0).float()
        rows = torch.stack([real, real * scale[0], real * scale[1], real * points.scores])
        columns = torch.stack([scale[0], scale[1], points.scores, points.peak_scores, points.dispersity], dim=1)
        return rows @ torch.cat([columns, descriptors], dim=1) / self.top_k


def deployed_kind(path: str | os.PathLike[str], precision: str, device: str) -> type[DeployedALIKED]:
    """The module to export: `fused.FusedALIKED` where its kernels run, the plain one everywhere else.

    Float32 stays plain: on tensor cores it would be TF32.
    """
    fits = Path(path).suffix == ".pt2" and precision == "fp16" and device.startswith("cuda")
    if not fits or find_spec("triton") is None:
        return DeployedALIKED
    from aliked_ros.fused import FusedALIKED

    return FusedALIKED
