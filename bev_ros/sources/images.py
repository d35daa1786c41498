# SPDX-License-Identifier: Apache-2.0
"""An image file that must be as its calibration says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aot_runtime.camera import Size
from aot_runtime.errors import InputError
from aot_runtime.frames import read_image


def load_image(path: Path, size: Size | None, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Args:
        size: (width, height) of the calibration; None: whatever it is.
        where: whose image it is, for the message.

    Raises:
        InputError: it is missing, unreadable or of another size.
    """
    if not path.is_file():
        raise InputError(f"expected an image of {where}, found no file {path}", "complete the data set")
    image = read_image(path)
    found = (image.shape[1], image.shape[0])
    if size is not None and found != size:
        raise InputError(
            f"expected {size[0]}x{size[1]} pixels as the calibration of {where} says, found {found[0]}x{found[1]} in "
            f"{path}",
            "give the calibration of these images",
        )
    return image
