# SPDX-License-Identifier: Apache-2.0
"""Self-attention over a grid of tokens with decomposed relative positions (MViTv2, arXiv 2112.01526).

score(query, key) = q k / sqrt(head_dim) + q R_h[row of query, row of key] + q R_w[column of query, column of key];
the relative terms use the query as it is, not the scaled one. Three ways to write it, equal but for rounding:

    explicit  product, sum, softmax, product: what ONNX exporters and TensorRT understand
    bias      the sum of the relative terms is the bias of torch's scaled_dot_product_attention
    concat    [q / sqrt(head_dim), q R_h, q R_w] times [k, one-hot row, one-hot column] is the whole score, so that a
              fused kernel needs no bias of tokens x tokens

and two ways to the relative terms: "product" multiplies row by row with (tokens, tokens, head_dim) tables, "gather"
multiplies every query with every relative position, in one product, and picks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmatte_ros.model.positions import offsets, relative_rows, relative_table
from vitmatte_ros.model.windows import join, partition

# Fused kernels of CUDA want the channels of half precision in multiples of 16 bytes.
_ALIGN = 8


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, h, w, dim), over all of them or within windows.

    Args:
        dim: channels, a multiple of `heads`.
        tokens: on a side of the grid that the relative positions were made for.
    """

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * tokens - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * tokens - 1, dim // heads))
        self.written = "explicit"
        self.relative = "product"
        self.fixed: tuple[str, ...] = ()
        """Names of the buffers that `fix_size` made."""

    def fix_size(self, height: int, width: int) -> None:
        """Compute everything that depends on the grid of tokens once, in place; other grids are wrong afterwards."""
        with torch.no_grad():
            constants = self._constants(height, width)
        for name, value in constants.items():
            self.register_buffer(name, value.detach().contiguous(), persistent=False)
        self.fixed = tuple(constants)
        del self.rel_pos_h, self.rel_pos_w

    def cast_tables(self, dtype: torch.dtype) -> None:
        """Convert what `fix_size` computed, so that nothing is converted at every call."""
        for name in self.fixed:
            value = getattr(self, name)
            if value.is_floating_point():
                setattr(self, name, value.to(dtype))

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """(B, h, w, dim) -> the same, in the weights' dtype.

        Args:
            window: tokens on a side of the windows that attention stays in; 0 for all tokens. The last windows are
                filled up with zeros, which take part like any token: their keys and values are the bias.
        """
        x = x.to(self.qkv.weight.dtype)
        if not window:
            attended: Tensor = self.proj(self.attend(self.qkv(x)))
            return attended
        batch, height, width, _ = x.shape
        # Products first and windows after: a token of padding costs an addition instead of a product.
        qkv = partition(F.linear(x, self.qkv.weight), window) + self.qkv.bias
        attended = self.proj(join(self.attend(qkv), window, batch, height, width))
        return attended

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, h, w, 3 * dim) -> queries, keys, values (B, heads, h * w, head_dim)."""
        batch, height, width, channels = qkv.shape
        parts = qkv.reshape(batch, height * width, 3, self.heads, channels // (3 * self.heads))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def attend(self, qkv: Tensor) -> Tensor:
        """(B, h, w, 3 * dim) -> (B, h, w, dim), before the output projection."""
        batch, height, width, _ = qkv.shape
        q, k, v = self.split(qkv)
        rows, columns = self.relative_terms(q, height, width)
        mix: Callable[..., Tensor] = {"explicit": self._explicit, "bias": self._bias, "concat": self._concat}[
            self.written
        ]
        mixed = mix(q, k, v, rows, columns, height, width)
        return mixed.transpose(1, 2).reshape(batch, height, width, -1)

    def relative_terms(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What each query adds for a key's row and for its column.

        Args:
            q: (B, heads, h * w, head_dim), not scaled.

        Returns:
            (B, heads, h, w, h) and (B, heads, h, w, w).
        """
        batch, heads, _, channels = q.shape
        grid = q.reshape(batch, heads, height, width, channels)
        constants = self._constants_of(height, width, q.dtype)
        if self.relative == "gather":
            shape = (batch, heads, height, width)
            every = grid @ constants["table"]
            rows = every.gather(-1, constants["row_index"].expand(*shape, height))
            return rows, every.gather(-1, constants["column_index"].expand(*shape, width))
        rows = grid @ constants["row_table"]
        columns = grid.transpose(2, 3) @ constants["column_table"]
        return rows, columns.transpose(2, 3)

    def _constants_of(self, height: int, width: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """What `fix_size` kept, or made for this grid, in a dtype."""
        if self.fixed:
            return {name: getattr(self, name) for name in self.fixed}
        made = self._constants(height, width)
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in made.items()}

    def _constants(self, height: int, width: int) -> dict[str, Tensor]:
        """Everything that depends on parameters and on the grid of tokens alone."""
        if self.relative == "gather":
            # (head_dim, rows and columns): every offset of rows, then every offset of columns.
            table = torch.cat([relative_rows(self.rel_pos_h, height), relative_rows(self.rel_pos_w, width)]).t()
            row = offsets(height, table.device)[:, None, :]
            made = {"table": table, "row_index": row, "column_index": offsets(width, table.device) + 2 * height - 1}
        else:
            # (tokens of the query, head_dim, tokens of the key)
            row_table, column_table = relative_table(self.rel_pos_h, height), relative_table(self.rel_pos_w, width)
            made = {"row_table": row_table.transpose(1, 2), "column_table": column_table.transpose(1, 2)}
        if self.written == "concat":
            made["keys"] = self._one_hot(height, width)
        return made

    def _one_hot(self, height: int, width: int) -> Tensor:
        """(h * w, h + w and zeros up to a multiple of 8) float32: 1 where a key's row is, and where its column is."""
        device = self.qkv.weight.device
        row = torch.eye(height, device=device)[:, None].expand(height, width, height)
        column = torch.eye(width, device=device)[None].expand(height, width, width)
        keys = torch.cat([row, column], dim=-1).reshape(height * width, height + width)
        return F.pad(keys, (0, -(height + width) % _ALIGN))

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, height: int, width: int
    ) -> Tensor:
        batch, heads, tokens, _ = q.shape
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores.reshape(batch, heads, height, width, height, width) + (rows[..., None] + columns[..., None, :])
        return scores.reshape(batch, heads, tokens, tokens).softmax(-1) @ v

    def _bias(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
        batch, heads, tokens, _ = q.shape
        bias = (rows[..., None] + columns[..., None, :]).reshape(batch, heads, tokens, tokens)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)

    def _concat(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, height: int, width: int
    ) -> Tensor:
        batch, heads, tokens, _ = q.shape
        keys = self._constants_of(height, width, q.dtype)["keys"]
        terms = torch.cat([rows, columns], dim=-1).reshape(batch, heads, tokens, height + width)
        terms = F.pad(terms, (0, keys.shape[-1] - height - width))
        long_q = torch.cat([q * self.scale, terms], dim=-1)
        long_k = torch.cat([k, keys.expand(batch, heads, -1, -1)], dim=-1)
        return F.scaled_dot_product_attention(long_q, long_k, v, scale=1.0)
