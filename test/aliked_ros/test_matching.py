# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from aliked_ros.geometry import find_homography, find_pose
from aliked_ros.matching import match
from aliked_ros.pictures import keypoints_picture, matches_picture, tracks_picture
from aot_runtime.errors import InputError


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_only_mutual_neighbours_match() -> None:
    first = unit([[1, 0, 0], [1, 0.1, 0], [0, 0, 1]])
    second = unit([[0, 1, 0], [1, 0.09, 0], [0, 0.1, 1]])
    found = match(first, second)
    assert found.first.tolist() == [1, 2]
    assert found.second.tolist() == [1, 2]
    np.testing.assert_allclose(found.similarity, (first[[1, 2]] * second[[1, 2]]).sum(1), atol=1e-6)


def test_similarity_and_ratio() -> None:
    first = unit([[1, 0, 0], [0, 1, 0]])
    second = unit([[1, 0.02, 0], [1, 0.03, 0], [0.8, 1, 0]])
    assert match(first, second, min_similarity=0.9).first.tolist() == [0]
    assert match(first, second, min_similarity=0.9, ratio=0.8).first.tolist() == [0]
    # 0.02 to the nearest, 0.03 to the second nearest
    assert match(first, second, min_similarity=0.9, ratio=0.6).first.tolist() == []


def test_an_image_without_keypoints_has_no_matches() -> None:
    some, none = unit([[1, 0]]), np.zeros((0, 2), np.float32)
    for pair in ((some, none), (none, some), (none, none)):
        assert len(match(*pair)) == 0
    assert len(match(some, some, ratio=0.5)) == 1
    assert len(match(some, np.full((1, 2), np.nan, np.float32))) == 0


def test_descriptors_of_two_networks_do_not_match() -> None:
    with pytest.raises(InputError, match=r"found \(3, 64\) and \(3, 128\)"):
        match(np.zeros((3, 64)), np.zeros((3, 128)))


def test_homography_with_outliers() -> None:
    generator = np.random.default_rng(0)
    matrix = np.array([[1.1, 0.05, -20], [0.02, 0.9, 10], [1e-4, -5e-5, 1]])
    first = generator.uniform(0, 400, (100, 2))
    mapped = np.c_[first, np.ones(100)] @ matrix.T
    second = mapped[:, :2] / mapped[:, 2:]
    second[:30] += generator.uniform(20, 60, (30, 2))
    found = find_homography(first, second)
    assert found.inliers.tolist() == [False] * 30 + [True] * 70
    assert found.matrix is not None
    np.testing.assert_allclose(found.matrix, matrix, rtol=1e-3, atol=1e-4)
    assert find_homography(first[:3], second[:3]).matrix is None
    with pytest.raises(InputError, match="twice"):
        find_homography(first, second[:5])


def test_relative_pose() -> None:
    generator = np.random.default_rng(1)
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    points = generator.uniform([-2, -2, 4], [2, 2, 9], (80, 3))
    angle = 0.1
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([0.8, 0.0, 0.6])

    def project(p: np.ndarray) -> np.ndarray:
        image = p @ camera.T
        return image[:, :2] / image[:, 2:]

    second = project(points @ rotation.T + translation)
    second[:10] += 50
    found = find_pose(project(points), second, camera)
    assert found.inliers[10:].all()
    assert found.rotation is not None
    assert found.translation is not None
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-4)
    np.testing.assert_allclose(found.translation, translation, atol=1e-3)
    assert find_pose(second[:4], second[:4], camera).rotation is None
    with pytest.raises(InputError, match="intrinsics"):
        find_pose(second, second, np.eye(4))


def test_pictures() -> None:
    image = np.full((20, 30), 50, np.uint8)
    points = np.array([[10.2, 5.4], [29.6, 19.0], [-3.0, 100.0]])
    picture = keypoints_picture(image, points)
    assert picture.shape == (20, 30, 3)
    assert picture[5, 10].tolist() == [0, 255, 0]
    assert picture[5, 12].tolist() == [50, 50, 50]
    assert keypoints_picture(image, points, np.array([0.0, 1, np.nan]))[5, 10].tolist() == [0, 0, 255]
    assert (image == 50).all()
    other = np.zeros((25, 10, 3), np.uint8)
    both = matches_picture(image, other, points[:1], np.array([[5.0, 5]]), np.array([True]))
    assert both.shape == (25, 40, 3)
    assert (both[5, 10:36] == [0, 255, 0]).all()
    assert both[22, 3].tolist() == [0, 0, 0]
    assert matches_picture(image, other, points[:0], points[:0]).shape == (25, 40, 3)
    track = tracks_picture(image, np.array([[2.0, 2]]), np.array([[2.0, 8]]))
    assert track[4, 2].tolist() == [0, 255, 0]
    assert track[8, 2].tolist() == [0, 0, 255]
    with pytest.raises(InputError, match="uint8 image"):
        keypoints_picture(image.astype(np.float32), points)
    with pytest.raises(InputError, match="twice"):
        matches_picture(image, image, points, points[:1])
