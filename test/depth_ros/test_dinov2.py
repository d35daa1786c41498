# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.errors import InputError
from depth_ros.model.dinov2 import DinoV2, check_size


def test_tokens_and_taps_are_the_official_ones(depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden("dav2_rel_518grid")
    encoder, image = golden.model().pretrained, golden.inputs["x_42x56"]
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(image), golden.outputs["tokens_42x56"], atol=1e-6, rtol=0)
        taps = encoder.taps(image, golden.config().taps)
        assert len(taps) == 4
        for i, tap in enumerate(taps):
            torch.testing.assert_close(tap, golden.outputs[f"feat{i}_42x56"], atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder(image), taps[3])


def test_a_patch_embedding_as_one_product_is_the_convolution(depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden("dav2_rel_518grid")
    embed, image = golden.model().pretrained.patch_embed, golden.inputs["x_42x56"]
    with torch.no_grad():
        convolved = embed(image)
        embed.as_product = True
        torch.testing.assert_close(embed(image), convolved, atol=1e-5, rtol=1e-5)


def interpolate(square: np.ndarray, size: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """Bicubic (a = -0.75) by the formula src = (dst + 0.5) / scale - 0.5 with clamped edges, of (h, w, C)."""

    def weights(fraction: float) -> list[float]:
        a, result = -0.75, []
        for distance in (1 + fraction, fraction, 1 - fraction, 2 - fraction):
            if distance <= 1:
                result.append(((a + 2) * distance - (a + 3)) * distance**2 + 1)
            else:
                result.append(((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a)
        return result

    for axis in (0, 1):
        moved = np.moveaxis(square, axis, 0)
        rows = []
        for i in range(size[axis]):
            source = (i + 0.5) / scale[axis] - 0.5
            low = int(np.floor(source))
            taps = np.clip(np.arange(low - 1, low + 3), 0, len(moved) - 1)
            rows.append(sum(weight * moved[tap] for weight, tap in zip(weights(source - low), taps)))
        square = np.moveaxis(np.stack(rows), 0, axis)
    return square


@pytest.mark.parametrize(("offset", "rows", "columns"), [(0.1, 3, 7), (0.1, 6, 4), (None, 7, 3), (0.1, 5, 4)])
def test_positions_follow_the_formula(offset: float | None, rows: int, columns: int) -> None:
    encoder = DinoV2(6, 1, 2, image_size=70, interpolate_offset=offset)
    torch.nn.init.normal_(encoder.pos_embed, generator=torch.Generator().manual_seed(0))
    square = encoder.pos_embed[0, 1:].view(5, 5, 6).detach().double().numpy()
    scale = ((rows + (offset or 0.0)) / 5, (columns + (offset or 0.0)) / 5)
    expected = interpolate(square, (rows, columns), scale).reshape(-1, 6)
    found = encoder.positions(rows, columns)[0].detach().numpy()
    np.testing.assert_allclose(found[1:], expected, atol=2e-6)
    np.testing.assert_array_equal(found[0], encoder.pos_embed[0, 0].detach().numpy())
    assert encoder.positions(5, 5) is encoder.pos_embed


def test_a_fixed_size_interpolates_nothing_and_takes_no_other(depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden("dav2_rel_56grid")
    encoder, image = golden.model().pretrained, golden.inputs["x_42x56"]
    with torch.no_grad():
        before = encoder.tokens(image)
        encoder.fix_size(42, 56)
        assert torch.equal(encoder.tokens(image), before)
        graph = torch.export.export(encoder, (image,), strict=False).graph
        assert not [node for node in graph.nodes if "upsample" in str(node.target)]
        with pytest.raises(InputError, match=r"expected \(3, 4\) patches, found \(4, 4\)"):
            encoder.tokens(golden.inputs["x_56x56"])


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        ((240, 308), "the nearest are 238 or 252 x 308"),
        ((238, 300), "the nearest are 238 x 294 or 308"),
        ((5, 13), "the nearest are 14 x 14"),
        ((0, 14), "the nearest are 14 x 14"),
        ((-14, 20), "the nearest are 14 x 14 or 28"),
    ],
)
def test_other_sizes_are_refused_with_the_nearest_good_ones(size: tuple[int, int], remedy: str) -> None:
    with pytest.raises(InputError) as error:
        check_size(*size)
    assert error.value.reason == f"expected height and width in multiples of 14, found {size[0]} x {size[1]}"
    assert error.value.remedy == remedy
    check_size(238, 308)


def test_the_encoder_of_vggt_is_this_one_with_registers(shared: Path) -> None:
    """Its tiny golden network, numerically, and the names of the published one."""
    from safetensors.torch import load_file

    folder, prefix = shared / "golden" / "vggt", "aggregator.patch_embed."
    weights = load_file(folder / "weights.safetensors")
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    told = json.loads((folder / "config.json").read_text())["config"]
    encoder = DinoV2(
        told["embed_dim"],
        told["dino_depth"],
        told["dino_heads"],
        image_size=told["img_size"],
        registers=told["num_register_tokens"],
        interpolate_offset=None,
        interpolate_antialias=True,
    )
    encoder.eval().load_state_dict(state, strict=True)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for case in ("1x70x70", "2x84x42", "3x56x70"):
        with np.load(folder / f"case_{case}.npz") as archive:
            images, wanted = torch.from_numpy(archive["images"]), torch.from_numpy(archive["patch_tokens"])
        with torch.no_grad():
            torch.testing.assert_close(encoder((images - mean) / std), wanted, atol=2e-5, rtol=0)
    shapes = json.loads((shared / "reference" / "vggt_state_dict.json").read_text())["shapes"]
    with torch.device("meta"):
        published = DinoV2(1024, 24, 16, registers=4)
    wanted_shapes = {key.removeprefix(prefix): tuple(v) for key, v in shapes.items() if key.startswith(prefix)}
    assert {key: tuple(value.shape) for key, value in published.state_dict().items()} == wanted_shapes
