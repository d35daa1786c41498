# SPDX-License-Identifier: Apache-2.0
"""What the kernels for CUDA rest on, checked anywhere: packed weights, sorting by rank, the choice of module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aliked_ros.deploy import DeployedALIKED, deployed_kind
from aliked_ros.detection import _top_by_rank, strongest
from aliked_ros.packing import pack_conv, pointwise


@pytest.mark.parametrize(("channels", "out", "padded"), [(4, 1, 16), (8, 4, 16), (16, 18, 32), (32, 32, 32)])
def test_a_packed_convolution_is_three_products_of_rows(channels: int, out: int, padded: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x, weight = (torch.randn(size, generator=generator) for size in ((1, channels, 5, 7), (out, channels, 3, 3)))
    packed = pack_conv(weight, padded)
    rows = packed.shape[1]
    assert packed.shape == (3, rows, padded)
    assert rows & (rows - 1) == 0
    assert 3 * channels <= rows < 6 * channels or rows == 16
    # Three neighbours on a row are one run of memory, as the kernel reads them; what it masks is zero here.
    bordered = F.pad(x, (1, 1, 1, 1))[0].permute(1, 2, 0).reshape(-1)
    found = torch.zeros(5, 7, padded)
    for tap in range(3):
        runs = bordered.view(7, 9 * channels)[tap : tap + 5].unfold(1, 3 * channels, channels)
        found += F.pad(runs, (0, rows - 3 * channels)) @ packed[tap]
    wanted = F.conv2d(x, weight, padding=1)[0].permute(1, 2, 0)
    torch.testing.assert_close(found[..., :out], wanted, atol=1e-4, rtol=1e-4)
    assert found[..., out:].abs().max() == 0 if out < padded else True


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_a_packed_pointwise_convolution(channels: int) -> None:
    layer = nn.Conv2d(channels, 24, 1, bias=False)
    matrix = pointwise(layer)
    assert matrix.shape == (max(channels, 16), 24)
    x = torch.randn(5, channels)
    found = F.pad(x, (0, len(matrix) - channels)) @ matrix
    torch.testing.assert_close(found, layer(x[..., None, None])[..., 0, 0], atol=1e-5, rtol=1e-5)


def test_ranks_sort_as_topk_and_put_the_first_of_equals_first() -> None:
    values = (torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 300).round()
    wanted = values.topk(500).values
    found, index = _top_by_rank(values, 500)
    assert torch.equal(found, wanted)
    assert torch.equal(values[index], wanted)
    assert len(set(index.tolist())) == 500
    assert bool(((found.diff() < 0) | (index.diff() > 0)).all())


def test_detection_by_rank_finds_the_same_points() -> None:
    scores = torch.rand(61, 77, generator=torch.Generator().manual_seed(2))
    one, other = strongest(scores, 150), strongest(scores, 150, by_rank=True)
    for name in ("xy", "scores", "peak_scores", "dispersity"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    # With fillers: all peaks first, all of them different.
    few = strongest(scores, 26 * 21, by_rank=True)
    peaks = int((few.peak_scores > 0).sum())
    assert 100 < peaks < 26 * 21
    assert bool((few.peak_scores[:peaks] > 0).all())


@pytest.mark.parametrize(
    ("path", "precision", "device"),
    [("a.pt2", "fp16", "cpu"), ("a.onnx", "fp16", "cuda"), ("a.engine", "fp16", "cuda"), ("a.pt2", "fp32", "cuda:0")],
)
def test_the_kernels_are_for_half_precision_on_cuda(path: str, precision: str, device: str) -> None:
    assert deployed_kind(path, precision, device) is DeployedALIKED


def test_without_triton_the_plain_module_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aliked_ros.deploy.find_spec", lambda name: None)
    assert deployed_kind("a.pt2", "fp16", "cuda") is DeployedALIKED
