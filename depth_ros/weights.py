# SPDX-License-Identifier: Apache-2.0
"""Depth checkpoints as they are published: Depth Anything V2's own, and F3's with its backbone inside."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aot_runtime.checkpoint import load_into, load_state_dict, state_digest
from aot_runtime.errors import CheckpointError
from aot_runtime.manifest import CheckpointInfo
from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2

if TYPE_CHECKING:
    import torch

HEAD, BACKBONE = "dav2.", "eventff."
_PATCH_EMBED = "pretrained.patch_embed.proj.weight"


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Where weights came from, what was done to them, and the F3 network that they were trained on."""

    info: CheckpointInfo
    backbone_digest: str | None = None
    notes: list[str] = field(default_factory=list)


def load_depth_checkpoint(model: DepthAnythingV2, path: str | os.PathLike[str]) -> LoadedCheckpoint:
    """Load an official `depth_anything_v2_*.pth`, or the head of F3's `best.pth`, into a network.

    Weights of an RGB network go into one of other channels as F3 does before it trains: see `inflate`.

    Raises:
        CheckpointError: unreadable, of another encoder or number of channels, or keys do not fit; the network is
            unchanged.
    """
    config = model.config
    state, info = load_state_dict(path, licence=config.licence)
    backbone_digest = None
    if any(key.startswith(HEAD) for key in state):
        backbone = _strip(state, BACKBONE)
        backbone_digest = state_digest(backbone) if backbone else None
        state = _strip(state, HEAD)
    _require_encoder(state, model, path)
    notes = []
    weight = state.get(_PATCH_EMBED)
    if weight is not None and weight.dim() == 4 and weight.shape[1] != config.input_channels:
        found = weight.shape[1]
        if found != 3:
            raise CheckpointError(
                f"expected weights for {config.input_channels} input channels, found {found} in {path}",
                f"use --input-channels {found}",
            )
        state[_PATCH_EMBED] = inflate(weight, config.input_channels)
        notes.append(
            f"{path} is for RGB images; its patch embedding was repeated for {config.input_channels} channels, as F3 "
            "does before training: the depth means nothing until it is trained (for images use --input-channels 3)"
        )
    load_into(model, state, source=str(path))
    return LoadedCheckpoint(info, backbone_digest, notes)


def inflate(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """An RGB patch embedding (D, 3, k, k) for `channels` channels: R, G, B, R, G, B, ..., without rescaling."""
    import torch

    return weight[:, torch.arange(channels) % weight.shape[1]].contiguous()


def compare_backbone(
    backbone_digest: str | None, path: str | os.PathLike[str], f3_path: str | os.PathLike[str]
) -> str | None:
    """A warning if a depth checkpoint was not trained on the F3 network of `f3_path`, None if it was.

    Raises:
        CheckpointError: the F3 checkpoint is unreadable.
    """
    f3_digest = state_digest(load_state_dict(f3_path)[0])
    if backbone_digest is None:
        return f"expected the F3 backbone inside {path} (keys {BACKBONE}*), found none; it cannot be compared"
    if backbone_digest != f3_digest:
        return (
            f"expected {f3_path} to be the F3 that {path} was trained on (SHA-256 of weights {backbone_digest[:12]}), "
            f"found another ({f3_digest[:12]}): the depth will be wrong; export F3 from the right checkpoint"
        )
    return None


def _strip(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _require_encoder(state: dict[str, torch.Tensor], model: DepthAnythingV2, path: str | os.PathLike[str]) -> None:
    """Names the right encoder instead of hundreds of keys."""
    token = state.get("pretrained.cls_token")
    dim = model.config.dim
    if token is None or token.shape[-1] == dim:
        return
    right = [config.name for config in ENCODERS.values() if config.dim == token.shape[-1]]
    raise CheckpointError(
        f"expected weights of {model.config.name} (tokens of {dim} channels), found those of "
        f"{right[0] if right else 'an unknown encoder'} (tokens of {token.shape[-1]}) in {path}",
        f"use --encoder {right[0]}" if right else "give an official checkpoint",
    )
