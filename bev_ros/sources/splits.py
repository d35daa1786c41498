# SPDX-License-Identifier: Apache-2.0
"""Which scenes make up a split: a JSON file {split: [scene names]}."""

from __future__ import annotations

import json
from pathlib import Path

from aot_runtime.errors import InputError
from bev_ros.samples import ALL, checked_name

FILE_NAME = "splits.json"


def read_splits(path: Path | None, *beside: Path) -> dict[str, frozenset[str]]:
    """Split -> names of its scenes.

    Args:
        path: the file; None takes the first of the folders `beside` that has a splits.json, if any.

    Raises:
        InputError: the file is absent or malformed, or it names a split "all".
    """
    if path is None:
        path = next((folder / FILE_NAME for folder in beside if (folder / FILE_NAME).is_file()), None)
        if path is None:
            return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"expected splits as JSON, found {error} for {path}", "check --splits-file") from error
    if not isinstance(told, dict):
        raise InputError(f'expected {{"split": ["scene", ...]}}, found a {type(told).__name__} in {path}')
    for split, scenes in told.items():
        checked_name(split, "split", str(path))
        if split == ALL:
            raise InputError(f"expected splits with names other than '{ALL}', which is everything, found it in {path}")
        if not isinstance(scenes, list) or not all(isinstance(scene, str) for scene in scenes):
            raise InputError(f"expected a list of scene names for the split '{split}', found {scenes!r:.60} in {path}")
    return {split: frozenset(scenes) for split, scenes in told.items()}
