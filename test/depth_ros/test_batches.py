# SPDX-License-Identifier: Apache-2.0
"""Several images in one call and in several threads: the same depth as one by one, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aot_runtime.errors import ArtifactError, ExportError, InputError
from aot_runtime.verdict import read_manifest
from depth_ros import export_dav2
from depth_ros.pipeline import DepthResult, ImageDepthPipeline
from depth_ros.pool import DepthAnythingPool

_RANDOM = np.random.default_rng(7)
IMAGES = [_RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 80), (60, 80), (48, 90), (120, 64))]


@pytest.fixture(scope="module")
def alone(depth_artifact: Callable[..., Path]) -> Iterator[ImageDepthPipeline]:
    """One image a call."""
    pipeline = ImageDepthPipeline(depth_artifact("dav2_swiglu_rgb"))
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize(("batch", "suffix"), [((1, 3), ".pt2"), (3, ".pt2"), ((1, 3), ".onnx")])
def test_a_batch_gives_the_depth_of_its_images(
    depth_artifact: Callable[..., Path], alone: ImageDepthPipeline, batch: int | tuple[int, int], suffix: str
) -> None:
    """Of other sizes too, one and four of them; a call takes three."""
    path = depth_artifact("dav2_swiglu_rgb", batch=batch, suffix=suffix)
    manifest = read_manifest(path)
    low, high = (batch, batch) if isinstance(batch, int) else batch
    assert manifest.preprocessing["batch"] == [low, high]
    assert manifest.inputs[0].shape == (batch if isinstance(batch, int) else "batch", 3, 42, 56)
    pipeline = ImageDepthPipeline(path)
    assert pipeline.batch == (low, high)
    matrices = [np.diag([100.0, 100, 1]), None, None, None]
    for count in (4, 1, 2, 0):
        results = pipeline.process_batch(IMAGES[:count], matrices[:count])
        assert len(results) == count
        for image, result, matrix in zip(IMAGES, results, matrices):
            expected = alone.process(image, matrix)
            assert result.depth.shape == image.shape[:2]
            np.testing.assert_allclose(result.depth, expected.depth, atol=5e-5)
            assert (result.kind, result.grid) == (expected.kind, expected.grid)
            assert (result.camera_matrix is None) == (matrix is None)
    np.testing.assert_allclose(pipeline.process(IMAGES[2]).depth, alone.process(IMAGES[2]).depth, atol=5e-5)
    with pytest.raises(InputError, match="expected an RGB image"):
        pipeline.process_batch([IMAGES[0], IMAGES[1][..., 0]])
    with pytest.raises(InputError, match="a camera matrix for each of 2 images"):
        pipeline.process_batch(IMAGES[:2], [None])
    pipeline.close()


def test_a_network_for_one_image_does_several_one_after_the_other(alone: ImageDepthPipeline) -> None:
    assert alone.batch == (1, 1)
    for image, result in zip(IMAGES, alone.process_batch(IMAGES)):
        np.testing.assert_array_equal(result.depth, alone.process(image).depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "3", "--batch", "0"], "batch from 1 to 64, found 0..0"),
        (["-i", "3", "--batch", "4..2"], "found 4..2"),
        (["-i", "3", "--batch", "many"], "found 'many'"),
        (["-i", "32", "--batch", "2"], "expected --batch 1 for F3 features"),
    ],
)
def test_batches_that_cannot_be(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_dav2.main(["-e", "vits", "--random-weights", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_the_batch_of_the_command_line() -> None:
    assert export_dav2.parse_batch("4") == 4
    assert export_dav2.parse_batch("1..8") == (1, 8)


def test_a_pool_gives_the_same_depth_from_any_thread(
    depth_artifact: Callable[..., Path], alone: ImageDepthPipeline
) -> None:
    expected = [alone.process(image).depth for image in IMAGES]
    with DepthAnythingPool(depth_artifact("dav2_swiglu_rgb"), workers=2) as pool:
        assert pool.kind == "relative"
        for one, depth in zip(pool.infer_batch(IMAGES * 5), expected * 5):
            assert isinstance(one, DepthResult)
            np.testing.assert_array_equal(one.depth, depth)
        future = pool.submit(IMAGES[0], np.diag([100.0, 100, 1]))
        assert future.result().camera_matrix is not None
        # A malformed image is an error in its place.
        first, wrong, last = pool.infer_batch([IMAGES[0], IMAGES[1].astype(np.float32), IMAGES[2]])
        assert isinstance(wrong, InputError)
        assert isinstance(first, DepthResult)
        assert isinstance(last, DepthResult)
        np.testing.assert_array_equal(last.depth, expected[2])
        with pytest.raises(InputError, match="expected an RGB image"):
            pool.submit(IMAGES[0][0]).result()
        assert pool.infer_batch([]) == []
    pool.close()
    with pytest.raises(InputError, match="found a closed one"):
        pool.submit(IMAGES[0])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("depth_")]


def test_a_pool_that_cannot_start_says_so(tmp_path: Path, depth_artifact: Callable[..., Path]) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"no artifact")
    for path in (tmp_path / "broken.pt2", tmp_path / "none.pt2"):
        with pytest.raises((ArtifactError, InputError, ExportError)):
            DepthAnythingPool(path)
    with pytest.raises(InputError, match="at least one worker"):
        DepthAnythingPool(tmp_path / "none.pt2", workers=0)
    with pytest.raises(InputError, match="output_resolution"):
        DepthAnythingPool(depth_artifact("dav2_swiglu_rgb"), output_resolution="half")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("depth_")]
