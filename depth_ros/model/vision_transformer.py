# SPDX-License-Identifier: Apache-2.0
"""The pre-norm transformer block of DINOv2 and its parts, with the official parameter names.

Optional: normalised queries and keys, and a rotation of them by position. Both come after the split into heads, as in
VGGT's aggregator.

Reduced precision: matrix products and attention run in the dtype of their weights, which `cast` sets. LayerNorm,
LayerScale and the residual stream stay float32: they are cheap, and the stream of a DINOv2 has outliers that float16
cannot hold and bfloat16 would make everything else coarse against.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rope = Callable[[Tensor, Tensor], Tensor]
"""Rotates (B, heads, N, head_dim) queries or keys by their positions (B, N, 2)."""


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of every matrix product and convolution in `module` to `dtype`, in place.

    Everything else (normalisations, scales, tokens, position embeddings) keeps float32.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            part.to(dtype)


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q k^T / sqrt(head_dim)) v.

    Args:
        dim: channels, a multiple of `heads`.
        qkv_bias, proj_bias: biases of the two linear layers.
        qk_norm: a LayerNorm of head_dim on queries and on keys.
        eps: of these LayerNorms.
        rope: rotates queries and keys by the positions given to `forward`, after their LayerNorm, in float32.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: bool = False,
        eps: float = 1e-6,
        rope: Rope | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads, eps=eps) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads, eps=eps) if qk_norm else nn.Identity()
        self.qk_norm = qk_norm
        self.rope = rope
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, N, dim) of any float dtype -> (B, N, dim) in the weights' dtype."""
        dtype = self.qkv.weight.dtype
        batch, tokens, dim = x.shape
        qkv = self.qkv(x.to(dtype)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.qk_norm:
            q, k = self.q_norm(q.float()), self.k_norm(k.float())
        if self.rope is not None and positions is not None:
            q, k = self.rope(q.float(), positions), self.rope(k.float(), positions)
        y = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v)
        mixed: Tensor = self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))
        return mixed


class Mlp(nn.Module):
    """Linear, exact GELU, linear: from `dim` channels to `outputs`, by default `dim` again."""

    def __init__(self, dim: int, hidden: int, *, outputs: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim if outputs is None else outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype))))
        return y


class SwiGLU(nn.Module):
    """w3(silu(a) * b) with a, b = w12(x) (Shazeer, arXiv 2002.05202), of the giant encoder.

    The hidden size is two thirds of `hidden`, rounded up to a multiple of 8.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        inner = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * inner, bias=bias)
        self.w3 = nn.Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x.to(self.w12.weight.dtype)).chunk(2, dim=-1)
        y: Tensor = self.w3(F.silu(gate) * value)
        return y


class LayerScale(nn.Module):
    """A factor per channel; promotes to float32."""

    def __init__(self, dim: int, value: float = 1.0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))).

    Args:
        dim: channels; heads: attention heads.
        mlp_ratio: hidden size of the feed-forward network over dim.
        ffn: "mlp" or "swiglu".
        eps: of all LayerNorms.
        layer_scale: first value of the LayerScales, None for none.
        qk_norm, rope: see `Attention`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        ffn: str = "mlp",
        eps: float = 1e-6,
        layer_scale: float | None = 1.0,
        qk_norm: bool = False,
        rope: Rope | None = None,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm, eps=eps, rope=rope)
        self.ls1: nn.Module = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp: Mlp | SwiGLU = SwiGLU(dim, hidden) if ffn == "swiglu" else Mlp(dim, hidden)
        self.ls2: nn.Module = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def fold_layer_scales(self) -> None:
        """Multiply the LayerScales into the linear layers before them, in place; exact but for rounding."""
        last = self.mlp.fc2 if isinstance(self.mlp, Mlp) else self.mlp.w3
        with torch.no_grad():
            for name, linear in (("ls1", self.attn.proj), ("ls2", last)):
                scale = getattr(self, name)
                if not isinstance(scale, LayerScale):
                    continue
                linear.weight.mul_(scale.gamma[:, None])
                if linear.bias is not None:
                    linear.bias.mul_(scale.gamma)
                setattr(self, name, nn.Identity())

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, N, dim) float32 -> the same.

        With LayerScales folded (or none), x in the weights' dtype stays in it: a residual stream of half the traffic,
        coarser than float32.
        """
        x = x + self.ls1(self.attn(self.norm1(x.float()), positions))
        x = x + self.ls2(self.mlp(self.norm2(x.float())))
        return x
