# SPDX-License-Identifier: Apache-2.0
"""From pixels of the network's image to points around the vehicle, after Philion and Fidler, "Lift, Splat, Shoot".

Frames: a camera's is optical (x right, y down, z forward), the vehicle's is x forward, y left, z up; metres. Matrices
are 4x4 and homogeneous:

    K     (3, 3), of the image as the camera gives it
    ida   image augmentation: original pixel (u, v) -> pixel of the network's image; rows 0 and 1, shift in column 3
    bda   BEV augmentation of the vehicle's frame (rotation, scale, flips); identity at inference

A point of the frustum (u, v, d), a pixel of the network's image and a depth along the optical axis, becomes
bda . sensor_to_ego . (d . inv(K) . (inv(ida) . (u, v, 1))).

Two rules say where pixels lie:

    corners   what LSS, BEVDet and BEVDepth do, and their checkpoints were trained with: the frustum goes from the
              centre of the first pixel of the image to that of the last, whatever the stride, and
              ida = [[r, 0, -x0], [0, r, -y0]] for a resize by r and a crop at (x0, y0).
    centres   geometrically right, for new training: the frustum's pixels are the centres of the features' cells, and
              ida is what resizing does to pixel centres, u' = r u + (r - 1) / 2 - x0.

They differ by (1 - r) / 2 pixels of the network's image in ida, which is 0.28 px for nuScenes at 704 x 256, and by up
to (stride - 1) / 2 at the image's edges in the frustum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot_runtime.camera import PixelMap, Size
from aot_runtime.errors import InputError
from bev_ros.grid import Bounds, checked_bounds, steps

if TYPE_CHECKING:
    from bev_ros.calibration import Rig

Array = npt.NDArray[np.float64]
PIXEL_RULES = ("corners", "centres")
VECTOR = 27
"""Numbers that describe a camera to a camera-aware depth network."""
# Determinants below this are singular: focal lengths and scales are far above.
_SINGULAR = 1e-12


@dataclass(frozen=True)
class ImageTransform:
    """Resize, then crop, of an image to the network's.

    Attributes:
        source: (width, height) of the image.
        resized: (width, height) after the resize.
        offset: (x0, y0) of the crop's upper left pixel in the resized image.
        target: (width, height) of the network's image; the crop lies within the resized one.
        ratio: of the resize, r above; resized sizes are its multiples rounded down to whole pixels.
    """

    source: Size
    resized: Size
    offset: tuple[int, int]
    target: Size
    ratio: float

    @classmethod
    def test_time(cls, source: Size, target: Size) -> ImageTransform:
        """What nuScenes models do at inference, for images of any size.

        The smallest resize that covers the target; what is too wide is cut on both sides, what is too high on top.

        Raises:
            InputError: a size below 1.
        """
        if min(*source, *target) < 1:
            raise InputError(f"expected sizes from 1 pixel, found {source[0]}x{source[1]} and {target[0]}x{target[1]}")
        # In whole numbers, so that 1600 * 0.44 is 704 and nothing is ever one pixel short.
        wide = target[0] * source[1] >= target[1] * source[0]
        by, of = (target[0], source[0]) if wide else (target[1], source[1])
        resized = source[0] * by // of, source[1] * by // of
        offset = (resized[0] - target[0]) // 2, resized[1] - target[1]
        return cls(source, resized, offset, target, by / of)

    @property
    def pixel_map(self) -> PixelMap:
        """Where the centre of an original pixel really lies on the network's image."""
        return PixelMap.half_pixel(self.source, self.resized).then(PixelMap.moved(-self.offset[0], -self.offset[1]))

    def ida(self, pixels: str = "corners") -> Array:
        """(4, 4): original pixel -> network pixel, by one of PIXEL_RULES.

        Raises:
            InputError: an unknown rule.
        """
        check_pixel_rule(pixels)
        matrix = np.eye(4)
        if pixels == "corners":
            matrix[0, 0] = matrix[1, 1] = self.ratio
            matrix[:2, 3] = -self.offset[0] + 0.0, -self.offset[1] + 0.0
        else:
            exact = self.pixel_map
            matrix[0, 0], matrix[1, 1] = exact.scale_x, exact.scale_y
            matrix[:2, 3] = exact.shift_x, exact.shift_y
        return matrix


@dataclass(frozen=True)
class Frustum:
    """The points that one camera's features stand for: depth bins x rows x columns.

    Attributes:
        image: (height, width) of the network's image.
        stride: pixels of that image to a cell of the features.
        depth: (low, high, step) of the bins, metres along the optical axis: arange(low, high, step).
        pixels: a member of PIXEL_RULES.

    Raises:
        InputError: a stride that does not divide the image's size, bounds that do not fit, an unknown rule.
    """

    image: tuple[int, int]
    stride: int
    depth: Bounds
    pixels: str = "corners"

    def __post_init__(self) -> None:
        check_pixel_rule(self.pixels)
        try:
            height, width = (int(side) for side in self.image)
        except (TypeError, ValueError):
            raise InputError(f"expected an image (height, width), found {self.image!r}") from None
        if min(height, width, self.stride) < 1 or height % self.stride or width % self.stride:
            raise InputError(
                f"expected a stride that divides the image's height and width, found stride {self.stride} for "
                f"{width}x{height}"
            )
        depth = checked_bounds(self.depth, "depth")
        if depth[0] <= 0:
            raise InputError(f"expected depth from above 0, found {depth}")
        object.__setattr__(self, "image", (height, width))
        object.__setattr__(self, "depth", depth)

    @property
    def bins(self) -> int:
        """Depth bins."""
        return steps(self.depth)

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the features."""
        return self.image[0] // self.stride, self.image[1] // self.stride

    @property
    def depths(self) -> Array:
        """(D,): the depth of each bin, metres."""
        return np.asarray(self.depth[0] + np.arange(self.bins) * self.depth[2], np.float64)

    @property
    def columns(self) -> Array:
        """(w,): u of each column of the features, pixels of the network's image."""
        return self._along(1)

    @property
    def rows(self) -> Array:
        """(h,): v of each row of the features, pixels of the network's image."""
        return self._along(0)

    def points(self) -> Array:
        """(D, h, w, 4): u, v, depth, 1."""
        d, v, u = np.meshgrid(self.depths, self.rows, self.columns, indexing="ij")
        return np.stack([u, v, d, np.ones_like(d)], -1)

    def transform(self, source: Size) -> ImageTransform:
        """How an image of (width, height) comes to the network's size."""
        return ImageTransform.test_time(source, (self.image[1], self.image[0]))

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {
            "image": list(self.image),
            "stride": self.stride,
            "depth": list(self.depth),
            "pixels": self.pixels,
        }

    def _along(self, axis: int) -> Array:
        count = self.size[axis]
        if self.pixels == "centres":
            return np.asarray((np.arange(count) + 0.5) * self.stride - 0.5, np.float64)
        return np.linspace(0, self.image[axis] - 1, count)


@dataclass(frozen=True, eq=False)
class Lift:
    """The affine map from a frustum's points to the vehicle, of one camera: P = d . turn . (u, v, 1) + origin.

    Attributes:
        turn: (3, 3). origin: (3,), where the camera is, metres.
    """

    turn: Array
    origin: Array = field(repr=False)

    @classmethod
    def of(
        cls, matrix: npt.ArrayLike, sensor_to_ego: npt.ArrayLike, ida: npt.ArrayLike, bda: npt.ArrayLike | None = None
    ) -> Lift:
        """From K (3, 3) or (4, 4), sensor_to_ego (4, 4), ida (4, 4) and bda (4, 4, default identity).

        Raises:
            InputError: wrong shapes, numbers that are not finite, singular matrices, an ida that mixes pixels and
                depth.
        """
        k = _square(matrix, "K")[:3, :3]
        pose, image = _square(sensor_to_ego, "sensor_to_ego", 4), _square(ida, "ida", 4)
        turn = _square(np.eye(4) if bda is None else bda, "bda", 4)
        plane = np.vstack([image[:2, [0, 1, 3]], [0, 0, 1.0]])
        if image[:2, 2].any() or not np.array_equal(image[2:], np.eye(4)[2:]):
            raise InputError(f"expected an ida that moves pixels only, found {image.tolist()}")
        _check_regular(turn[:3, :3], "bda")
        _check_regular(pose[:3, :3], "sensor_to_ego")
        to_ego = turn @ pose
        return cls(to_ego[:3, :3] @ _inverse(k, "K") @ _inverse(plane, "ida"), to_ego[:3, 3])

    def points(self, frustum: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(..., 4) or (..., 3) points u, v, d of a frustum -> (..., 3) metres, in the frustum's dtype."""
        u, v, d = frustum[..., 0], frustum[..., 1], frustum[..., 2]
        rays = np.stack([u * d, v * d, d], -1)
        return np.asarray(rays @ self.turn.T.astype(frustum.dtype) + self.origin.astype(frustum.dtype))


def lifts(rig: Rig, frustum: Frustum, bda: npt.ArrayLike | None = None) -> list[Lift]:
    """Of every camera of a rig, in order; images are taken to be rectified, see `aot_runtime.undistort`."""
    return [
        Lift.of(
            camera.matrix,
            camera.sensor_to_ego,
            frustum.transform((camera.width, camera.height)).ida(frustum.pixels),
            bda,
        )
        for camera in rig
    ]


def camera_vector(
    matrix: npt.ArrayLike, sensor_to_ego: npt.ArrayLike, ida: npt.ArrayLike, bda: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """(27,): what BEVDepth's camera-aware depth network is told of a camera; arguments as of `Lift.of`.

    fx, fy, cx, cy; ida [0,0] [0,1] [0,3] [1,0] [1,1] [1,3]; bda [0,0] [0,1] [1,0] [1,1] [2,2]; sensor_to_ego's three
    upper rows.
    """
    k, image = _square(matrix, "K"), _square(ida, "ida", 4)
    pose = _square(sensor_to_ego, "sensor_to_ego", 4)
    turn = _square(np.eye(4) if bda is None else bda, "bda", 4)
    head = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
    head += [image[0, 0], image[0, 1], image[0, 3], image[1, 0], image[1, 1], image[1, 3]]
    head += [turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1], turn[2, 2]]
    return np.concatenate([head, pose[:3].ravel()]).astype(np.float32)


def camera_vectors(rig: Rig, frustum: Frustum, bda: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """(N, 27): `camera_vector` of every camera of a rig, in order."""
    return np.stack(
        [
            camera_vector(
                camera.matrix,
                camera.sensor_to_ego,
                frustum.transform((camera.width, camera.height)).ida(frustum.pixels),
                bda,
            )
            for camera in rig
        ]
    )


def frustum_from_json(told: Mapping[str, Any]) -> Frustum:
    """The frustum that `Frustum.to_json` wrote.

    Raises:
        InputError: something is missing, unknown or malformed.
    """
    names = {"image", "stride", "depth", "pixels"}
    if not isinstance(told, Mapping) or not names - {"pixels"} <= set(told) <= names:
        raise InputError(f"expected a frustum with {', '.join(sorted(names))}, found {told!r:.200}")
    return Frustum(tuple(told["image"]), told["stride"], told["depth"], told.get("pixels", "corners"))


def check_pixel_rule(pixels: str) -> None:
    """Refuses what is no member of PIXEL_RULES."""
    if pixels not in PIXEL_RULES:
        raise InputError(f"expected a pixel rule {' or '.join(PIXEL_RULES)}, found {pixels!r}")


def _square(given: npt.ArrayLike, what: str, size: int | None = None) -> Array:
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected numbers as {what}, found {given!r:.100}") from None
    if array.shape not in ((3, 3), (4, 4)) or (size is not None and array.shape != (size, size)):
        raise InputError(
            f"expected {what} of shape {(size, size) if size else '(3, 3) or (4, 4)'}, found {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"expected finite numbers in {what}, found {array.tolist()}")
    return array


def _inverse(matrix: Array, what: str) -> Array:
    _check_regular(matrix, what)
    return np.asarray(np.linalg.inv(matrix))


def _check_regular(matrix: Array, what: str) -> None:
    if abs(float(np.linalg.det(matrix))) < _SINGULAR:
        raise InputError(f"expected {what} that can be inverted, found {matrix.tolist()}", "repair the calibration")
