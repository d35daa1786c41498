# SPDX-License-Identifier: Apache-2.0
"""Posed cameras, normals from depth, and the z-buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic_room import MOVER, Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import PosedCamera, depth_view
from vggt_ros.fusion.render import render

_MATRIX = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])


def _camera(width: int = 32, height: int = 24) -> PosedCamera:
    return PosedCamera(_MATRIX, np.eye(4), width, height)


def test_pixels_rays_and_worlds_agree(room: Room) -> None:
    camera = room.camera(4)
    depth = torch.from_numpy(room.static_depth[4])
    own = camera.rays() * depth[..., None]
    back = camera.to_camera(camera.to_world(own))
    assert (back - own).abs().max() < 2e-6
    v, u = np.mgrid[:120, :160]
    np.testing.assert_allclose(camera.pixels(back), np.stack([u, v], -1), atol=1e-3)
    # The world's points lie on the scene's surfaces.
    assert np.abs(room.distance(camera.to_world(own).numpy())).max() < 2e-6


def test_a_resized_camera_sees_the_same(room: Room) -> None:
    camera = room.camera(0)
    small = camera.resized(80, 60)
    # Pixel (2 u + 1/2) of the large grid is pixel u of the small one.
    np.testing.assert_allclose(small.rays()[7, 9], (camera.rays()[14:16, 18:20]).mean((0, 1)), atol=1e-6)
    assert camera.resized(160, 120) is camera


def test_normals_are_the_rooms(room: Room) -> None:
    for frame in (0, 4, 8):
        view = depth_view(room.camera(frame), room.frames["depth"][frame])
        true = room.frames["normal_cam"][frame].astype(np.float64)
        true /= np.linalg.norm(true, axis=-1, keepdims=True)
        found = view.normals.numpy().astype(np.float64) @ room.frames["T_wc"][frame][:3, :3]
        angle = np.degrees(np.arccos(np.clip((found * true).sum(-1), -1, 1)))[view.weight.numpy() > 0]
        assert np.median(angle) < 0.5
        assert np.quantile(angle, 0.9) < 5


def test_edges_flat_angles_and_unknown_pixels_have_no_weight() -> None:
    depth = np.full((24, 32), 2.0, np.float32)
    depth[:, 16:] = 4.0
    depth[3, 4], depth[3, 24], depth[20, 3], depth[20, 28] = np.nan, np.inf, -1, 0
    view = depth_view(_camera(), depth)
    weight = view.weight.numpy()
    assert not weight[:, 15:17].any()
    assert not weight[[3, 3, 20, 20], [4, 24, 3, 28]].any()
    assert (weight[5:18, 2:14] > 0).all()
    assert (weight[5:18, 18:30] > 0).all()
    assert np.isfinite(view.points.numpy()).all()
    floor = torch.tensor([[0.0, -1.0, 0.0]])
    steep = PosedCamera(_MATRIX, np.eye(4), 32, 24)
    ray_y = steep.rays()[:, :, 1]
    ground = torch.where(ray_y > 0.05, 1.5 / ray_y.clamp(min=0.05), torch.nan)
    view = depth_view(steep, ground, range_max=1e6)
    seen = view.weight > 0
    assert torch.allclose(view.normals[seen], floor.expand(int(seen.sum()), 3), atol=1e-3)
    assert not seen[ray_y < 0.09].any()


def test_confidence_scales_weight_and_nonsense_counts_as_none() -> None:
    depth = np.full((24, 32), 2.0, np.float32)
    confidence = np.ones_like(depth)
    confidence[5, 5:9] = 0.5, np.nan, -1, np.inf
    view = depth_view(_camera(), depth, confidence)
    whole = depth_view(_camera(), depth)
    ratio = (view.weight / whole.weight)[5, 4:10].numpy()
    np.testing.assert_allclose(ratio, [1, 0.5, 0, 0, 0, 1])


def test_a_gross_pixel_of_noisy_depth_is_left_out_and_its_neighbours_are_not() -> None:
    depth = np.full((24, 32), 2.0, np.float32)
    depth[10, 10] = 1.0
    view = depth_view(_camera(), depth, noise=0.01)
    assert view.weight[10, 10] == 0
    assert (view.weight[9, 9:12] > 0).all()
    assert (depth_view(_camera(), depth).weight[9:12, 9:12] == 0).all()


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="expected depth of the camera's 32x24 pixels, found 16x24"):
        depth_view(_camera(), np.ones((24, 16), np.float32))
    with pytest.raises(InputError, match="expected colour"):
        depth_view(_camera(), np.ones((24, 32), np.float32), colour=np.zeros((12, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("matrix", "pose", "size"),
    [
        (np.zeros((3, 3)), np.eye(4), (4, 4)),
        (np.full((3, 3), np.nan), np.eye(4), (4, 4)),
        (_MATRIX, 2 * np.eye(4), (4, 4)),
        (_MATRIX, np.diag([1.0, 1, -1, 1]), (4, 4)),
        (_MATRIX, np.eye(3), (4, 4)),
        (_MATRIX, np.eye(4), (0, 4)),
    ],
)
def test_what_is_no_camera_is_refused(matrix: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        PosedCamera(matrix, pose, *size)


# -- the z-buffer ------------------------------------------------------------------------------------------------------


def test_rendered_points_are_the_true_z_buffer_exactly(room: Room) -> None:
    """All points of step 0, seen by the middle camera, against one point at a time."""
    parts = [depth_view(room.camera(frame), room.frames["depth"][frame]).points.reshape(-1, 3) for frame in range(3)]
    points = torch.cat(parts)
    camera = room.camera(4)
    found = render(camera, points)
    own = camera.to_camera(points)
    pixel = torch.round(camera.pixels(own)).numpy()
    depth, index = np.full((120, 160), np.inf, np.float32), np.full((120, 160), -1)
    for number, ((u, v), z) in enumerate(zip(pixel, own[:, 2].numpy())):
        if z > 1e-3 and 0 <= u < 160 and 0 <= v < 120 and z < depth[int(v), int(u)]:
            depth[int(v), int(u)], index[int(v), int(u)] = z, number
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.depth[index >= 0], depth[index >= 0])
    assert torch.isnan(found.depth[index < 0]).all()
    assert found.coverage == pytest.approx((index >= 0).mean())


def test_discs_close_the_gaps_and_keep_their_slant(room: Room) -> None:
    view = depth_view(room.camera(4), room.static_depth[4])
    good = view.weight > 0
    radius = view.depth[good] / float(view.camera.matrix[0, 0])
    near = room.camera(7)  # the same camera a step later
    dots = render(near, view.points[good])
    discs = render(near, view.points[good], view.normals[good], radius)
    assert discs.coverage > dots.coverage
    true = room.static_depth[7]
    error = (discs.depth.numpy() - true)[(discs.index >= 0).numpy()]
    assert np.median(np.abs(error)) < 1e-3
    assert np.quantile(np.abs(error), 0.9) < 0.03


def test_a_disc_that_faces_away_or_lies_behind_is_not_seen() -> None:
    camera = _camera()
    points = torch.tensor([[0.0, 0, 2], [0, 0, 3], [0, 0, -2], [torch.nan, 0, 1], [1e30, 0, 1e-2]])
    away = torch.tensor([[0.0, 0, 1]] + [[0.0, 0, -1]] * 4)
    found = render(camera, points, away, torch.full((5,), 0.1))
    assert set(found.index.unique().tolist()) == {-1, 1}
    assert found.depth[found.index == 1].unique().tolist() == [3.0]


def test_of_equally_near_points_the_first_is_seen() -> None:
    points = torch.tensor([[0.0, 0, 2]]).repeat(1000, 1)
    assert set(render(_camera(), points).index.unique().tolist()) == {-1, 0}
    assert render(_camera(), points[:0]).coverage == 0


def test_the_room_has_its_moving_sphere(room: Room) -> None:
    """What other tests count on: it is in step 0, and nowhere in the static depth."""
    assert (room.frames["label"][0] == MOVER).sum() > 1000
    samples = np.load(room.folder / "sdf_samples.npz")
    np.testing.assert_allclose(room.distance(samples["points"]), samples["sdf"], atol=1e-6)
