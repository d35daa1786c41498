# SPDX-License-Identifier: Apache-2.0
"""VGGT networks: their sizes, and what goes in and comes out. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aot_runtime.errors import InputError

MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet, in RGB; the network normalises inside, images come in 0..1."""
STD = (0.229, 0.224, 0.225)
CAMERA_ROUNDS = 4
"""How often the camera head corrects its own prediction."""
POSE_SIZE = 9
"""Translation (3), quaternion x, y, z, w (4), vertical and horizontal field of view (2)."""
PATCH_EMBEDS = ("dinov2", "conv")
LICENCE = "VGGT License (non-commercial)"
"""Of `facebook/VGGT-1B`; `facebook/VGGT-1B-Commercial`, which one must apply for, may be used commercially."""
COMMERCIAL_LICENCE = "VGGT License (commercial checkpoint, with its acceptable-use policy)"
LICENCES: Mapping[str, str] = {"non-commercial": LICENCE, "commercial": COMMERCIAL_LICENCE}


@dataclass(frozen=True)
class VggtConfig:
    """One VGGT network.

    Attributes:
        name: for people and file names.
        dim: channels of a token in the aggregator; heads see 2 * dim, frame and global tokens side by side.
        depth: pairs of a frame block and a global block.
        heads: of both kinds of blocks.
        mlp_ratio: hidden channels of a feed-forward network over `dim`.
        registers: tokens per frame that belong to no patch, beside the camera's.
        patch: pixels on a side of a patch.
        image_size: side of the square image that the position embedding was made for.
        rope_base: of the rotation by position.
        patch_embed: "dinov2", or "conv" for a plain convolution.
        dino_depth, dino_heads: of the DINOv2 that embeds patches.
        camera_depth, camera_heads: of the camera head's trunk.
        features, out_channels: of the dense heads, see `depth_ros.model.dpt.DPT`.
        taps: the pairs of blocks whose tokens the dense heads read; the last one is the last pair, which the camera
            head reads.
    """

    name: str = "vggt_1b"
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    patch: int = 14
    image_size: int = 518
    rope_base: float = 100.0
    patch_embed: str = "dinov2"
    dino_depth: int = 24
    dino_heads: int = 16
    camera_depth: int = 4
    camera_heads: int = 16
    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)

    def __post_init__(self) -> None:
        if self.patch_embed not in PATCH_EMBEDS:
            raise InputError(f"expected patch_embed {' or '.join(PATCH_EMBEDS)}, found {self.patch_embed!r}")
        if list(self.taps) != sorted(set(self.taps)) or self.taps[-1] != self.depth - 1 or self.taps[0] < 0:
            raise InputError(
                f"expected ascending taps that end with the last of {self.depth} layers, found {self.taps}"
            )
        if self.dim % self.heads or (self.dim // self.heads) % 4:
            raise InputError(f"expected heads of whole fours of channels, found {self.dim} / {self.heads}")

    @property
    def special(self) -> int:
        """Tokens of a frame in front of its patches: the camera's and the registers."""
        return 1 + self.registers


VGGT_1B = VggtConfig()
"""The published network, 1.26 billion parameters with its track head."""

_OFFICIAL_NAMES = {
    "img_size": "image_size",
    "patch_size": "patch",
    "embed_dim": "dim",
    "num_heads": "heads",
    "num_register_tokens": "registers",
    "rope_freq": "rope_base",
    "camera_trunk_depth": "camera_depth",
    "dpt_features": "features",
    "dpt_out_channels": "out_channels",
    "dpt_layers": "taps",
}


def from_dict(options: Mapping[str, Any], name: str) -> VggtConfig:
    """A network from a configuration in the official names (`embed_dim`, `dpt_layers`, ...), or ours.

    Raises:
        InputError: an unknown field, or values that contradict each other.
    """
    told = {_OFFICIAL_NAMES.get(key, key): value for key, value in options.items()}
    known = {item.name for item in fields(VggtConfig)}
    unknown = sorted(set(told) - known)
    if unknown:
        raise InputError(f"expected fields of a VGGT configuration, found {unknown[0]!r}")
    for key in ("out_channels", "taps"):
        if key in told:
            told[key] = tuple(told[key])
    return VggtConfig(**{"name": name, **told})
