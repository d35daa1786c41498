# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as the official code does it, both output resolutions, kinds, pixel maps, and refused artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aot_runtime.errors import ArtifactError, InputError
from depth_ros.pipeline import ImageDepthPipeline, Layout

HEIGHT, WIDTH = 56, 70  # of the stand-in's grid
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NAMES = ("kitti", "tum", "piazza", "redwood", "room")


def network_input(image: np.ndarray, width: int, height: int, dtype: Any = np.float32) -> np.ndarray:
    """What Depth Anything V2's transform makes of an RGB image; officially with float64 up to the last step."""
    import cv2

    resized = cv2.resize(image.astype(dtype) / dtype(255.0), (width, height), interpolation=cv2.INTER_CUBIC)
    return ((resized - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def brightness(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """What the stand-in gives for a stretched image."""
    import cv2

    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return 10 / 255 * resized.astype(np.float64).mean(axis=2)


def enlarged(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear with align_corners=True, in double precision, written out."""
    h, w = depth.shape
    y, x = np.arange(height) * (h - 1) / (height - 1), np.arange(width) * (w - 1) / (width - 1)
    y0, x0 = np.minimum(y.astype(int), h - 2), np.minimum(x.astype(int), w - 2)
    b, a = (y - y0)[:, None], (x - x0)[None, :]
    top = depth[y0][:, x0] * (1 - a) + depth[y0][:, x0 + 1] * a
    low = depth[y0 + 1][:, x0] * (1 - a) + depth[y0 + 1][:, x0 + 1] * a
    return top * (1 - b) + low * b


@pytest.mark.parametrize("name", NAMES)
def test_input_is_the_official_one(name: str, stand_in: Callable[..., Path], pictures: dict[str, np.ndarray]) -> None:
    pipeline = ImageDepthPipeline(stand_in())
    made, layout = pipeline.prepare(pictures[name])
    assert layout.inner == (WIDTH, HEIGHT)
    np.testing.assert_allclose(made, network_input(pictures[name], WIDTH, HEIGHT), rtol=0, atol=3e-6)
    # OpenCV's own float32 resize (Intel's library on x86) is up to 1e-4 of the range, 1/40 grey level, off its float64.
    official = network_input(pictures[name], WIDTH, HEIGHT, np.float64)
    np.testing.assert_allclose(made, official, rtol=0, atol=1e-4 / STD.min())


@pytest.mark.parametrize("name", NAMES)
def test_depth_of_real_pictures_in_both_resolutions(
    name: str, stand_in: Callable[..., Path], pictures: dict[str, np.ndarray]
) -> None:
    image = pictures[name]
    height, width = image.shape[:2]
    expected = brightness(image, WIDTH, HEIGHT)
    grid = ImageDepthPipeline(stand_in(), output_resolution="grid").process(image)
    assert (grid.kind, grid.depth.shape, grid.depth.dtype) == ("relative", (HEIGHT, WIDTH), np.float32)
    np.testing.assert_allclose(grid.depth, expected, rtol=0, atol=2e-5)
    full = ImageDepthPipeline(stand_in()).process(image)
    assert full.depth.shape == (height, width)
    np.testing.assert_allclose(full.depth, enlarged(expected, width, height), rtol=0, atol=2e-4)
    assert full.valid.all()
    assert full.camera_matrix is None
    assert not full.warnings


def test_keep_aspect_pads_with_the_mean_and_crops_back(
    stand_in: Callable[..., Path], pictures: dict[str, np.ndarray]
) -> None:
    pipeline = ImageDepthPipeline(stand_in(resize="keep_aspect"), output_resolution="grid")
    for name, inner, offset in (("kitti", (70, 21), (0, 17)), ("room", (70, 52), (0, 2)), ("tum", (70, 52), (0, 2))):
        made, layout = pipeline.prepare(pictures[name])
        assert (layout.inner, layout.offset) == (inner, offset)
        rows, columns = layout.window
        expected = np.zeros((3, HEIGHT, WIDTH), np.float32)
        expected[:, rows, columns] = network_input(pictures[name], *inner)
        np.testing.assert_allclose(made, expected, rtol=0, atol=3e-6)
        result = pipeline.process(pictures[name])
        assert result.depth.shape == inner[::-1]
        np.testing.assert_allclose(result.depth, brightness(pictures[name], *inner), rtol=0, atol=2e-5)
    tall = np.ascontiguousarray(pictures["tum"].transpose(1, 0, 2))
    assert pipeline.prepare(tall)[1] == Layout((480, 640), (42, 56), (14, 0))
    back = ImageDepthPipeline(stand_in(resize="keep_aspect")).process(pictures["kitti"])
    assert back.depth.shape == pictures["kitti"].shape[:2]
    expected = enlarged(brightness(pictures["kitti"], 70, 21), 1241, 376)
    np.testing.assert_allclose(back.depth, expected, rtol=0, atol=2e-4)


def ramps(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brightness tells the column, and the row."""
    u = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (height, width, 3))
    v = np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None, None], (height, width, 3))
    return np.ascontiguousarray(u), np.ascontiguousarray(v)


@pytest.mark.parametrize("resize", ["stretch", "keep_aspect"])
@pytest.mark.parametrize("resolution", ["image", "grid"])
@pytest.mark.parametrize("size", [(200, 120), (120, 200), (70, 56), (33, 41)])
def test_published_camera_sees_what_the_image_sees(
    size: tuple[int, int], resolution: str, resize: str, stand_in: Callable[..., Path]
) -> None:
    """Column and row of the image, read off the published depth, are where the published K says."""
    pipeline = ImageDepthPipeline(stand_in(resize=resize), output_resolution=resolution)
    matrix = np.array([[150.0, 0, size[0] / 3], [0, 170.0, size[1] / 2], [0, 0, 1]])
    results = [pipeline.process(image, matrix) for image in ramps(*size)]
    u, v = (result.depth.astype(np.float64) * 255 / 10 for result in results)
    published = results[0].camera_matrix
    assert published is not None
    height, width = results[0].depth.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    x, y = (columns - published[0, 2]) / published[0, 0], (rows - published[1, 2]) / published[1, 1]
    # Away from the ends OpenCV's cubic kernel (A = -0.75) keeps a ramp within 0.049 steps of its pixels.
    margin = 2 * int(np.ceil(max(1.0, width / 70, height / 56, 70 / size[0], 70 / size[1]))) + 1
    inner = (slice(margin, -margin), slice(margin, -margin))
    assert u[inner].size > 100
    np.testing.assert_allclose(u[inner], (x * 150 + size[0] / 3)[inner], atol=0.055)
    np.testing.assert_allclose(v[inner], (y * 170 + size[1] / 2)[inner], atol=0.055)


def gradient(low: int, high: int) -> np.ndarray:
    values = np.linspace(low, high, 140).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values[None, :, None], (112, 140, 3)))


def test_metric_depth_is_valid_above_zero_and_within_range(stand_in: Callable[..., Path]) -> None:
    image = gradient(0, 255)
    image[:20] = 0
    pipeline = ImageDepthPipeline(stand_in(kind="metric", max_depth=10.0), output_resolution="grid", max_range=6.0)
    result = pipeline.process(image)
    assert result.kind == "metric"
    raw = brightness(image, WIDTH, HEIGHT)
    clear = (np.abs(raw) > 1e-3) & (np.abs(raw - 6) > 1e-3)
    np.testing.assert_array_equal(result.valid[clear], ((raw > 0) & (raw <= 6))[clear])
    assert 0 < result.valid.mean() < 1
    np.testing.assert_array_equal(np.isfinite(result.depth), result.valid)
    np.testing.assert_allclose(result.depth[result.valid], raw[result.valid], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("told", "given", "factor"), [(20.0, None, 20.0), (20.0, 8.0, 8.0), (None, 8.0, 8.0)])
def test_disparity_becomes_metres(
    told: float | None, given: float | None, factor: float, stand_in: Callable[..., Path]
) -> None:
    image = gradient(30, 255)
    artifact = stand_in(kind="disparity", focal_baseline=told)
    result = ImageDepthPipeline(artifact, output_resolution="grid", focal_baseline=given).process(image)
    assert result.kind == "metric"
    assert result.valid.all()
    np.testing.assert_allclose(result.depth, factor / brightness(image, WIDTH, HEIGHT), rtol=1e-5)


def test_disparity_without_a_baseline_stays_disparity(stand_in: Callable[..., Path]) -> None:
    pipeline = ImageDepthPipeline(stand_in(kind="disparity"), output_resolution="grid")
    result = pipeline.process(gradient(30, 255))
    assert pipeline.kind == result.kind == "disparity"
    np.testing.assert_allclose(result.depth, brightness(gradient(30, 255), WIDTH, HEIGHT), rtol=0, atol=2e-5)


def test_zero_disparity_is_invalid_not_infinite(stand_in: Callable[..., Path]) -> None:
    image = np.zeros((112, 140, 3), np.uint8)
    result = ImageDepthPipeline(stand_in(kind="disparity", focal_baseline=20.0)).process(image)
    small = np.abs(result.depth[result.valid])
    assert not np.isinf(result.depth).any()
    assert (small > 1e4).all()  # rounding may leave 1e-7 pixels of disparity
    assert (
        ImageDepthPipeline(stand_in(kind="disparity", focal_baseline=20.0), max_range=100.0).process(image).valid.sum()
        == 0
    )


def test_output_that_is_not_finite_is_counted(stand_in: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pipeline = ImageDepthPipeline(stand_in(), output_resolution="grid")

    def broken(**_: Any) -> dict[str, torch.Tensor]:
        depth = torch.ones(1, HEIGHT, WIDTH)
        depth[0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
        return {"depth": depth}

    monkeypatch.setattr(pipeline.model, "run", broken)
    result = pipeline.process(gradient(0, 255))
    assert result.warnings == (f"not finite: 3 of {HEIGHT * WIDTH} pixels of the network's output",)
    assert np.isnan(result.depth[0, :3]).all()
    assert result.valid.sum() == HEIGHT * WIDTH - 3


def test_sizes_may_change_from_image_to_image(stand_in: Callable[..., Path], pictures: dict[str, np.ndarray]) -> None:
    shared_one = ImageDepthPipeline(stand_in(resize="keep_aspect"))
    for name in ("kitti", "room", "kitti", "tum"):
        alone = ImageDepthPipeline(stand_in(resize="keep_aspect")).process(pictures[name])
        np.testing.assert_array_equal(shared_one.process(pictures[name]).depth, alone.depth)


def test_results_do_not_share_memory(stand_in: Callable[..., Path]) -> None:
    pipeline = ImageDepthPipeline(stand_in(), output_resolution="grid")
    first = pipeline.process(gradient(0, 255))
    kept = first.depth.copy()
    pipeline.process(gradient(100, 0))
    np.testing.assert_array_equal(first.depth, kept)


def test_one_pixel_is_an_image(stand_in: Callable[..., Path]) -> None:
    for resize in ("stretch", "keep_aspect"):
        result = ImageDepthPipeline(stand_in(resize=resize)).process(np.full((1, 1, 3), 51, np.uint8))
        np.testing.assert_allclose(result.depth, [[2.0]], atol=1e-5)
    tall = ImageDepthPipeline(stand_in(resize="keep_aspect")).process(np.full((3000, 2, 3), 51, np.uint8))
    np.testing.assert_allclose(tall.depth, np.full((3000, 2), 2.0), atol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_other_arrays_are_refused(image: np.ndarray, stand_in: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"expected an RGB image \(height, width, 3\) uint8"):
        ImageDepthPipeline(stand_in()).process(image)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "f3"}, "expected an artifact of the family depth, found f3"),
        ({"input": "f3_features"}, "expected a depth network for RGB images, found one for f3_features"),
        ({"colour_order": "BGR"}, "expected preprocessing colour_order to be RGB, found 'BGR'"),
        ({"interpolation": "area"}, "interpolation to be cubic, found 'area'"),
        ({"resize": "crop"}, "resize to be stretch or keep_aspect, found 'crop'"),
        ({"kind": "log"}, "kind to be relative or metric or disparity, found 'log'"),
        ({"size": [56]}, "expected size, scale, mean and std"),
        ({"size": [70, 56]}, r"expected an input of shape \(1, 3, 70, 56\)"),
        ({"mean": [0.5]}, "three numbers"),
        ({"std": [0.2, 0.0, 0.2]}, "std above 0"),
    ],
)
def test_other_artifacts_are_refused(changes: dict[str, Any], reason: str, stand_in: Callable[..., Path]) -> None:
    with pytest.raises(ArtifactError, match=reason):
        ImageDepthPipeline(stand_in(**changes))


def test_unknown_output_resolution_is_refused(stand_in: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="expected output_resolution to be image or grid, found 'half'"):
        ImageDepthPipeline(stand_in(), output_resolution="half")


def test_a_real_network_equals_eager(tiny_dav2: Path, pictures: dict[str, np.ndarray]) -> None:
    import torch

    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 16, 16, 16), max_depth=20.0, image_size=56)
    network = DepthAnythingV2(config).randomise(0).eval()
    pipeline = ImageDepthPipeline(tiny_dav2, output_resolution="grid")
    for name in ("tum", "room"):
        with torch.no_grad():
            eager = network(torch.from_numpy(network_input(pictures[name], WIDTH, HEIGHT))[None])[0].numpy()
        result = pipeline.process(pictures[name])
        assert result.kind == "metric"
        np.testing.assert_allclose(result.depth, eager, rtol=0, atol=2e-4)
        assert eager.std() > 0.01


def test_an_onnx_file_gives_the_depth_of_the_package(
    tiny_dav2: Path, tmp_path: Path, pictures: dict[str, np.ndarray]
) -> None:
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 16, 16, 16), max_depth=20.0, image_size=56)
    network, path = DepthAnythingV2(config).randomise(0), tmp_path / "tiny.onnx"
    checkpoint = CheckpointInfo.random(0)
    export_dav2(network, path, height=HEIGHT, width=WIDTH, checkpoint=checkpoint, kind="metric", progress=False)
    ours, packaged = ImageDepthPipeline(path), ImageDepthPipeline(tiny_dav2)
    for name in ("tum", "piazza"):
        found, wanted = ours.process(pictures[name]), packaged.process(pictures[name])
        assert found.kind == wanted.kind == "metric"
        assert found.depth.shape == pictures[name].shape[:2]
        np.testing.assert_array_equal(found.valid, wanted.valid)
        np.testing.assert_allclose(found.depth, wanted.depth, rtol=0, atol=2e-4)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("resolution", ["image", "grid"])
def test_cuda_equals_cpu(graph: bool, resolution: str, tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Own stream, pinned transfers and graph replay give the CPU's depth, image after image of changing size."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig

    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 16, 16, 16), max_depth=20.0, image_size=56)
    pipelines = []
    for device in ("cpu", "cuda"):
        path = tmp_path / f"{device}.pt2"
        export_dav2(
            DepthAnythingV2(config).randomise(0),
            path,
            height=HEIGHT,
            width=WIDTH,
            checkpoint=CheckpointInfo.random(0),
            kind="metric",
            device=device,
            resize="keep_aspect",
            progress=False,
        )
        pipelines.append(ImageDepthPipeline(path, device, output_resolution=resolution, cuda_graph=graph))
    on_cpu, on_cuda = pipelines
    for name in ("tum", "kitti", "room", "tum"):
        expected, found = on_cpu.process(pictures[name]), on_cuda.process(pictures[name])
        np.testing.assert_allclose(found.depth, expected.depth, rtol=0, atol=2e-3)
        np.testing.assert_array_equal(found.valid, expected.valid)
