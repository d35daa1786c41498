# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import InputError
from vggt_ros.pose_encoding import centred, decode, encode, invert, to_matrix, to_quaternion, unproject


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    return dict(np.load(shared / "golden" / "vggt" / "geometry.npz"))


def test_decoding_as_the_official(golden: Any) -> None:
    for encoding, size, extrinsic, intrinsic in (
        ("pose_enc", "image_hw", "extrinsic_back", "intrinsic_back"),
        ("raw_pose_enc", "raw_image_hw", "raw_extrinsic", "raw_intrinsic"),
    ):
        height, width = (int(value) for value in golden[size])
        extrinsics, intrinsics = decode(golden[encoding], height, width)
        np.testing.assert_allclose(extrinsics, golden[extrinsic], rtol=0, atol=1e-6)
        np.testing.assert_allclose(intrinsics, golden[intrinsic], rtol=1e-6, atol=1e-6)


def test_predictions_of_the_network_as_the_official(shared: Path) -> None:
    """Its random poses have fields of view of zero, where the official focal length is infinite and ours is NaN."""
    endless = 0
    for case, height, width in (("3x56x70", 56, 70), ("1x70x70", 70, 70), ("2x84x42", 84, 42), ("conv", 56, 70)):
        case_golden = dict(np.load(shared / "golden" / "vggt" / f"case_{case}.npz"))
        extrinsics, intrinsics = decode(case_golden["pose_enc"], height, width)
        np.testing.assert_allclose(extrinsics, case_golden["extrinsic"], rtol=0, atol=1e-5)
        wanted = case_golden["intrinsic"].copy()
        endless += int(np.isinf(wanted).sum())
        wanted[np.isinf(wanted)] = np.nan
        np.testing.assert_allclose(intrinsics, wanted, rtol=1e-5, atol=1e-6)
    assert endless > 0


def test_encoding_as_the_official(golden: Any) -> None:
    height, width = (int(value) for value in golden["image_hw"])
    found = encode(golden["extrinsic"], golden["intrinsic"], height, width)
    wanted = golden["pose_enc"]
    np.testing.assert_allclose(found[..., [0, 1, 2, 7, 8]], wanted[..., [0, 1, 2, 7, 8]], rtol=0, atol=1e-6)
    assert (found[..., 6] >= 0).all()
    # The sign of a rotation by 180 degrees is arbitrary.
    np.testing.assert_allclose(to_matrix(found[..., 3:7]), to_matrix(wanted[..., 3:7]), rtol=0, atol=1e-6)


def test_quaternions_of_any_length(golden: Any) -> None:
    np.testing.assert_allclose(to_matrix(golden["quat_xyzw"]), golden["quat_matrix"], rtol=0, atol=1e-6)
    found = to_quaternion(golden["extrinsic"][0, :, :, :3])
    wanted = golden["matrix_quat_xyzw"]
    error = np.minimum(np.abs(found - wanted).max(-1), np.abs(found + wanted).max(-1))
    assert error.max() < 1e-6
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(500, 4))
    again = to_quaternion(to_matrix(quaternions))
    unit = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
    unit *= np.where(unit[:, 3:] < 0, -1, 1)
    np.testing.assert_allclose(again, unit, rtol=0, atol=1e-12)


def test_points_and_inverses_as_the_official(golden: Any) -> None:
    depth = golden["unproject_depth"][..., 0]
    found = unproject(depth, golden["unproject_extrinsic"], golden["unproject_intrinsic"])
    np.testing.assert_allclose(found, golden["unproject_world_points"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(invert(golden["unproject_extrinsic"]), golden["inverse_se3"], rtol=0, atol=1e-6)


def test_a_field_of_view_of_zero_has_no_focal_length() -> None:
    encoding = np.array([0, 0, 0, 0, 0, 0, 1, 0.0, 1.0], np.float32)
    _, intrinsics = decode(encoding, 100, 200)
    assert np.isnan(intrinsics[1, 1])
    assert intrinsics[0, 0] == pytest.approx(100 / np.tan(0.5))
    assert intrinsics[0, 2] == 100


def test_half_a_pixel_between_the_conventions() -> None:
    _, intrinsics = decode(np.array([0, 0, 0, 0, 0, 0, 1, 0.7, 1.0]), 100, 200)
    moved = centred(intrinsics)
    assert (moved[0, 2], moved[1, 2]) == (99.5, 49.5)
    assert (intrinsics[0, 2], intrinsics[1, 2]) == (100, 50)
    assert moved[0, 0] == intrinsics[0, 0]


def test_not_nine_numbers() -> None:
    with pytest.raises(InputError, match="9 numbers, found shape"):
        decode(np.zeros((2, 8)), 10, 10)
