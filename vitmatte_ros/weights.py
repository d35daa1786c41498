# SPDX-License-Identifier: Apache-2.0
"""VitMatte checkpoints as they are published: the safetensors of Hugging Face, and the authors' `ViTMatte_*.pth`.

Both hold the same weights under different names; the authors' names are changed here and nowhere else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aot_runtime.checkpoint import load_into, load_state_dict
from aot_runtime.errors import CheckpointError
from aot_runtime.manifest import CheckpointInfo
from vitmatte_ros.config import CONFIGS

if TYPE_CHECKING:
    import torch

    from vitmatte_ros.model.vitmatte import VitMatte

LICENCE = "MIT"
_POSITIONS = "backbone.embeddings.position_embeddings"
# The authors' names -> Hugging Face's, as parts between dots, in this order.
_RENAMED = (
    ("backbone.pos_embed", _POSITIONS),
    ("backbone.patch_embed.proj.", "backbone.embeddings.projection."),
    ("backbone.blocks.", "backbone.encoder.layer."),
    (".attn.", ".attention."),
    (".fusion_blks.", ".fusion_blocks."),
    (".bn.", ".batch_norm."),
)


def rename(key: str) -> str:
    """A parameter's name in the authors' code -> its name here, which is Hugging Face's; those stay as they are."""
    for theirs, ours in _RENAMED:
        key = key.replace(theirs, ours)
    return key


def load_checkpoint(model: VitMatte, path: str | os.PathLike[str]) -> CheckpointInfo:
    """Load official weights, of either kind, into a network.

    Returns:
        Where they come from.

    Raises:
        CheckpointError: unreadable, of another size of network, or keys do not fit; the network is unchanged.
    """
    found, info = load_state_dict(path, licence=LICENCE)
    state = {rename(key): value for key, value in found.items()}
    if len(state) != len(found):
        raise CheckpointError(
            f"expected one tensor per name, found names of both code bases in {path}", "give an official checkpoint"
        )
    _require_size(state, model, path)
    load_into(model, state, source=str(path))
    return info


def _require_size(state: dict[str, torch.Tensor], model: VitMatte, path: str | os.PathLike[str]) -> None:
    """Names the right network instead of hundreds of keys."""
    positions = state.get(_POSITIONS)
    if positions is None or positions.dim() != 3 or positions.shape[-1] == model.config.dim:
        return
    dim = positions.shape[-1]
    right = [config.name for config in CONFIGS.values() if config.dim == dim]
    raise CheckpointError(
        f"expected weights of VitMatte {model.config.name} ({model.config.dim} channels), found those of "
        f"{right[0] if right else 'an unknown network'} ({dim} channels) in {path}",
        f"use --variant {right[0]}" if right else "give an official checkpoint",
    )
