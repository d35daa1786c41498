# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aot_runtime.calibration import read_samples
from aot_runtime.errors import InputError
from aot_runtime.manifest import DynamicDim, TensorSpec

IMAGE = (TensorSpec("image", "float32", (1, 3, 4, 5)),)
PAIR = (TensorSpec("events", "float32", ("n", 4)), TensorSpec("count", "int64", (1,)))
DIMS = (DynamicDim("n", 2, 9),)


def image(value: float, *lead: int) -> np.ndarray:
    return np.full((*lead, 3, 4, 5), value, np.float32)


def test_one_array_is_one_sample_or_many(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, count in ((image(1, 1), 1), (image(1, 6), 6), (image(1, 6, 1), 6)):
        np.save(path, array)
        samples = read_samples(path, IMAGE)
        assert len(samples) == count
        assert all(sample["image"].shape == (1, 3, 4, 5) for sample in samples)
    np.save(path, image(1, 6).astype(np.uint8))
    assert read_samples(path, IMAGE)[0]["image"].dtype == np.float32


def test_folders_and_patterns_in_order_of_names(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        np.save(tmp_path / f"s{number}.npy", image(number, 2))
    (tmp_path / "notes.txt").write_text("")
    values = [float(sample["image"][0, 0, 0, 0]) for sample in read_samples(tmp_path, IMAGE, count=5)]
    assert values == [1, 1, 2, 2, 3]
    assert len(read_samples(str(tmp_path / "s[12].npy"), IMAGE)) == 4


def test_several_inputs_and_a_dynamic_size(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, events=np.ones((5, 4)), count=np.array([5]), other=np.zeros(3))
    (sample,) = read_samples(path, PAIR, DIMS)
    assert (sample["events"].shape, sample["events"].dtype, sample["count"].dtype) == ((5, 4), np.float32, np.int64)
    np.savez(path, events=np.ones((3, 5, 4)), count=np.ones((3, 1)))
    assert len(read_samples(path, PAIR, DIMS)) == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    def message(source: object, inputs: tuple[TensorSpec, ...] = IMAGE) -> str:
        with pytest.raises(InputError) as caught:
            read_samples(str(source), inputs, DIMS)
        return str(caught.value)

    assert "found none in" in message(tmp_path)
    assert "found none in" in message(tmp_path / "*.npy")
    path = tmp_path / "a.npy"
    (tmp_path / "a.png").write_bytes(b"")
    assert f"found {tmp_path / 'a.png'}; save what the network takes, after preprocessing" in message(
        tmp_path / "*.png"
    )
    path.write_bytes(b"\x93NUMPY\x01\x00garbage")
    assert f"expected arrays, found {path} unreadable" in message(path)
    np.save(path, np.zeros((3, 4, 6), np.float32))
    assert "samples of shape 1x3x4x5 for input image, found 3x4x6" in message(path)
    np.save(path, image(float("nan"), 1))
    assert "finite numbers for input image, found NaN" in message(path)
    np.save(path, np.array(["text"]))
    assert "expected numbers of dtype float32 for input image" in message(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert "unreadable" in message(path)
    np.save(path, image(1, 0))
    assert "one or more samples, found none" in message(path)
    np.save(path, image(1, 1))
    assert "a .npz with arrays events, count, found one array" in message(path, PAIR)
    path = tmp_path / "b.npz"
    np.savez(path, events=np.ones((5, 4)))
    assert "expected an array count, found events" in message(path, PAIR)
    np.savez(path, events=np.ones((10, 4)), count=np.ones(1))
    assert "samples of shape nx4 for input events, found 10x4" in message(path, PAIR)
    np.savez(path, events=np.ones((2, 5, 4)), count=np.ones((3, 1)))
    assert "as many samples of every input, found events 2, count 3" in message(path, PAIR)
    path.write_bytes(path.read_bytes()[:-30])
    assert "unreadable" in message(path, PAIR)
