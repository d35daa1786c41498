# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from depth_ros.model.vision_transformer import Attention, Block, LayerScale, Mlp, SwiGLU, cast


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return module.eval()


def attend(layer: Attention, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Attention one head at a time, by its definition."""
    size = x.shape[-1] // layer.heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=-1)
    heads = []
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        a, b = layer.q_norm(q[..., part]), layer.k_norm(k[..., part])
        if positions is not None and layer.rope is not None:
            a, b = layer.rope(a, positions), layer.rope(b, positions)
        heads.append(torch.softmax(a @ b.transpose(1, 2) / size**0.5, dim=-1) @ v[..., part])
    return torch.cat(heads, dim=-1) @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_softmax_of_scaled_products(qk_norm: bool) -> None:
    layer = randomised(Attention(12, 3, qk_norm=qk_norm))
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), attend(layer, x), atol=1e-5, rtol=1e-5)


def test_rope_turns_queries_and_keys_but_not_values() -> None:
    def rope(x: Tensor, positions: Tensor) -> Tensor:
        return x * positions[..., None, :, :1] if x.dim() == 4 else x * positions[..., :1]

    layer = randomised(Attention(8, 2, rope=rope))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(2))
    positions = torch.tensor([[[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [0.5, 0.0]]])
    torch.testing.assert_close(layer(x, positions), attend(layer, x, positions), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x), attend(layer, x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer(x), layer(x, positions))


def test_swiglu_of_the_giant_encoder_has_the_official_size() -> None:
    layer = SwiGLU(1536, 4 * 1536)
    assert tuple(layer.w12.weight.shape) == (8192, 1536)
    assert tuple(layer.w3.weight.shape) == (1536, 4096)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_folded_layer_scales_change_nothing_but_rounding(ffn: str) -> None:
    block = randomised(Block(12, 3, ffn=ffn))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = block(x)
        block.fold_layer_scales()
        assert not any(isinstance(part, LayerScale) for part in block.modules())
        torch.testing.assert_close(block(x), before, atol=1e-5, rtol=1e-5)
        block.fold_layer_scales()
        torch.testing.assert_close(block(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_keeps_the_residual_stream_in_float32(dtype: torch.dtype) -> None:
    block = randomised(Block(32, 4, qk_norm=True))
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        exact = block(x)
        cast(block, dtype)
        y = block(x + 1e5 * torch.eye(9, 32)) if dtype == torch.float16 else block(x)
    assert block.attn.qkv.weight.dtype == dtype
    assert block.norm1.weight.dtype == block.ls1.gamma.dtype == block.attn.q_norm.weight.dtype == torch.float32
    assert y.dtype == torch.float32
    assert bool(torch.isfinite(y).all())  # an outlier beyond 65504 passes through
    if dtype == torch.bfloat16:
        assert float((y - exact).norm() / exact.norm()) < 1e-2


def test_the_block_has_the_names_and_shapes_of_vggt(shared: Path) -> None:
    shapes = json.loads((shared / "reference" / "vggt_state_dict.json").read_text())["shapes"]
    with torch.device("meta"):
        block = Block(1024, 16, qk_norm=True, eps=1e-5, layer_scale=0.01)
    prefix = "aggregator.global_blocks.0."
    wanted = {key.removeprefix(prefix): tuple(shape) for key, shape in shapes.items() if key.startswith(prefix)}
    assert {key: tuple(value.shape) for key, value in block.state_dict().items()} == wanted
    assert isinstance(block.mlp, Mlp)
