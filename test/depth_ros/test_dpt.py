# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depth_ros.model.dpt import DPT, Fusion, ProductEnlarging, ResidualConvUnit, project


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_residual_unit_with_a_rectified_skip_is_that_of_vggt(shared: Path) -> None:
    with np.load(shared / "golden" / "vggt" / "ops.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith("rcu_")}
    unit = ResidualConvUnit(6, rectified_skip=True)
    unit.load_state_dict({key.removeprefix("rcu_"): value for key, value in arrays.items() if "conv" in key})
    with torch.no_grad():
        torch.testing.assert_close(unit(arrays["rcu_in"]), arrays["rcu_out"], atol=1e-6, rtol=0)
        unit.rectified_skip = False
        expected = arrays["rcu_out"] + arrays["rcu_in"].clamp(max=0)
        torch.testing.assert_close(unit(arrays["rcu_in"]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [2, 4])
def test_enlarging_by_a_product_is_the_transposed_convolution(side: int) -> None:
    plain = torch.nn.ConvTranspose2d(6, 5, side, stride=side)
    x = noise(2, 6, 3, 7)
    with torch.no_grad():
        found = ProductEnlarging(plain)(x)
        torch.testing.assert_close(found, plain(x), atol=1e-6, rtol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_transposed_convolution_that_overlaps_itself_is_no_product() -> None:
    with pytest.raises(ValueError, match="stride and kernel alike"):
        ProductEnlarging(torch.nn.ConvTranspose2d(6, 5, 3, stride=2))


def test_fusion_resizes_after_its_last_convolution_as_it_would_before() -> None:
    fusion = Fusion(5).eval()
    x, skip = noise(1, 5, 4, 6), noise(1, 5, 4, 6, seed=1)
    with torch.no_grad():
        refined = fusion.resConfUnit2(x + fusion.resConfUnit1(skip))
        official = fusion.out_conv(F.interpolate(refined, size=(9, 11), mode="bilinear", align_corners=True))
        torch.testing.assert_close(fusion(x, skip, (9, 11)), official, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_last_projection_is_a_convolution_in_float32(outputs: int) -> None:
    conv = torch.nn.Conv2d(32, outputs, 1)
    x = noise(2, 32, 5, 7).bfloat16()
    with torch.no_grad():
        found = project(x, conv)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, conv(x.float()), atol=1e-5, rtol=1e-5)


def uv_embedding(x: Tensor, aspect: float) -> Tensor:
    """VGGT's embedding of a map's coordinates, times 0.1; aspect is W / H of the image."""
    channels, rows, columns = x.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    u = aspect / diagonal * (columns - 1) / columns * torch.linspace(-1, 1, columns, dtype=torch.float64)
    v = 1 / diagonal * (rows - 1) / rows * torch.linspace(-1, 1, rows, dtype=torch.float64)
    quarter = channels // 4
    omega = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    across = (u[:, None] * omega).view(1, columns, quarter).expand(rows, -1, -1)
    down = (v[:, None] * omega).view(rows, 1, quarter).expand(-1, columns, -1)
    parts = [across.sin(), across.cos(), down.sin(), down.cos()]
    return 0.1 * torch.cat(parts, dim=-1).permute(2, 0, 1).float()


def test_the_depth_head_of_vggt_is_this_decoder(shared: Path) -> None:
    from safetensors.torch import load_file

    folder, prefix = shared / "golden" / "vggt", "depth_head."
    told = json.loads((folder / "config.json").read_text())["config"]
    state = {
        key.removeprefix(prefix): value
        for key, value in load_file(folder / "weights.safetensors").items()
        if key.startswith(prefix)
    }
    rules = {"norm": True, "rectified_skip": True, "unused_unit": False}
    head = DPT(
        2 * told["embed_dim"],
        told["dpt_features"],
        told["dpt_out_channels"],
        2,
        **rules,
        embedding=lambda x: uv_embedding(x, 70 / 56),
    ).eval()
    head.load_state_dict(state, strict=True)
    with np.load(folder / "case_3x56x70.npz") as archive:
        taps = [torch.from_numpy(archive[f"aggregated_{i:02d}"])[0, :, 5:] for i in told["dpt_layers"]]
        depth, confidence = (torch.from_numpy(archive[key])[0] for key in ("depth", "depth_conf"))
    with torch.no_grad():
        raw = head(taps, (4, 5), (56, 70))
    torch.testing.assert_close(raw[:, 0].exp(), depth[..., 0], atol=2e-5, rtol=0)
    torch.testing.assert_close(1 + raw[:, 1].exp(), confidence, atol=2e-5, rtol=0)

    shapes = json.loads((shared / "reference" / "vggt_state_dict.json").read_text())["shapes"]
    with torch.device("meta"):
        published = DPT(2048, 256, (256, 512, 1024, 1024), 2, **rules)
    wanted = {key.removeprefix(prefix): tuple(shape) for key, shape in shapes.items() if key.startswith(prefix)}
    assert {key: tuple(value.shape) for key, value in published.state_dict().items()} == wanted
