# SPDX-License-Identifier: Apache-2.0
"""Images and trimaps to alpha: preprocessing to the bit, sizes, tiles, batches, and trimaps that need no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.manifest import DynamicDim, TensorSpec
from vitmatte_ros.pipeline import MattePipeline
from vitmatte_ros.tiling import Window
from vitmatte_ros.trimap import BACKGROUND, FOREGROUND, UNKNOWN

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(**changes: Any) -> dict[str, Any]:
    told = {
        "input": "rgb_trimap",
        "colour_order": "RGB",
        "scale": 1 / 255,
        "mean": list(MEAN),
        "std": list(STD),
        "trimap": {"background": 0, "unknown": 128, "foreground": 255},
        "trimap_scale": 1 / 255,
    }
    return {**told, **changes}


class FakeModel:
    """A network whose alpha is the red channel, so that one sees where every pixel went; it keeps its inputs."""

    def __init__(self, size: tuple[int, int] | None, batch: int = 1, **changes: Any) -> None:
        shape = (batch, 4, *(size or ("height", "width")))
        self.manifest = SimpleNamespace(
            family="vitmatte",
            preprocessing=preprocessing(**changes),
            inputs=(TensorSpec("pixel_values", "float32", shape),),
            outputs=(TensorSpec("alpha", "float32", (batch, 1, *shape[2:])),),
            dim=lambda name: DynamicDim(name, 64, 256),
        )
        self.path = Path("fake.pt2")
        self.device = torch.device("cpu")
        self.seen: list[torch.Tensor] = []
        self.closed = False

    def run(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(pixel_values.clone())
        return {"alpha": pixel_values[:, :1] * STD[0] + MEAN[0]}

    def close(self) -> None:
        self.closed = True


def pipeline(model: FakeModel, **options: Any) -> MattePipeline:
    return MattePipeline(model, **options)  # type: ignore[arg-type]


def scene(height: int, width: int, *boxes: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A random image, and a trimap: foreground above, background below, unknown in boxes (y, x, height, width)."""
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    trimap = np.full((height, width), BACKGROUND, np.uint8)
    trimap[: height // 4] = FOREGROUND
    for box in boxes:
        trimap[Window(*box).slices] = UNKNOWN
    return image, trimap


def test_what_the_network_gets() -> None:
    model = FakeModel((96, 128))
    image, trimap = scene(70, 90, (30, 20, 10, 40))
    result = pipeline(model).process(image, trimap)
    (seen,) = model.seen
    expected = (image / 255 - MEAN) / STD
    np.testing.assert_allclose(seen[0, :3, :70, :90].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(seen[0, 3, :70, :90].numpy(), trimap / 255, atol=1e-7)
    assert not seen[0, :, 70:].any()
    assert not seen[0, :, :, 90:].any()
    assert result.windows == (Window(0, 0, 70, 90),)
    unknown = trimap == UNKNOWN
    np.testing.assert_allclose(result.alpha[unknown], image[unknown, 0] / 255, atol=1e-6)
    assert (result.alpha[trimap == FOREGROUND] == 1).all()
    assert (result.alpha[trimap == BACKGROUND] == 0).all()
    assert result.alpha.dtype == np.float32
    assert result.warnings == ()


def test_known_regions_as_the_network_says() -> None:
    image, trimap = scene(70, 90, (30, 20, 10, 40))
    alpha = pipeline(FakeModel((96, 128)), clamp_known=False).process(image, trimap).alpha
    np.testing.assert_allclose(alpha, image[..., 0] / 255, atol=1e-6)


def test_what_an_image_leaves_in_the_buffer_does_not_reach_the_next() -> None:
    model = FakeModel((96, 128))
    pipe = pipeline(model)
    for height, width in ((96, 128), (40, 60), (60, 40)):
        image, trimap = scene(height, width, (2, 2, 5, 5))
        pipe.process(image, trimap)
        assert not model.seen[-1][0, :, height:].any()
        assert not model.seen[-1][0, :, :, width:].any()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_large_images_in_tiles(batch: int) -> None:
    model = FakeModel((96, 128), batch)
    image, trimap = scene(300, 400, (20, 30, 250, 350))
    result = pipeline(model, overlap=16, margin=8).process(image, trimap)
    assert len(result.windows) > 8
    assert len(model.seen) == -(-len(result.windows) // batch)
    unknown = trimap == UNKNOWN
    np.testing.assert_allclose(result.alpha[unknown], image[unknown, 0] / 255, atol=1e-5)
    padding = len(model.seen) * batch - len(result.windows)
    assert padding == 0 or not model.seen[-1][batch - padding :].any()


def test_a_small_object_needs_one_run_with_its_surroundings() -> None:
    model = FakeModel((96, 128))
    image, trimap = scene(300, 400, (200, 350, 20, 30))
    result = pipeline(model).process(image, trimap)
    assert result.windows == (Window(162, 272, 96, 128),)
    unknown = trimap == UNKNOWN
    np.testing.assert_allclose(result.alpha[unknown], image[unknown, 0] / 255, atol=1e-5)


def test_an_artifact_for_any_size_takes_images_as_they_are() -> None:
    model = FakeModel(None)
    pipe = pipeline(model)
    assert (pipe.size, pipe.largest) == (None, (256, 256))
    for height, width, seen in ((70, 90, (70, 90)), (40, 200, (64, 200)), (256, 256, (256, 256))):
        image, trimap = scene(height, width, (2, 2, 9, 9))
        result = pipe.process(image, trimap)
        assert tuple(model.seen[-1].shape[2:]) == seen
        np.testing.assert_allclose(result.alpha[2:11, 2:11], image[2:11, 2:11, 0] / 255, atol=1e-5)


def test_beyond_its_sizes_or_the_memory_it_crops_and_then_tiles() -> None:
    model = FakeModel(None)
    image, trimap = scene(300, 400, (100, 100, 50, 60))
    result = pipeline(model, margin=10).process(image, trimap)
    assert result.windows == (Window(90, 90, 70, 80),)
    image, trimap = scene(250, 250, (20, 20, 200, 200))
    result = pipeline(model, max_pixels=100 * 100, overlap=20, margin=0).process(image, trimap)
    assert {(window.height, window.width) for window in result.windows} == {(100, 100)}
    unknown = trimap == UNKNOWN
    np.testing.assert_allclose(result.alpha[unknown], image[unknown, 0] / 255, atol=1e-5)


@pytest.mark.parametrize(("code", "value"), [(FOREGROUND, 1.0), (BACKGROUND, 0.0)])
def test_nothing_unknown_needs_no_network(code: int, value: float) -> None:
    model = FakeModel((96, 128))
    result = pipeline(model).process(scene(70, 90)[0], np.full((70, 90), code, np.uint8))
    assert (result.alpha == value).all()
    assert model.seen == []
    assert result.warnings == ("nothing unknown: alpha is the trimap itself",)


def test_nothing_known_is_told() -> None:
    image, _ = scene(70, 90)
    result = pipeline(FakeModel((96, 128))).process(image, np.full((70, 90), UNKNOWN, np.uint8))
    np.testing.assert_allclose(result.alpha, image[..., 0] / 255, atol=1e-6)
    assert "the trimap is all unknown" in result.warnings[0]


def test_numbers_that_are_none_take_the_trimap() -> None:
    model = FakeModel((96, 128))
    run = model.run

    def broken(pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        alpha = run(pixel_values)["alpha"]
        alpha[0, 0, 32, 25] = torch.nan
        alpha[0, 0, 33, 25] = 7.0
        return {"alpha": alpha}

    model.run = broken  # type: ignore[method-assign]
    image, trimap = scene(70, 90, (30, 20, 10, 40))
    result = pipeline(model).process(image, trimap)
    assert result.alpha[32:34, 25].tolist() == [0.5, 1.0]
    assert result.warnings == ("not finite: 1 pixels of the network's output; they take the trimap's value",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image, trimap: (image[..., 0], trimap), "expected an RGB image"),
        (lambda image, trimap: (image.astype(np.float32), trimap), "found (70, 90, 3) float32"),
        (lambda image, trimap: (image, trimap[1:]), "the image's 90x70 pixels, found 90x69"),
        (lambda image, trimap: (image, trimap.astype(np.int32)), "trimap (height, width) uint8"),
        (lambda image, trimap: (image, trimap // 2), "expected 0, 128 and 255 in the trimap, found 64"),
    ],
)
def test_what_is_refused(change: Callable[..., Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        pipeline(FakeModel((96, 128))).process(*change(*scene(70, 90, (30, 20, 10, 40))))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "rgb_image"}, "an RGB image and a trimap, found 'rgb_image'"),
        ({"colour_order": "BGR"}, "and 'BGR'"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"trimap": {}}, "KeyError"),
    ],
)
def test_artifacts_that_ask_for_something_else(changes: dict[str, Any], said: str) -> None:
    model = FakeModel((96, 128), **changes)
    with pytest.raises(ArtifactError) as caught:
        pipeline(model)
    assert said in str(caught.value)
    assert model.closed
    model.manifest.family = "depth"
    with pytest.raises(ArtifactError, match="of the family vitmatte, found depth"):
        pipeline(model)


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"overlap": -1}, {"margin": -1}])
def test_options_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected max_pixels"):
        pipeline(FakeModel((96, 128)), **options)
