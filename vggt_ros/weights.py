# SPDX-License-Identifier: Apache-2.0
"""VGGT checkpoints as they are published: `model.safetensors` or `model.pt` of facebook/VGGT-1B."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.checkpoint import load_into, load_state_dict
from aot_runtime.errors import CheckpointError, InputError
from aot_runtime.manifest import CheckpointInfo
from vggt_ros.config import LICENCE, VGGT_1B, VggtConfig, from_dict

if TYPE_CHECKING:
    import torch

    from vggt_ros.model.vggt import Vggt

TRACK_HEAD, POINT_HEAD = "track_head.", "point_head."
_SIZE_OF = "aggregator.camera_token"


@dataclass(frozen=True)
class LoadedWeights:
    """Where weights came from, and what of the file was left out, in words."""

    info: CheckpointInfo
    notes: list[str] = field(default_factory=list)


def load_checkpoint(model: Vggt, path: str | os.PathLike[str], *, licence: str = LICENCE) -> LoadedWeights:
    """Load official weights into a network. The track head's are skipped, and the point head's where there is none.

    Args:
        licence: of the weights; the file does not tell the commercial checkpoint from the other.

    Raises:
        CheckpointError: unreadable, of another size of network, or keys do not fit; the network is unchanged.
    """
    state, info = load_state_dict(path, licence=licence)
    _require_size(state, model, path)
    ignored = (TRACK_HEAD,) if model.point_head is not None else (TRACK_HEAD, POINT_HEAD)
    load_into(model, state, source=str(path), ignore_unexpected=ignored)
    notes = []
    for prefix in ignored:
        count = sum(key.startswith(prefix) for key in state)
        if count:
            notes.append(f"skipped the {count} tensors of {prefix}* in {path}: this network has no such head")
    return LoadedWeights(info, notes)


def read_config(path: str | os.PathLike[str]) -> VggtConfig:
    """The network that a safetensors file says it holds in its metadata (`config`), else VGGT-1B.

    Raises:
        InputError: a configuration that makes no sense.
    """
    if Path(path).suffix != ".safetensors":
        return VGGT_1B
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), "np") as file:
            told = (file.metadata() or {}).get("config")
    except (SafetensorError, OSError):
        # Whoever loads the weights says what is wrong with the file.
        return VGGT_1B
    if told is None:
        return VGGT_1B
    try:
        options = json.loads(told)
        assert isinstance(options, dict)
        return from_dict(options, "vggt_custom")
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"expected a VGGT configuration in the metadata of {path}, found {told[:80]!r}") from error


def _require_size(state: dict[str, torch.Tensor], model: Vggt, path: str | os.PathLike[str]) -> None:
    """Names the right kind of file instead of hundreds of keys."""
    token = state.get(_SIZE_OF)
    wanted = model.config.dim
    if token is None:
        raise CheckpointError(
            f"expected weights of VGGT (a tensor {_SIZE_OF}), found none in {path}",
            "give model.safetensors or model.pt of facebook/VGGT-1B",
        )
    if token.shape[-1] != wanted:
        right = " (vggt_1b)" if token.shape[-1] == VGGT_1B.dim else ""
        raise CheckpointError(
            f"expected weights of {model.config.name} (tokens of {wanted} channels), found tokens of "
            f"{token.shape[-1]} channels{right} in {path}",
            "give the checkpoint of this network",
        )
