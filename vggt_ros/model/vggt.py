# SPDX-License-Identifier: Apache-2.0
"""VGGT (arXiv 2503.11651) without its track head: images of one scene -> cameras, depth, and points if asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depth_ros.model.dpt import DPT
from vggt_ros.config import VggtConfig
from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.camera_head import CameraHead
from vggt_ros.model.dense_head import activate_depth, activate_points, dense_head


class Vggt(nn.Module):
    """The network of a `VggtConfig`; `load_state_dict` takes official weights.

    Args:
        points: with the point head. Depth and cameras say the same, more exactly, at a third of the heads' work.
    """

    def __init__(self, config: VggtConfig, *, points: bool = False) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(2 * config.dim, config.camera_depth, config.camera_heads)
        self.depth_head = dense_head(config, 2)
        self.point_head: DPT | None = dense_head(config, 4) if points else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Everything about S frames of one scene, in the scale and the axes of the first frame's camera.

        Args:
            images: (S, 3, H, W) RGB in 0..1, **not** normalised; the first is the reference.

        Returns:
            float32: `pose_enc` (S, 9), see `vggt_ros.pose_encoding`; `depth` (S, H, W) along the optical axis;
            `depth_conf` (S, H, W), 1 or more; with the point head `world_points` (S, H, W, 3) and `world_points_conf`.

        Raises:
            InputError: H or W is no multiple of the patch.
        """
        size = (images.shape[-2], images.shape[-1])
        grid = self.aggregator.grid_of(*size)
        layers = self.aggregator(images)
        patches = [layer[:, self.config.special :] for layer in layers]
        depth, depth_conf = activate_depth(self.depth_head(patches, grid, size))
        found = {"pose_enc": self.camera_head(layers[-1][:, 0]), "depth": depth, "depth_conf": depth_conf}
        if self.point_head is not None:
            points, confidence = activate_points(self.point_head(patches, grid, size))
            found |= {"world_points": points, "world_points_conf": confidence}
        return found

    def randomise(self, seed: int) -> Vggt:
        """Give every parameter a random value that keeps signals alive in every layer; the same values for a seed.

        For benchmarks, demos and tests without a checkpoint. LayerScales stay below one, so that the residual streams
        of two times 24 blocks do not swell; fields of view lie around 1 radian, as those of cameras do.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.normal_(generator=generator)
                if value.dim() == 1:
                    centre, spread = 0.0, 0.1
                    if name.endswith("gamma"):
                        centre, spread = 0.3, 0.05
                    elif "norm" in name and name.endswith("weight"):
                        centre = 1.0
                    value.mul_(spread).add_(centre)
                elif "token" in name or "pos_embed" in name:
                    value.mul_(0.2)
                else:
                    # A transposed convolution with kernel = stride sums over its first axis only.
                    transposed = "resize_layers.0" in name or "resize_layers.1" in name
                    value.mul_(1 / math.sqrt(value.shape[0] if transposed else value[0].numel()))
            last = self.camera_head.pose_branch.fc2
            last.weight.mul_(0.05)
            last.bias.copy_(torch.tensor([0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.25, 0.25, 0.25]))
            for head in (self.depth_head, self.point_head):
                if head is not None:
                    conv = head.scratch.output_conv2[2]
                    assert isinstance(conv, nn.Conv2d)
                    # What is exponentiated shall stay around one.
                    conv.weight.mul_(0.1)
        return self


def without_values(config: VggtConfig, *, points: bool = False) -> Vggt:
    """A network whose parameters have memory but no values yet, for a checkpoint or `randomise` to fill.

    The usual first values of a billion parameters take long, and would all be thrown away.
    """
    with torch.device("meta"):
        network = Vggt(config, points=points)
    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device="cpu")))
    return network.eval()
