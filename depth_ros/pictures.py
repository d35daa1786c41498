# SPDX-License-Identifier: Apache-2.0
"""Pictures of depth for people: the official grey and coloured ones, exactly, or with fixed ranges. numpy only.

The official coloured picture maps the valid range onto 256 colours of matplotlib: magma for disparity, jet for metric
depth; positions and colours are truncated, not rounded. Here nothing of matplotlib is needed.
"""

from __future__ import annotations

import base64

import numpy as np

from aot_runtime.errors import InputError

Limits = tuple[float, float]

# Matplotlib's "magma" (S. van der Walt and N. Smith, CC0), 256 RGB colours truncated to 8 bits.
_MAGMA = np.frombuffer(
    base64.b64decode(
        "AAADAAAEAAAGAQAHAQEJAQELAgINAgIPAwMRBAMTBAQVBQQXBgUZBwUbCAYdCQcfCgciCwgkDAkmDQooDgoqDwssEAwvEQwxEg0zFA01FQ44"
        "Fg46Fw88GA8/GhBBGxBEHBBGHhBJHxFLIBFNIhFQIxFSJRFVJhFXKBFZKhFcKxFeLRBgLxBiMBBlMhBnNBBoNQ9qNw9sOQ9uOw9vPA9xPg9y"
        "QA9zQg90Qw91RQ92Rw93SBB4ShB5SxB5TRF6TxF7UBJ7UhJ8UxN8VRN9VxR9WBV+WhV+WxZ+XRd+Xhd/YBh/YRh/Yxl/ZRqAZhqAaBuAaRyA"
        "axyAbB2Abh6Bbx6BcR+Bcx+BdCCBdiGBdyGBeSKBeiKBfCOBfiSBfySBgSWBgiWBhCaBhSaBhyeBiSiBiiiBjCmAjSmAjyqAkSqAkiuAlCuA"
        "lSyAlyx/mS1/mi1/nC5/ni5+ny9+oS9+ozB+pDB9pjF9pzF9qTJ8qzN8rDN7rjR7sDR7sTV6szV6tTZ5tjZ5uDd4uTd4uzh3vTl3vjl2wDp1"
        "wjp1wzt0xTx0xjxzyD1yyj5yyz5xzT9wzkBw0EFv0UJu00Jt1ENt1kRs10Vr2UZq2kdp3Ehp3Ulo3kpn4Etm4Uxm4k1l5E5k5VBj5lFi51Ji"
        "6FRh6lVg61Zg7Fhf7Vlf7lte7l1d715d8GBd8WFc8mNc82Vc82db9Ghb9Wpb9Wxb9m5b9nBb93Fb93Nc+HVc+Hdc+Xlc+Xtd+X1d+n9e+oBe"
        "+oJf+4Rg+4Zg+4hh+4pi/Ixj/I5j/JBk/JJl/JNm/ZVn/Zdo/Zlp/Ztq/Z1r/Z9s/aFu/aJv/aRw/qZx/qhz/qp0/qx1/q52/q94/rF5/rN7"
        "/rV8/rd9/rl//ruA/ryC/r6D/sCF/sKG/sSI/saJ/seL/smN/suO/c2Q/c+S/dGT/dKV/dSX/daY/dia/dqc/dyd/d2f/d+h/eGj/OOl/OWm"
        "/Oao/Oiq/Oqs/Oyu/O6w/PCx/PGz/PO1/PW3+/e5+/m7+/q9+/y/"
    ),
    np.uint8,
).reshape(256, 3)

# Matplotlib's "jet": straight lines between (position, value) per channel.
_JET_NODES = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)
_JET = np.stack([np.interp(np.arange(256) / 255, *nodes) for nodes in _JET_NODES], axis=1)
_JET = (_JET * 255).astype(np.uint8)

COLOURS: dict[str, np.ndarray] = {"magma": _MAGMA, "jet": _JET}
"""RGB tables (256, 3) uint8."""
_COLOURS_OF_KIND = {"relative": "magma", "disparity": "magma", "metric": "jet"}


def grey_depth(depth: np.ndarray) -> np.ndarray:
    """The official `depth_colored.png`: grey, from the smallest value (black) to the largest (white).

    Args:
        depth: (H, W) or (1, H, W), any unit; NaN becomes black.

    Returns:
        uint8 (H, W). All black where there is one value only.
    """
    image = _image(depth)
    valid = ~np.isnan(image)
    share = _share(image, valid, limits_of(image, valid))
    picture: np.ndarray = (share * 255).astype(np.uint8)
    return picture


def colour_depth(
    depth: np.ndarray,
    mask: np.ndarray | None = None,
    kind: str = "relative",
    *,
    limits: Limits | None = None,
    colours: str | None = None,
) -> np.ndarray:
    """Depth in colours: bright is near for relative depth and disparity (magma), blue is near for metres (jet).

    Args:
        depth: (H, W) or (1, H, W); what is not finite is invalid.
        mask: (H, W) bool, further pixels that count as valid only where it is True.
        kind: "relative", "disparity" or "metric": chooses the colours.
        limits: values of the first and the last colour, so that colours mean the same in every picture; what lies
            beyond is clipped. By default the smallest and largest valid value, as the official pictures have it; see
            `percentile_limits`.
        colours: one of COLOURS, instead of the kind's.

    Returns:
        uint8 BGR (H, W, 3), invalid pixels black.

    Raises:
        InputError: the kind, the colours, the shapes or the limits are wrong.
    """
    image = _image(depth)
    name = colours or _COLOURS_OF_KIND.get(kind, "")
    if name not in COLOURS:
        raise InputError(
            f"expected a depth {', '.join(_COLOURS_OF_KIND)} in colours {', '.join(COLOURS)}, "
            f"found {kind!r}, {colours!r}"
        )
    valid = np.isfinite(image)
    if mask is not None:
        if mask.shape != image.shape:
            raise InputError(f"expected a mask {image.shape} as the depth, found {mask.shape}")
        valid = valid & mask.astype(bool)
    share = _share(image, valid, limits or limits_of(image, valid))
    index = np.minimum((share * 256).astype(np.int64), 255)
    picture = COLOURS[name][index][..., ::-1]
    return np.where(valid[..., None], picture, np.uint8(0))


def limits_of(depth: np.ndarray, valid: np.ndarray) -> Limits:
    """The smallest and the largest valid value; (0, 0) if there is none."""
    values = depth[valid]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def percentile_limits(depth: np.ndarray, mask: np.ndarray | None = None, low: float = 2, high: float = 98) -> Limits:
    """Limits between which the middle of the valid values lies, so that a few outliers do not take all the colours."""
    valid = np.isfinite(depth) if mask is None else np.isfinite(depth) & mask.astype(bool)
    if not valid.any():
        return 0.0, 0.0
    below, above = np.percentile(depth[valid], (low, high))
    return float(below), float(above)


def _image(depth: np.ndarray) -> np.ndarray:
    image = depth[0] if depth.ndim == 3 and len(depth) == 1 else depth
    if image.ndim != 2:
        raise InputError(f"expected a depth (H, W) or (1, H, W), found {depth.shape}")
    return image if image.dtype.kind == "f" else image.astype(np.float32)


def _share(image: np.ndarray, valid: np.ndarray, limits: Limits) -> np.ndarray:
    """Where values lie between the limits, 0..1 in the image's precision; 0 where invalid."""
    low, high = (image.dtype.type(limit) for limit in limits)
    if not low <= high:
        raise InputError(f"expected limits (low, high), found {limits}")
    if low == high:
        return np.zeros_like(image)
    share: np.ndarray = (np.clip(np.where(valid, image, low), low, high) - low) / (high - low)
    return share
