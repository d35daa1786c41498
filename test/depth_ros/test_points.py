# SPDX-License-Identifier: Apache-2.0
"""Points against projection: with a pinhole, with each distortion model, and against the synthetic room's truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aot_runtime.camera import Camera
from aot_runtime.errors import InputError
from aot_runtime.frames import write_image
from depth_ros.files import depth_to_png16, write_ply
from depth_ros.points import PointMaker, camera_rays, pack_rgb

K = np.array([[90.0, 0, 39.5], [0, 80.0, 29.5], [0, 0, 1]])
WIDTH, HEIGHT = 80, 60


def camera(distortion: tuple[float, ...] = (), model: str = "plumb_bob", rectified: bool = False) -> Camera:
    return Camera(K, np.hstack([K, np.zeros((3, 1))]), distortion, model, rectified=rectified)


def depth() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0.5, 5, (HEIGHT, WIDTH)).astype(np.float32)
    values[3, 5] = np.nan
    return values


def pixels() -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float64)


def test_pinhole_points_project_to_their_pixels() -> None:
    z = depth()
    cloud = PointMaker().points(z, camera())
    assert cloud.shape == (HEIGHT, WIDTH, 3)
    assert cloud.dtype == np.float32
    assert np.isnan(cloud[3, 5]).all()
    assert np.isfinite(cloud).all(axis=-1).sum() == WIDTH * HEIGHT - 1
    np.testing.assert_array_equal(cloud[..., 2], z)
    projected = cloud.astype(np.float64) @ K.T
    with np.errstate(invalid="ignore"):
        found = projected[..., :2] / projected[..., 2:]
    known = np.isfinite(z)
    np.testing.assert_allclose(found[known], pixels()[known], atol=1e-4)


def test_skew_is_honoured() -> None:
    skewed = K.copy()
    skewed[0, 1] = 3.0
    x, y = camera_rays(Camera(skewed, np.hstack([skewed, np.zeros((3, 1))])), WIDTH, HEIGHT)
    rays = np.stack([*np.broadcast_arrays(x, y), np.ones((HEIGHT, WIDTH))], -1)
    np.testing.assert_allclose((rays @ skewed.T)[..., :2], pixels(), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (0.2, 0.1, 0.001, 0.0, 0.01, 0.3, 0.1, 0.02)),
        ("equidistant", (0.05, -0.01, 0.002, 0.0)),
    ],
)
def test_raw_images_are_undistorted(model: str, distortion: tuple[float, ...]) -> None:
    import cv2

    z = depth()
    cloud = PointMaker().points(z, camera(distortion, model)).astype(np.float64)
    known = np.isfinite(z)
    points = cloud[known].reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    found, _ = project(points, np.zeros(3), np.zeros(3), K, np.array(distortion))
    np.testing.assert_allclose(found.reshape(-1, 2), pixels()[known], atol=1e-3)


def test_rectified_images_ignore_the_distortion() -> None:
    bent, straight = camera((-0.2, 0.05, 0, 0, 0), rectified=True), camera()
    np.testing.assert_array_equal(PointMaker().points(depth(), bent), PointMaker().points(depth(), straight))


def test_unknown_distortion_model_says_so() -> None:
    with pytest.raises(InputError, match=r"distortion model plumb_bob, .* found 'thin_prism'"):
        PointMaker().points(depth(), camera((0.1,), "thin_prism"))


def test_rays_are_kept_until_the_camera_changes() -> None:
    maker, z = PointMaker(), depth()
    first = maker.points(z, camera())
    kept = maker._rays
    maker.points(z, camera())
    assert maker._rays is kept
    changed = maker.points(z, Camera.pinhole(45, 40, 39.5, 29.5))
    assert maker._rays is not kept
    np.testing.assert_allclose(changed[..., :2], 2 * first[..., :2], rtol=1e-6)
    small = maker.points(z[:30, :40], Camera.pinhole(45, 40, 39.5, 29.5))
    np.testing.assert_array_equal(small, changed[:30, :40])


def test_colours_are_packed_and_resized() -> None:
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cloud = PointMaker().points(depth(), camera(), image)
    bits = np.ascontiguousarray(cloud[..., 3]).view(np.uint32)
    expected = image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    np.testing.assert_array_equal(bits, expected)
    np.testing.assert_array_equal(pack_rgb(image).view(np.uint32), expected)
    large = np.full((HEIGHT * 3, WIDTH * 3, 3), (255, 255, 254), np.uint8)
    bits = np.ascontiguousarray(PointMaker().points(depth(), camera(), large)[..., 3]).view(np.uint32)
    assert (bits == 0xFFFFFE).all()


def test_points_of_the_synthetic_room_lie_where_its_cameras_say(shared: Path) -> None:
    """Points of left and front camera, in the world, agree with the projection into the other camera's depth."""
    room = np.load(shared / "data" / "synthetic_room" / "frames.npz")
    z, matrix, pose = room["depth"], room["K"], room["T_wc"]
    height, width = z.shape[1:]
    maker = PointMaker()

    def world(i: int) -> np.ndarray:
        k = matrix[i]
        points = maker.points(z[i], Camera.pinhole(k[0, 0], k[1, 1], k[0, 2], k[1, 2])).reshape(-1, 3)
        return points @ pose[i][:3, :3].T + pose[i][:3, 3]

    names = list(room["names"]) if "names" in room else []
    assert names is not None
    there = np.linalg.inv(pose[1])
    seen = world(0) @ there[:3, :3].T + there[:3, 3]
    front = seen[:, 2] > 0.1
    uv = (seen[front] @ matrix[1].T)[:, :2] / seen[front][:, 2:]
    inside = ((uv >= 0) & (uv <= (width - 1, height - 1))).all(axis=1)
    u, v = np.rint(uv[inside]).astype(int).T
    error = np.abs(z[1][v, u] - seen[front][inside][:, 2])
    assert inside.sum() > 1000
    assert np.median(error) < 0.01  # the rest is occlusion and half a pixel


def test_ply_has_the_finite_points(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cloud = PointMaker().points(depth(), camera(), image)
    assert write_ply(tmp_path / "a.ply", cloud) == WIDTH * HEIGHT - 1
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert f"element vertex {WIDTH * HEIGHT - 1}".encode() in head
    row = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows = np.frombuffer(body, row)
    known = np.isfinite(depth())
    np.testing.assert_array_equal(rows["xyz"], cloud[..., :3][known])
    np.testing.assert_array_equal(rows["rgb"], image[known])
    assert write_ply(tmp_path / "b.ply", cloud[..., :3]) == len(rows)
    assert b"red" not in (tmp_path / "b.ply").read_bytes().partition(b"end_header")[0]


def test_png16_units(tmp_path: Path) -> None:
    import cv2

    values = np.array([[0.5, 1.2344, 70.0, np.nan]], np.float32)
    assert depth_to_png16(values, "metric").tolist() == [[500, 1234, 0, 0]]
    assert depth_to_png16(values, "disparity").tolist() == [[128, 316, 17920, 0]]
    assert depth_to_png16(np.array([[2.0, 4.0, 3.0, np.nan]]), "relative").tolist() == [[1, 65535, 32768, 0]]
    assert depth_to_png16(np.array([[2.0, 2.0]]), "relative").tolist() == [[1, 1]]
    assert depth_to_png16(np.full((1, 2), np.nan), "relative").tolist() == [[0, 0]]
    write_image(tmp_path / "a.png", depth_to_png16(values, "metric"))
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).tolist() == [[500, 1234, 0, 0]]
