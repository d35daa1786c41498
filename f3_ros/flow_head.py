# SPDX-License-Identifier: Apache-2.0
"""FlowHead: dense optical flow from F3's feature field, with the names of the official checkpoint (`last.pth`).

A few ConvNeXt-V2 blocks and a 1x1 convolution. Unlike F3 itself the head works in the usual image order (H, W).
Its output has no activation and no scale: displacements in pixels **of the grid it runs on**, over the interval that
it was trained for (100 ms for the published weights). `f3_ros.sensor_grid` turns them into pixels of the sensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from f3_ros.blocks import Block, convolve, randomise_parameters
from f3_ros.deploy import DEPTHWISE

INTERVAL_US = 100_000
"""The interval over which the published weights measure displacement (time_flow of their training)."""


class FlowHead(nn.Module):
    """The network; `load_state_dict` takes the official names without their `flowhead.` prefix.

    Args:
        channels: of the features, 32 for F3's published configurations.
        kernels, btlncks, dilations: of each block; a kernel of 1 means a full 1x1 convolution.
        depthwise: how the depthwise convolutions are written, one of `f3_ros.deploy.DEPTHWISE`.

    Raises:
        InputError: the lists differ in length, or hold a value that no block can have.
    """

    def __init__(
        self,
        channels: int = 32,
        kernels: Sequence[int] = (9, 9, 9, 9),
        btlncks: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        depthwise: str = "conv",
    ) -> None:
        super().__init__()
        if not len(kernels) == len(btlncks) == len(dilations) > 0:
            raise InputError(
                f"expected as many kernels as btlncks and dilations, one or more, found {len(kernels)}, "
                f"{len(btlncks)} and {len(dilations)}",
                "give one value of each per block",
            )
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise InputError(f"expected odd kernels from 1, found {list(kernels)}", "even ones would shift the field")
        if channels < 1 or min(*btlncks, *dilations) < 1:
            raise InputError(
                f"expected channels, btlncks and dilations from 1, found {channels}, {list(btlncks)}, {list(dilations)}"
            )
        self.channels = channels
        self.kernels, self.btlncks, self.dilations = tuple(kernels), tuple(btlncks), tuple(dilations)
        self.decoder = nn.Sequential(*(Block(channels, *block) for block in zip(kernels, btlncks, dilations)))
        self.pred = nn.Conv2d(channels, 2, 1)
        self.write_depthwise(depthwise)

    @property
    def variant(self) -> str:
        """The network's name in a manifest, by its kernels: flowhead_k9999."""
        return "flowhead_k" + "".join(str(kernel) if kernel < 10 else f"_{kernel}_" for kernel in self.kernels)

    def write_depthwise(self, how: str) -> FlowHead:
        """Choose how depthwise convolutions are written, in place; see `f3_ros.deploy.DEPTHWISE`."""
        if how not in DEPTHWISE:
            raise InputError(f"expected depthwise {', '.join(DEPTHWISE)}, found {how!r}")
        for block in self.decoder:
            assert isinstance(block, Block)
            block.depthwise = how
        return self

    def randomise(self, seed: int) -> FlowHead:
        """Random weights that keep signals alive, GRN included; the same for a seed."""
        randomise_parameters(self, seed)
        return self

    def cast_precision(self, dtype: torch.dtype) -> FlowHead:
        """Run convolutions and matrix products in `dtype`, in place; normalisations stay float32."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Flow (B, 2, H, W) float32, channel 0 along W and 1 along H, of features (B, C, H, W) of any float dtype."""
        # Channels last, contiguous: that is what the blocks compute on.
        x = features.to(self.pred.weight.dtype).permute(0, 2, 3, 1).contiguous()
        flow = convolve(self.decoder(x), self.pred)
        return flow.float().permute(0, 3, 1, 2).contiguous()
