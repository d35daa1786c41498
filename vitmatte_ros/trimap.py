# SPDX-License-Identifier: Apache-2.0
"""Trimaps: reading them in any coding, and making them from masks, probabilities and depth.

A trimap here is (H, W) uint8 with `BACKGROUND`, `UNKNOWN` and `FOREGROUND`. Radii and thresholds follow section 6 of
the reference on VitMatte; nothing here imports ROS or torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
NAMES = {BACKGROUND: "background", UNKNOWN: "unknown", FOREGROUND: "foreground"}
_NEIGHBOURS = ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]))
"""Both pixels of every pair of neighbours: below each other, beside each other."""
_NEAR_CODE = 24
"""Grey levels that JPEG moves a flat region by at most, as a rule."""
_MOST_BETWEEN = 0.25
"""Share of pixels that antialiased edges may have between the codes."""


@dataclass(frozen=True)
class TrimapCoding:
    """Which pixel values mean background, unknown and foreground; 8 bits."""

    background: int = BACKGROUND
    unknown: int = UNKNOWN
    foreground: int = FOREGROUND

    def __post_init__(self) -> None:
        if len(set(self.values)) < 3 or not all(0 <= value <= 255 for value in self.values):
            raise InputError(
                f"expected a trimap coding of three different values of 0 .. 255, found {self}",
                "give background,unknown,foreground, for example 0,128,255",
            )

    @classmethod
    def parse(cls, text: str) -> TrimapCoding:
        """From "background,unknown,foreground", for example "0,128,255".

        Raises:
            InputError: not three different numbers of 0 .. 255.
        """
        try:
            background, unknown, foreground = (int(word) for word in text.split(","))
        except ValueError:
            raise InputError(
                f"expected a trimap coding background,unknown,foreground, found '{text}'", "for example 0,128,255"
            ) from None
        return cls(background, unknown, foreground)

    @property
    def values(self) -> tuple[int, int, int]:
        """Background, unknown, foreground."""
        return self.background, self.unknown, self.foreground

    def __str__(self) -> str:
        return ",".join(str(value) for value in self.values)

    def decode(self, pixels: np.ndarray, source: str = "the trimap") -> np.ndarray:
        """A trimap from an image in this coding.

        If the codes are far enough apart, values between them (antialiasing, JPEG) go to the nearest; but an image
        that for the most part holds other values is of another coding, and an error.

        Args:
            pixels: (H, W) uint8.
            source: what the pixels are, for errors.

        Raises:
            InputError: shape or dtype is another, or the pixels are of another coding.
        """
        if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.size == 0:
            raise InputError(
                f"expected {source} as (height, width) uint8, found {pixels.shape} {pixels.dtype}",
                "give one channel of 8 bits",
            )
        counts = np.bincount(pixels.reshape(-1), minlength=256)
        codes = np.array(self.values)
        distance = np.abs(np.arange(256)[:, None] - codes)
        gap = int(min(abs(a - b) for a in self.values for b in self.values if a != b))
        near = min(_NEAR_CODE, (gap - 1) // 2)
        foreign = counts[distance.min(axis=1) > near].sum() / pixels.size
        found = np.flatnonzero(counts)
        classes = np.unique(distance[found].argmin(axis=1))
        # 0/1 or 0/1/2 where 0/128/255 is declared: all of it is "near 0", yet somebody meant a difference.
        lost = len(classes) == 1 and len(found) > 1 and counts[found].min() > pixels.size * 1e-3
        if foreign > _MOST_BETWEEN or lost or (near == 0 and foreign > 0):
            raise InputError(
                f"expected {source} in the coding {self} (background, unknown, foreground), found {_told(found)}",
                "declare its coding, or repair its source",
            )
        table = np.array([BACKGROUND, UNKNOWN, FOREGROUND], np.uint8)[distance.argmin(axis=1)]
        return np.asarray(table[pixels])


def _told(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:6])
    return f"the values {shown}" + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def counts_of(trimap: np.ndarray) -> dict[str, int]:
    """Pixels per class, by name."""
    counts = np.bincount(trimap.reshape(-1), minlength=256)
    return {name: int(counts[value]) for value, name in NAMES.items()}


def auto_radius(mask: np.ndarray) -> int:
    """Half the width of an unknown band that suits the object's size: clamp(0.02 * sqrt(area), 4, 40) pixels."""
    return int(np.clip(round(0.02 * float(np.count_nonzero(mask)) ** 0.5), 4, 40))


def trimap_from_mask(mask: np.ndarray, inner: int | None = None, outer: int | None = None) -> np.ndarray:
    """Certain well inside and well outside of a mask, unknown along its edge.

    Thin parts that vanish under the erosion are unknown, never background. The image's border is no edge.

    Args:
        mask: (H, W), non-zero where the object is.
        inner: pixels that the unknown band reaches into the mask; None: `auto_radius`.
        outer: pixels that it reaches out of the mask; None: `auto_radius`.
    """
    _require_plane(mask, "a mask")
    solid = np.ascontiguousarray(mask != 0, np.uint8)
    if inner is None or outer is None:
        radius = auto_radius(solid)
        inner = radius if inner is None else inner
        outer = radius if outer is None else outer
    if inner < 0 or outer < 0:
        raise InputError(f"expected radii of at least 0 pixels, found inner {inner} and outer {outer}")
    trimap = np.full(solid.shape, UNKNOWN, np.uint8)
    trimap[_distance_to_zero(solid) > inner] = FOREGROUND
    trimap[_distance_to_zero(1 - solid) > outer] = BACKGROUND
    return trimap


def trimap_from_probability(
    probability: np.ndarray, low: float = 0.05, high: float = 0.95, widen: int = 4
) -> np.ndarray:
    """From a soft mask, a person segmentation or another matte.

    Args:
        probability: (H, W) float, 0 .. 1; NaN is unknown.
        low, high: below `low` is background, above `high` foreground.
        widen: pixels by which the unknown band grows on both sides.
    """
    _require_plane(probability, "a probability image")
    if not 0 <= low <= high <= 1:
        raise InputError(f"expected 0 <= low <= high <= 1, found low {low} and high {high}")
    trimap = np.full(probability.shape, UNKNOWN, np.uint8)
    with np.errstate(invalid="ignore"):
        trimap[probability < low] = BACKGROUND
        trimap[probability > high] = FOREGROUND
    # A step from one pixel to the next leaves no unknown pixel between, but an edge all the same.
    return widen_unknown(trimap, widen, also_edges=True)


def trimap_from_depth(
    depth: np.ndarray, near: float, far: float, edge_ratio: float = 0.05, edge_width: int = 6
) -> np.ndarray:
    """What is nearer than `near` is foreground, what is farther than `far` is background.

    Unknown are: depths between, pixels without a depth, and a band along the jumps of depth, which depth cameras and
    networks put some pixels beside the edges of the image.

    Args:
        depth: (H, W) float, metres along the optical axis; NaN, infinite or <= 0 is no depth.
        near, far: metres, 0 < near <= far.
        edge_ratio: a jump is a difference between neighbours of more than this times the nearer depth.
        edge_width: pixels on both sides of a jump.
    """
    _require_plane(depth, "a depth image")
    if not 0 < near <= far:
        raise InputError(f"expected 0 < near <= far, found near {near} and far {far}")
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(depth) & (depth > 0)
    z = np.where(valid, depth, 0).astype(np.float32)
    trimap = np.full(depth.shape, UNKNOWN, np.uint8)
    trimap[valid & (z < near)] = FOREGROUND
    trimap[valid & (z > far)] = BACKGROUND
    jumps = np.zeros(depth.shape, np.uint8)
    for a, b in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        jump = np.abs(z[a] - z[b]) > edge_ratio * np.minimum(z[a], z[b])
        jump &= valid[a] & valid[b]
        # A jump within one class is no edge of the matte.
        jump &= (trimap[a] != trimap[b]) | (trimap[a] == UNKNOWN)
        jumps[a] |= jump
        jumps[b] |= jump
    trimap[_distance_to_zero(1 - jumps) < edge_width] = UNKNOWN
    return widen_unknown(trimap, 0, also_edges=True)


def widen_unknown(trimap: np.ndarray, radius: int, *, also_edges: bool = False) -> np.ndarray:
    """The trimap with `radius` more pixels of unknown on every side of what is unknown.

    Args:
        also_edges: where foreground touches background, the two pixels become unknown first.
    """
    if radius < 0:
        raise InputError(f"expected a radius of at least 0 pixels, found {radius}")
    wide = trimap.copy()
    if also_edges:
        for a, b in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
            touch = (trimap[a] ^ trimap[b]) == (FOREGROUND ^ BACKGROUND)
            wide[a][touch] = UNKNOWN
            wide[b][touch] = UNKNOWN
    unknown = wide == UNKNOWN
    if radius and unknown.any():
        wide[_distance_to_zero(np.ascontiguousarray(~unknown, np.uint8)) <= radius] = UNKNOWN
    return wide


class TrimapSmoother:
    """Takes the flicker out of a sequence of trimaps: an exponential average, then thresholds with hysteresis.

    A pixel becomes certain when its average comes within `enter` of 0 or 1, and unknown again when it moves further
    than `leave` from there. A trimap of another size, or one that differs from the average in more than `reset_share`
    of the pixels, starts anew: that is another scene, not flicker.

    Args:
        weight: of the newest trimap in the average; 1: no smoothing.
        enter, leave: 0 < enter <= leave < 0.5.
        reset_share: 0 .. 1.
    """

    def __init__(self, weight: float = 0.5, enter: float = 0.1, leave: float = 0.3, reset_share: float = 0.3) -> None:
        if not (0 < weight <= 1 and 0 < enter <= leave < 0.5 and 0 <= reset_share <= 1):
            raise InputError(
                f"expected 0 < weight <= 1, 0 < enter <= leave < 0.5 and reset_share of 0 .. 1, found weight {weight}, "
                f"enter {enter}, leave {leave}, reset_share {reset_share}"
            )
        self._weight, self._enter, self._leave, self._reset_share = weight, enter, leave, reset_share
        self._average: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self.resets = 0

    def reset(self) -> None:
        """Forgets the sequence."""
        self._average = self._last = None

    def smooth(self, trimap: np.ndarray) -> np.ndarray:
        """The smoothed trimap for the next one of the sequence."""
        soft = _SOFT[trimap]
        average, last = self._average, self._last
        if average is not None and self._is_another_scene(soft, average):
            self.resets += 1
            average = None
        if average is None or last is None:
            self._average, self._last = soft, trimap.copy()
            return trimap.copy()
        average += np.float32(self._weight) * (soft - average)
        result = np.full(trimap.shape, UNKNOWN, np.uint8)
        for value, distance in ((BACKGROUND, average), (FOREGROUND, 1 - average)):
            result[distance <= np.where(last == value, np.float32(self._leave), np.float32(self._enter))] = value
        self._average, self._last = average, result
        return result.copy()

    def _is_another_scene(self, soft: np.ndarray, average: np.ndarray) -> bool:
        if average.shape != soft.shape:
            return True
        return bool(np.mean(np.abs(soft - average) > 0.5) > self._reset_share)


_SOFT = np.full(256, 0.5, np.float32)
_SOFT[BACKGROUND], _SOFT[FOREGROUND] = 0.0, 1.0


def _distance_to_zero(plane: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest 0, infinite if there is none; OpenCV's 5x5 approximation, within 2 %."""
    import cv2

    if plane.all():
        return np.full(plane.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform(np.ascontiguousarray(plane), cv2.DIST_L2, 5))


def _require_plane(plane: np.ndarray, name: str) -> None:
    if plane.ndim != 2 or plane.size == 0:
        raise InputError(f"expected {name} as a non-empty (height, width) array, found {plane.shape}")
