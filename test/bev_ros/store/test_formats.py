# SPDX-License-Identifier: Apache-2.0
"""Maps as files: what comes back, how exactly, how small, and what becomes of bytes that are no map."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from bev_ros.store.formats import FileFormat, coverage_of, pack, read_map, to_bytes

SHAPE = (4, 6, 5)
RECORD = {"token": "a", "n": 1}
CHOICES = [
    FileFormat(form, dtype, layout)
    for form in ("safetensors", "pt")
    for dtype in ("float32", "float16", "int8")
    for layout in ("auto", "dense", "sparse")
] + [FileFormat("pt", "float32", "guide")]


def a_map(coverage: float = 1.0, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) * (random.random(shape[1:]) < coverage)).astype(np.float32)


def name_of(how: FileFormat) -> str:
    return f"{how.format}-{how.dtype}-{how.layout}"


@pytest.mark.parametrize("coverage", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("how", CHOICES, ids=name_of)
def test_a_map_comes_back_as_exactly_as_its_dtype_allows(how: FileFormat, coverage: float, tmp_path: Path) -> None:
    features = a_map(coverage)
    packed, error = pack(features, how)
    path = tmp_path / f"a{how.suffix}"
    path.write_bytes(to_bytes(packed, how, RECORD))
    stored = read_map(path, how, SHAPE)
    back = stored.dense().numpy()
    np.testing.assert_array_equal(back, packed.unpacked())
    largest = np.abs(features).max()
    if how.dtype == "float32":
        np.testing.assert_array_equal(back, features)
        assert error == 0
    else:
        assert np.abs(back - features).max() == pytest.approx(error * largest, rel=1e-6)
        # Half a step: 2^-11 of a number, or 1/254 of the largest of a channel.
        assert error <= {"float16": 2**-11, "int8": 0.5 / 127 * 1.0001}[how.dtype]
    assert stored.is_sparse == how.is_sparse(coverage_of(features))
    assert stored.record == ({} if how.layout == "guide" else RECORD)
    assert path.stat().st_size <= how.largest(SHAPE)


def test_cells_without_anything_come_back_as_zero_exactly(tmp_path: Path) -> None:
    how = FileFormat("safetensors", "int8")
    features = a_map(0.2)
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_bytes(pack(features, how)[0], how, {}))
    back = read_map(path, how, SHAPE).dense().numpy()
    assert (back[:, ~features.any(axis=0)] == 0).all()


def test_the_layout_guide_is_one_bare_tensor_for_existing_readers(tmp_path: Path) -> None:
    how = FileFormat("pt", "float32", "guide")
    features = a_map(shape=(256, 100, 100))
    path = tmp_path / "a.pt"
    path.write_bytes(to_bytes(pack(features, how)[0], how, RECORD))
    tensor = torch.load(path, weights_only=True)
    assert tensor.shape == (1, 256, 1, 100, 100)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor[0, :, 0].numpy(), features)


def test_pt_files_load_with_weights_only_and_say_what_is_in_them(tmp_path: Path) -> None:
    how = FileFormat("pt", "int8", "dense")
    path = tmp_path / "a.pt"
    path.write_bytes(to_bytes(pack(a_map(), how)[0], how, RECORD))
    content = torch.load(path, weights_only=True)
    assert set(content) == {"features", "scale", "bev_record"}


@pytest.mark.parametrize("how", CHOICES, ids=name_of)
def test_equal_maps_make_equal_bytes(how: FileFormat) -> None:
    first, second = (to_bytes(pack(a_map(0.3), how)[0], how, RECORD) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("how", [FileFormat("safetensors", "float16", "dense"), FileFormat("pt", "float16", "dense")])
def test_dense_maps_are_mapped_from_the_file(how: FileFormat, tmp_path: Path) -> None:
    """A byte that changes in the file changes in the tensor: nothing was copied."""
    path = tmp_path / f"a{how.suffix}"
    path.write_bytes(to_bytes(pack(a_map(), how)[0], how, {}))
    values = read_map(path, how, SHAPE).dense(torch.float16)
    last = np.float16(values[-1, -1, -1]).tobytes()
    data = bytearray(path.read_bytes())
    place = data.rfind(last)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.float16(42).tobytes())
    assert values[-1, -1, -1] == 42


def test_sparse_pays_below_half_of_the_cells() -> None:
    sizes = {}
    for layout in ("dense", "sparse"):
        how = FileFormat("safetensors", "float16", layout)
        for coverage in (0.076, 0.45, 0.97):
            sizes[layout, coverage] = len(to_bytes(pack(a_map(coverage, (64, 50, 50)), how)[0], how, {}))
    assert sizes["sparse", 0.076] < 0.1 * sizes["dense", 0.076]
    assert sizes["sparse", 0.45] < 0.55 * sizes["dense", 0.45]
    assert sizes["sparse", 0.97] > 0.95 * sizes["dense", 0.97]


def test_numbers_that_cannot_be_stored_are_refused() -> None:
    features = a_map()
    features[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="found 1 of 120 that are not"):
        pack(features, FileFormat())
    features[0, 0, 0] = 7e4
    with pytest.raises(InputError, match="65504 for float16, found 70000; use --dtype float32"):
        pack(features, FileFormat())
    assert pack(features, FileFormat(dtype="int8"))[1] < 0.004


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_int8_has_a_scale_for_each_channel(form: str, layout: str, tmp_path: Path) -> None:
    how = FileFormat(form, "int8", layout)
    sizes = np.logspace(-4, 4, SHAPE[0], dtype=np.float32)
    features = a_map(0.5) * sizes[:, None, None]
    path = tmp_path / f"a{how.suffix}"
    path.write_bytes(to_bytes(pack(features, how)[0], how, RECORD))
    stored = read_map(path, how, SHAPE)
    largest = np.abs(features).max((1, 2))
    assert (np.abs(stored.dense().numpy() - features).max((1, 2)) <= largest * (0.5 / 127 * 1.0001)).all()
    assert stored.scale is not None
    np.testing.assert_allclose(stored.scale.numpy(), largest / 127, rtol=1e-6)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 3e38])
def test_int8_takes_channels_of_any_size(largest: float) -> None:
    features = np.full(SHAPE, largest, np.float32)
    features[1] = -largest
    packed, error = pack(features, FileFormat(dtype="int8", layout="dense"))
    assert np.isfinite(packed.unpacked()).all()
    assert error <= (1.0 if largest < 1e-37 else 0.004)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (("zip", "float32", "auto"), "format among safetensors, pt, found 'zip'"),
        (("pt", "float64", "auto"), "dtype among"),
        (("pt", "float32", "csr"), "layout among"),
        (("safetensors", "float32", "guide"), "--format pt --dtype float32 for --layout guide"),
        (("pt", "float16", "guide"), "--format pt --dtype float32 for --layout guide"),
    ],
)
def test_unknown_choices_are_refused(choice: tuple[str, str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        FileFormat(*choice)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    def write(how: FileFormat, shape: tuple[int, int, int] = SHAPE) -> Path:
        path = tmp_path / f"a{how.suffix}"
        path.write_bytes(to_bytes(pack(a_map(shape=shape), how)[0], how, {}))
        return path

    wanted = FileFormat(layout="dense")
    with pytest.raises(InputError, match=r"expected 'features' float16 \[4, 6, 5\], found float16 \[4, 5, 6\]"):
        read_map(write(wanted, (4, 5, 6)), wanted, SHAPE)
    with pytest.raises(InputError, match=r"expected 'features' float16 .*, found float32"):
        read_map(write(FileFormat(dtype="float32", layout="dense")), wanted, SHAPE)
    with pytest.raises(InputError, match="expected a dense map, found 'cells'"):
        read_map(write(FileFormat(layout="sparse")), wanted, SHAPE)
    with pytest.raises(InputError, match="found no file"):
        read_map(tmp_path / "b.safetensors", wanted, SHAPE)
    torch.save({"features": torch.zeros(SHAPE), "evil": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"expected a pt file, found .* in .*a\.pt"):
        read_map(tmp_path / "a.pt", FileFormat("pt", "float32"), SHAPE)
    torch.save([1], tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected a dictionary of tensors, found list"):
        read_map(tmp_path / "a.pt", FileFormat("pt", "float32"), SHAPE)
    torch.save({"features": torch.zeros(SHAPE), 3: torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected the tensor 'features', found features, 3"):
        read_map(tmp_path / "a.pt", FileFormat("pt", "float32"), SHAPE)


def test_cells_outside_the_map_are_refused(tmp_path: Path) -> None:
    how = FileFormat("pt", "float32", "sparse")
    for cells in ([0, 30], [-1, 3], [3, 3], [4, 2]):
        content = {
            "features": torch.zeros(4, 2), "cells": torch.tensor(cells, dtype=torch.int32), "bev_record": "{}",
        }  # fmt: skip
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match="expected ascending cells below 30"):
            read_map(tmp_path / "a.pt", how, SHAPE)


@pytest.mark.parametrize(
    "how", [FileFormat(), FileFormat("pt", "int8", "sparse"), FileFormat("pt", "float32", "guide")]
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_that_changed_give_a_map_or_a_clear_error(how: FileFormat, tmp_path: Path, data: st.DataObject) -> None:
    good = to_bytes(pack(a_map(0.3), how)[0], how, RECORD)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers are where harm is done.
        place = data.draw(st.one_of(st.integers(0, min(700, len(bad) - 1)), st.integers(0, len(bad) - 1)))
        bad[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del bad[data.draw(st.integers(0, len(bad) - 1)) :]
    path = tmp_path / f"a{how.suffix}"
    path.write_bytes(bad)
    with contextlib.suppress(InputError):
        assert read_map(path, how, SHAPE).dense().shape == SHAPE
