# SPDX-License-Identifier: Apache-2.0
"""BEVDepth's checkpoints, and those of mmdet's parts alone, loaded by one map of names.

The names here are those of BEVDepth's whole model: `backbone.` (img_backbone, img_neck, depth_net,
depth_aggregation_net) and `head.` (trunk, neck). What a detector has beside its encoder is left out, and told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aot_runtime.checkpoint import load_into, load_state_dict
from aot_runtime.errors import CheckpointError
from aot_runtime.manifest import CheckpointInfo

if TYPE_CHECKING:
    import torch

    from bev_ros.model.encoder import BevEncoder

LICENCE = "MIT"
# In front of the names, as Lightning, a wrapper of the whole model, or nobody puts it.
_PREFIXES = ("model.", "")
_BACKBONE = ("img_backbone", "img_neck", "depth_net", "depth_aggregation_net")
_HEAD = ("trunk", "neck")
# Geometry, which is computed from the configuration; the detector; and what is not read at inference.
_GEOMETRY = ("frustum", "voxel_size", "voxel_coord", "voxel_num")
_DETECTOR = ("shared_conv", "task_heads", "loss_cls", "loss_bbox")


def rename(key: str) -> str:
    """A name as it is published -> its name here; names of something else stay as they are."""
    for prefix in _PREFIXES:
        if prefix and key.startswith(prefix):
            key = key.removeprefix(prefix)
    first = key.split(".")[0]
    if first in _BACKBONE or first in _GEOMETRY:
        return f"backbone.{key}"
    if first in (*_HEAD, *_DETECTOR):
        return f"head.{key}"
    return key


def load_checkpoint(
    encoder: BevEncoder, path: str | os.PathLike[str], licence: str = LICENCE
) -> tuple[CheckpointInfo, tuple[str, ...]]:
    """Load published weights into an encoder.

    Returns:
        Where they come from, and what of the file was left out: "head.task_heads (120)", names and counts of tensors.

    Raises:
        CheckpointError: unreadable, or keys do not fit; the encoder is unchanged. The message names the keys.
    """
    found, info = load_state_dict(path, licence=licence)
    if encoder.config.custom_encoder:
        load_custom = getattr(encoder.backbone, "load_weights", None)
        if callable(load_custom):
            load_custom(path)
        else:
            load_into(encoder.backbone, found, source=str(path))
        return info, ()
    state: dict[str, torch.Tensor] = {}
    for key, value in found.items():
        name = rename(key)
        if name in state:
            raise CheckpointError(
                f"expected one tensor per name, found {name} under two prefixes in {path}",
                "save the state_dict() of one model",
            )
        state[name] = value
    kept, left = _split(state, encoder)
    load_into(encoder, kept, source=str(path))
    return info, left


def _split(state: Mapping[str, torch.Tensor], encoder: BevEncoder) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """(what is for the encoder or unknown, what is known to be for something else)."""
    wanted = encoder.state_dict()
    kept: dict[str, torch.Tensor] = {}
    left: Counter[str] = Counter()
    for name, value in state.items():
        group = _foreign(name, encoder)
        if name in wanted or group is None:
            kept[name] = value
        else:
            left[group] += 1
    return kept, tuple(f"{group} ({count})" for group, count in sorted(left.items()))


def _foreign(name: str, encoder: BevEncoder) -> str | None:
    """The part of a detector that a name belongs to and this encoder does not need; None for all others."""
    parts = name.split(".")
    if parts[0] == "backbone" and len(parts) > 1 and parts[1] in _GEOMETRY:
        return "geometry"
    if parts[:2] == ["backbone", "img_neck"] and encoder.config.neck == "fpn" and len(parts) > 3:
        level = encoder.backbone.img_neck.level  # type: ignore[union-attr]
        unused = parts[2] == "fpn_convs" or (parts[2] == "lateral_convs" and int(parts[3]) < level)  # type: ignore[operator]
        return f"backbone.img_neck.{parts[2]} of other levels" if unused and parts[3] != str(level) else None
    if parts[:2] == ["backbone", "img_backbone"] and len(parts) > 2 and parts[2] == "fc":
        return "backbone.img_backbone.fc"
    if parts[0] != "head" or len(parts) < 2:
        return None
    if parts[1] in _HEAD:
        return f"head.{parts[1]} (no BEV stage)" if encoder.head is None else None
    return f"head.{parts[1]}" if parts[1] in _DETECTOR else None
