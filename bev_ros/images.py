# SPDX-License-Identifier: Apache-2.0
"""From a camera's image to what the network takes: the one resize of this package, crop, normalisation.

The resize is Pillow's bicubic one (a = -0.5, its support grown with the reduction, so that nothing aliases), with which
LSS, BEVDet and BEVDepth were trained: another resampler costs their detections 0.5 to 0.7 points of mAP. It is done by
torch on the CPU in integers, whose results differ from Pillow's in about one value of a thousand, by 1 of 255.

It keeps the image's outer edges: the centre of pixel u comes to u' = r (u + 1/2) - 1/2, and after the crop lies exactly
where `ImageTransform.pixel_map` says. The formula that checkpoints were trained with, u' = r u - x0, says (1 - r) / 2
pixels more, always to the same side; they must go on being told that (see `bev_ros.geometry`, rule "corners").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import InputError
from bev_ros.geometry import ImageTransform

if TYPE_CHECKING:
    from torch import Tensor

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of ImageNet in units of 0 to 255, by position of the channel in what the network takes."""
ORDERS = ("rgb", "bgr")
"""Of the network's channels. "bgr" is for the published checkpoints of BEVDepth, whose data loader reads RGB and swaps
red and blue once more before it takes off the mean: the first channel is blue, normalised with the numbers of red."""


def resize_and_crop(image: np.ndarray, transform: ImageTransform) -> Tensor:
    """(H, W, 3) uint8 -> (3, h, w) uint8, a view whose memory is channels-last.

    Raises:
        InputError: another shape or type than the transform is for.
    """
    import torch
    import torch.nn.functional as F

    width, height = transform.source
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise InputError(f"expected a uint8 image of shape {(height, width, 3)}, found {image.dtype} {image.shape}")
    given = np.ascontiguousarray(image)
    pixels = torch.from_numpy(given if given.flags.writeable else given.copy()).permute(2, 0, 1)[None]
    if transform.resized != transform.source:
        size = transform.resized[1], transform.resized[0]
        pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)
    (x, y), (across, down) = transform.offset, transform.target
    return pixels[0, :, y : y + down, x : x + across]


def prepare(
    image: np.ndarray,
    transform: ImageTransform,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    order: str = "rgb",
) -> Tensor:
    """What the network takes of one camera: (H, W, 3) uint8 RGB -> (3, h, w) float32, on the CPU.

    Args:
        mean, std: of the network's channels, first to last, in units of 0 to 255.
        order: of the network's channels, a member of ORDERS.

    Raises:
        InputError: an image that does not fit the transform, or an unknown order.
    """
    import torch

    if order not in ORDERS:
        raise InputError(f"expected channels in order {' or '.join(ORDERS)}, found {order!r}")
    pixels = resize_and_crop(image, transform)
    if order == "bgr":
        pixels = pixels.flip(0)
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return values.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))
