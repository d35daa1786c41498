# SPDX-License-Identifier: Apache-2.0
"""DINOv2 (arXiv 2304.07193), optionally with registers (arXiv 2309.16588): an image becomes tokens of its patches.

Parameter names equal those of the official checkpoints (blocks unchunked).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aot_runtime.errors import InputError
from depth_ros.model.vision_transformer import Block


class PatchEmbed(nn.Module):
    """A convolution of kernel and stride `patch`: (B, C, H, W) -> (B, H/patch * W/patch, dim), rows first."""

    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.as_product = False
        """Write the convolution as one matrix product of rearranged pixels, which some libraries run faster."""

    def forward(self, image: Tensor) -> Tensor:
        conv, image = self.proj, image.to(self.proj.weight.dtype)
        if not self.as_product:
            y: Tensor = conv(image)
            return y.flatten(2).transpose(1, 2)
        batch, channels, height, width = image.shape
        patch = conv.kernel_size[0]
        rows, columns = height // patch, width // patch
        x = image.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(x.reshape(batch, rows * columns, channels * patch * patch), conv.weight.flatten(1), conv.bias)


class DinoV2(nn.Module):
    """The encoder.

    Args:
        dim, depth, heads: channels of a token, number of blocks, heads of a block.
        patch: side of a patch in pixels.
        channels: of the image.
        image_size: side in pixels of the square image that the position embedding was made for.
        ffn: "mlp", or "swiglu" (giant).
        registers: number of register tokens.
        interpolate_offset: added to the wanted grid size before the scale of the interpolation is taken (official
            without registers: 0.1); None: the mapping is by output size, without an offset.
        interpolate_antialias: low-pass when the grid shrinks (official with registers).
        eps: of all LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        *,
        patch: int = 14,
        channels: int = 3,
        image_size: int = 518,
        ffn: str = "mlp",
        registers: int = 0,
        interpolate_offset: float | None = 0.1,
        interpolate_antialias: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.registers = registers
        self.grid = image_size // patch
        self.interpolate_offset = interpolate_offset
        self.interpolate_antialias = interpolate_antialias
        self.patch_embed = PatchEmbed(patch, channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        # Of the training objective; in every checkpoint and never used here.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, ffn=ffn, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fixed_grid: tuple[int, int] | None = None
        """The only grid of patches (rows, columns) that it takes, after `fix_size`."""

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Raises:
            InputError: height or width is no multiple of the patch.
        """
        check_size(height, width, self.patch)
        return height // self.patch, width // self.patch

    def positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding (1, 1 + rows * columns, dim) of a grid of patches, float32.

        Bicubic (a = -0.75, edges clamped, no aligned corners) from the grid of the checkpoint. With an offset the
        mapping is src = (dst + 0.5) / scale - 0.5 with scale = (wanted + offset) / grid instead of wanted / grid: the
        official implementation did so against rounding, and the weights expect it.
        """
        if self.fixed_grid is not None and (rows, columns) != self.fixed_grid:
            raise InputError(f"expected {self.fixed_grid} patches, found {(rows, columns)}", "use the size of fix_size")
        if (rows, columns) == (self.grid, self.grid) or self.fixed_grid is not None:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = rest.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2).float()
        size: tuple[int, int] | None = (rows, columns)
        scale: tuple[float, float] | None = None
        if self.interpolate_offset is not None:
            scale = ((rows + self.interpolate_offset) / self.grid, (columns + self.interpolate_offset) / self.grid)
            size = None
        resized = F.interpolate(
            square, size=size, scale_factor=scale, mode="bicubic", antialias=self.interpolate_antialias
        )
        assert resized.shape[-2:] == (rows, columns)
        return torch.cat([first, resized.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)

    def fix_size(self, height: int, width: int) -> None:
        """Replace the position embedding by that of one image size, in place, so that nothing is interpolated later.

        Raises:
            InputError: see `grid_of`.
        """
        rows, columns = self.grid_of(height, width)
        with torch.no_grad():
            self.pos_embed = nn.Parameter(self.positions(rows, columns).contiguous())
        self.fixed_grid = (rows, columns)

    def tokens(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1 + registers + patches, dim) float32, before the first block.

        Registers come after the class token and have no position.
        """
        rows, columns = self.grid_of(image.shape[-2], image.shape[-1])
        positions = self.positions(rows, columns)
        patches = self.patch_embed(image) + positions[:, 1:]
        first = [self.cls_token + positions[:, :1]]
        if self.registers:
            first.append(self.register_tokens)
        return torch.cat([*(token.expand(image.shape[0], -1, -1) for token in first), patches], dim=1)

    def taps(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Patch tokens (B, patches, dim) float32 after each of the blocks `layers` (ascending), through `norm`."""
        x = self.tokens(image)
        found = []
        for i, block in enumerate(self.blocks[: max(layers) + 1]):
            x = block(x)
            if i in layers:
                found.append(self.norm(x[:, 1 + self.registers :]))
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Patch tokens (B, patches, dim) after the last block, normalised."""
        return self.taps(image, [len(self.blocks) - 1])[0]


def check_size(height: int, width: int, patch: int = 14) -> None:
    """Refuses image sizes that are not whole patches.

    Raises:
        InputError: naming the nearest sizes that are.
    """
    if height > 0 and width > 0 and height % patch == 0 and width % patch == 0:
        return
    named = " x ".join(_nearest(size, patch) for size in (height, width))
    raise InputError(
        f"expected height and width in multiples of {patch}, found {height} x {width}", f"the nearest are {named}"
    )


def _nearest(size: int, patch: int) -> str:
    """ "238", or "224 or 238"."""
    low = size // patch * patch
    if low == size and size > 0:
        return str(size)
    return f"{low} or {low + patch}" if low > 0 else str(patch)
