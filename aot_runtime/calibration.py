# SPDX-License-Identifier: Apache-2.0
"""Real inputs from files, with which an 8-bit graph's ranges are measured."""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError
from aot_runtime.manifest import DynamicDim, TensorSpec

Sample = dict[str, npt.NDArray[Any]]
"""One run's inputs by name, with the dtypes and shapes of the artifact."""
SUFFIXES = (".npy", ".npz")


def read_samples(
    source: str | os.PathLike[str], inputs: Sequence[TensorSpec], dims: Sequence[DynamicDim] = (), count: int = 32
) -> list[Sample]:
    """Up to `count` samples of a `.npy` or `.npz` file, of a folder of them, or of a glob pattern, in order of names.

    A `.npz` has one array per input, by name; a `.npy` will do where there is one input. An array has the shape of the
    input, or one axis more in front that counts samples (an input whose first size is 1 may lack it in the file).
    Arrays hold what the network takes, after preprocessing.

    Raises:
        InputError: no files, an unreadable one, an input without array, or an array of another shape.
    """
    files = _files(source)
    ranges = {dim.name: dim for dim in dims}
    samples: list[Sample] = []
    for file in files:
        columns = {spec.name: _split(array, spec, ranges, file) for spec, array in _arrays(file, inputs)}
        counts = {len(column) for column in columns.values()}
        if len(counts) != 1:
            found = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise InputError(f"expected as many samples of every input, found {found} in {file}")
        for position in range(counts.pop()):
            if len(samples) == count:
                return samples
            samples.append({name: column[position] for name, column in columns.items()})
    if not samples:
        raise InputError(f"expected one or more samples, found none in {source}")
    return samples


def _files(source: str | os.PathLike[str]) -> list[Path]:
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES)
    elif path.is_file():
        files = [path]
    else:
        files = sorted(Path(name) for name in glob.glob(text, recursive=True))
    wrong = [file for file in files if file.suffix not in SUFFIXES]
    if not files or wrong:
        raise InputError(
            f"expected calibration data ({', '.join(SUFFIXES)}), found {wrong[0] if wrong else f'none in {source}'}",
            "save what the network takes, after preprocessing, with numpy.save or numpy.savez",
        )
    return files


def _arrays(file: Path, inputs: Sequence[TensorSpec]) -> list[tuple[TensorSpec, npt.NDArray[Any]]]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(inputs) != 1:
                raise InputError(
                    f"expected a .npz with arrays {', '.join(spec.name for spec in inputs)}, found one array in {file}"
                )
            return [(inputs[0], loaded)]
        with loaded:
            missing = [spec.name for spec in inputs if spec.name not in loaded.files]
            if missing:
                raise InputError(f"expected an array {missing[0]}, found {', '.join(loaded.files)} in {file}")
            return [(spec, loaded[spec.name]) for spec in inputs]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"expected arrays, found {file} unreadable ({error})", "write it with numpy.save") from error


def _split(
    array: npt.NDArray[Any], spec: TensorSpec, ranges: dict[str, DynamicDim], file: Path
) -> list[npt.NDArray[Any]]:
    """The samples of one array, each of the input's shape and dtype."""
    if array.dtype.kind not in "fiub" or spec.dtype == "bfloat16":
        raise InputError(f"expected numbers of dtype {spec.dtype} for input {spec.name}, found {array.dtype} in {file}")
    if _fits(array.shape, spec.shape, ranges):
        parts = [array]
    elif _fits(array.shape[1:], spec.shape, ranges):
        parts = list(array)
    elif spec.shape and spec.shape[0] in (1, *ranges) and _fits((1, *array.shape[1:]), spec.shape, ranges):
        parts = [array[position : position + 1] for position in range(len(array))]
    else:
        wanted = "x".join(str(size) for size in spec.shape)
        raise InputError(
            f"expected samples of shape {wanted} for input {spec.name}, found {'x'.join(map(str, array.shape))} in "
            f"{file}"
        )
    samples = [np.ascontiguousarray(part, dtype=spec.dtype) for part in parts]
    if any(not np.isfinite(sample).all() for sample in samples):
        raise InputError(f"expected finite numbers for input {spec.name}, found NaN or infinity in {file}")
    return samples


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...], ranges: dict[str, DynamicDim]) -> bool:
    return len(shape) == len(wanted) and all(
        ranges[want].min <= size <= ranges[want].max if isinstance(want, str) else size == want
        for size, want in zip(shape, wanted)
    )
