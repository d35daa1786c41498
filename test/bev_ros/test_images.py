# SPDX-License-Identifier: Apache-2.0
"""The resize against Pillow, and what it does to positions against what the geometry is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aot_runtime.errors import InputError
from bev_ros.geometry import ImageTransform
from bev_ros.images import MEAN, STD, prepare, resize_and_crop

SIZES = [((1600, 900), (704, 256)), ((640, 480), (96, 64)), ((101, 77), (96, 64)), ((40, 30), (96, 64))]


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_pillow_resizes_and_crops_the_same(source: tuple[int, int], target: tuple[int, int]) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    transform, image = ImageTransform.test_time(source, target), noise(source)
    (x, y), (width, height) = transform.offset, transform.target
    box = (x, y, x + width, y + height)
    wanted = np.asarray(pillow.fromarray(image).resize(transform.resized, pillow.BICUBIC).crop(box)).astype(int)
    difference = np.abs(resize_and_crop(image, transform).permute(1, 2, 0).numpy() - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(("source", "target"), SIZES[:3])
def test_points_land_where_the_map_of_pixels_says(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Dots with soft edges: their centres, before and after, are known to hundredths of a pixel."""
    transform = ImageTransform.test_time(source, target)
    exact, official = transform.ida("centres"), transform.ida("corners")
    ratio, (width, height) = transform.ratio, transform.target
    y, x = np.mgrid[: source[1], : source[0]]
    for u, v in ((width * 0.3, height * 0.4), (width * 0.7, height * 0.6)):
        # Where that is on the original, not at a whole pixel.
        at = np.linalg.inv(exact) @ (u, v, 0, 1)
        dot = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * (2.5 / ratio) ** 2))
        found = resize_and_crop(np.repeat(dot[..., None].round().astype(np.uint8), 3, 2), transform)[0].double().numpy()
        rows, columns = np.mgrid[:height, :width]
        centre = np.array([(found * columns).sum(), (found * rows).sum()]) / found.sum()
        np.testing.assert_allclose(centre, (u, v), atol=0.02)
        # The checkpoints' formula is off by (1 - r) / 2, and by what rounding the size down does to r.
        told = (official @ at)[:2]
        rounding = [abs(transform.resized[i] / source[i] - ratio) * source[i] for i in range(2)]
        assert (np.abs(told - centre - (1 - ratio) / 2) <= np.array(rounding) + 0.02).all()


def test_normalised_with_the_numbers_of_imagenet() -> None:
    image = np.empty((256, 704, 3), np.uint8)
    image[:] = (200, 100, 50)
    transform = ImageTransform.test_time((704, 256), (704, 256))
    found = prepare(image, transform)
    assert (found.shape, found.dtype) == ((3, 256, 704), torch.float32)
    assert found.is_contiguous()
    for channel, (value, mean, std) in enumerate(zip((200, 100, 50), MEAN, STD)):
        np.testing.assert_allclose(found[channel].numpy(), (value - mean) / std, rtol=1e-6)
    swapped = prepare(image, transform, order="bgr")
    np.testing.assert_allclose(swapped[0].numpy(), (50 - MEAN[0]) / STD[0], rtol=1e-6)


def test_a_size_that_is_kept_keeps_its_values() -> None:
    image = noise((96, 64))
    transform = ImageTransform.test_time((96, 64), (96, 64))
    np.testing.assert_array_equal(resize_and_crop(image, transform).permute(1, 2, 0).numpy(), image)
    # The caller's image is left alone.
    before = image.copy()
    prepare(image, transform)
    np.testing.assert_array_equal(image, before)


def test_views_and_read_only_arrays() -> None:
    wide = noise((202, 77))
    transform = ImageTransform.test_time((101, 77), (96, 64))
    view, frozen = wide[:, ::2], wide[:, ::2].copy()
    frozen.setflags(write=False)
    assert torch.equal(prepare(view, transform), prepare(frozen, transform))


@pytest.mark.parametrize(
    "image", [noise((64, 96)), noise((96, 64)).astype(np.float32), noise((96, 64))[..., :1], noise((96, 64))[..., 0]]
)
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 image of shape"):
        prepare(image, ImageTransform.test_time((96, 64), (96, 64)))


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(InputError, match="rgb or bgr"):
        prepare(noise((96, 64)), ImageTransform.test_time((96, 64), (96, 64)), order="yuv")
