# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel against torch in float64; runs where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aot_runtime.errors import InputError
from f3_ros.deploy import check_depthwise, fastest_depthwise

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize(
    ("batch", "width", "height", "channels", "size"),
    [(1, 320, 240, 32, 7), (2, 61, 45, 12, 5), (1, 3, 1, 8, 7), (1, 64, 48, 96, 9), (1, 5, 130, 1, 3)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_convolution_and_layer_norm(
    batch: int, width: int, height: int, channels: int, size: int, dtype: torch.dtype
) -> None:
    from f3_ros.kernels import depthwise_layer_norm

    generator = torch.Generator().manual_seed(width)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).cuda()

    x = draw(batch, width, height, channels).to(dtype)
    weight, bias, gamma, beta = draw(channels, 1, size, size), draw(channels), draw(channels), draw(channels)
    convolved = F.conv2d(
        x.permute(0, 3, 1, 2).double(), weight.double(), bias.double(), padding=size // 2, groups=channels
    )
    expected = F.layer_norm(convolved.permute(0, 2, 3, 1), (channels,), gamma.double(), beta.double(), eps=1e-6)
    taps = weight[:, 0].permute(1, 2, 0).reshape(size * size, channels).contiguous()
    found = depthwise_layer_norm(x, taps, bias, gamma, beta, size, 1e-6)
    assert found.dtype == dtype
    # LayerNorm divides by the spread over channels, so float32 sums of size**2 products show up enlarged.
    tolerance = {torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    if channels > 1:
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    else:
        torch.testing.assert_close(found.double(), beta.double().expand_as(expected), atol=tolerance, rtol=tolerance)


def test_the_cpu_is_left_to_the_library() -> None:
    assert fastest_depthwise("cpu") == "conv"
    assert fastest_depthwise("cuda:1") in ("triton", "taps")


def test_a_kernel_for_cuda_is_refused_on_the_cpu() -> None:
    with pytest.raises(InputError, match="expected a CUDA device for --depthwise triton, found cpu; use conv or taps"):
        check_depthwise("triton", "cpu")
    with pytest.raises(InputError, match="expected depthwise conv, taps, triton, found 'fft'"):
        check_depthwise("fft", "cpu")
