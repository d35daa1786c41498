# SPDX-License-Identifier: Apache-2.0
"""Calibration samples from a folder of pictures: the frames that an 8-bit engine's ranges are measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError
from vggt_ros import images


def holds_pictures(folder: Path) -> bool:
    """Whether this is a folder with pictures in it, not one of arrays."""
    return folder.is_dir() and any(path.suffix.lower() in images.SUFFIXES for path in folder.iterdir())


def draw(
    folder: Path, cams: int, height: int, width: int, *, batches: int = 32, seed: int = 1337
) -> list[dict[str, npt.NDArray[Any]]]:
    """Up to `batches` samples of `cams` frames (S, 3, height, width) in 0..1, of neighbouring pictures.

    Windows of pictures in the order of their names, so that a sample is of one scene as far as the folder is; which
    windows are taken is drawn by the seed. Pictures are stretched to the size.

    Raises:
        InputError: fewer pictures than frames, or an unreadable one.
    """
    from PIL.Image import Resampling

    files = images.find(folder)
    if len(files) < cams:
        raise InputError(
            f"expected {cams} or more pictures to calibrate with, found {len(files)} in {folder}", "give more"
        )
    starts = np.random.default_rng(seed).permutation(len(files) - cams + 1)[:batches]
    samples = []
    for start in starts:
        frames = [
            np.asarray(picture.convert("RGB").resize((width, height), Resampling.BICUBIC))
            for picture in images.read(files[start : start + cams])
        ]
        stack = np.stack(frames).transpose(0, 3, 1, 2).astype(np.float32) / 255
        samples.append({"images": np.ascontiguousarray(stack)})
    return samples
