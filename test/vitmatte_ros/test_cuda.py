# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: kernels against plain operations, fp16 against fp32, the graph against plain runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aot_runtime.backends.aoti import exact_float32
from aot_runtime.compiled_model import load_model
from aot_runtime.errors import InputError
from vitmatte_ros.config import from_name
from vitmatte_ros.deploy import DeployedVitMatte, Form, deployed_kind, fastest_form
from vitmatte_ros.model.attention import Attention
from vitmatte_ros.model.vitmatte import VitMatte
from vitmatte_ros.pipeline import MattePipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GREY = 1 / 255
FORM = fastest_form(".pt2", "cuda")


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Numbers that float16 holds exactly, so that all differences are the kernel's."""
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(*shape, generator=generator).cuda().half()


def maps(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W) float64."""
    return x.permute(0, 3, 1, 2).double()


@pytest.mark.parametrize(
    ("grid", "window", "heads", "head_dim"),
    [((32, 32), 14, 6, 64), ((32, 32), 0, 6, 64), ((5, 30), 14, 2, 16), ((46, 80), 0, 2, 64), ((3, 7), 3, 2, 32)],
)
def test_attention(grid: tuple[int, int], window: int, heads: int, head_dim: int, draw: Callable[..., Tensor]) -> None:
    from vitmatte_ros import kernels
    from vitmatte_ros.fused import longer_product

    torch.manual_seed(0)
    plain = Attention(heads * head_dim, heads, window or max(grid)).requires_grad_(False)
    for table in (plain.rel_pos_h, plain.rel_pos_w):
        table.data.normal_(std=0.2)
    plain.qkv.weight.data.mul_(3)
    plain.relative = "gather"
    plain.cuda().fix_size(*((window, window) if window else grid))
    plain.to(torch.float16).cast_tables(torch.float16)
    x = draw(2, *grid, heads * head_dim)
    weight, bias = longer_product(plain)
    mixed = kernels.attention(F.linear(x, weight, bias), bias, heads, head_dim, window)
    found, rounded = F.linear(mixed, plain.proj.weight, plain.proj.bias).double(), plain(x, window).double()
    plain.double().cast_tables(torch.float64)
    wanted = plain(x.double(), window)
    # Scores are large, so that every term matters: queries and keys of float16 alone move the result this much.
    limit = float((rounded - wanted).abs().max())
    assert limit < 0.03
    assert float((found - wanted).abs().max()) < 1.2 * limit


@pytest.mark.parametrize(
    ("size", "channels", "details"),
    [((32, 32), 384, 192), ((64, 96), 64, 8), ((5, 7), 12, 8), ((256, 256), 64, 0)],
)
def test_enlarge(size: tuple[int, int], channels: int, details: int, draw: Callable[..., Tensor]) -> None:
    from vitmatte_ros import kernels

    x = draw(2, *size, channels)
    detail = draw(2, 2 * size[0], 2 * size[1], details) if details else draw(0)
    found = kernels.enlarge(x, detail, torch.float16)
    wanted = F.interpolate(maps(x), scale_factor=2, mode="bilinear", align_corners=False)
    if details:
        wanted = torch.cat([maps(detail), wanted], dim=1)
        assert torch.equal(found[..., :details], detail)
    torch.testing.assert_close(maps(found), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "channels", "out", "side", "last"),
    [
        ((512, 512), 64, 32, 8, False),
        ((512, 512), 32, 16, 0, True),
        ((61, 45), 16, 16, 4, True),
        ((9, 200), 64, 64, 0, False),
    ],
)
def test_convolution(
    size: tuple[int, int], channels: int, out: int, side: int, last: bool, draw: Callable[..., Tensor]
) -> None:
    from vitmatte_ros import kernels
    from vitmatte_ros.fused import neighbours, taps

    x, weight, bias = draw(2, *size, channels), draw(out, side + channels, 3, 3) / 16, draw(out)
    beside = draw(2, *size, side) if side else draw(0)
    ends = (draw(out + 1) / 4).float() if last else draw(0).float()
    packed = neighbours(weight[:, :side]) if side else draw(0).reshape(0, 0, 0)
    found = kernels.conv(x, taps(weight[:, side:]), bias.float(), beside, packed, ends)
    both = torch.cat([maps(beside), maps(x)], dim=1) if side else maps(x)
    wanted = torch.relu(F.conv2d(both, weight.double(), bias.double(), padding=1))
    if last:
        wanted = torch.sigmoid((wanted * ends[:-1].double()[:, None, None]).sum(1, keepdim=True) + ends[-1].double())
        assert found.dtype == torch.float32
    torch.testing.assert_close(maps(found), wanted, atol=1e-5 if last else 2e-3, rtol=1e-5 if last else 1e-3)


def test_the_kernels_are_for_float16_on_cuda_alone(matte_golden: Any) -> None:
    from vitmatte_ros.fused import FusedVitMatte

    config = matte_golden.config
    assert deployed_kind(config, 64, 96, ".pt2", "fp16", "cuda:0") is FusedVitMatte
    assert deployed_kind(config, 64, 96, ".pt2", "fp32", "cuda:0") is DeployedVitMatte
    for size in ((None, None), (64, 4096)):
        assert deployed_kind(config, *size, ".pt2", "fp16", "cuda:0") is DeployedVitMatte
        assert deployed_kind(replace(config, heads=1, dim=24), 64, 96, ".pt2", "fp16", "cuda") is DeployedVitMatte
    with pytest.raises(InputError, match="a size and relative positions by gather"):
        FusedVitMatte(matte_golden.model(), 64, 96, Form())


@pytest.mark.parametrize("form", [FORM, Form("bias", "gather", 8), Form()])
def test_eager_on_cuda(matte_golden: Any, form: Form) -> None:
    for golden in matte_golden.cases.values():
        x = golden["pixel_values"]
        module = DeployedVitMatte(matte_golden.model(), x.shape[2], x.shape[3], form=form).cuda()
        with torch.no_grad(), exact_float32():
            torch.testing.assert_close(module(x.cuda()).cpu(), golden["alphas"], atol=2e-5, rtol=0)
            half = module.cast_precision(torch.float16)(x.cuda()).cpu()
        assert float((half - golden["alphas"]).abs().max()) < GREY


@pytest.mark.parametrize(("case", "precision"), [("64x96", "fp16"), ("96x64", "fp16"), ("64x96", "fp32")])
def test_a_compiled_artifact_computes_the_official_alpha(
    matte_golden: Any, matte_artifact: Callable[..., Path], case: str, precision: str
) -> None:
    x, wanted = matte_golden.cases[case]["pixel_values"], matte_golden.cases[case]["alphas"]
    size = {"height": x.shape[2], "width": x.shape[3], "batch": x.shape[0]}
    with load_model(matte_artifact(device="cuda", precision=precision, **size), "cuda") as model:
        alpha = model.run(pixel_values=x.cuda())["alpha"].cpu()
    assert float((alpha - wanted).abs().max()) < (GREY if precision == "fp16" else 2e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[VitMatte, Path]:
    """The published decoder and windows on four layers, 216x344, fp16: every kernel, and a size that does not fit."""
    from aot_runtime.manifest import CheckpointInfo
    from vitmatte_ros.export_vitmatte import export_vitmatte

    model = VitMatte(replace(from_name("small"), depth=4, windowed=(0, 1), residual=(2, 3))).randomise(0)
    path = tmp_path_factory.mktemp("vitmatte_cuda") / "small.pt2"
    options: dict[str, Any] = {"height": 216, "width": 344, "device": "cuda", "precision": "fp16", "progress": False}
    export_vitmatte(model, path, checkpoint=CheckpointInfo.random(0), **options)
    return model, path


def test_float16_stays_within_one_grey_level_of_eager_float32(published: tuple[VitMatte, Path]) -> None:
    network, path = published
    x = torch.rand(1, 4, 216, 344, generator=torch.Generator().manual_seed(5)).cuda()
    with torch.no_grad(), exact_float32(), load_model(path, "cuda") as model:
        wanted = network.cuda()(x)
        found = model.run(pixel_values=x)["alpha"]
    assert float(wanted.std()) > 0.05
    assert float((found - wanted).abs().max()) < GREY


def test_graph_and_plain_runs_agree(published: tuple[VitMatte, Path]) -> None:
    _, path = published
    graphed, plain = (MattePipeline(path, "cuda", cuda_graph=on) for on in (True, False))
    assert graphed._runner.graphed
    assert not plain._runner.graphed
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (216, 344, 3), np.uint8) for _ in range(2)]
    trimap = np.full((216, 344), 128, np.uint8)
    trimap[:80], trimap[200:] = 255, 0
    results: list[Any] = []

    def run() -> None:  # as a node: captured in one thread, replayed in another
        order = (images[0], images[1], images[0])
        results.extend((graphed.process(image, trimap).alpha, plain.process(image, trimap).alpha) for image in order)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(results) == 3
    for one, other in results:
        np.testing.assert_array_equal(one, other)
    # Results are the caller's own: the next replay does not change them.
    np.testing.assert_array_equal(results[0][0], results[2][0])
    assert not np.array_equal(results[0][0], results[1][0])
    graphed.close()
    plain.close()


def test_pipeline_on_cuda_and_on_the_cpu(matte_golden: Any, matte_artifact: Callable[..., Path], shared: Path) -> None:
    from PIL import Image

    folder = shared / "data" / "matting"
    size = (96, 64)
    image = np.asarray(Image.open(folder / "bulb_rgb.jpg").convert("RGB").resize(size))
    grey = np.asarray(Image.open(folder / "bulb_trimap.png").convert("L").resize(size, Image.Resampling.NEAREST))
    trimap = np.select([grey < 64, grey > 191], [0, 255], 128).astype(np.uint8)
    assert (trimap == 128).any()
    alphas = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "fp16")):
        path = matte_artifact(device=device, precision=precision, height=64, width=96)
        pipeline = MattePipeline(path, device, overlap=16, margin=16)
        alphas[device, precision] = pipeline.process(image, trimap).alpha
        pipeline.close()
    np.testing.assert_allclose(alphas["cuda", "fp32"], alphas["cpu", "fp32"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(alphas["cuda", "fp16"], alphas["cpu", "fp32"], atol=GREY, rtol=0)
    assert float(alphas["cpu", "fp32"][trimap == 128].std()) > 0.001
