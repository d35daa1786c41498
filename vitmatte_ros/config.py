# SPDX-License-Identifier: Apache-2.0
"""The published VitMatte networks, and how images and trimaps come to them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aot_runtime.errors import InputError

MULTIPLE = 32
"""The network works on sizes divisible by this: 16 for the patches, 2 for the coarsest level of details."""
IN_CHANNELS = 4
"""Red, green, blue, trimap."""
TRIMAP: Mapping[str, int] = {"background": 0, "unknown": 128, "foreground": 255}
"""Grey levels of a trimap in files and messages; in the tensor they are divided by 255."""
NORMALIZATIONS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # What the weights were trained with, by the authors' code.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # What the image processor of Hugging Face does with the same weights.
    "hf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Name -> (mean, std) of R, G, B in 0..1."""

ATTENTIONS = ("explicit", "bias", "concat")
"""How attention is written, see `vitmatte_ros.model.attention`."""
RELATIVES = ("product", "gather")
"""How its relative positions are."""


@dataclass(frozen=True)
class VitMatteConfig:
    """One VitMatte network.

    Attributes:
        name: "small" or "base".
        dim, heads: of the transformer.
        depth: its layers.
        window: tokens on a side of the windows of the layers in `windowed`; all other layers look at all tokens.
        windowed: indices of layers with window attention.
        residual: indices of layers that end with a residual block of convolutions.
        image_tokens: tokens on a side of the image that the relative positions of global layers were made for.
        pretrain_grid: tokens on a side of the absolute positions.
        details: channels of the three convolutions that keep details.
        fusion: channels after each fusion of the decoder, coarse to fine.
        mlp_ratio: hidden channels of a layer's feed-forward network over `dim`.
        patch: pixels on a side of a token.
        layer_norm_eps, batch_norm_eps: of all normalisations.
    """

    name: str
    dim: int
    heads: int
    depth: int = 12
    window: int = 14
    windowed: tuple[int, ...] = (0, 1, 3, 4, 6, 7, 9, 10)
    residual: tuple[int, ...] = (2, 5, 8, 11)
    image_tokens: int = 32
    pretrain_grid: int = 14
    details: tuple[int, ...] = (48, 96, 192)
    fusion: tuple[int, ...] = (256, 128, 64, 32)
    mlp_ratio: int = 4
    patch: int = 16
    layer_norm_eps: float = 1e-6
    batch_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


CONFIGS = {config.name: config for config in (VitMatteConfig("small", 384, 6), VitMatteConfig("base", 768, 12))}


def from_name(name: str) -> VitMatteConfig:
    """The configuration of a published network.

    Raises:
        InputError: no such network; the message lists all.
    """
    if name not in CONFIGS:
        raise InputError(f"expected a VitMatte of size {' or '.join(CONFIGS)}, found {name!r}")
    return CONFIGS[name]


def normalization(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of a member of NORMALIZATIONS.

    Raises:
        InputError: no such normalisation.
    """
    if name not in NORMALIZATIONS:
        raise InputError(f"expected normalization {' or '.join(NORMALIZATIONS)}, found {name!r}")
    return NORMALIZATIONS[name]


def from_transformers(config: Mapping[str, Any], name: str) -> VitMatteConfig:
    """The network that a `config.json` of Hugging Face describes.

    Args:
        config: the file's content; its `backbone_config` must name every field that matters, because the defaults of
            the classes there are not those of the published networks.

    Raises:
        InputError: a field is missing, or says something that this definition has not.
    """
    try:
        vit = config["backbone_config"]
        patch, size, pretrain = vit["patch_size"], vit["image_size"], vit["pretrain_image_size"]
        made = VitMatteConfig(
            name,
            dim=vit["hidden_size"],
            heads=vit["num_attention_heads"],
            depth=vit["num_hidden_layers"],
            window=vit["window_size"],
            windowed=tuple(vit["window_block_indices"]),
            residual=tuple(vit["residual_block_indices"]),
            image_tokens=size // patch,
            pretrain_grid=pretrain // patch,
            details=tuple(config["convstream_hidden_sizes"]),
            fusion=tuple(config["fusion_hidden_sizes"]),
            mlp_ratio=vit["mlp_ratio"],
            patch=patch,
            layer_norm_eps=vit["layer_norm_eps"],
            batch_norm_eps=config["batch_norm_eps"],
        )
        fixed = {
            "num_channels": IN_CHANNELS,
            "hidden_act": "gelu",
            "qkv_bias": True,
            "use_absolute_position_embeddings": True,
            "use_relative_position_embeddings": True,
        }
        for field, wanted in fixed.items():
            if vit[field] != wanted:
                raise InputError(f"expected {field} {wanted!r} in the configuration, found {vit[field]!r}")
    except KeyError as error:
        raise InputError(
            f"expected the fields of a VitMatte config.json, found none of name {error}", "give the whole file"
        ) from error
    return made
