# SPDX-License-Identifier: Apache-2.0
"""What resizing, cropping and shifting an image does to its camera matrix.

A pixel's centre has integer coordinates: pixel (0, 0) covers [-0.5, 0.5) x [-0.5, 0.5). So it is in OpenCV and in
`sensor_msgs/CameraInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aot_runtime.errors import InputError

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class PixelMap:
    """Where a pixel of one grid lies on another: u' = scale_x * u + shift_x, v' = scale_y * v + shift_y."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def half_pixel(cls, source: Size, target: Size) -> PixelMap:
        """A resize that keeps the image's outer edges: `cv2.resize`, and torch with align_corners=False.

        u' + 1/2 = (u + 1/2) * W' / W.
        """
        x, y = target[0] / source[0], target[1] / source[1]
        return cls(x, y, 0.5 * x - 0.5, 0.5 * y - 0.5)

    @classmethod
    def align_corners(cls, source: Size, target: Size) -> PixelMap:
        """A resize that keeps the centres of the corner pixels: torch with align_corners=True.

        u' = u * (W' - 1) / (W - 1). Along an axis where one of the grids has a single pixel the scale is 1.
        """
        x, y = ((t - 1) / (s - 1) if s > 1 and t > 1 else 1.0 for s, t in zip(source, target))
        return cls(x, y)

    @classmethod
    def moved(cls, x: float, y: float) -> PixelMap:
        """A pixel of the first grid has coordinates greater by (x, y) on the second; a crop at (x, y) is (-x, -y)."""
        return cls(shift_x=x, shift_y=y)

    def then(self, other: PixelMap) -> PixelMap:
        """This map followed by another."""
        return PixelMap(
            self.scale_x * other.scale_x,
            self.scale_y * other.scale_y,
            self.shift_x * other.scale_x + other.shift_x,
            self.shift_y * other.scale_y + other.shift_y,
        )

    @property
    def inverse(self) -> PixelMap:
        """The map back."""
        return PixelMap(1 / self.scale_x, 1 / self.scale_y, -self.shift_x / self.scale_x, -self.shift_y / self.scale_y)

    def applied_to(self, matrix: np.ndarray) -> np.ndarray:
        """The camera matrix (3, 3), or projection matrix (3, 4), of the second grid from that of the first, float64."""
        change = np.array([[self.scale_x, 0, self.shift_x], [0, self.scale_y, self.shift_y], [0, 0, 1.0]])
        return np.asarray(change @ np.asarray(matrix, np.float64))


@dataclass(frozen=True)
class Camera:
    """A calibrated camera on a pixel grid: the part of `sensor_msgs/CameraInfo` that geometry needs.

    Attributes:
        matrix: (3, 3) of the raw image, CameraInfo's K.
        projection: (3, 4) of the rectified image, CameraInfo's P.
        distortion, model: CameraInfo's D and its distortion model, which tell how the raw image differs from the ideal
            one; they do not depend on the grid.
        rectification: (3, 3), CameraInfo's R.
        rectified: whether the image is rectified: then its points follow from `projection`, else from `matrix`, with
            the distortion undone.
    """

    matrix: np.ndarray
    projection: np.ndarray
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"
    rectification: np.ndarray = field(default_factory=lambda: np.eye(3))
    rectified: bool = True

    @classmethod
    def pinhole(cls, fx: float, fy: float, cx: float, cy: float) -> Camera:
        """An ideal camera.

        Raises:
            InputError: a number is not finite, or a focal length is not above 0.
        """
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        _check_matrix(matrix, "camera matrix")
        return cls(matrix, np.hstack([matrix, np.zeros((3, 1))]))

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3): the matrix that the image's pixels obey; see `rectified`."""
        return self.projection[:, :3] if self.rectified else self.matrix

    @property
    def rays_bend(self) -> bool:
        """Whether pixels and rays are related by more than `intrinsics`."""
        return not self.rectified and any(self.distortion)

    def on(self, grid: PixelMap) -> Camera:
        """The same camera on another pixel grid."""
        return replace(self, matrix=grid.applied_to(self.matrix), projection=grid.applied_to(self.projection))


def info_key(info: Any) -> bytes:
    """Everything that a CameraInfo says of the camera: equal for equal calibrations, whatever their stamps."""
    told = (info.width, info.height, info.distortion_model, info.binning_x, info.binning_y, info.roi)
    return repr(told).encode() + b"".join(
        np.asarray(part, np.float64).tobytes() for part in (info.d, info.k, info.r, info.p)
    )


def camera_from_info(info: Any, width: int, height: int, *, rectified: bool = True) -> Camera:
    """The camera of an image of width x height pixels from a `sensor_msgs/CameraInfo` (of rclpy or of rosbags).

    CameraInfo's matrices belong to the full image; its region of interest and binning are applied here. A binned pixel
    is taken to lie at the centre of those that it sums.

    Raises:
        InputError: the camera is not calibrated (K is 0), a matrix is no camera's, or the sizes disagree.
    """
    told = info_size(info)
    if told != (width, height):
        raise InputError(
            f"expected a camera_info for the image's {width}x{height} pixels, found one for {told[0]}x{told[1]}",
            "publish the camera_info of this image, or remap ~/camera_info",
        )
    matrix = np.asarray(info.k, np.float64).reshape(3, 3)
    projection = np.asarray(info.p, np.float64).reshape(3, 4)
    if not matrix.any():
        raise InputError("expected a calibrated camera, found K = 0 in camera_info", "calibrate the camera")
    _check_matrix(matrix, "K")
    if projection.any():
        _check_matrix(projection[:, :3], "P")
    else:
        projection = np.hstack([matrix, np.zeros((3, 1))])
    rectification = np.asarray(info.r, np.float64).reshape(3, 3)
    camera = Camera(
        matrix,
        projection,
        tuple(float(value) for value in info.d),
        str(info.distortion_model) or "plumb_bob",
        rectification if rectification.any() else np.eye(3),
        rectified,
    )
    region = PixelMap.moved(-float(info.roi.x_offset), -float(info.roi.y_offset))
    return camera.on(region.then(PixelMap.half_pixel(_binning(info), (1, 1))))


def info_size(info: Any) -> Size:
    """(width, height) of the images that a `sensor_msgs/CameraInfo` is for: its region of interest, binned."""
    full = (int(info.roi.width) or int(info.width), int(info.roi.height) or int(info.height))
    binning = _binning(info)
    return full[0] // binning[0], full[1] // binning[1]


def _binning(info: Any) -> tuple[int, int]:
    return int(info.binning_x) or 1, int(info.binning_y) or 1


def _check_matrix(matrix: np.ndarray, name: str) -> None:
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(
            f"expected finite numbers and focal lengths above 0 in {name}, found {matrix.tolist()}",
            "repair the camera's calibration",
        )
