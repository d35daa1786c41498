# SPDX-License-Identifier: Apache-2.0
"""The hook for image stages of your own: `custom_encoder: "module:Class"` in a configuration.

The class replaces backbone, neck and head; geometry, tables, pooling, BEV stage, extraction and node stay. It must be a
`torch.nn.Module` that

* is made by `Class(config, **custom_options)`, `config` being the `BevConfig` (sizes: `config.image`, `config.frustum`,
  `config.slots`, `config.channels`);
* has `forward(images, cameras)`: `images` (N, 3, H, W) float32, RGB, resized, cropped and normalised as
  `bev_ros.images` does; `cameras` (N, 27) float32, see `bev_ros.geometry.camera_vector`; both on the device where the
  module was moved to;
* returns `(depth, context)`: depth (N, D, h, w), a distribution over the depth bins for each pixel (whether it sums up
  to 1 is up to you), and context (N, C, h, w); any float dtype. D, h, w are those of `config.frustum`, C is
  `config.channels`.

Optional methods: `cast_precision(dtype)` as of `aot_runtime.export.export_model`, to keep parts in float32;
`load_weights(path)`, to read a checkpoint of another kind than a state dict of this class.

The pipeline runs such an encoder eagerly, without an export; `export_bev --custom-encoder` exports it like any other.
Its source counts in the `identity` of the pipeline, so that precomputed features of another version are not mixed.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aot_runtime.errors import InputError
from bev_ros.config import BevConfig

if TYPE_CHECKING:
    import torch


class CustomEncoder(Protocol):
    """What the class must look like beside being a `torch.nn.Module`."""

    def __call__(self, images: torch.Tensor, cameras: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W) and (N, 27) float32 -> depth (N, D, h, w) and context (N, C, h, w)."""


def load_custom(config: BevConfig) -> torch.nn.Module:
    """The custom encoder of a configuration, its forward tried on zeros.

    Raises:
        InputError: it cannot be imported or made, is no module, or returns something else than the protocol says.
    """
    import torch

    name = config.custom_encoder
    kind = _find(name)
    try:
        module = kind(config, **config.custom_options)
    except Exception as error:
        # Whatever the user's code raises, they need to know from where.
        raise InputError(
            f"expected {name} to be made from a BevConfig and {dict(config.custom_options)}, found "
            f"{type(error).__name__}: {error}",
            "see bev_ros.custom for what the class must take",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"expected {name} to be a torch.nn.Module, found {type(module).__name__}")
    module.eval()
    _try(module, config)
    return module


def source_digest(name: str) -> str:
    """SHA-256 of the file that a custom encoder is defined in.

    Raises:
        InputError: it cannot be imported, or has no file.
    """
    try:
        file = inspect.getsourcefile(_find(name))
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        raise InputError(f"expected {name} in a file, found none", "save the class in a module")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _find(name: str) -> type:
    module_name, _, class_name = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        # A module's own mistakes come out of importing it.
        raise InputError(
            f"expected a custom encoder module:Class that can be imported, found {type(error).__name__}: {error} "
            f"for {name}",
            "put its folder on PYTHONPATH",
        ) from error
    if not isinstance(kind, type):
        raise InputError(f"expected {name} to be a class, found {type(kind).__name__}")
    return kind


def _try(module: torch.nn.Module, config: BevConfig) -> None:
    import torch

    from bev_ros.geometry import VECTOR

    height, width = config.frustum.size
    wanted = {
        "depth": (config.slots, config.frustum.bins, height, width),
        "context": (config.slots, config.channels, height, width),
    }
    try:
        with torch.inference_mode():
            found = module(torch.zeros(config.slots, 3, *config.image), torch.zeros(config.slots, VECTOR))
    except Exception as error:
        raise InputError(
            f"expected {config.custom_encoder} to run on {config.slots} images of {config.image[1]}x"
            f"{config.image[0]}, found {type(error).__name__}: {error}",
            "see bev_ros.custom for what its forward takes",
        ) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InputError(f"expected depth and context from {config.custom_encoder}, found {type(found).__name__}")
    for (name, shape), tensor in zip(wanted.items(), found):
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"expected a tensor {name} from {config.custom_encoder}, found {type(tensor).__name__}")
        if tuple(tensor.shape) != shape or not tensor.dtype.is_floating_point:
            raise InputError(
                f"expected {name} of shape {shape} and a float dtype from {config.custom_encoder}, found "
                f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            )
