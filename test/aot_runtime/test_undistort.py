# SPDX-License-Identifier: Apache-2.0
"""Rectified images against OpenCV's own projection of points through the same lenses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from aot_runtime.camera import Camera
from aot_runtime.errors import InputError
from aot_runtime.undistort import Undistorter

WIDTH, HEIGHT = 640, 480
MATRIX = np.array([[410.0, 0, 322.3], [0, 405.0, 236.8], [0, 0, 1]])
LENSES: dict[str, tuple[str, tuple[float, ...]]] = {
    "plumb_bob": ("plumb_bob", (-0.28, 0.09, 0.001, -0.0007, -0.012)),
    "without_k3": ("plumb_bob", (0.11, -0.2, -0.001, 0.002)),
    "rational": ("rational_polynomial", (0.4, -0.1, 0.0005, -0.001, 0.02, 0.6, -0.05, 0.01)),
    "thin_prism": ("rational_polynomial", (0.4, -0.1, 0.0005, -0.001, 0.02, 0.6, -0.05, 0.01, 1e-3, -2e-3, 1e-3, 5e-4)),
    "equidistant": ("equidistant", (-0.03, 0.01, -0.004, 0.0008)),
}


def raw_camera(model: str, distortion: tuple[float, ...], matrix: np.ndarray = MATRIX) -> Camera:
    return Camera(matrix, np.hstack([matrix, np.zeros((3, 1))]), distortion, model, rectified=False)


def project(points: np.ndarray, model: str, distortion: tuple[float, ...]) -> np.ndarray:
    """(N, 3) in front of the camera -> (N, 2) pixels on the raw image."""
    zero = np.zeros(3)
    if model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, MATRIX, np.array(distortion))
    else:
        pixels, _ = cv2.projectPoints(points, zero, zero, MATRIX, np.array(distortion))
    return np.asarray(pixels).reshape(-1, 2)


def dots() -> np.ndarray:
    """(N, 3): directions whose ideal pixels lie well within the image."""
    u, v = np.meshgrid(np.linspace(60, WIDTH - 60, 9), np.linspace(50, HEIGHT - 50, 7))
    rays = np.linalg.inv(MATRIX) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    return np.ascontiguousarray(rays.T)


def drawn(pixels: np.ndarray) -> np.ndarray:
    """Round dots with soft edges, whose centres are known better than a pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.zeros((HEIGHT, WIDTH))
    for u, v in pixels:
        image += np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 2.5**2))
    return np.repeat(np.clip(image * 255, 0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))
def test_dots_land_where_the_ideal_camera_sees_them(lens: tuple[str, tuple[float, ...]]) -> None:
    rays = dots()
    raw, ideal = project(rays, *lens), (rays @ MATRIX.T)[:, :2]
    seen = ((raw > 12) & (raw < [WIDTH - 12, HEIGHT - 12])).all(1)
    raw, ideal = raw[seen], ideal[seen]
    # The lens does something, and most of the dots are there.
    assert len(ideal) > 30
    assert np.abs(raw - ideal).max() > 3
    undistorter = Undistorter(raw_camera(*lens), WIDTH, HEIGHT)
    image = undistorter.image(drawn(raw)).astype(np.float64)[..., 0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for u, v in ideal:
        near = image * ((x - u) ** 2 + (y - v) ** 2 < 10**2)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert np.abs(centre - (u, v)).max() <= 0.3
    np.testing.assert_array_equal(undistorter.camera.intrinsics, MATRIX)
    assert not undistorter.camera.rays_bend
    assert undistorter.changes


@pytest.mark.parametrize(
    "camera",
    [
        raw_camera("plumb_bob", (0.0,) * 5),
        raw_camera("nobody_knows", ()),
        replace(raw_camera("plumb_bob", (-0.3, 0.1, 0, 0, 0)), rectified=True),
        Camera.pinhole(400, 400, 320, 240),
    ],
)
def test_nothing_bends(camera: Camera) -> None:
    undistorter = Undistorter(camera, WIDTH, HEIGHT)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert undistorter.image(image) is image
    assert undistorter.camera is camera
    assert not undistorter.changes


def test_a_polynomial_that_turns_back_shows_nothing_twice() -> None:
    """r (1 - 0.5 r^2) grows up to r = 0.816: beyond, the image is black."""
    matrix = np.array([[200.0, 0, 320], [0, 200, 240], [0, 0, 1]])
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image = Undistorter(raw_camera("plumb_bob", (-0.5, 0, 0, 0, 0), matrix), WIDTH, HEIGHT).image(white)[..., 0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = np.hypot(x - 320, y - 240) / 200
    assert image[radius < 0.8].min() == 255
    assert image[radius > 0.83].max() == 0


def test_sizes_and_kinds_of_images() -> None:
    undistorter = Undistorter(raw_camera(*LENSES["plumb_bob"]), WIDTH, HEIGHT)
    for shape, dtype in (((HEIGHT, WIDTH), np.uint8), ((HEIGHT, WIDTH, 3), np.float32)):
        found = undistorter.image(np.ones(shape, dtype))
        assert (found.shape, found.dtype) == (shape, dtype)
    with pytest.raises(InputError, match="640x480"):
        undistorter.image(np.zeros((WIDTH, HEIGHT, 3), np.uint8))


@pytest.mark.parametrize(
    ("model", "distortion", "message"),
    [
        ("omni", (0.1, 0.2), "distortion model"),
        ("plumb_bob", (0.1,), "4 or 5 finite coefficients"),
        ("plumb_bob", (0.1, float("nan"), 0, 0, 0), "finite coefficients"),
        ("equidistant", (0.1, 0, 0, 0, 0), "4 finite coefficients"),
    ],
)
def test_lenses_that_are_none(model: str, distortion: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Undistorter(raw_camera(model, distortion), WIDTH, HEIGHT)


def test_no_pixels() -> None:
    with pytest.raises(InputError, match="0x480"):
        Undistorter(raw_camera("plumb_bob", ()), 0, HEIGHT)
