# SPDX-License-Identifier: Apache-2.0
"""Second views of an image by known homographies and changes of light, all from a seed: pairs whose truth is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError

KINDS = ("viewpoint", "rotation", "scale", "illumination")
# Limits of the random draws.
CORNER_SHIFT = 0.2
"""viewpoint: each corner moves inwards by up to this share of the image's width and height."""
MAX_DEGREES = 45.0
MAX_SCALE = 2.0
GAINS = (0.4, 1.4)
GAMMAS = (0.6, 1.8)
NOISE = 2.0
"""illumination: standard deviation of the noise, grey levels."""


@dataclass(frozen=True)
class Warp:
    """How the second view comes from the first.

    Attributes:
        matrix: (3, 3) float64, pixels of the first to pixels of the second.
        gain, gamma: second = gain * (first / 255) ** gamma * 255, before noise.
        noise: standard deviation, grey levels.
        seed: of the noise.
    """

    kind: str
    matrix: np.ndarray
    gain: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The second view of an image (H, W, 3) uint8, in the same size; black where the first shows nothing."""
        import cv2

        height, width = image.shape[:2]
        if (self.matrix == np.eye(3)).all():
            view = image
        else:
            # A smaller view is averaged, not sampled: aliasing would be texture that is not there.
            shrink = np.sqrt(abs(np.linalg.det(self.matrix[:2, :2])))
            source = cv2.GaussianBlur(image, (0, 0), 0.5 / shrink) if shrink < 0.8 else image
            view = cv2.warpPerspective(source, self.matrix, (width, height), flags=cv2.INTER_LINEAR)
        if (self.gain, self.gamma, self.noise) == (1.0, 1.0, 0.0):
            return np.asarray(view)
        return add_noise(255 * self.gain * (view / 255.0) ** self.gamma, self.noise, self.seed)


def add_noise(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """An image with normal noise of a seed, rounded and cut to uint8."""
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape) if deviation else 0.0
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def draw_warp(kind: str, size: tuple[int, int], seed: int) -> Warp:
    """A random warp of a kind for images of `size` = (height, width); the same for a seed.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"expected a kind of warp {', '.join(KINDS)}, found {kind!r}")
    # The kind takes part, so that one seed draws something else for each.
    generator = np.random.default_rng([KINDS.index(kind), seed])
    if kind == "viewpoint":
        return Warp(kind, _viewpoint(size, generator))
    if kind == "rotation":
        return Warp(kind, _similarity(size, generator.uniform(-MAX_DEGREES, MAX_DEGREES), 1.0))
    if kind == "scale":
        return Warp(kind, _similarity(size, 0.0, MAX_SCALE ** generator.uniform(-1, 1)))
    gain, gamma = generator.uniform(*GAINS), generator.uniform(*GAMMAS)
    return Warp(kind, np.eye(3), gain, gamma, NOISE, int(generator.integers(1 << 31)))


def _viewpoint(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    import cv2

    corners = corners_of(size)
    inwards = np.sign(corners.mean(0) - corners) * np.array([size[1], size[0]])
    moved = corners + inwards * generator.uniform(0, CORNER_SHIFT, (4, 2))
    return np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32)))


def _similarity(size: tuple[int, int], degrees: float, scale: float) -> np.ndarray:
    """Rotation and scaling about the middle of the image."""
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0, 0, 1]])


def corners_of(size: tuple[int, int]) -> np.ndarray:
    """(4, 2) centres of the corner pixels of an image (height, width), clockwise from the upper left."""
    right, bottom = size[1] - 1.0, size[0] - 1.0
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float64)
