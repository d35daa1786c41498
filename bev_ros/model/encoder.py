# SPDX-License-Identifier: Apache-2.0
"""The two stages of an encoder that are networks: what each camera gives, and what refines the pooled map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aot_runtime.errors import InputError
from bev_ros.config import BEV_STAGES, STRIDES, BevConfig
from bev_ros.custom import load_custom
from bev_ros.lifted import Lifted, join_layers, pool_lifted
from bev_ros.model.depth_net import DeformConv, DepthAggregation, DepthNet, LssHead
from bev_ros.model.neck import Fpn, SecondFpn
from bev_ros.model.resnet import BasicBlock, Bottleneck, ResNet
from bev_ros.tables import TableTensors


class ImageStage(nn.Module):
    """Backbone, neck and head: images become depth and context.

    The forward takes `images` (N, 3, H, W) float32, normalised, and `cameras` (N, 27) float32 where the configuration
    is camera-aware. The depth is a distribution over the bins, the context has no unit.

    Args:
        config: of the encoder; its custom encoder is not looked at, see `bev_ros.custom`.
    """

    def __init__(self, config: BevConfig) -> None:
        super().__init__()
        self.config = config
        self.img_backbone = ResNet(config.backbone, base=config.base_channels)
        self.img_neck = _neck(config, self.img_backbone.channels)
        self.depth_net: DepthNet | LssHead
        if config.head == "bevdepth":
            self.depth_net = DepthNet(config.neck_channels, config.mid_channels, config.channels, config.frustum.bins)
        else:
            self.depth_net = LssHead(config.neck_channels, config.channels, config.frustum.bins)
        if config.use_da:
            self.depth_aggregation_net = DepthAggregation(config.channels)

    def features(self, images: Tensor) -> Tensor:
        """What the neck gives: (N, neck_channels, h, w)."""
        dtype = self.img_backbone.conv1.weight.dtype
        found: Tensor = self.img_neck(self.img_backbone(images.to(dtype)))
        return found

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Lifted:
        x = self.features(images)
        if isinstance(self.depth_net, DepthNet):
            assert cameras is not None
            logits, context = self.depth_net(x, cameras)
        else:
            logits, context = self.depth_net(x)
        depth = logits.float().softmax(1)
        if self.config.use_da:
            return (self.depth_aggregation_net(depth, context).float(),)
        return depth, context.float()

    def cast_precision(self, dtype: torch.dtype) -> ImageStage:
        """Run convolutions in `dtype`, in place; the branch of camera numbers, softmax and outputs stay float32."""
        kept: set[nn.Module] = set()
        if isinstance(self.depth_net, DepthNet):
            net = self.depth_net
            for branch in (net.bn, net.depth_mlp, net.context_mlp, net.depth_se, net.context_se):
                kept |= set(branch.modules())
        # Never there and back: statistics of camera numbers are beyond float16.
        for part in self.modules():
            if part not in kept:
                for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                    if tensor.is_floating_point():
                        tensor.data = tensor.data.to(dtype)
        return self


def _neck(config: BevConfig, channels: tuple[int, ...]) -> Fpn | SecondFpn:
    if config.neck == "fpn":
        return Fpn(channels, config.neck_channels, STRIDES.index(config.stride))
    return SecondFpn(channels, config.neck_channels // 4, [stride / config.stride for stride in STRIDES])


class BevStage(nn.Module):
    """The trunk and neck of BEVDepth's head: the map (C, Y, X) and three coarser ones, joined at the map's size."""

    def __init__(self, config: BevConfig) -> None:
        super().__init__()
        if config.bev_stage == "none":
            raise InputError(f"expected a BEV stage of {', '.join(BEV_STAGES[1:])}, found none")
        self.trunk = ResNet(
            config.bev_stage, config.pooled_channels, config.bev_base, stages=3, strides=(1, 2, 2), pool=False
        )
        self.neck = SecondFpn((config.pooled_channels, *self.trunk.channels), config.bev_channels, (1, 2, 4, 8))

    def forward(self, pooled: Tensor) -> Tensor:
        x = pooled[None].to(self.trunk.conv1.weight.dtype)
        found: Tensor = self.neck([x, *self.trunk(x)])
        return found[0].float()


class BevEncoder(nn.Module):
    """Image stage, pooling and, if there is one, BEV stage; parameters are named as in BEVDepth's whole model.

    The forward takes what the image stage takes, then the three tensors of `bev_ros.tables.TableTensors`, and returns
    the map (C, Y, X) float32.

    Raises:
        InputError: the custom encoder cannot be made, see `bev_ros.custom.load_custom`.
    """

    def __init__(self, config: BevConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = load_custom(config) if config.custom_encoder else ImageStage(config)
        self.head: BevStage | None = None if config.bev_stage == "none" else BevStage(config)

    def lift(self, images: Tensor, cameras: Tensor | None = None) -> Lifted:
        """What the image stage gives."""
        found = self.backbone(images, cameras) if self.config.camera_aware else self.backbone(images)
        return tuple(tensor.float() for tensor in found)

    def finish(self, rows: Tensor) -> Tensor:
        """The final map of what was pooled, (C, Y, X), or (C, L, Y, X) of several layers."""
        rows = join_layers(rows)
        if self.head is None:
            return rows
        found: Tensor = self.head(rows)
        return found

    def forward(self, images: Tensor, *rest: Tensor) -> Tensor:
        cameras, tables = (rest[0] if len(rest) == 4 else None), rest[-3:]
        lifted = self.lift(images, cameras)
        return self.finish(pool_lifted(lifted, TableTensors(*tables), self.config.map_shape))


def randomise(module: nn.Module, seed: int) -> None:
    """Draw all weights so that every layer matters and numbers keep their size through the network, in place.

    The last normalisation of a residual block has half the weight, as 16 blocks would otherwise multiply the numbers by
    256. Offsets of the deformable convolution are about a pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | DeformConv):
                fan = math.prod(part.weight.shape) / part.weight.shape[0]
                part.weight.normal_(0, math.sqrt(2 / fan), generator=generator)
                bias = getattr(part, "bias", None)
                if bias is not None:
                    bias.normal_(0, 0.1, generator=generator)
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.weight.uniform_(0.8, 1.2, generator=generator)
                part.bias.normal_(0, 0.1, generator=generator)
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.8, 1.2, generator=generator)
        for part in module.modules():
            if isinstance(part, BasicBlock | Bottleneck):
                last = part.bn3 if isinstance(part, Bottleneck) else part.bn2
                assert isinstance(last, nn.BatchNorm2d)
                last.weight.mul_(0.5)
            elif isinstance(part, DepthNet):
                # Camera numbers are hundreds of pixels beside rotations; training leaves such statistics.
                assert part.bn.running_var is not None
                part.bn.running_var.fill_(1e5)
                # Logits of about one unit: a softmax of six times that turns the rounding of 16 bits into percents.
                last = part.depth_conv[-1]
                assert isinstance(last, nn.Conv2d)
                last.weight.mul_(0.25)
            elif isinstance(part, DeformConv):
                part.conv_offset.weight.mul_(0.3)
            elif isinstance(part, Fpn | SecondFpn):
                # So that the logits of the depth are some units, and not a choice of one bin.
                for layer in part.modules():
                    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.kernel_size != (3, 3):
                        layer.weight.mul_(0.1)


def fold_batch_norm(module: nn.Module) -> None:
    """Move every BatchNorm2d into the convolution before it, in place; the module is in eval mode from then on."""
    module.eval()
    for part in list(module.modules()):
        if isinstance(part, nn.Sequential):
            pairs = [(str(index), str(index + 1)) for index in range(len(part) - 1)]
        else:
            pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("atrous_conv", "bn")]
        for conv_name, norm_name in pairs:
            conv, norm = getattr(part, conv_name, None), getattr(part, norm_name, None)
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(conv, nn.ConvTranspose2d)
                setattr(part, conv_name, _folded(conv, norm, transposed))
                setattr(part, norm_name, nn.Identity())


def _folded(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d, transposed: bool) -> nn.Module:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    found: nn.Module = fuse_conv_bn_eval(conv, norm, transpose=transposed)
    return found
