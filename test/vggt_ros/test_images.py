# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aot_runtime.errors import InputError
from vggt_ros import calibration
from vggt_ros.images import find, prepare, read


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    return dict(np.load(shared / "golden" / "vggt" / "preprocess" / "expected.npz"))


@pytest.mark.parametrize(
    ("names", "mode", "key"),
    [
        *(([name], mode, f"{name}_{mode}") for name in ("land", "port", "rgba", "grey") for mode in ("crop", "pad")),
        (["land", "rgba"], "crop", "mixed_land_rgba_crop"),
        (["land", "port"], "square", "square112_land_port"),
    ],
)
def test_pixels_as_the_official(names: list[str], mode: str, key: str, golden: Any, shared: Path) -> None:
    folder = shared / "golden" / "vggt" / "preprocess"
    pictures = read([folder / f"{name}.png" for name in names])
    found, placements = prepare(pictures, mode, 112 if mode == "square" else 518)
    assert found.shape == tuple(golden[f"{key}_shape"])
    np.testing.assert_array_equal(found[:, :, ::7, ::7], golden[f"{key}_every7"])
    assert hashlib.sha256(found.tobytes()).hexdigest() == str(golden[f"{key}_sha256"])
    assert len(placements) == len(names)


def test_where_a_square_picture_lies(golden: Any, shared: Path) -> None:
    folder = shared / "golden" / "vggt" / "preprocess"
    pictures = read([folder / "land.png", folder / "port.png"])
    _, placements = prepare(pictures, "square", 112)
    for picture, placement, wanted in zip(pictures, placements, golden["square112_coords"]):
        corners = [
            placement.offset[0],
            placement.offset[1],
            placement.offset[0] + picture.width * placement.scale[0],
            placement.offset[1] + picture.height * placement.scale[1],
        ]
        np.testing.assert_allclose(corners, wanted[:4], rtol=1e-6)


@pytest.mark.parametrize("mode", ["crop", "pad", "square"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_intrinsics_go_where_the_pixels_go(mode: str, size: tuple[int, int]) -> None:
    """A white square on black, found by its centre before and after."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[120:141, 90:121] = 255
    x, y = 105.0, 130.0
    found, placements = prepare([Image.fromarray(pixels)], mode, 518)
    rows, columns = _inner(found[0], placements[0], size)
    matrix = np.array([[250.0, 0, x], [0, 260.0, y], [0, 0, 1]])
    moved = placements[0].intrinsics(matrix)
    assert moved[0, 2] == pytest.approx(columns, abs=0.05)
    assert moved[1, 2] == pytest.approx(rows, abs=0.05)
    assert moved[0, 0] == pytest.approx(250 * placements[0].scale[0])


def _inner(image: np.ndarray, placement: Any, size: tuple[int, int]) -> tuple[float, float]:
    """The weighted centre (row, column) of light, without the white border."""
    light = image[0].astype(float)
    left, top = placement.offset
    v, u = np.mgrid[: light.shape[0], : light.shape[1]]
    inside = (
        (u > left + 3)
        & (u < left + size[0] * placement.scale[0] - 4)
        & (v > top + 3)
        & (v < top + size[1] * placement.scale[1] - 4)
    )
    light = light * inside
    return float((light * v).sum() / light.sum()), float((light * u).sum() / light.sum())


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png unreadable"):
        read([tmp_path / "a.png"])
    with pytest.raises(InputError, match=r"b\.png"):
        read([tmp_path / "b.png"])
    with pytest.raises(InputError, match="found none"):
        prepare([])
    with pytest.raises(InputError, match="expected mode crop, pad, square, found 'fit'"):
        prepare([Image.new("RGB", (20, 20))], "fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none in"):
        find(tmp_path / "empty")


def test_calibration_samples_of_a_folder(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30), (number * 50, 0, 0)).save(tmp_path / f"{number}.png")
    assert calibration.holds_pictures(tmp_path)
    samples = calibration.draw(tmp_path, 3, 28, 42, batches=2, seed=1)
    assert [sample["images"].shape for sample in samples] == [(3, 3, 28, 42)] * 2
    reds = [sample["images"][:, 0, 0, 0] * 255 / 50 for sample in samples]
    for red in reds:
        np.testing.assert_allclose(np.diff(red), 1, atol=1e-3)
    assert not np.array_equal(reds[0], reds[1])
    again = calibration.draw(tmp_path, 3, 28, 42, batches=2, seed=1)
    np.testing.assert_array_equal(samples[0]["images"], again[0]["images"])
    assert len(calibration.draw(tmp_path, 3, 28, 42, batches=32)) == 3
    with pytest.raises(InputError, match="6 or more pictures"):
        calibration.draw(tmp_path, 6, 28, 42)
