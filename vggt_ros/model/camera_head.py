# SPDX-License-Identifier: Apache-2.0
"""VGGT's camera head: the frames' camera tokens -> pose and field of view, corrected over four rounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depth_ros.model.vision_transformer import Block, Mlp
from vggt_ros.config import CAMERA_ROUNDS, POSE_SIZE
from vggt_ros.model.aggregator import EPS, LAYER_SCALE


class CameraHead(nn.Module):
    """Each round modulates the camera tokens by the prediction so far (as arXiv 2212.09748 does by the time of
    diffusion), sends them through the trunk, where cameras attend to each other, and adds what comes out.

    Args:
        dim: channels of the tokens, twice those of the aggregator.
        depth, heads: of the trunk.
    """

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(Block(dim, heads, eps=EPS, layer_scale=LAYER_SCALE) for _ in range(depth))
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim, dim // 2, outputs=POSE_SIZE)

    def keep_float32(self) -> None:
        """Bring the layers whose numbers are poses back to float32, in place, after a cast of all."""
        self.embed_pose.float()
        self.pose_branch.float()

    def rounds(self, tokens: Tensor) -> list[Tensor]:
        """Poses (S, 9) float32 after each round, see `activate`, of camera tokens (S, dim)."""
        camera = self.token_norm(tokens.float())[None]
        normal = self.adaln_norm(camera)
        silu, linear = self.poseLN_modulation
        assert isinstance(linear, nn.Linear)
        pose = self.empty_pose_tokens.expand(-1, camera.shape[1], -1)
        found: list[Tensor] = []
        for _ in range(CAMERA_ROUNDS):
            told = linear(silu(self.embed_pose(pose)).to(linear.weight.dtype))
            shift, scale, gate = told.float().chunk(3, dim=-1)
            x = camera + gate * (normal * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            change = self.pose_branch(self.trunk_norm(x.float())).float()
            # Sums are of raw numbers: what a round corrects is not the activated prediction.
            pose = pose + change if found else change
            found.append(pose[0])
        return [activate(pose) for pose in found]

    def forward(self, tokens: Tensor) -> Tensor:
        """The last round, (S, 9) float32."""
        return self.rounds(tokens)[-1]


def activate(pose: Tensor) -> Tensor:
    """Raw numbers (..., 9) -> translation, quaternion (of any length), and fields of view, zero or more, in radians."""
    return torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1)
