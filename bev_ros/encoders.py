# SPDX-License-Identifier: Apache-2.0
"""Encoders from configuration files, and the weights in them: what export and eager extraction share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from bev_ros.config import BevConfig, preset

if TYPE_CHECKING:
    from aot_runtime.manifest import CheckpointInfo
    from bev_ros.model.encoder import BevEncoder


def read_config(path: str | os.PathLike[str]) -> BevConfig:
    """A configuration from a .json, .yaml or .yml file: the fields of `BevConfig`.

    With a field `preset`, only what differs from that preset need be there.

    Raises:
        InputError: unreadable, not of that format, or a field is impossible.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        told = _parse(text, file)
    except (OSError, ValueError) as error:
        raise InputError(f"expected a readable configuration, found {error} in {file}") from error
    if not isinstance(told, dict):
        raise InputError(f"expected the fields of a BEV encoder, found {type(told).__name__} in {file}")
    base = told.pop("preset", None)
    if base is not None:
        told = preset(str(base)).to_json() | told
    return BevConfig.from_json(told, str(file))


def _parse(text: str, file: Path) -> Any:
    if file.suffix.lower() == ".json":
        return json.loads(text)
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"expected a configuration .json, .yaml or .yml, found {file}")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def make_encoder(
    config: BevConfig, checkpoint: str | os.PathLike[str] | None, *, seed: int = 0, licence: str | None = None
) -> tuple[BevEncoder, CheckpointInfo]:
    """The encoder with the weights of a checkpoint, or random ones; what was left out of a checkpoint is printed.

    Args:
        checkpoint: official or of a custom encoder; None for random weights.
        seed: of random weights.
        licence: of the weights; by default that of the official ones.

    Raises:
        InputError: the custom encoder cannot be made.
        CheckpointError: see `bev_ros.weights.load_checkpoint`.
    """
    import torch

    from aot_runtime.manifest import CheckpointInfo
    from bev_ros.model.encoder import BevEncoder, randomise
    from bev_ros.weights import LICENCE, load_checkpoint

    torch.manual_seed(seed)
    encoder = BevEncoder(config).eval()
    if checkpoint is None:
        if not config.custom_encoder:
            randomise(encoder, seed)
        return encoder, CheckpointInfo.random(seed)
    told = licence if licence is not None else "" if config.custom_encoder else LICENCE
    info, left = load_checkpoint(encoder, checkpoint, told)
    if left:
        print(f"note: left out of {info.file}, no part of this encoder: {', '.join(left)}", file=sys.stderr)
    return encoder, info
