# SPDX-License-Identifier: Apache-2.0
"""From whatever tells the object apart (trimap, mask, probability, depth) to the trimap of an image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aot_runtime.errors import InputError
from vitmatte_ros.trimap import (
    TrimapCoding,
    TrimapSmoother,
    trimap_from_depth,
    trimap_from_mask,
    trimap_from_probability,
    widen_unknown,
)

KINDS = ("trimap", "mask", "probability", "depth")


@dataclass(frozen=True)
class GuidanceOptions:
    """How guidance becomes a trimap.

    Attributes:
        kind: what the guidance is, one of `KINDS`.
        coding: of trimaps.
        inner, outer: see `trimap_from_mask`; below 0: by the object's size.
        class_ids: values of a mask that are the object; none: every value but 0.
        low, high, widen: see `trimap_from_probability`.
        near, far, edge_ratio, edge_width: see `trimap_from_depth`.
        resize: guidance of another size than the image is resized to it; else it is an error.
        smoothing: weight of the newest trimap, see `TrimapSmoother`; 1: none.
    """

    kind: str = "trimap"
    coding: TrimapCoding = field(default_factory=TrimapCoding)
    inner: int = -1
    outer: int = -1
    class_ids: tuple[int, ...] = ()
    low: float = 0.05
    high: float = 0.95
    widen: int = 4
    near: float = 1.0
    far: float = 1.5
    edge_ratio: float = 0.05
    edge_width: int = 6
    resize: bool = False
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"expected guidance of {', '.join(KINDS)}, found '{self.kind}'")
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"expected 0 <= low <= high <= 1, found low {self.low} and high {self.high}")
        if not 0 < self.near <= self.far:
            raise InputError(f"expected 0 < near <= far, found near {self.near} and far {self.far}")


class Guide:
    """Makes trimaps of a sequence of guidance; thread-safe only if calls do not overlap."""

    def __init__(self, options: GuidanceOptions) -> None:
        self.options = options
        self._smoother = TrimapSmoother(options.smoothing) if options.smoothing < 1 else None

    def trimap(self, guidance: np.ndarray, size: tuple[int, int], *, extra_width: int = 0) -> np.ndarray:
        """The trimap (H, W) uint8 for an image.

        Args:
            guidance: (h, w): uint8 of a trimap; any integer or bool of a mask; probability 0 .. 1 as float, or as
                uint8 over 255; depth in metres as float, or in millimetres as uint16 (REP-118).
            size: (height, width) of the image.
            extra_width: pixels of unknown to add on both sides of the edge, for guidance that is older than the image.

        Raises:
            InputError: the guidance has another dtype, size or coding than it should.
        """
        told = self.options
        if guidance.ndim != 2 or guidance.size == 0:
            raise InputError(f"expected a {told.kind} of one channel (height, width), found {guidance.shape}")
        if guidance.shape != size and not told.resize:
            raise InputError(
                f"expected a {told.kind} of the image's {size[1]}x{size[0]} pixels, found "
                f"{guidance.shape[1]}x{guidance.shape[0]}",
                "give one of the image's size, or allow resizing",
            )
        trimap = self._make(guidance)
        if trimap.shape != size:
            import cv2

            trimap = np.asarray(cv2.resize(trimap, (size[1], size[0]), interpolation=cv2.INTER_NEAREST))
        if extra_width:
            trimap = widen_unknown(trimap, extra_width, also_edges=True)
        return trimap if self._smoother is None else self._smoother.smooth(trimap)

    def _make(self, guidance: np.ndarray) -> np.ndarray:
        told = self.options
        if told.kind == "trimap":
            return told.coding.decode(guidance)
        if told.kind == "mask":
            if guidance.dtype.kind not in "bui":
                raise InputError(f"expected a mask of integers, found {guidance.dtype}", "use the kind 'probability'")
            chosen = np.isin(guidance, told.class_ids) if told.class_ids else guidance != 0
            inner, outer = (None if radius < 0 else radius for radius in (told.inner, told.outer))
            return trimap_from_mask(chosen, inner, outer)
        if told.kind == "probability":
            return trimap_from_probability(_as_probability(guidance), told.low, told.high, told.widen)
        return trimap_from_depth(_as_metres(guidance), told.near, told.far, told.edge_ratio, told.edge_width)

    def reset(self) -> None:
        """Forgets earlier guidance: the next is the first of a new sequence."""
        if self._smoother is not None:
            self._smoother.reset()


def _as_probability(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values / np.float32(255)
    if values.dtype.kind != "f":
        raise InputError(f"expected probabilities as float or uint8, found {values.dtype}")
    finite = values[np.isfinite(values)]
    if finite.size and (finite.min() < -1e-3 or finite.max() > 1 + 1e-3):
        raise InputError(f"expected probabilities of 0 .. 1, found {finite.min():g} .. {finite.max():g}")
    return values


def _as_metres(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint16:
        return values * np.float32(1e-3)
    if values.dtype.kind != "f":
        raise InputError(f"expected depth as float metres or uint16 millimetres, found {values.dtype}")
    return values
