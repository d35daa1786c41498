# SPDX-License-Identifier: Apache-2.0
"""The network against the official one: outputs, intermediate tensors, and that a mistake would be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmatte_ros.config import CONFIGS, NORMALIZATIONS, TRIMAP, from_name, from_transformers
from vitmatte_ros.model import attention, backbone, positions
from vitmatte_ros.model.vitmatte import VitMatte
from vitmatte_ros.model.windows import join, partition

ATOL = 5e-6
CASES = ("64x96", "96x64")
# Modules that work on channels-last tokens here; the golden has them channels-first.
CHANNELS_LAST = ("backbone.embeddings", "backbone.encoder.layer")


def run(model: nn.Module, *inputs: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(*inputs)
    return result


def error(model: nn.Module, case: Any) -> float:
    return float((run(model, case["pixel_values"]) - case["alphas"]).abs().max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("written", ["explicit", "bias", "concat"])
@pytest.mark.parametrize("relative", ["product", "gather"])
def test_alpha_is_the_official_one(matte_golden: Any, case: str, written: str, relative: str) -> None:
    model = matte_golden.model()
    for layer in model.backbone.encoder.layer:
        layer.attention.written, layer.attention.relative = written, relative
    golden = matte_golden.cases[case]
    alpha = run(model, golden["pixel_values"])
    torch.testing.assert_close(alpha, golden["alphas"], atol=ATOL, rtol=0)
    torch.testing.assert_close(alpha.double(), golden["alphas_float64"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_every_intermediate_tensor_is_the_official_one(matte_golden: Any, case: str) -> None:
    model, golden = matte_golden.model(), matte_golden.cases[case]
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found[f"{name}.in0"], found[f"{name}.out"] = inputs[0], output

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(watch(name))
    run(model, golden["pixel_values"])
    checked, modules = 0, dict(model.named_modules())
    del modules[""]
    for key, wanted in golden.items():
        name = key.rpartition(".")[0]
        if name not in modules:
            continue
        layer = name.startswith("backbone.encoder.layer.")
        windowed = layer and int(name.split(".")[3]) in model.config.windowed and name.endswith("attention")
        if windowed:
            # The official module is called with windows; here it cuts them itself.
            if key.endswith(".in0"):
                torch.testing.assert_close(partition(found[key], model.config.window), wanted, atol=2e-5, rtol=1e-5)
                torch.testing.assert_close(
                    run(model.get_submodule(name), wanted), golden[f"{name}.out"], atol=2e-5, rtol=1e-5
                )
            else:
                batch, height, width, _ = found[key].shape
                whole = join(wanted, model.config.window, batch, height, width)
                torch.testing.assert_close(found[key], whole, atol=2e-5, rtol=1e-5)
            checked += 1
            continue
        value = found[key]
        if name.startswith(CHANNELS_LAST) and not name.endswith(("attention", "mlp")):
            value = value.permute(0, 3, 1, 2)
        torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-5)
        checked += 1
    assert checked == 34


def test_in_float64_the_official_alpha_to_nine_digits(matte_golden: Any) -> None:
    model = matte_golden.model().double()
    for golden in matte_golden.cases.values():
        alpha = run(model, golden["pixel_values"].double())
        torch.testing.assert_close(alpha, golden["alphas_float64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
def test_preprocessing_in_both_conventions(matte_golden: Any, name: str) -> None:
    golden = matte_golden.preprocess
    mean, std = (torch.tensor(numbers) for numbers in NORMALIZATIONS[name])
    image = ((golden["image_u8"] / 255 - mean) / std).permute(2, 0, 1)
    trimap = golden["trimap_u8"][None] / 255
    assert sorted(golden["trimap_u8"].unique().tolist()) == sorted(TRIMAP.values())
    pixels = torch.cat([image, trimap])[None]
    padded = F.pad(pixels, (0, 6, 0, 26))
    torch.testing.assert_close(padded, golden[f"{name}.pixel_values"], atol=1e-6, rtol=0)
    model = matte_golden.model()
    torch.testing.assert_close(run(model, padded), golden[f"{name}.alphas_padded"], atol=ATOL, rtol=0)
    # It pads as they do, by itself.
    alpha = run(model, pixels)
    assert alpha.shape == (1, 1, 70, 90)
    torch.testing.assert_close(alpha, golden[f"{name}.alphas"], atol=ATOL, rtol=0)


def _bilinear(table: Tensor, grid: int, height: int, width: int) -> Tensor:
    square = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    return F.interpolate(square, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)


def _nearest(table: Tensor, tokens: int) -> Tensor:
    resized = F.interpolate(table.t()[None], size=2 * tokens - 1, mode="nearest")[0].t()
    return resized[positions.offsets(tokens, table.device)]


def _scaled(module: attention.Attention, q: Tensor, height: int, width: int) -> Any:
    return _terms(module, q * module.scale, height, width)


_terms = attention.Attention.relative_terms


@pytest.mark.parametrize(
    ("mutation", "least"),
    [
        ("layer norm eps", 1.0e-5),
        ("batch norm eps", 7e-4),
        ("tanh gelu", 2e-4),
        ("bilinear positions", 0.09),
        ("nearest relative positions", 0.19),
        ("relative positions of the scaled query", 0.23),
        ("no residual blocks", 0.39),
    ],
)
def test_the_goldens_see_a_mistake(
    matte_golden: Any, mutation: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = matte_golden.config
    if mutation == "layer norm eps":
        config = replace(config, layer_norm_eps=1e-5)
    elif mutation == "batch norm eps":
        config = replace(config, batch_norm_eps=1e-3)
    elif mutation == "tanh gelu":
        monkeypatch.setattr(backbone.F, "gelu", lambda x, gelu=F.gelu: gelu(x, approximate="tanh"))
    elif mutation == "bilinear positions":
        monkeypatch.setattr(backbone, "absolute_positions", _bilinear)
    elif mutation == "nearest relative positions":
        monkeypatch.setattr(attention, "relative_table", _nearest)
    elif mutation == "relative positions of the scaled query":
        monkeypatch.setattr(attention.Attention, "relative_terms", _scaled)
    model = VitMatte(config)
    model.load_state_dict(dict(matte_golden.state))
    if mutation == "no residual blocks":
        for layer in model.backbone.encoder.layer:
            layer.has_residual = False
    assert max(error(model, golden) for golden in matte_golden.cases.values()) > max(least, ATOL)


def test_normalisations_have_the_published_eps(matte_golden: Any) -> None:
    """The goldens tell 1e-5 from 1e-6 by no more than twice their tolerance."""
    for config in (*CONFIGS.values(), matte_golden.config):
        with torch.device("meta"):
            model = VitMatte(config)
        norms = [part for part in model.modules() if isinstance(part, nn.LayerNorm)]
        assert len(norms) == 2 * config.depth + 3 * len(config.residual)
        assert {norm.eps for norm in norms} == {1e-6}
        batch = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        assert len(batch) == 8
        assert {norm.eps for norm in batch} == {1e-5}


@pytest.mark.parametrize("name", ["small", "base"])
def test_names_and_shapes_are_the_published_ones(shared: Path, name: str) -> None:
    published = json.loads((shared / "reference" / f"vitmatte_{name}_state_dict.json").read_text())
    with torch.device("meta"):
        state = VitMatte(from_name(name)).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == published
    assert len(published) == 258


@pytest.mark.parametrize(("rows", "tokens"), [(9, 5), (9, 4), (9, 6), (63, 80), (27, 14), (5, 1)])
def test_relative_rows_are_a_linear_resize(rows: int, tokens: int) -> None:
    table = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
    # In float64: in float32 torch's own places of the rows are off by 2e-5 of a row.
    wanted = F.interpolate(table.double().t()[None], size=2 * tokens - 1, mode="linear", align_corners=False)[0].t()
    torch.testing.assert_close(positions.relative_rows(table, tokens).double(), wanted, atol=1e-6, rtol=0)
    if rows == 2 * tokens - 1:
        assert torch.equal(positions.relative_rows(table, tokens), table)


def test_positions_at_their_own_size_are_untouched() -> None:
    table = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(positions.absolute_positions(table, 3, 3, 3).reshape(9, 4), table[0, 1:])


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 3), (1, 7), (6, 9)])
def test_windows_come_together_again(height: int, width: int) -> None:
    x = torch.arange(2.0 * height * width * 5).reshape(2, height, width, 5)
    windows = partition(x, 3)
    assert windows.shape == (2 * -(-height // 3) * -(-width // 3), 3, 3, 5)
    assert torch.equal(join(windows, 3, 2, height, width), x)
    assert float(windows.sum()) == float(x.sum())


def test_random_weights_keep_every_branch_alive() -> None:
    config = replace(from_name("small"), depth=3, dim=96, heads=3, windowed=(0,), residual=(1,))
    model = VitMatte(config).randomise(3)
    x = torch.rand(1, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    alpha = run(model, x)
    assert torch.equal(alpha, run(VitMatte(config).randomise(3), x))
    assert float(alpha.std()) > 0.01
    for name, value in model.named_parameters():
        before = value.data.clone()
        value.data.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
        assert not torch.equal(run(model, x), alpha), name
        value.data.copy_(before)


def test_transformers_agrees(matte_golden: Any) -> None:
    """Not needed by anything; where the package is there, it is asked."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = replace(from_name("small"), depth=4, windowed=(0, 1), residual=(2, 3))
    vit = transformers.VitDetConfig(
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_channels=4,
        image_size=512,
        pretrain_image_size=224,
        window_size=config.window,
        window_block_indices=list(config.windowed),
        residual_block_indices=list(config.residual),
        use_relative_position_embeddings=True,
        use_absolute_position_embeddings=True,
        out_features=[f"stage{config.depth}"],
    )
    theirs = transformers.VitMatteForImageMatting(
        transformers.VitMatteConfig(
            backbone_config=vit,
            hidden_size=config.dim,
            convstream_hidden_sizes=list(config.details),
            fusion_hidden_sizes=list(config.fusion),
        )
    ).eval()
    ours = VitMatte(config).randomise(0)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.rand(1, 4, 96, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(pixel_values=x).alphas, atol=1e-5, rtol=0)
    assert from_transformers(theirs.config.to_dict(), "small") == config
