# SPDX-License-Identifier: Apache-2.0
"""Pictures of optical flow for people: the official ones, exactly (reference f3.md section 9), and ones with a scale.

Needs OpenCV. Flow is `(2, H, W)`, dx and dy; pictures are uint8 BGR `(H, W, 3)`. In all of them the hue is the
direction: red to the right, green down-left, blue up-left.

`flow_picture` shows each picture's largest displacement in full brightness, so brightness means something else in every
picture; `draw_flow` goes from white (at rest) to a full colour at a displacement that one chooses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError

_BEYOND = 0.75
"""Brightness of displacements above the scale of `draw_flow`."""


def flow_picture(flow: np.ndarray, norm: bool = False) -> np.ndarray:
    """The official `flow_viz.png`: hue is direction, brightness the displacement, from the smallest to the largest.

    Args:
        flow: (2, H, W), finite.
        norm: first clip displacements to their mean +- 2 standard deviations.
    """
    import cv2

    dx, dy = _planes(flow)
    magnitude, angle = cv2.cartToPolar(dx, dy)
    # OpenCV's hues in a byte count steps of two degrees.
    hue = (angle * 180 / np.pi / 2).astype(np.uint8)
    if norm:
        mean, deviation = np.mean(magnitude), np.std(magnitude)
        magnitude = np.clip(magnitude, mean - 2 * deviation, mean + 2 * deviation)
    value = np.asarray(cv2.normalize(magnitude, None, 0, 255, cv2.NORM_MINMAX)).astype(np.uint8)  # type: ignore[call-overload]
    return _paint(hue, value).astype(np.uint8)


def flow_overlay(picture: np.ndarray, mask: npt.ArrayLike) -> np.ndarray:
    """The official `flow_viz_overlay.png`: a flow picture where there were events, black elsewhere.

    Args:
        picture: uint8 (H, W, 3).
        mask: (h, w), non-zero where an event fell; resized to the picture by the nearest pixel.
    """
    import cv2

    marks = (np.asarray(mask) != 0).astype(np.uint8)
    height, width = picture.shape[:2]
    if marks.shape != (height, width):
        marks = np.asarray(cv2.resize(marks, (width, height), interpolation=cv2.INTER_NEAREST))
    return np.asarray(picture * marks[..., None])


def flow_wheel(width: int, height: int) -> np.ndarray:
    """The official legend of `flow_picture`: the picture of displacements away from the centre, (height, width, 3)."""
    x, y = np.linspace(-width / 2, width / 2, width), np.linspace(-height / 2, height / 2, height)
    return flow_picture(np.stack(np.meshgrid(x, y)))


def draw_flow(flow: np.ndarray, max_flow: float | None = None, *, legend: bool = False) -> np.ndarray:
    """Flow on a white ground with a fixed scale, so that a colour means one displacement.

    Args:
        flow: (2, H, W) in pixels; black where either part is not finite.
        max_flow: the displacement that has the full colour; larger ones are darker. By default `flow_scale`.
        legend: draw `scale_wheel` into the lower left corner, if the picture is large enough for it.
    """
    import cv2

    dx, dy = _planes(flow)
    valid = np.isfinite(dx) & np.isfinite(dy)
    dx, dy = np.where(valid, dx, 0), np.where(valid, dy, 0)
    if max_flow is None:
        max_flow = flow_scale(flow)
    if not max_flow > 0:
        raise InputError(f"expected max_flow above 0 pixels, found {max_flow}")
    share = np.hypot(dx, dy) / np.float32(max_flow)
    hue = np.degrees(np.arctan2(dy, dx)) % 360
    value = np.where(share <= 1, 1.0, _BEYOND)
    hsv = np.stack([hue, np.minimum(share, 1), value], axis=2).astype(np.float32)
    picture = np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * 255).astype(np.uint8)
    picture[~valid] = 0
    side = min(picture.shape[:2]) // 4
    if legend and side >= 24:
        picture[-side:, :side] = scale_wheel(side, max_flow)
    return picture


def flow_scale(flow: np.ndarray) -> float:
    """A scale for `draw_flow` that fits one flow: the 99th percentile of its displacements; 1 where all is at rest."""
    magnitude = np.hypot(*_planes(flow))
    magnitude = magnitude[np.isfinite(magnitude)]
    scale = float(np.percentile(magnitude, 99)) if len(magnitude) else 0.0
    return scale if scale > 0 else 1.0


def scale_wheel(side: int, max_flow: float) -> np.ndarray:
    """The legend of `draw_flow`: a disc of displacements up to `max_flow`, which is written below; (side, side, 3)."""
    import cv2

    radius = side / 2
    away = (np.arange(side) + 0.5 - radius) / radius
    disc = np.stack(np.meshgrid(away, away)) * max_flow
    disc[:, np.hypot(*disc) > max_flow] = np.nan
    picture = draw_flow(disc, max_flow)
    if side >= 48:
        text, size = f"{max_flow:.3g} px", side / 160
        cv2.putText(picture, text, (1, side - 2), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _paint(hue: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Full colours of hues (in steps of two degrees) and values in 0..255 as BGR 0..255, not yet whole numbers.

    OpenCV's conversion of bytes truncates or rounds these by its version and, within a row, by whether a pixel still
    fills a vector register; its conversion of floats is the same everywhere. The official pictures truncate.
    """
    import cv2

    hsv = np.stack([hue * np.float32(2), np.ones(hue.shape, np.float32), value / np.float32(255)], axis=2)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * np.float32(255))


def _planes(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if flow.ndim != 3 or len(flow) != 2:
        raise InputError(f"expected a flow (2, H, W), found {flow.shape}")
    dx, dy = (np.ascontiguousarray(part) for part in (flow if flow.dtype.kind == "f" else flow.astype(np.float32)))
    return dx, dy
