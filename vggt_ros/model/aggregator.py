# SPDX-License-Identifier: Apache-2.0
"""VGGT's aggregator: tokens of all frames, attending in turn within their frame and to every frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from depth_ros.model.dinov2 import DinoV2, PatchEmbed, check_size
from depth_ros.model.vision_transformer import Block
from vggt_ros.config import MEAN, STD, VggtConfig
from vggt_ros.model.rope import frame_positions, rotate, rotation

EPS = 1e-5
"""Of the aggregator's LayerNorms, those of queries and keys too; DINOv2's have 1e-6."""
LAYER_SCALE = 0.01
"""First value of LayerScales in the aggregator and in the camera head's trunk."""


class Aggregator(nn.Module):
    """Images of one scene -> tokens after some of the layers.

    A layer is a block over the tokens of each frame, then one over the tokens of all frames. Each frame's tokens are
    the camera's, the registers, the patches in rows; camera and register tokens are of one kind for the first frame
    (slot 0), whose camera is the origin of the world, and of another (slot 1) for all others.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed: DinoV2 | PatchEmbed
        if config.patch_embed == "dinov2":
            self.patch_embed = DinoV2(
                config.dim,
                config.dino_depth,
                config.dino_heads,
                patch=config.patch,
                image_size=config.image_size,
                registers=config.registers,
                interpolate_offset=None,
                interpolate_antialias=True,
            )
        else:
            self.patch_embed = PatchEmbed(config.patch, 3, config.dim)
        self.frame_blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, config.dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.registers, config.dim))
        self.mean: Tensor
        self.std: Tensor
        # On the CPU even where parameters are made without memory: no checkpoint brings them.
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)
        self.stream = torch.float32
        """Dtype of the residual stream; another one needs folded LayerScales, see `Block.forward`."""
        self.table: Tensor | None
        self.register_buffer("table", None, persistent=False)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Raises:
            InputError: height or width is no multiple of the patch.
        """
        patch = self.config.patch
        check_size(height, width, patch)
        return height // patch, width // patch

    def rotation_of(self, rows: int, columns: int) -> Tensor:
        """The table of `rotate` for a frame of rows x columns patches, on the CPU."""
        config = self.config
        return rotation(frame_positions(rows, columns, config.special), config.dim // config.heads, config.rope_base)

    def fix_size(self, height: int, width: int) -> None:
        """Compute what depends on the size of images only, in place; afterwards no other size is taken.

        Raises:
            InputError: see `grid_of`.
        """
        self.table = self.rotation_of(*self.grid_of(height, width))
        if isinstance(self.patch_embed, DinoV2):
            self.patch_embed.fix_size(height, width)

    def tokens(self, images: Tensor) -> Tensor:
        """(S, 3, H, W) in 0..1 -> (S, special + patches, dim) float32, before the first layer."""
        patches = self.patch_embed((images.float() - self.mean) / self.std).float()
        # An index instead of "the first and the rest": no rest may be left, and a graph for any S must not ask.
        slot = (torch.arange(images.shape[0], device=images.device) > 0).long()
        return torch.cat([self.camera_token[0][slot], self.register_token[0][slot], patches], dim=1)

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Tokens (S, special + patches, 2 * dim) after each of the layers `wanted`, in ascending order.

        The first half of the channels is what the frame block gave, the second what the global block gave.

        Args:
            images: (S, 3, H, W) RGB in 0..1, the first frame first.

        Raises:
            InputError: H or W is no multiple of the patch.
        """
        rows, columns = self.grid_of(images.shape[-2], images.shape[-1])
        table = self.table if self.table is not None else self.rotation_of(rows, columns).to(images.device)
        x = self.tokens(images).to(self.stream)
        shape = x.shape
        found = []
        for i, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks)):
            frame = frame_block(x, table)
            x = global_block(frame.reshape(1, -1, shape[-1]), table).reshape(shape)
            if i in wanted:
                found.append(torch.cat([frame, x], dim=-1))
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        """The four layers that heads read, see `layers`."""
        return self.layers(images, self.config.taps)


def _block(config: VggtConfig) -> Block:
    return Block(
        config.dim,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        eps=EPS,
        layer_scale=LAYER_SCALE,
        qk_norm=True,
        rope=rotate,
    )
