# SPDX-License-Identifier: Apache-2.0
"""Bootstraps from files, and what makes them metric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.bootstrap import NpzSource, bootstrap_from_arrays, relative_confidence
from vggt_ros.fusion.scale import scaled_by_depth, scaled_by_poses


def _true_poses(room: Room) -> dict[str, np.ndarray]:
    return {name: room.frames["T_wc"][room.index(name, 0)] for name in CAMERAS}


def _true_depth(room: Room) -> dict[str, np.ndarray]:
    return {name: room.frames["depth"][room.index(name, 0)] for name in CAMERAS}


def test_a_bootstrap_from_a_file_has_the_pose_encodings_intrinsics_and_no_metric_scale(room: Room) -> None:
    found = room.unscaled()
    assert found.names == CAMERAS
    assert not found.scale.metric
    assert found.scale.unit == "arbitrary units"
    # Its field of view ignores the half pixel, its centre does not after decoding.
    np.testing.assert_allclose(found.intrinsics, room.frames["K"][:3], atol=1e-9)
    np.testing.assert_allclose(found.poses[0], np.eye(4), atol=1e-12)


def test_views_can_be_chosen_by_camera(room: Room) -> None:
    source = NpzSource(room.folder / "vggt_like.npz", CAMERAS)
    image = np.zeros((120, 160, 3), np.uint8)
    assert source.bootstrap({"front": image, "left": image}).names == ("left", "front")
    with pytest.raises(InputError, match="found 'rear'"):
        source.bootstrap({"rear": image})


def test_known_poses_recover_the_scale_and_the_world(room: Room) -> None:
    found = scaled_by_poses(room.unscaled(), _true_poses(room))
    assert found.scale.metric
    assert found.scale.source == "baselines"
    assert 1 / found.scale.factor == pytest.approx(0.37, rel=1e-6)
    np.testing.assert_allclose(found.poses, room.frames["T_wc"][:3], atol=1e-9)
    np.testing.assert_allclose(found.depth, room.frames["depth"][:3], rtol=1e-6)


def test_cameras_without_a_known_pose_move_along(room: Room) -> None:
    poses = _true_poses(room)
    del poses["right"]
    found = scaled_by_poses(room.unscaled(), poses)
    np.testing.assert_allclose(found.poses, room.frames["T_wc"][:3], atol=1e-9)


def test_metric_depth_recovers_the_scale_despite_noise_gaps_and_gross_errors(room: Room) -> None:
    random = np.random.default_rng(3)
    depth = room.frames["depth"][0] * (1 + 0.02 * random.standard_normal((120, 160)))
    depth[random.random(depth.shape) < 0.1] = np.nan
    depth[random.random(depth.shape) < 0.05] *= 3
    found = scaled_by_depth(room.unscaled(), {"left": depth})
    assert found.scale.source == "metric depth"
    assert 1 / found.scale.factor == pytest.approx(0.37, rel=0.005)
    # The world stays the bootstrap's; only its unit is metres.
    apart = np.linalg.norm(found.poses[1, :3, 3] - found.poses[0, :3, 3])
    true = np.linalg.norm(room.frames["T_wc"][1, :3, 3] - room.frames["T_wc"][0, :3, 3])
    assert apart == pytest.approx(true, rel=0.005)


def test_poses_that_contradict_the_bootstrap_are_refused(room: Room) -> None:
    poses = _true_poses(room)
    with pytest.raises(InputError, match="turned as their poses say"):
        scaled_by_poses(room.unscaled(), {**poses, "left": poses["right"], "right": poses["left"]})
    moved = {name: pose.copy() for name, pose in poses.items()}
    moved["right"][2, 3] += 1.0
    with pytest.raises(InputError, match=r"where their poses say .* for right"):
        scaled_by_poses(room.unscaled(), moved)
    with pytest.raises(InputError, match="at least 2"):
        scaled_by_poses(room.unscaled(), {"left": poses["left"]})
    together = {name: poses[name].copy() for name in CAMERAS}
    for pose in together.values():
        pose[:3, 3] = 0
    with pytest.raises(InputError, match="no distance between them"):
        scaled_by_poses(room.unscaled(), together)


def test_depth_that_gives_no_scale_is_refused(room: Room) -> None:
    blind = {"left": np.full((120, 160), np.nan)}
    with pytest.raises(InputError, match="100 pixels with metric depth, found 0"):
        scaled_by_depth(room.unscaled(), blind)
    with pytest.raises(InputError, match=r"expected metric depth \(120, 160\)"):
        scaled_by_depth(room.unscaled(), {"left": np.ones((60, 80))})
    nonsense = {"left": np.random.default_rng(0).uniform(0.5, 5, (120, 160))}
    with pytest.raises(InputError, match="that agree within 20%"):
        scaled_by_depth(room.unscaled(), nonsense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "a", "b")}, "names of their own"),
        ({"confidence": np.ones((3, 2, 2), np.float32)}, "expected confidence"),
        ({"poses": np.zeros((3, 4, 4))}, "expected a rotation"),
        ({"poses": np.full((3, 4, 4), np.nan)}, "finite"),
        ({"intrinsics": np.zeros((3, 3, 3))}, "focal lengths above 0"),
    ],
)
def test_malformed_bootstraps_are_refused(room: Room, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(room.unscaled(), **change)


def test_files_that_are_no_bootstrap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "views.npz"
    with pytest.raises(InputError, match="expected a bootstrap"):
        NpzSource(path).bootstrap({})
    path.write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="expected a bootstrap"):
        NpzSource(path).bootstrap({})
    np.savez(path, depth=np.ones((2, 4, 4)))
    with pytest.raises(InputError, match="'poses' or 'extrinsic'"):
        NpzSource(path).bootstrap({})
    flat = np.array([[0.0, 0, 0, 0, 0, 0, 1, 0, 1]])
    with pytest.raises(InputError, match="fields of view above 0"):
        bootstrap_from_arrays({"depth": np.ones((1, 4, 4)), "poses": np.eye(4)[None], "pose_enc": flat})


def test_unknown_depth_is_nan_and_confidence_is_relative_to_its_median() -> None:
    depth = np.array([[[1.0, 0.0], [np.inf, -1.0]]])
    found = bootstrap_from_arrays(
        {"depth": depth, "poses": np.eye(4)[None], "intrinsics": np.eye(3)[None], "depth_conf": np.full((1, 2, 2), 7.0)}
    )
    np.testing.assert_array_equal(np.isfinite(found.depth), [[[True, False], [False, False]]])
    np.testing.assert_array_equal(found.confidence, 1)
    assert relative_confidence(np.array([[[1, 1, np.nan, 50]]], np.float32)).tolist() == [[[1, 1, 0, 2]]]
