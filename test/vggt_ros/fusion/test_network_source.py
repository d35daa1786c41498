# SPDX-License-Identifier: Apache-2.0
"""A bootstrap from the golden network: its numbers, and where each pixel of the images went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.errors import ArtifactError, InputError
from vggt_ros.deploy import DeployedVggt
from vggt_ros.fusion.maps import make_map
from vggt_ros.fusion.streaming import Reconstruction
from vggt_ros.network_source import NetworkSource


class _Eager:
    """The network without compiling it: what `load_model` would give."""

    path, device = Path("eager.pt2"), torch.device("cpu")

    def __init__(self, module: torch.nn.Module, height: int, width: int, family: str = "vggt") -> None:
        self._module = module
        self.seen = torch.zeros(0)
        self.manifest = SimpleNamespace(family=family, inputs=[SimpleNamespace(shape=("cams", 3, height, width))])

    def run(self, images: torch.Tensor) -> Any:
        self.seen = images
        return self._module(images)


@pytest.fixture(scope="module")
def eager(vggt_golden: Any) -> Callable[..., _Eager]:
    return lambda height, width: _Eager(DeployedVggt(vggt_golden.model(points=False), height, width), height, width)


def test_images_of_the_networks_size_give_the_networks_numbers(eager: Callable[..., _Eager], vggt_golden: Any) -> None:
    model = eager(56, 70)
    images = (255 * vggt_golden.images("case_3x56x70").numpy()).round().astype(np.uint8).transpose(0, 2, 3, 1)
    found = NetworkSource(model).bootstrap(dict(zip("abc", images)))  # type: ignore[arg-type]
    assert found.names == ("a", "b", "c")
    assert not found.scale.metric
    np.testing.assert_array_equal((255 * model.seen.numpy()).round(), images.transpose(0, 3, 1, 2))
    expected = vggt_golden.expected("case_3x56x70", "depth")
    np.testing.assert_allclose(found.depth, expected, rtol=0.02)  # 8 bits of image
    assert np.isfinite(found.depth).all()
    np.testing.assert_allclose(np.median(found.confidence, axis=(1, 2)), 1, atol=1e-3)
    assert found.intrinsics[:, 0, 2].tolist() == [34.5] * 3
    np.testing.assert_allclose(found.image_camera(1, 70, 56).matrix, found.intrinsics[1])
    Reconstruction(make_map("surfel")).bootstrap(found)


@pytest.mark.parametrize(("size", "rows"), [((140, 56), (14, 42)), ((70, 84), (0, 56)), ((35, 28), (0, 56))])
def test_images_of_other_sizes_keep_their_rays(
    eager: Callable[..., _Eager], size: tuple[int, int], rows: tuple[int, int]
) -> None:
    """Width, height -> 70 wide; 28 rows are padded to 56, 84 cut to 56."""
    width, height = size
    v, u = np.mgrid[:height, :width]
    ramp = np.stack([u * 200 // width, v * 200 // height, u * 0 + 50], -1).astype(np.uint8)
    model = eager(56, 70)
    # The golden's random weights may give no field of view, so the camera is calibrated.
    matrix = np.array([[1.1 * width, 0, 0.4 * width], [0, 1.2 * width, 0.6 * height], [0, 0, 1]])
    found = NetworkSource(model, {"a": matrix}).bootstrap({"a": ramp})  # type: ignore[arg-type]
    np.testing.assert_allclose(found.image_camera(0, width, height).matrix, matrix, atol=1e-9)
    known = np.isfinite(found.depth[0]).any(1)
    assert (np.flatnonzero(known)[[0, -1]] + [0, 1]).tolist() == list(rows)
    white = model.seen[0, :, ~known]
    assert bool((white == 1).all())
    # A pixel of the network's image has the ray of the pixel of the picture that it shows.
    camera, own = found.image_camera(0, width, height), found.camera(0)
    middle = 28
    for column in (10, 33, 60):
        ray = own.rays()[middle, column]
        place = camera.pixels(ray).numpy()
        shown = 255 * model.seen[0, :2, middle, column].numpy()
        np.testing.assert_allclose(shown, place * 200 / [width, height], atol=200 / min(width, height) + 1)
    colour = found.colour(0, ramp).astype(int)
    inner = slice(rows[0] + 3, rows[1] - 3), slice(3, -3)
    network = (255 * model.seen[0].numpy()).transpose(1, 2, 0)
    assert np.abs(colour - network)[inner].max() <= 12
    assert np.abs(colour - network)[inner].mean() <= 3


def test_what_is_no_network_or_no_image_is_refused(eager: Callable[..., _Eager]) -> None:
    with pytest.raises(ArtifactError, match="family vggt, found depth"):
        NetworkSource(_Eager(torch.nn.Identity(), 56, 70, "depth"))  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="images of one size"):
        NetworkSource(_Eager(torch.nn.Identity(), "h", 70))  # type: ignore[arg-type]
    source = NetworkSource(eager(56, 70))  # type: ignore[arg-type]
    v, u = np.mgrid[:28, :35]
    ramp = np.stack([u * 200 // 35, v * 200 // 28, u * 0 + 50], -1).astype(np.uint8)
    with pytest.raises(InputError, match=r"expected a field of view above 0, found .* for 'left'; give its intrinsics"):
        source.bootstrap({"left": ramp})
    with pytest.raises(InputError, match="found none"):
        source.bootstrap({})
    with pytest.raises(InputError, match="of 'left'"):
        source.bootstrap({"left": np.zeros((56, 70), np.uint8)})
