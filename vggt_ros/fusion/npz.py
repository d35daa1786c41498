# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npz files: written atomically, read with an error that names the file."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write


def read_npz(path: Path, what: str, keys: Collection[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of a file; pickled objects are refused.

    Args:
        what: that the file should hold, for the error.
        keys: that must be there.

    Raises:
        InputError: the file cannot be read, or lacks a key.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error) as error:
        # numpy takes whatever it does not know for a pickle.
        found = "no such format" if isinstance(error, ValueError) and "pickle" in str(error) else error
        raise InputError(f"expected {what}, found {found} in {path}", "give an .npz file") from error
    missing = sorted(set(keys) - set(arrays))
    if missing:
        raise InputError(f"expected {what} with '{missing[0]}', found {sorted(arrays)} in {path}")
    return arrays


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, compressed; equal arrays give equal bytes."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
