# SPDX-License-Identifier: Apache-2.0
"""Depth and a camera -> organised points in the optical frame (REP-103: x right, y down, z forward)."""

from __future__ import annotations

import numpy as np

from aot_runtime.camera import Camera
from aot_runtime.errors import InputError

_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")


def camera_rays(camera: Camera, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """x / z and y / z of each pixel's ray, float32, of shapes that broadcast to (height, width).

    Raises:
        InputError: the camera is raw (not rectified) and its distortion model is none of plumb_bob,
            rational_polynomial, equidistant.
    """
    matrix = camera.intrinsics
    if not camera.rays_bend:
        # The usual skew of 0 makes x depend on the column alone.
        y = (np.arange(height, dtype=np.float64)[:, None] - matrix[1, 2]) / matrix[1, 1]
        x = (np.arange(width, dtype=np.float64)[None, :] - matrix[0, 2]) / matrix[0, 0]
        if matrix[0, 1]:
            x = x - y * (matrix[0, 1] / matrix[0, 0])
        return x.astype(np.float32), y.astype(np.float32)
    if camera.model not in _MODELS:
        raise InputError(
            f"expected the distortion model {', '.join(_MODELS)}, found '{camera.model}'",
            "rectify the image first, or publish a camera_info of such a model",
        )
    import cv2

    pixels = np.stack(np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)), axis=-1)
    flat = pixels.reshape(-1, 1, 2)
    distortion = np.array(camera.distortion)
    if camera.model == "equidistant":
        rays = cv2.fisheye.undistortPoints(flat, matrix, distortion[:4])
    else:
        until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
        rays = cv2.undistortPointsIter(flat, matrix, distortion, np.eye(3), np.eye(3), until)
    x, y = np.moveaxis(rays.reshape(height, width, 2).astype(np.float32), -1, 0)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def pack_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float32 whose bits are 0x00RRGGBB, as point clouds carry colour."""
    import cv2

    parts = np.zeros((*image.shape[:2], 4), np.uint8)  # of a little-endian word: blue, green, red, 0
    cv2.mixChannels([np.ascontiguousarray(image)], [parts], [0, 2, 1, 1, 2, 0])
    return parts.view("<u4")[:, :, 0].astype(np.uint32, copy=False).view(np.float32)


class PointMaker:
    """Makes organised clouds; keeps the rays of the last camera, since they rarely change."""

    def __init__(self) -> None:
        self._key: object = None
        self._rays: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))

    def points(self, depth: np.ndarray, camera: Camera, image: np.ndarray | None = None) -> np.ndarray:
        """One point for each pixel.

        Args:
            depth: (H, W) float32, z in metres; NaN where unknown.
            camera: of the depth's grid.
            image: RGB uint8 of any size that shows the same; resized to the depth's size (bilinear).

        Returns:
            (H, W, 3) float32 x, y, z in metres, or (H, W, 4) with `pack_rgb` of the image. A point without depth is
            NaN; its colour stays.

        Raises:
            InputError: see `camera_rays`.
        """
        height, width = depth.shape
        key = (width, height, camera.intrinsics.tobytes(), camera.rays_bend and (camera.model, camera.distortion))
        if key != self._key:
            self._rays = camera_rays(camera, width, height)
            self._key = key
        x, y = self._rays
        cloud = np.empty((height, width, 3 if image is None else 4), np.float32)
        np.multiply(depth, x, out=cloud[:, :, 0])
        np.multiply(depth, y, out=cloud[:, :, 1])
        cloud[:, :, 2] = depth
        if image is not None:
            if image.shape[:2] != depth.shape:
                import cv2

                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            cloud[:, :, 3] = pack_rgb(image)
        return cloud
