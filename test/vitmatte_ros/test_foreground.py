# SPDX-License-Identifier: Apache-2.0
"""Foreground colours where the truth is known: a composite of two known pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from aot_runtime.errors import InputError
from vitmatte_ros.foreground import alpha_to_bytes, composite, cut_out, estimate_foreground

ORANGE, BLUE = np.array([240, 140, 30]), np.array([20, 40, 200])


def scene(size: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, alpha, foreground): an orange disc with a slow gradient and a soft edge before a blue wall."""
    y, x = np.mgrid[:size, :size] - size / 2
    alpha = np.clip((70 - np.hypot(x, y)) / 20 + 0.5, 0, 1).astype(np.float32)
    foreground = np.clip(ORANGE + (x / size * 40)[..., None], 0, 255).astype(np.uint8)
    return composite(foreground, alpha, BLUE.astype(np.uint8)), alpha, foreground


@pytest.mark.parametrize("method", ["blur", "ml"])
def test_the_background_leaves_the_edge(method: str) -> None:
    if method == "ml" and importlib.util.find_spec("pymatting") is None:
        pytest.skip("pymatting is not installed")
    image, alpha, foreground = scene()
    estimated = estimate_foreground(image, alpha, method)
    edge = (alpha > 0.1) & (alpha < 0.9)
    before = np.abs(image[edge].astype(float) - foreground[edge]).mean()
    after = np.abs(estimated[edge].astype(float) - foreground[edge]).mean()
    assert before > 40
    assert after < 9
    inside = alpha == 1
    assert np.abs(estimated[inside].astype(int) - image[inside]).max() <= 1


def test_composites_of_the_estimate_give_the_image_back() -> None:
    image, alpha, _ = scene()
    again = composite(estimate_foreground(image, alpha), alpha, BLUE.astype(np.uint8))
    assert np.abs(again.astype(int) - image).max() <= 12
    assert np.abs(again.astype(int) - image).mean() < 0.5


def test_a_real_photograph_keeps_its_certain_colours(shared: Path) -> None:
    folder = shared / "data" / "matting"
    image = cv2.imread(str(folder / "retriever_rgb.jpg"))
    trimap = cv2.imread(str(folder / "retriever_trimap.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert trimap is not None
    alpha = cv2.GaussianBlur(trimap, (0, 0), 3).astype(np.float32) / 255
    estimated = estimate_foreground(image, alpha)
    certain = alpha == 1
    assert certain.any()
    assert np.abs(estimated[certain].astype(int) - image[certain]).max() <= 1


def test_channel_order_does_not_matter() -> None:
    image, alpha, _ = scene(120)
    turned = estimate_foreground(np.ascontiguousarray(image[..., ::-1]), alpha)
    np.testing.assert_array_equal(turned[..., ::-1], estimate_foreground(image, alpha))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_alpha_of_one_value(value: float) -> None:
    image, _, _ = scene(60)
    estimated = estimate_foreground(image, np.full((60, 60), value, np.float32))
    assert np.abs(estimated.astype(int) - image).max() <= (1 if value == 1 else 255)


def test_cut_outs() -> None:
    colours = np.full((1, 3, 3), 200, np.uint8)
    alpha = np.float32([[0, 0.5, 1]])
    assert cut_out(colours, alpha)[0].tolist() == [[200, 200, 200, 0], [200, 200, 200, 128], [200, 200, 200, 255]]
    assert cut_out(colours, alpha, premultiplied=True)[0, :, 0].tolist() == [0, 100, 200]
    assert alpha_to_bytes(np.float32([0.001, 0.002, 0.999])).tolist() == [0, 1, 255]


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image, alpha, _ = scene(60)
    assert estimate_foreground(image, alpha, "none") is image
    with pytest.raises(InputError, match=r"expected alpha \(60, 60\) float32 .* found \(59, 60\)"):
        estimate_foreground(image, alpha[1:])
    with pytest.raises(InputError, match=r"found \(60, 60\) float64"):
        estimate_foreground(image, alpha.astype(np.float64))
    with pytest.raises(InputError, match="expected an image"):
        cut_out(image[..., 0], alpha)
    with pytest.raises(InputError, match="out of blur, ml, none, found 'magic'"):
        estimate_foreground(image, alpha, "magic")
    monkeypatch.setitem(__import__("sys").modules, "pymatting", None)
    with pytest.raises(InputError, match="pip install pymatting"):
        estimate_foreground(image, alpha, "ml")
