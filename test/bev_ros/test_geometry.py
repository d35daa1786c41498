# SPDX-License-Identifier: Apache-2.0
"""Frustums, points and camera vectors against the float64 goldens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aot_runtime.errors import InputError
from bev_ros.geometry import Frustum, ImageTransform, Lift, camera_vector, frustum_from_json


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden" / "bev" / "geometry.safetensors")


@pytest.fixture(scope="module")
def frustum(golden: dict[str, np.ndarray]) -> Frustum:
    height, width = (int(side) for side in golden["final_dim"])
    low, high, step = (float(value) for value in golden["d_bound"])
    return Frustum((height, width), int(golden["downsample"]), (low, high, step))


def test_frustum(golden: dict[str, np.ndarray], frustum: Frustum) -> None:
    np.testing.assert_array_equal(frustum.points().astype(np.float32), golden["frustum_f32"])
    assert golden["frustum_f32"].shape[:3] == (frustum.bins, *frustum.size)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_points(golden: dict[str, np.ndarray], frustum: Frustum, dtype: Any, tolerance: float) -> None:
    """Also with flips, rotation of the image, and augmentation of the vehicle's frame: the second half of the batch."""
    points = frustum.points().astype(dtype)
    for batch in range(2):
        for camera in range(6):
            matrices = (golden[key][batch, camera] for key in ("intrin", "sensor2ego", "ida"))
            found = Lift.of(*matrices, golden["bda"][batch]).points(points)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, golden["points_f64"][batch, camera], rtol=0, atol=tolerance)


def test_camera_vector_order() -> None:
    def numbered(start: int) -> np.ndarray:
        return np.arange(start, start + 16.0).reshape(4, 4)

    k, pose, ida, bda = numbered(0), numbered(100), numbered(200), numbered(300)
    wanted = [0, 5, 2, 6, 200, 201, 203, 204, 205, 207, 300, 301, 304, 305, 310, *range(100, 112)]
    vector = camera_vector(k, pose, ida, bda)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, wanted)
    np.testing.assert_array_equal(camera_vector(k[:3, :3], pose, ida)[10:15], [1, 0, 0, 1, 1])


def test_nuscenes_images() -> None:
    transform = ImageTransform.test_time((1600, 900), (704, 256))
    assert (transform.resized, transform.offset, transform.ratio) == ((704, 396), (0, 140), 0.44)
    np.testing.assert_array_equal(transform.ida()[:2], [[0.44, 0, 0, 0], [0, 0.44, 0, -140]])
    # Half of what a pixel shrinks by.
    np.testing.assert_allclose(transform.ida("centres")[:2, 3], [-0.28, -140.28])


@pytest.mark.parametrize("source", [(1600, 900), (640, 480), (641, 479), (333, 1001), (7, 5), (1, 1)])
@pytest.mark.parametrize("target", [(704, 256), (96, 64), (31, 33), (1, 1)])
def test_the_crop_never_leaves_the_image(source: tuple[int, int], target: tuple[int, int]) -> None:
    transform = ImageTransform.test_time(source, target)
    (x, y), (width, height) = transform.offset, transform.resized
    assert 0 <= x <= width - target[0]
    assert y == height - target[1] >= 0
    # No larger than needed, and centred up to one pixel.
    assert width == target[0] or height == target[1]
    assert abs((width - target[0] - x) - x) <= 1


def test_centres_rule() -> None:
    frustum = Frustum((4, 8), 4, (1, 3, 1), "centres")
    assert (frustum.columns.tolist(), frustum.rows.tolist()) == ([1.5, 5.5], [1.5])
    assert Frustum((4, 8), 4, (1, 3, 1)).columns.tolist() == [0, 7]


def test_json_round_trip(frustum: Frustum) -> None:
    assert frustum_from_json(json.loads(json.dumps(frustum.to_json()))) == frustum
    with pytest.raises(InputError, match="frustum"):
        frustum_from_json({"image": [1, 2]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((64, 90), 16, (2, 58, 2)), "stride that divides"),
        (((64, 96), 0, (2, 58, 2)), "stride that divides"),
        (((64, 96), 16, (2, 58, 3)), "multiple of the step"),
        (((64, 96), 16, (0, 58, 2)), "depth from above 0"),
        (((64,), 16, (2, 58, 2)), "(height, width)"),
        (((64, 96), 16, (2, 58, 2), "middles"), "corners or centres"),
    ],
)
def test_impossible_frustums_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Frustum(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(
    ("spoiled", "message"),
    [(np.zeros((4, 4)), "found"), (np.full((4, 4), np.nan), "finite"), (np.eye(5), "shape"), ("abc", "numbers")],
)
def test_impossible_matrices_are_refused(which: int, spoiled: Any, message: str) -> None:
    matrices: list[Any] = [np.eye(4) for _ in range(4)]
    Lift.of(*matrices)
    matrices[which] = spoiled
    with pytest.raises(InputError) as caught:
        Lift.of(*matrices)
    assert message in str(caught.value)


def test_an_image_transform_does_not_touch_depth() -> None:
    ida = np.eye(4)
    ida[0, 2] = 1
    with pytest.raises(InputError, match="moves pixels only"):
        Lift.of(np.eye(3), np.eye(4), ida)
