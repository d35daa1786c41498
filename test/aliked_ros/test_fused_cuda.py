# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the plain operations, one by one and as a network; runs where there is a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from aliked_half import compare_half
from torch import Tensor

from aliked_ros.config import from_name
from aliked_ros.deploy import deployed_kind
from aliked_ros.descriptors import Pyramid
from aliked_ros.model import ALIKED, upsample
from aot_runtime.deform_conv import deform_conv2d

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
HALF = torch.float16


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(*shape, generator=generator).cuda()


def rows(x: Tensor) -> Tensor:
    """(1, C, H, W) -> (H, W, C)."""
    return x[0].permute(1, 2, 0)


@pytest.mark.parametrize(("size", "padded", "origin"), [((50, 70), (64, 96), (7, 13)), ((32, 64), (32, 64), (0, 0))])
def test_first_convolution(
    size: tuple[int, int], padded: tuple[int, int], origin: tuple[int, int], draw: Callable[..., Tensor]
) -> None:
    from aliked_ros import kernels

    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).cuda()
    weight, bias = draw(16, 3, 3, 3) / 255, draw(16)
    taps = weight.permute(2, 3, 1, 0).reshape(27, 16).contiguous()
    found = kernels.first_conv(image, taps, bias, *padded, *origin, HALF)
    right, bottom = padded[1] - size[1] - origin[1], padded[0] - size[0] - origin[0]
    whole = F.pad(image.permute(2, 0, 1)[None].double(), (origin[1], right, origin[0], bottom), mode="replicate")
    wanted = rows(F.selu(F.conv2d(whole, weight.double(), bias.double(), padding=1)))
    torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "channels", "out", "side"),
    [
        ((200, 211), 16, 16, 0),
        ((200, 211), 32, 32, 16),
        ((190, 211), 8, 16, 8),
        ((61, 45), 16, 32, 8),
        ((15, 20), 128, 18, 0),
        ((1, 1), 64, 18, 0),
        ((64, 96), 4, 1, 0),
        ((33, 7), 8, 4, 0),
    ],
)
@pytest.mark.parametrize("after", ["NONE", "SELU", "SIGMOID", "CLAMP"])
def test_convolution(
    size: tuple[int, int], channels: int, out: int, side: int, after: str, draw: Callable[..., Tensor]
) -> None:
    from aliked_ros import kernels
    from aliked_ros.packing import pack_conv

    padded = 32 if out > 16 else 16
    x = draw(1, channels, *size).to(HALF)
    weight, bias = (draw(out, channels, 3, 3) / (3 * channels**0.5)).to(HALF), draw(out)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    other, side_weight = x, x.new_zeros(0, padded)
    if side:
        other, mix = draw(1, side, *size).to(HALF), (draw(out, side, 1, 1) / side).to(HALF)
        wanted = wanted + F.conv2d(other.double(), mix.double())
        side_weight = F.pad(mix.flatten(1).t(), (0, padded - out, 0, max(16 - side, 0))).contiguous()
    function: dict[str, Callable[[Tensor], Tensor]] = {
        "NONE": lambda y: y,
        "SELU": F.selu,
        "SIGMOID": torch.sigmoid,
        "CLAMP": lambda y: y.clamp(-0.5, 0.5),
    }
    packed = pack_conv(weight, padded), F.pad(bias, (0, padded - out))
    found = kernels.conv(
        rows(x).contiguous(), *packed, rows(other).contiguous(), side_weight, out, getattr(kernels, after), 0.5, HALF
    )
    torch.testing.assert_close(found.double(), rows(function[after](wanted)), atol=2e-3, rtol=2e-3)
    if not side and after == "NONE":
        found = kernels.conv(
            rows(x).contiguous(), packed[0], bias[:0], rows(x).contiguous(), side_weight, out, 0, 0.0, torch.float32
        )
        torch.testing.assert_close(found.double(), rows(wanted) - bias, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "channels", "out", "side"),
    [((60, 80), 32, 64, 0), ((60, 80), 64, 64, 32), ((15, 20), 128, 128, 64), ((1, 3), 16, 32, 16)],
)
def test_deformable_convolution(
    size: tuple[int, int], channels: int, out: int, side: int, draw: Callable[..., Tensor]
) -> None:
    from aliked_ros import kernels

    x = draw(1, channels, *size).to(HALF)
    weight, bias = (draw(out, channels, 3, 3) / (3 * channels**0.5)).to(HALF), draw(out)
    # Far enough that some samples lie outside altogether.
    offset = draw(1, 18, *size) * max(size) / 4
    wanted = deform_conv2d(x.double(), offset, weight.double(), bias.double(), padding=(1, 1))
    other, side_weight = x, x.new_zeros(0, out)
    if side:
        other, mix = draw(1, side, *size).to(HALF), (draw(out, side, 1, 1) / side).to(HALF)
        wanted = wanted + F.conv2d(other.double(), mix.double())
        side_weight = mix.flatten(1).t().contiguous()
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels, out).contiguous()
    found = kernels.deform_conv(
        *(rows(value).contiguous() for value in (x, offset)), taps, bias, rows(other).contiguous(), side_weight, 1
    )
    torch.testing.assert_close(found.double(), rows(F.selu(wanted)), atol=5e-3, rtol=5e-3)


SIZES = {"odd": ((96, 160), (90, 151), (3, 4)), "smallest": ((32, 32), (32, 32), (0, 0))}


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("channels", [8, 16])
def test_branches_and_their_part_of_the_score(size: Any, channels: int, draw: Callable[..., Tensor]) -> None:
    from aliked_ros import kernels

    (height, width), _, _ = size
    x, weight, scorer = draw(1, channels, height, width).to(HALF), draw(32, channels, 1, 1), draw(8, 32, 1, 1) / 8
    weight, scorer = weight.to(HALF), scorer.to(HALF)
    wanted = F.selu(F.conv2d(x.double(), weight.double())).to(HALF)
    part = F.conv2d(wanted.double(), scorer.double())
    packed = F.pad(weight.flatten(1).t(), (0, 0, 0, 16 - channels)).contiguous()
    scores = F.pad(scorer.flatten(1).t(), (0, 8)).contiguous()
    found, found_part = kernels.branch(rows(x).contiguous(), packed, scores, [])
    torch.testing.assert_close(found, rows(wanted), atol=5e-3, rtol=2e-3)
    torch.testing.assert_close(found_part.double(), rows(part), atol=5e-3, rtol=2e-3)
    levels = [draw(1, 8, height // stride, width // stride).to(HALF) for stride in (2, 8, 32)]
    total = F.selu(part + sum(upsample(level.double(), (height, width)) for level in levels))
    packed_levels = [rows(level).contiguous() for level in levels]
    _, found_part = kernels.branch(rows(x).contiguous(), packed, scores, packed_levels)
    torch.testing.assert_close(found_part.double(), rows(total), atol=1e-2, rtol=2e-3)


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_features_as_a_pyramid_reads_them(size: Any, draw: Callable[..., Tensor]) -> None:
    from aliked_ros.fused import RowFeatures

    (height, width), (high, wide), origin = size
    levels = [draw(1, 16, height // stride, width // stride).to(HALF) for stride in (1, 2, 8, 32)]
    plain = Pyramid(levels, (high, wide), origin)
    fused = RowFeatures([rows(level).contiguous() for level in levels], (high, wide), origin)
    scale = torch.tensor([wide, high], device="cuda")
    # Also well outside, and exactly on pixels, the last ones among them.
    places = torch.cat([draw(500, 2) * scale, draw(200, 2).abs() * scale / 3, (draw(50, 2).abs() * 20).floor()])
    places[0], places[1] = scale - 1, 0.0
    torch.testing.assert_close(fused.between(places).float(), plain.between(places), atol=1e-3, rtol=1e-3)
    centres = places.floor()
    torch.testing.assert_close(fused.around(centres).float(), plain.around(centres), atol=1e-3, rtol=1e-3)
    y, x = torch.randint(high, (40,)).float().cuda(), torch.randint(wide, (40,)).float().cuda()
    torch.testing.assert_close(fused(y, x), plain(y, x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["t16", "n16", "n32"])
@pytest.mark.parametrize("size", [(50, 70), (480, 640), (32, 32)])
def test_the_network_on_kernels_and_without(name: str, size: tuple[int, int]) -> None:
    module = deployed_kind("a.pt2", "fp16", "cuda")(
        ALIKED(from_name(name)).randomise(1), height=size[0], width=size[1], top_k=50
    )
    module = module.cast_precision(HALF).cuda()
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).cuda()
    scores, branches = module.dense(image)
    fused: Any = module
    found, levels = fused.fused_dense(image)
    torch.testing.assert_close(found, scores, atol=5e-3, rtol=0)
    for one, other in zip(levels, branches):
        torch.testing.assert_close(one.float(), rows(other).float(), atol=3e-2, rtol=2e-2)
    points = module.detect(scores).xy
    cosine = (module.describe(points, branches) * fused.fused_describe(points, levels)).sum(1)
    assert float(cosine.min()) > 0.9999


@pytest.mark.parametrize("variant", ["t16", "n16", "n16rot", "n32"])
def test_goldens_in_half_precision(
    variant: str, tmp_path: Path, shared: Path, aliked_golden: Callable[[str, str], Any]
) -> None:
    """Compiled: the official outputs, with the limits of golden/aliked/README.md for half precision."""
    from aliked_ros.export_aliked import export_aliked, read_network
    from aot_runtime.compiled_model import load_model

    golden = aliked_golden(variant, "tum_k1000")
    model, checkpoint = read_network(variant, shared / "weights" / "aliked" / f"aliked-{variant}.pth")
    options: dict[str, Any] = {"height": golden.meta["height"], "width": golden.meta["width"], "top_k": 1000}
    path = tmp_path / "a.pt2"
    export_aliked(
        model, path, checkpoint=checkpoint, precision="fp16", device="cuda", score_map=True, progress=False, **options
    )
    with load_model(path, "cuda") as artifact:
        outputs = {k: v.cpu() for k, v in artifact.run(image=torch.from_numpy(golden.image)[None].cuda()).items()}
    assert bool((outputs["peak_scores"].diff() <= 0).all())
    compare_half(outputs, golden, 0.9998 if variant == "t16" else 0.9999)
