# SPDX-License-Identifier: Apache-2.0
"""Disparity from depth networks and from files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from aot_runtime.camera import PixelMap
from aot_runtime.errors import AotError, InputError
from depth_ros.pipeline import DepthResult
from vggt_ros.depth_sources import ArtifactDisparity, DepthRequest, FolderDisparity, PoolDisparity, disparities_of

_IMAGE = np.zeros((2, 3, 3), np.uint8)


class _Pipeline:
    """Stands in for a loaded network that gives these numbers."""

    def __init__(self, kind: str, depth: np.ndarray) -> None:
        self.batches: list[int] = []
        self._result = DepthResult(depth, kind, np.isfinite(depth), PixelMap())

    def process(self, image: np.ndarray) -> DepthResult:
        if image.shape != _IMAGE.shape:
            raise InputError("expected an RGB image")
        return self._result

    def process_batch(self, images: list[np.ndarray]) -> list[DepthResult]:
        self.batches.append(len(images))
        return [self.process(image) for image in images]

    def infer_batch(self, images: Iterable[np.ndarray]) -> list[DepthResult | AotError]:
        return [self._result, InputError("expected an RGB image")][: len(list(images))]


@pytest.mark.parametrize("kind", ["relative", "disparity", "metric"])
def test_disparity_is_what_the_kind_of_the_network_means(kind: str) -> None:
    depth = np.array([[0.5, 1.0, np.nan], [2.0, 4.0, 8.0]], np.float32)
    found = ArtifactDisparity(_Pipeline(kind, depth)).disparity("left", "00", _IMAGE)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, 1 / depth if kind == "metric" else depth)
    assert found.dtype == np.float32


def test_all_cameras_are_one_call_and_a_malformed_one_is_an_error_in_its_place() -> None:
    depth = np.array([[0.5, 1.0, np.nan], [2.0, 4.0, 8.0]], np.float32)
    pipeline = _Pipeline("metric", depth)
    source = ArtifactDisparity(pipeline)  # type: ignore[arg-type]
    requests = [DepthRequest(name, "00", _IMAGE) for name in "abc"]
    for answer in disparities_of(source, requests):
        assert isinstance(answer.disparity, np.ndarray)
        np.testing.assert_array_equal(answer.disparity, 1 / depth)
        assert answer.milliseconds > 0
    assert pipeline.batches == [3]
    found = source.disparities([requests[0], DepthRequest("b", "00", _IMAGE[0]), requests[2]])
    assert [isinstance(one, InputError) for one in found] == [False, True, False]
    pool = PoolDisparity(pipeline)  # type: ignore[arg-type]
    first, second = pool.disparities(requests[:2])
    np.testing.assert_array_equal(first, 1 / depth)
    assert isinstance(second, InputError)


def test_files_are_found_by_camera_and_image_and_must_fit_it(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    source = FolderDisparity(tmp_path)
    with pytest.raises(InputError, match=r"expected a disparity image, found .*00\.npy"):
        source.disparity("left", "00", _IMAGE)
    np.save(tmp_path / "left" / "00.npy", np.ones((2, 3), np.float16))
    assert source.disparity("left", "00", _IMAGE).dtype == np.float32
    for wrong in (np.ones((3, 2), np.float32), np.ones((2, 3), np.int32)):
        np.save(tmp_path / "left" / "00.npy", wrong)
        with pytest.raises(InputError, match="expected floating-point disparity"):
            source.disparity("left", "00", _IMAGE)
    (tmp_path / "left" / "00.npy").write_bytes(b"")
    with pytest.raises(InputError, match="expected a disparity image"):
        source.disparity("left", "00", _IMAGE)
