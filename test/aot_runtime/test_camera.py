# SPDX-License-Identifier: Apache-2.0
"""Pixel maps against the resizes they describe; CameraInfo with region of interest and binning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aot_runtime.camera import Camera, PixelMap, camera_from_info
from aot_runtime.errors import InputError
from depth_ros.camera_infos import CameraInfos

K = np.array([[525.0, 0, 319.5], [0, 520.0, 239.5], [0, 0, 1]])


def ramp(width: int, height: int) -> np.ndarray:
    """An image whose value is u + 1000 v."""
    return (np.arange(width)[None, :] + 1000.0 * np.arange(height)[:, None]).astype(np.float32)


@pytest.mark.parametrize("target", [(70, 56), (33, 91), (640, 480)])
def test_half_pixel_map_is_that_of_opencv_and_torch(target: tuple[int, int]) -> None:
    import cv2
    import torch

    source = (128, 96)
    grid = PixelMap.half_pixel(source, target)
    for resized in (
        cv2.resize(ramp(*source), target, interpolation=cv2.INTER_LINEAR),
        torch.nn.functional.interpolate(torch.from_numpy(ramp(*source))[None, None], target[::-1], mode="bilinear")[
            0, 0
        ].numpy(),
    ):
        inner = resized[target[1] // 2, 4:-4]
        u = (np.arange(target[0])[4:-4] - grid.shift_x) / grid.scale_x
        v = (target[1] // 2 - grid.shift_y) / grid.scale_y
        np.testing.assert_allclose(inner, u + 1000 * v, atol=0.02)


@pytest.mark.parametrize("target", [(70, 56), (33, 91), (640, 480), (1, 1)])
def test_align_corners_map_is_that_of_torch(target: tuple[int, int]) -> None:
    import torch

    source = (128, 96)
    grid = PixelMap.align_corners(source, target)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(ramp(*source))[None, None], target[::-1], mode="bilinear", align_corners=True
    )[0, 0].numpy()
    u, v = (np.arange(n) / s for n, s in zip(target, (grid.scale_x, grid.scale_y)))
    np.testing.assert_allclose(resized, u[None, :] + 1000 * v[:, None], atol=0.02)
    assert (grid.shift_x, grid.shift_y) == (0, 0)


def test_maps_compose_and_move_a_camera() -> None:
    first, second = PixelMap.half_pixel((640, 480), (320, 160)), PixelMap.moved(-10, 4)
    both = first.then(second)
    point = np.array([0.3, -0.2, 1.0])
    before = K @ point
    after = both.applied_to(K) @ point
    expected = [before[0] * 0.5 - 0.25 - 10, before[1] / 3 + 0.5 / 3 - 0.5 + 4, 1]
    np.testing.assert_allclose(after, expected)
    # The centre of the image stays its centre, also through both resizes.
    around = first.then(PixelMap.align_corners((320, 160), (640, 480)))
    centred = around.applied_to(np.array([[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]))
    np.testing.assert_allclose(centred[:2, 2], (319.5, 239.5))
    np.testing.assert_allclose(centred[0, 0], 500 * 0.5 * 639 / 319)


def info(**changes: Any) -> Any:
    values = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.1, -0.2, 0.0, 0.0, 0.0],
        "k": K.ravel(),
        "r": np.eye(3).ravel(),
        "p": np.hstack([K * [[0.9], [0.9], [1]], [[-40.0], [0], [0]]]).ravel(),
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        "header": SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=7)),
    }
    return SimpleNamespace(**{**values, **changes})


def test_rectified_images_obey_p_raw_ones_k() -> None:
    rectified = camera_from_info(info(), 640, 480)
    np.testing.assert_array_equal(rectified.intrinsics, np.asarray(info().p).reshape(3, 4)[:, :3])
    assert not rectified.rays_bend
    raw = camera_from_info(info(), 640, 480, rectified=False)
    np.testing.assert_array_equal(raw.intrinsics, K)
    assert raw.rays_bend
    without_p = camera_from_info(info(p=np.zeros(12)), 640, 480)
    np.testing.assert_array_equal(without_p.intrinsics, K)


def test_baseline_of_a_stereo_camera_scales_with_the_grid() -> None:
    camera = camera_from_info(info(), 640, 480).on(PixelMap.half_pixel((640, 480), (320, 240)))
    assert camera.projection[0, 3] == -20.0


def test_region_and_binning() -> None:
    roi = SimpleNamespace(x_offset=100, y_offset=50, width=400, height=300)
    camera = camera_from_info(info(roi=roi, binning_x=2, binning_y=2), 200, 150, rectified=False)
    # Full pixel 100 + 2 i + 1/2 is the centre of binned pixel i.
    assert camera.matrix[0, 0] == K[0, 0] / 2
    assert camera.matrix[0, 2] == pytest.approx((K[0, 2] - 100 - 0.5) / 2)
    assert camera.matrix[1, 2] == pytest.approx((K[1, 2] - 50 - 0.5) / 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 320}, "expected a camera_info for the image's 640x480 pixels, found one for 320x480"),
        ({"k": np.zeros(9)}, "found K = 0"),
        ({"k": -K.ravel()}, "focal lengths above 0 in K"),
        ({"k": np.full(9, np.nan)}, "finite numbers"),
        ({"p": np.full(12, 1e400)}, "in P"),
    ],
)
def test_useless_camera_infos_say_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        camera_from_info(info(**changes), 640, 480)


@pytest.mark.parametrize("focal", [0.0, -1.0, float("inf")])
def test_pinhole_refuses_impossible_focal_lengths(focal: float) -> None:
    with pytest.raises(InputError, match="focal lengths above 0"):
        Camera.pinhole(focal, 500, 1, 1)


def test_camera_info_of_the_stamp_else_the_latest() -> None:
    infos = CameraInfos()
    assert infos.of(1) is None
    assert infos.source == "none"
    messages = [info(header=SimpleNamespace(stamp=SimpleNamespace(sec=n, nanosec=0))) for n in range(15)]
    for message in messages:
        infos.add(message)
    assert infos.of(12 * 10**9) is messages[12]
    assert infos.source == "of the image's stamp"
    assert infos.of(1 * 10**9) is messages[14]  # only a few are kept
    assert infos.source == "latest"
    infos.forget_stamps()
    assert infos.of(12 * 10**9) is messages[14]
