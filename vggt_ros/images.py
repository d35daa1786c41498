# SPDX-License-Identifier: Apache-2.0
"""Pictures -> what the network takes, as its official loader makes it, and where each pixel went.

Pillow does the resizing, because the weights were trained on its bicubic filter; nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("crop", "pad", "square")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_WHITE, _BLACK = 255, 0


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the network's image: x' = scale * (x + 0.5) - 0.5 + offset at pixel centres x, per axis.

    Attributes:
        scale, offset: (x, y), pixels of the network's image per pixel of the picture, and pixels.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]

    def intrinsics(self, matrix: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The camera matrix (3, 3) of a picture -> that of its image, both with pixel centres at whole numbers."""
        moved = np.array(matrix, np.float64)
        for axis in range(2):
            moved[axis] *= self.scale[axis]
            moved[axis, 2] += 0.5 * self.scale[axis] - 0.5 + self.offset[axis]
        return moved


def prepare(
    pictures: Sequence[Image], mode: str = "crop", size: int = 518, patch: int = 14
) -> tuple[npt.NDArray[np.uint8], list[Placement]]:
    """Images (N, 3, H, W) uint8 RGB of any pictures, and where each lies in its image.

    "crop": `size` wide, the height rounded to whole patches, and rows above `size` cut off on both sides. "pad": the
    longer side is `size`, the rest is white on both sides. "square": padded with black to a square first, for tools
    that want all of every picture. Pictures that end up with different shapes are padded to the largest with white.
    Divided by 255 it is what the network takes.

    Raises:
        InputError: no pictures, or no such mode.
    """
    if mode not in MODES:
        raise InputError(f"expected mode {', '.join(MODES)}, found {mode!r}")
    if not pictures:
        raise InputError("expected one or more pictures, found none")
    made = [_place(_rgb(picture), mode, size, patch) for picture in pictures]
    height = max(image.shape[0] for image, _ in made)
    width = max(image.shape[1] for image, _ in made)
    padded = [_pad(image, placement, height, width) for image, placement in made]
    stack = np.stack([image for image, _ in padded]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stack), [placement for _, placement in padded]


def read(paths: Sequence[str | os.PathLike[str]]) -> list[Image]:
    """Pictures from files.

    Raises:
        InputError: one is missing or no picture, or Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError("expected the Python package Pillow to read pictures, found none", "pip install pillow") from (
            error
        )
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.load()
                pictures.append(picture)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise InputError(f"expected a picture, found {path} unreadable ({error})", "check the file") from error
    return pictures


def find(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder, in the order of their names.

    Raises:
        InputError: there are none.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"expected pictures ({', '.join(SUFFIXES)}), found none in {folder}")
    return files


def _rgb(picture: Image) -> Image:
    """Without transparency: what shines through is white."""
    from PIL import Image

    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, (_WHITE,) * 4)
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _place(picture: Image, mode: str, size: int, patch: int) -> tuple[npt.NDArray[np.uint8], Placement]:
    from PIL.Image import Resampling

    width, height = picture.size
    if mode == "square":
        longer = max(width, height)
        left, top = (longer - width) // 2, (longer - height) // 2
        square = np.full((longer, longer, 3), _BLACK, np.uint8)
        square[top : top + height, left : left + width] = np.asarray(picture)
        scale = size / longer
        resized = _from_array(square).resize((size, size), Resampling.BICUBIC)
        return np.asarray(resized), Placement((scale, scale), (left * scale, top * scale))
    wide = mode == "crop" or width >= height
    # Half to even, as Python rounds.
    new_width = size if wide else round(width * (size / height) / patch) * patch
    new_height = round(height * (size / width) / patch) * patch if wide else size
    image: npt.NDArray[np.uint8] = np.asarray(picture.resize((new_width, new_height), Resampling.BICUBIC))
    scale_xy = (new_width / width, new_height / height)
    if mode == "pad":
        return _pad(image, Placement(scale_xy, (0.0, 0.0)), size, size)
    start = max(0, (new_height - size) // 2)
    return image[start : start + size], Placement(scale_xy, (0.0, float(-start)))


def _from_array(pixels: npt.NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _pad(
    image: npt.NDArray[np.uint8], placement: Placement, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], Placement]:
    """White on all sides, an odd row or column below or on the right."""
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    padded = np.full((height, width, 3), _WHITE, np.uint8)
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    moved = (placement.offset[0] + left, placement.offset[1] + top)
    return padded, Placement(placement.scale, moved)
