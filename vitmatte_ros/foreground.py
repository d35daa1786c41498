# SPDX-License-Identifier: Apache-2.0
"""Colours of the foreground, and cut-outs. An image times its alpha still shows the old background in hair and glass.

"blur" is the blur fusion of M. Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): smooth estimates of
foreground F and background B from alpha-weighted means, then, in closed form per pixel, the share of what they leave
unexplained, F + alpha * (I - alpha F - (1 - alpha) B); once with a large window and once with a small one.
"ml" is the multi-level method of T. Germer et al. ("Fast Multi-Level Foreground Estimation", ICPR 2020) by the library
pymatting, slower and better where colours change quickly.
"""

from __future__ import annotations

import numpy as np

from aot_runtime.errors import InputError

METHODS = ("blur", "ml", "none")
_RADII = (90, 6)
"""Window radii of the two passes in pixels, as in the paper: the large one finds colours of the foreground far from the
edge, the small one is faithful near it."""
_TINY = 1e-5


def estimate_foreground(image: np.ndarray, alpha: np.ndarray, method: str = "blur") -> np.ndarray:
    """The foreground's colour of every pixel; where alpha is 0 it continues that of the neighbourhood.

    Args:
        image: (H, W, 3) uint8, any order of colours.
        alpha: (H, W) float32, 0 .. 1.
        method: one of `METHODS`; "none" returns the image.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: shapes or dtypes do not fit, the method is unknown, or pymatting is not installed.
    """
    check_pair(image, alpha)
    if method == "none":
        return image
    if method == "blur":
        return _blur_fusion(image, alpha)
    if method == "ml":
        return _multi_level(image, alpha)
    raise InputError(f"expected a foreground method out of {', '.join(METHODS)}, found '{method}'")


def cut_out(foreground: np.ndarray, alpha: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Colours and alpha as four channels (H, W, 4) uint8, the colours in the order given.

    Args:
        foreground: (H, W, 3) uint8, of `estimate_foreground`.
        premultiplied: multiply the colours by alpha, as some renderers want it.
    """
    check_pair(foreground, alpha)
    out = np.empty((*alpha.shape, 4), np.uint8)
    out[..., 3] = alpha_to_bytes(alpha)
    if premultiplied:
        out[..., :3] = np.rint(foreground * alpha[..., None])
    else:
        out[..., :3] = foreground
    return out


def composite(foreground: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """alpha * foreground + (1 - alpha) * background, (H, W, 3) uint8.

    Args:
        background: (H, W, 3) or one colour (3,), uint8.
    """
    check_pair(foreground, alpha)
    weight = alpha[..., None]
    return np.asarray(np.rint(weight * foreground + (1 - weight) * background), np.uint8)


def alpha_to_bytes(alpha: np.ndarray) -> np.ndarray:
    """round(255 * alpha) as uint8."""
    return np.asarray(np.rint(alpha * np.float32(255)), np.uint8)


def check_pair(image: np.ndarray, alpha: np.ndarray) -> None:
    """Raises InputError unless image (H, W, 3) uint8 and alpha (H, W) float32 belong together."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f"expected an image (height, width, 3) uint8, found {image.shape} {image.dtype}")
    if alpha.shape != image.shape[:2] or alpha.dtype != np.float32:
        raise InputError(f"expected alpha {image.shape[:2]} float32 for the image, found {alpha.shape} {alpha.dtype}")


def _blur_fusion(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    import cv2

    pixels = image.astype(np.float32)
    weight = np.ascontiguousarray(alpha)[..., None]
    rest = 1 - weight
    fore: np.ndarray = pixels
    back: np.ndarray = pixels

    def mean(values: np.ndarray, side: int) -> np.ndarray:
        blurred = cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred.reshape(values.shape))

    for radius in _RADII:
        side = 2 * radius + 1
        fore = mean(fore * weight, side) / (mean(weight, side) + _TINY)
        back = mean(back * rest, side) / (mean(rest, side) + _TINY)
        fore = np.clip(fore + weight * (pixels - weight * fore - rest * back), 0, 255)
    return np.asarray(np.rint(fore), np.uint8)


def _multi_level(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    try:
        from pymatting import estimate_foreground_ml
    except ImportError as error:
        raise InputError(
            f"expected the library pymatting for the foreground method 'ml', found {error}",
            "pip install pymatting, or choose 'blur'",
        ) from error
    colours = estimate_foreground_ml(image / 255.0, alpha.astype(np.float64))
    return np.asarray(np.rint(np.clip(colours, 0, 1) * 255), np.uint8)
