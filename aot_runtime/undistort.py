# SPDX-License-Identifier: Apache-2.0
"""Images of real lenses, made into those of an ideal camera with the same matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aot_runtime.camera import Camera
from aot_runtime.errors import InputError

MODELS: Mapping[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
"""Names as in `sensor_msgs/CameraInfo`, and how many coefficients each has: plumb_bob k1 k2 p1 p2 [k3];
rational_polynomial further k4 k5 k6 [thin prism [tilt]] (Brown and its extensions in OpenCV); equidistant k1 k2 k3 k4
of an angle's odd polynomial (Kannala and Brandt)."""


class Undistorter:
    """Makes images of one camera and size rectilinear; the camera matrix stays, and so does the size.

    The map of pixels is computed once, here. Pixels that the lens did not see are black.

    Args:
        camera: of the images. One that is rectified, or has no distortion, leaves them as they are.
        width, height: of the images.

    Attributes:
        camera: the ideal camera of what `image` returns.

    Raises:
        InputError: an unknown model, the wrong number of coefficients, coefficients that are not finite, or OpenCV is
            missing.
    """

    def __init__(self, camera: Camera, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise InputError(f"expected images from 1x1 pixel, found {width}x{height}")
        self.size = width, height
        self.camera = camera
        self._maps: tuple[Any, Any] | None = None
        if not camera.rays_bend:
            return
        counts = MODELS.get(camera.model)
        if counts is None:
            raise InputError(
                f"expected a distortion model {', '.join(MODELS)}, found {camera.model!r}",
                "publish rectified images (image_proc), or calibrate with one of these models",
            )
        if len(camera.distortion) not in counts or not np.isfinite(camera.distortion).all():
            raise InputError(
                f"expected {' or '.join(str(count) for count in counts)} finite coefficients of {camera.model}, found "
                f"{list(camera.distortion)}",
                "repair the camera's calibration",
            )
        matrix = np.array(camera.matrix, np.float64)
        self._maps = _maps(camera, matrix, width, height)
        self.camera = replace(
            camera,
            projection=np.hstack([matrix, np.zeros((3, 1))]),
            distortion=(),
            rectification=np.eye(3),
            rectified=True,
        )

    @property
    def changes(self) -> bool:
        """Whether images come back changed."""
        return self._maps is not None

    def image(self, image: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C) uint8 or float32 -> the same of the ideal camera; itself if nothing bends.

        Raises:
            InputError: another size than the camera's.
        """
        if image.ndim not in (2, 3) or image.shape[1::-1] != self.size:
            width, height = self.size
            raise InputError(f"expected an image of {width}x{height} pixels, found shape {image.shape}")
        if self._maps is None:
            return image
        cv2 = _cv2()
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _maps(camera: Camera, matrix: np.ndarray, width: int, height: int) -> tuple[Any, Any]:
    """Where the pixels of the ideal image lie on the real one, in OpenCV's fixed point of 1/32 pixel."""
    cv2 = _cv2()
    coefficients, size = np.array(camera.distortion), (width, height)
    if camera.model == "equidistant":
        u, v = cv2.fisheye.initUndistortRectifyMap(matrix, coefficients, np.eye(3), matrix, size, cv2.CV_32FC1)
    else:
        u, v = cv2.initUndistortRectifyMap(matrix, coefficients, np.eye(3), matrix, size, cv2.CV_32FC1)
    rays = np.linalg.inv(matrix) @ np.stack(
        [*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))]
    ).reshape(3, -1)
    radius = np.hypot(rays[0], rays[1]).reshape(height, width)
    # Polynomials turn back beyond what they were fitted to, and would show the image a second time, mirrored.
    folded = radius > _last_radius(camera, float(radius.max()))
    u[folded] = v[folded] = -1e4
    first, second = cv2.convertMaps(u, v, cv2.CV_16SC2)
    return first, second


def _last_radius(camera: Camera, largest: float) -> float:
    """Up to where, in tangents of the angle from the axis, the distorted radius grows with the ideal one."""
    radius = np.linspace(0, largest, 4096)
    k = np.zeros(8)
    k[: min(8, len(camera.distortion))] = camera.distortion[:8]
    if camera.model == "equidistant":
        angle = np.arctan(radius)
        square = angle * angle
        distorted = angle * (1 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3]))))
    else:
        square = radius * radius
        below = 1 + square * (k[5] + square * (k[6] + square * k[7]))
        with np.errstate(divide="ignore", invalid="ignore"):
            distorted = radius * (1 + square * (k[0] + square * (k[1] + square * k[4]))) / below
        distorted[below <= 0] = -np.inf
    falls = np.flatnonzero(~(np.diff(distorted) > 0))
    return float(radius[falls[0]]) if len(falls) else np.inf


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "expected OpenCV, which undistorts images, found none",
            "pip install opencv-python-headless, or publish rectified images",
        ) from error
    return cv2
