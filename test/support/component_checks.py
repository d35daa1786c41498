# SPDX-License-Identifier: Apache-2.0
"""Comparisons of what a Python node and a C++ component publish."""

from __future__ import annotations

from typing import Any

import numpy as np


def same_but_for_data(python: Any, cpp: Any) -> None:
    """All fields but the data are equal."""
    for name in python.get_fields_and_field_types():
        if name != "data":
            assert getattr(python, name) == getattr(cpp, name), name


def numbers(msg: Any, dtype: Any = np.float32) -> np.ndarray:
    """The data of a message as numbers."""
    return np.frombuffer(msg.data, dtype)


def same_numbers(python: Any, cpp: Any, tolerance: float) -> None:
    """The data are float32, NaN in the same places, and else differ by no more than this share of the largest."""
    a, b = numbers(python), numbers(cpp)
    assert a.shape == b.shape
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    if np.isfinite(a).any():
        assert np.nanmax(np.abs(a - b)) <= tolerance * np.nanmax(np.abs(a))


def same_picture(python: Any, cpp: Any, colours: int, share: float = 0.02) -> None:
    """Few bytes differ, and those by few steps: numbers that differ in the last bit may fall into another colour."""
    a, b = numbers(python, np.uint8).astype(int), numbers(cpp, np.uint8).astype(int)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= colours
    assert (a != b).mean() <= share
