# SPDX-License-Identifier: Apache-2.0
"""The pipeline on real images: geometry that is known exactly, image pairs, sizes, and input that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from aliked_ros.deploy import DeployedALIKED
from aliked_ros.geometry import find_homography, find_pose
from aliked_ros.matching import match
from aliked_ros.pipeline import AlikedPipeline, Placement
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.manifest import TensorSpec

TUM = "tum_1311868169.163498.png"
Images = Callable[[str], np.ndarray]


class EagerModel:
    """Stands in for a loaded artifact, so that these tests need no compiler: same manifest, network run by PyTorch."""

    def __init__(self, network: Any, height: int = 480, width: int = 640, top_k: int = 1000) -> None:
        from aliked_ros.export_aliked import preprocessing

        told = {**preprocessing(height, width, top_k, 3), "descriptor_dim": network.config.dim}
        self.module = DeployedALIKED(network, height=height, width=width, top_k=top_k)
        image = TensorSpec("image", "uint8", (1, height, width, 3))
        self.manifest = SimpleNamespace(family="aliked", preprocessing=told, inputs=(image,))
        self.path = Path("eager.pt2")
        self.device = torch.device("cpu")

    def run(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        assert image.shape == (1, self.module.height, self.module.width, 3)
        assert image.is_contiguous()
        return self.module(image)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture(scope="module")
def pipelines(aliked_model: Callable[[str], Any]) -> Callable[..., AlikedPipeline]:
    made: dict[Any, AlikedPipeline] = {}

    def get(variant: str, **options: int) -> AlikedPipeline:
        key = (variant, tuple(sorted(options.items())))
        if key not in made:
            made[key] = AlikedPipeline(EagerModel(aliked_model(variant), **options))  # type: ignore[arg-type]
        return made[key]

    return get


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = np.c_[points.astype(np.float64), np.ones(len(points))] @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def repeat(pipeline: AlikedPipeline, image: np.ndarray, matrix: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of matches between an image and itself warped by a homography, and their errors in pixels."""
    warped = cv2.warpPerspective(image, matrix, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR)
    first, second = pipeline.process(image), pipeline.process(warped)
    pairs = match(first.descriptors, second.descriptors)
    wanted = project(matrix, first.keypoints[pairs.first])
    return len(pairs), np.linalg.norm(wanted - second.keypoints[pairs.second], axis=1)


@pytest.mark.parametrize("variant", ["t16", "n16", "n16rot", "n32"])
def test_matches_obey_a_known_homography(
    variant: str, pipelines: Callable[..., AlikedPipeline], read_image: Images
) -> None:
    matrix = np.array([[0.95, 0.08, 12.0], [-0.06, 1.02, 20.0], [8e-5, -6e-5, 1.0]])
    count, error = repeat(pipelines(variant), read_image(TUM), matrix)
    assert count >= 500
    assert (error < 1).mean() >= 0.75
    assert (error < 3).mean() >= 0.93
    assert np.median(error) < 0.6


@pytest.mark.parametrize("degrees", [20, 35])
def test_the_rotation_network_matches_rotated_images(
    degrees: int, pipelines: Callable[..., AlikedPipeline], read_image: Images
) -> None:
    turn = np.vstack([cv2.getRotationMatrix2D((320, 240), degrees, 0.7), [0, 0, 1]])
    count, error = repeat(pipelines("n16rot"), read_image(TUM), turn)
    plain_count, plain_error = repeat(pipelines("n16"), read_image(TUM), turn)
    good, plain_good = int((error < 3).sum()), int((plain_error < 3).sum())
    print(degrees, "n16rot", count, good, "n16", plain_count, plain_good)
    assert good >= 100
    assert good >= 0.6 * count
    assert good > plain_good


def test_a_pair_of_a_wide_baseline(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    first, second = (
        pipelines("n16rot", height=768, width=1024).process(read_image(f"piazza_san_marco_{i}.jpg")) for i in (1, 4)
    )
    pairs = match(first.descriptors, second.descriptors)
    found = find_homography(first.keypoints[pairs.first], second.keypoints[pairs.second], 4.0)
    print("piazza", len(pairs), int(found.inliers.sum()))
    assert len(pairs) >= 100
    assert found.inliers.sum() >= 40


def test_two_frames_of_a_car_give_its_motion(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    pipeline = pipelines("n16rot", height=376, width=1241)
    first, second = (pipeline.process(read_image(f"kitti_{i}.png")) for i in ("000100", "000110"))
    pairs = match(first.descriptors, second.descriptors)
    camera = np.array([[718.856, 0, 607.193], [0, 718.856, 185.216], [0, 0, 1]])
    pose = find_pose(first.keypoints[pairs.first], second.keypoints[pairs.second], camera)
    print("kitti", len(pairs), int(pose.inliers.sum()), pose.translation)
    assert len(pairs) >= 200
    assert pose.inliers.mean() >= 0.6
    assert pose.translation is not None
    # It drove forwards: points come nearer.
    assert pose.translation[2] < -0.95


def test_the_same_answer_every_time(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    pipeline, image = pipelines("t16"), read_image(TUM)
    first, second = pipeline.process(image), pipeline.process(image)
    np.testing.assert_array_equal(first.keypoints, second.keypoints)
    np.testing.assert_array_equal(first.descriptors, second.descriptors)
    assert first.warnings == ()
    assert first.keypoints.dtype == first.descriptors.dtype == np.float32
    assert len(first) == 1000


def test_the_threshold_filters_by_peak(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    pipeline, image = pipelines("t16"), read_image(TUM)
    every = pipeline.process(image)
    some = pipeline.process(image, threshold=0.9)
    assert 0 < len(some) < len(every)
    assert (some.peak_scores > 0.9).all()
    np.testing.assert_array_equal(some.keypoints, every.keypoints[every.peak_scores > 0.9])
    assert any("larger --top_k" in text for text in pipeline.process(image, threshold=0.01).warnings)


def test_grey_images(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    pipeline = pipelines("t16")
    grey = np.ascontiguousarray(read_image(TUM)[..., 1])
    wanted = pipeline.process(np.repeat(grey[..., None], 3, axis=2))
    for image in (grey, grey[..., None]):
        np.testing.assert_array_equal(pipeline.process(image).keypoints, wanted.keypoints)


def test_views_of_any_strides(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    pipeline, image = pipelines("t16"), read_image(TUM)
    bgr = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_array_equal(pipeline.process(bgr[..., ::-1]).keypoints, pipeline.process(image).keypoints)


@pytest.mark.parametrize("size", [(960, 1280), (240, 320), (480, 500), (300, 640)])
def test_other_sizes_are_mapped_back(
    size: tuple[int, int], pipelines: Callable[..., AlikedPipeline], read_image: Images
) -> None:
    """The image scaled by OpenCV has the same keypoints where that scaling puts them, half pixels included."""
    pipeline = pipelines("n16rot")
    image = read_image(TUM)[: size[0], : size[1]] if size[0] < size[1] * 0.7 or size == (480, 500) else read_image(TUM)
    other = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    reference = pipeline.process(image)
    found = pipeline.process(other)
    pairs = match(reference.descriptors, found.descriptors)
    factor = np.array([other.shape[1] / image.shape[1], other.shape[0] / image.shape[0]])
    wanted = (reference.keypoints[pairs.first] + 0.5) * factor - 0.5
    error = found.keypoints[pairs.second] - wanted
    assert len(pairs) >= 500
    # A systematic shift would show here: half a pixel of the larger image if corners had been aligned.
    assert np.abs(np.median(error, axis=0)).max() < 0.05 * max(1, factor[0])
    assert (found.keypoints >= -0.5).all()
    assert (found.keypoints <= np.array([size[1], size[0]]) - 0.5).all()


def test_placement() -> None:
    placement = Placement.fit((690, 1059), (480, 640))
    assert placement.inner == (417, 640)
    corners = np.array([[-0.5, -0.5], [639.5, 416.5]], np.float32)
    np.testing.assert_allclose(placement.to_image(corners), [[-0.5, -0.5], [1058.5, 689.5]])
    assert placement.contains(np.array([[639.5, 416.5], [10, 417], [639.9, 3]])).tolist() == [True, False, False]
    assert Placement.fit((1, 10_000), (480, 640)).inner == (1, 640)
    same = np.array([[3.25, 4.5]], np.float32)
    assert Placement.fit((480, 640), (480, 640)).to_image(same) is same


@pytest.mark.parametrize("value", [0, 77, 255])
def test_blank_images_have_no_keypoints_above_the_threshold(
    value: int, pipelines: Callable[..., AlikedPipeline]
) -> None:
    result = pipelines("n16rot").process(np.full((480, 640, 3), value, np.uint8), threshold=0.2)
    assert len(result) == 0
    assert result.keypoints.shape == (0, 2)
    assert result.descriptors.shape == (0, 128)
    assert "no keypoint above 0.2" in result.warnings[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((480, 640, 3), np.float32), "a uint8 array, found dtype float32"),
        (np.zeros((480, 640, 3), np.uint16), "found dtype uint16"),
        ([[1, 2]], "found list"),
        (np.zeros((480, 640, 4), np.uint8), r"found \(480, 640, 4\)"),
        (np.zeros((3,), np.uint8), r"found \(3,\)"),
        (np.zeros((1, 480, 640, 3), np.uint8), r"found \(1, 480, 640, 3\)"),
        (np.zeros((0, 640, 3), np.uint8), r"with pixels, found \(0, 640, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str, pipelines: Callable[..., AlikedPipeline]) -> None:
    with pytest.raises(InputError, match=message):
        pipelines("t16").process(image)


def test_wrong_thresholds_and_artifacts(aliked_model: Callable[[str], Any]) -> None:
    model = EagerModel(aliked_model("t16"))
    for threshold in (1.0, float("nan")):
        with pytest.raises(InputError, match="threshold below 1"):
            AlikedPipeline(model, threshold=threshold)  # type: ignore[arg-type]
    del model.manifest.preprocessing["top_k"]
    with pytest.raises(ArtifactError, match="export it again with export_aliked"):
        AlikedPipeline(model)  # type: ignore[arg-type]
    model.manifest.family = "f3"
    with pytest.raises(ArtifactError, match="family aliked, found f3"):
        AlikedPipeline(model)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_artifact_in_the_pipeline(
    aliked_artifact: Callable[..., Path], pipelines: Callable[..., AlikedPipeline], read_image: Images
) -> None:
    path = aliked_artifact("n16rot", height=480, width=640, top_k=1000, score_map=True)
    pipeline = AlikedPipeline(path)
    try:
        found, wanted = pipeline.process(read_image(TUM)), pipelines("n16rot").process(read_image(TUM))
        assert len(found) == 1000
        pairs = match(wanted.descriptors, found.descriptors, min_similarity=0.999)
        assert len(pairs) >= 995
        error = np.abs(wanted.keypoints[pairs.first] - found.keypoints[pairs.second])
        assert error.max() <= 1e-3
        again = pipeline.process(read_image(TUM))
        np.testing.assert_array_equal(found.keypoints, again.keypoints)
    finally:
        pipeline.close()


def test_only_the_strongest_keypoints(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    full, image = pipelines("t16"), read_image(TUM)
    every = full.process(image)
    few = AlikedPipeline(full.model, max_keypoints=100).process(image, threshold=0.01)
    np.testing.assert_array_equal(few.keypoints, every.keypoints[:100])
    np.testing.assert_array_equal(few.descriptors, every.descriptors[:100])
    assert few.peak_scores.min() >= every.peak_scores[100:].max()
    assert few.warnings == (), "what is left out on purpose is nothing to warn of"
    with pytest.raises(InputError, match="expected max_keypoints from 0 to 1000, the artifact's top_k, found 1001"):
        AlikedPipeline(full.model, max_keypoints=1001)
    with pytest.raises(InputError, match="found -1"):
        AlikedPipeline(full.model, max_keypoints=-1)


def test_resizing_can_be_forbidden(pipelines: Callable[..., AlikedPipeline], read_image: Images) -> None:
    strict = AlikedPipeline(pipelines("t16").model, resize=False)
    with pytest.raises(InputError, match="expected images of 640x480 as the artifact takes, found 1241x376"):
        strict.process(read_image("kitti_000100.png"))
    assert len(strict.process(read_image(TUM))) == 1000


def test_keypoints_that_are_not_finite_are_left_out_and_told(
    aliked_model: Callable[[str], Any], read_image: Images
) -> None:
    model = EagerModel(aliked_model("t16"))
    good = AlikedPipeline(model).process(read_image(TUM))  # type: ignore[arg-type]
    run = model.run

    def broken(image: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = {name: value.clone() for name, value in run(image).items()}
        outputs["descriptors"][0, 3, 5] = torch.nan
        outputs["keypoints"][0, 7, 0] = torch.inf
        outputs["peak_scores"][0, 9] = torch.nan
        return outputs

    model.run = broken  # type: ignore[method-assign]
    found = AlikedPipeline(model).process(read_image(TUM))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.keypoints, np.delete(good.keypoints, (3, 7, 9), axis=0))
    assert (found.not_finite, good.not_finite) == (3, 0)
    assert found.warnings == ("not finite: 3 of 1000 keypoints of the network's output",)
