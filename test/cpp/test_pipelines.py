# SPDX-License-Identifier: Apache-2.0
"""The C++ pipelines of images and Python's on the same artifact and the same pictures, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cpp_programs import find_program, run_json
from small_artifacts import small_aliked, small_depth, with_manifest

from aliked_ros.pipeline import AlikedPipeline
from aliked_ros.tracking import Tracker
from aot_runtime.errors import AotError
from depth_ros.pipeline import ImageDepthPipeline

TOLERANCE = 1e-5
Images = Callable[[str], np.ndarray]
TRACK = np.dtype(
    [("keypoint", "<f4", 2), ("previous", "<f4", 2), ("similarity", "<f4"), ("index", "<u4"), ("id", "<u4")]
    + [("length", "<u4")]
)


@pytest.fixture(scope="module")
def picture(shared: Path) -> Images:
    """Reader of data/images by the start of a name, as uint8 RGB."""

    def read(name: str) -> np.ndarray:
        (path,) = (shared / "data" / "images").glob(f"{name}*")
        return np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])

    return read


@pytest.fixture
def run_pipeline(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run_pipeline(pipeline, artifact, images, **options): what the C++ program says; arrays are in tmp_path."""
    program = find_program("test/pipelines/run_pipeline")

    def run(pipeline: str, artifact: Path, images: Sequence[np.ndarray], **options: Any) -> dict[str, Any]:
        told = []
        for index, image in enumerate(images):
            file = tmp_path / f"{index}.pixels"
            file.write_bytes(np.ascontiguousarray(image).tobytes())
            channels = 1 if image.ndim == 2 else image.shape[2]
            told.append({"file": str(file), "height": image.shape[0], "width": image.shape[1], "channels": channels})
        request = {"pipeline": pipeline, "artifact": str(artifact), "folder": str(tmp_path), "options": options}
        return run_json(program, request={**request, "images": told})

    return run


def array(folder: Path, index: int, name: str, dtype: Any = np.float32) -> np.ndarray:
    return np.frombuffer((folder / f"{index}_{name}.bin").read_bytes(), dtype)


@pytest.fixture
def depth_with(artifact_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """depth_with(**preprocessing): the small relative network with other preprocessing in its manifest."""

    def make(**preprocessing: Any) -> Path:
        return with_manifest(
            small_depth(artifact_cache),
            tmp_path / "depth.pt2",
            lambda document: document["preprocessing"].update(preprocessing),
        )

    return make


# -- depth -------------------------------------------------------------------------------------------------------------


def compare_depth(
    run_pipeline: Callable[..., dict[str, Any]],
    folder: Path,
    artifact: Path,
    images: Sequence[np.ndarray],
    matrix: np.ndarray | None = None,
    **options: Any,
) -> list[Any]:
    """Runs both; returns Python's results."""
    camera = {} if matrix is None else {"camera": matrix.ravel().tolist()}
    told = run_pipeline("depth", artifact, images, **options, **camera)
    assert not told["error"]
    pipeline = ImageDepthPipeline(artifact, **options)
    results = []
    for index, (image, found) in enumerate(zip(images, told["results"], strict=True)):
        prepared, _ = pipeline.prepare(image)
        np.testing.assert_allclose(
            array(folder, index, "input").reshape(prepared.shape), prepared, rtol=0, atol=TOLERANCE
        )
        expected = pipeline.process(image, matrix)
        depth = array(folder, index, "depth").reshape(found["shape"])
        valid = array(folder, index, "valid", np.uint8).reshape(found["shape"]) != 0
        np.testing.assert_array_equal(valid, expected.valid)
        bound = TOLERANCE * max(1.0, float(np.abs(expected.depth[expected.valid]).max(initial=0.0)))
        np.testing.assert_allclose(depth, expected.depth, rtol=0, atol=bound)
        assert np.isnan(depth[~valid]).all()
        assert found["kind"] == expected.kind
        assert tuple(found["warnings"]) == expected.warnings
        grid = expected.grid
        assert found["grid"] == [grid.scale_x, grid.scale_y, grid.shift_x, grid.shift_y]
        if matrix is not None:
            np.testing.assert_allclose(
                np.reshape(found["camera_matrix"], (3, 3)), expected.camera_matrix, rtol=1e-15, atol=1e-12
            )
        results.append(expected)
    return results


@pytest.mark.parametrize("resolution", ["image", "grid"])
@pytest.mark.parametrize("resize", ["stretch", "keep_aspect"])
def test_relative_depth(
    run_pipeline: Callable[..., dict[str, Any]],
    depth_with: Callable[..., Path],
    tmp_path: Path,
    picture: Images,
    resize: str,
    resolution: str,
) -> None:
    matrix = np.array([[721.5, 0, 609.6], [0, 719.2, 172.9], [0, 0, 1.0]])
    images = [picture("kitti_000100"), picture("tum_1311868169")[:241, :101], picture("kitti_000110")]
    results = compare_depth(
        run_pipeline,
        tmp_path,
        depth_with(resize=resize),
        images,
        matrix,
        output_resolution=resolution,
    )
    if resolution == "image":
        assert [result.depth.shape for result in results] == [image.shape[:2] for image in images]
    assert all(result.valid.all() and np.ptp(result.depth) > 0 for result in results)


def test_metric_depth_within_a_range(
    run_pipeline: Callable[..., dict[str, Any]], artifact_cache: Path, tmp_path: Path, picture: Images
) -> None:
    artifact = small_depth(artifact_cache, 20.0)
    image = picture("piazza_san_marco_1")
    depth = ImageDepthPipeline(artifact).process(image).depth
    (result,) = compare_depth(
        run_pipeline, tmp_path, artifact, [image], output_resolution="grid", max_range=float(np.median(depth))
    )
    assert 0.2 < result.valid.mean() < 0.8


def test_disparity_becomes_metres(
    run_pipeline: Callable[..., dict[str, Any]], depth_with: Callable[..., Path], tmp_path: Path, picture: Images
) -> None:
    artifact = depth_with(kind="disparity", focal_baseline=386.0)
    image = picture("tum_1311868170")
    for options, kind in (({}, "metric"), ({"focal_baseline": 100.0, "max_range": 500.0}, "metric")):
        (result,) = compare_depth(run_pipeline, tmp_path, artifact, [image], **options)
        assert result.kind == kind


def test_another_family_is_refused_in_the_same_words(
    run_pipeline: Callable[..., dict[str, Any]], artifact_cache: Path, shared: Path, picture: Images
) -> None:
    depth, aliked = small_depth(artifact_cache), small_aliked(artifact_cache, shared)
    image = picture("kitti_000100")
    for pipeline, artifact, opens in (("depth", aliked, ImageDepthPipeline), ("aliked", depth, AlikedPipeline)):
        with pytest.raises(AotError) as caught:
            opens(artifact)
        assert run_pipeline(pipeline, artifact, [image])["error"] == str(caught.value)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"colour_order": "BGR"},
        {"interpolation": None},
        {"resize": 3},
        {"kind": "height"},
        {"input": "f3_features"},
        {"size": [42, 42]},
        {"size": [10**9, 10**9]},
        {"size": [42]},
        {"mean": ["a", 0, 0]},
        {"std": [1, 1, 0]},
        {"scale": None},
    ],
)
def test_preprocessing_that_is_not_known(
    run_pipeline: Callable[..., dict[str, Any]],
    depth_with: Callable[..., Path],
    picture: Images,
    preprocessing: dict[str, Any],
) -> None:
    artifact = depth_with(**preprocessing)
    with pytest.raises(AotError) as caught:
        ImageDepthPipeline(artifact)
    told = run_pipeline("depth", artifact, [picture("kitti_000100")])["error"]
    # Python adds what its own conversion said, in brackets.
    assert told.split(", found")[0] == caught.value.reason.split(", found")[0]
    assert told.endswith(caught.value.remedy)


# -- ALIKED ------------------------------------------------------------------------------------------------------------


def compare_aliked(
    run_pipeline: Callable[..., dict[str, Any]],
    folder: Path,
    artifact: Path,
    images: Sequence[np.ndarray],
    tracking: dict[str, Any] | None = None,
    **options: Any,
) -> list[Any]:
    """Runs both; returns (keypoints, tracks) of Python."""
    told = run_pipeline("aliked", artifact, images, **options, **(tracking or {}))
    assert not told["error"]
    pipeline, tracker = AlikedPipeline(artifact, **options), Tracker(**(tracking or {}))
    results = []
    for index, (image, found) in enumerate(zip(images, told["results"], strict=True)):
        canvas, _ = pipeline.place(image)
        np.testing.assert_array_equal(array(folder, index, "canvas", np.uint8).reshape(canvas.shape), canvas)
        expected = pipeline.process(image)
        assert found["count"] == len(expected)
        assert tuple(found["warnings"]) == expected.warnings
        for name in ("keypoints", "scores", "peak_scores", "descriptors"):
            wanted = getattr(expected, name)
            bound = TOLERANCE * (max(image.shape[:2]) if name == "keypoints" else 1)
            np.testing.assert_allclose(array(folder, index, name).reshape(wanted.shape), wanted, rtol=0, atol=bound)
        tracks = tracker.update(expected, image.shape[:2])
        rows = array(folder, index, "tracks", TRACK)
        np.testing.assert_array_equal(rows["index"], tracks.index)
        np.testing.assert_array_equal(rows["id"], tracks.ids)
        np.testing.assert_array_equal(rows["length"], tracks.lengths)
        np.testing.assert_allclose(rows["similarity"], tracks.similarity, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(rows["previous"], tracks.previous, rtol=0, atol=TOLERANCE * max(image.shape[:2]))
        results.append((expected, tracks))
    return results


def test_keypoints_at_the_artifacts_size_and_their_tracks(
    run_pipeline: Callable[..., dict[str, Any]], artifact_cache: Path, shared: Path, tmp_path: Path, picture: Images
) -> None:
    image = picture("tum_1311868169")
    images = [np.ascontiguousarray(image[y : y + 120, x : x + 160]) for x, y in ((200, 150), (204, 152), (207, 155))]
    artifact = small_aliked(artifact_cache, shared)
    results = compare_aliked(run_pipeline, tmp_path, artifact, images, {"ratio": 0.95, "max_step": 30.0})
    assert len(results[0][0]) == 150
    assert len(results[2][1]) > 50  # tracks
    assert results[2][1].lengths.max() == 3


def test_keypoints_of_larger_and_smaller_images(
    run_pipeline: Callable[..., dict[str, Any]], artifact_cache: Path, shared: Path, tmp_path: Path, picture: Images
) -> None:
    kitti, tum = picture("kitti_000100"), picture("tum_1311868169")
    images = [kitti, tum, tum[100:160, 100:180], cv2.cvtColor(tum, cv2.COLOR_RGB2GRAY)]
    results = compare_aliked(run_pipeline, tmp_path, small_aliked(artifact_cache, shared), images, threshold=0.1)
    assert all(len(result) > 10 for result, _ in results)


def test_limits_of_keypoints(
    run_pipeline: Callable[..., dict[str, Any]], artifact_cache: Path, shared: Path, tmp_path: Path, picture: Images
) -> None:
    artifact, image = small_aliked(artifact_cache, shared), picture("tum_1311868169")
    ((result, _),) = compare_aliked(run_pipeline, tmp_path, artifact, [image], threshold=0.2, max_keypoints=20)
    assert len(result) == 20
    dark = np.zeros((120, 160, 3), np.uint8)
    ((result, _),) = compare_aliked(run_pipeline, tmp_path, artifact, [dark], threshold=0.5)
    assert len(result) == 0
    assert result.warnings


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"resize": False}, (100, 100, 3)),
        ({"max_keypoints": 151}, (120, 160, 3)),
        ({"max_keypoints": -1}, (120, 160, 3)),
    ],
)
def test_refusals_in_the_same_words(
    run_pipeline: Callable[..., dict[str, Any]],
    artifact_cache: Path,
    shared: Path,
    options: dict[str, Any],
    shape: tuple[int, ...],
) -> None:
    artifact, image = small_aliked(artifact_cache, shared), np.zeros(shape, np.uint8)
    with pytest.raises(AotError) as caught:
        AlikedPipeline(artifact, **options).process(image)
    assert run_pipeline("aliked", artifact, [image], **options)["error"] == str(caught.value)
