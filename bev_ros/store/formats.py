# SPDX-License-Identifier: Apache-2.0
"""One map as a file: safetensors or .pt; float32, float16 or int8; all cells, or the occupied ones.

Tensors of a file: `features` (C, Y, X), or (C, n) with `cells` (n,) int32 = row * X + column; `scale` (C,) float32 for
int8, value = features * scale. The layout `guide` is one bare tensor [1, C, 1, Y, X] float32, as existing readers of
`.pt` files expect. The bytes depend on the map and the record alone, so that equal runs make equal files.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    import torch

FORMATS = ("safetensors", "pt")
DTYPES = ("float32", "float16", "int8")
LAYOUTS = ("auto", "dense", "sparse", "guide")
SPARSE_BELOW = 0.5
"""Share of occupied cells below which `auto` stores the occupied ones only: where it halves the file."""

_RECORD = "bev_record"
_HEADER = 4096
_TORCH_TYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class FileFormat:
    """How maps are stored; the same for all maps of a folder.

    Raises:
        InputError: there is no such format, dtype or layout, or they do not go together.
    """

    format: str = "safetensors"
    dtype: str = "float16"
    layout: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("dtype", self.dtype, DTYPES),
            ("layout", self.layout, LAYOUTS),
        ):
            if value not in known:
                raise InputError(f"expected a {name} among {', '.join(known)}, found {value!r}")
        if self.layout == "guide" and (self.format, self.dtype) != ("pt", "float32"):
            raise InputError(
                f"expected --format pt --dtype float32 for --layout guide, found {self.format} and {self.dtype}"
            )

    @property
    def suffix(self) -> str:
        """Of the files."""
        return f".{self.format}"

    def largest(self, shape: tuple[int, int, int]) -> int:
        """Bytes that a file may have at most: every cell occupied."""
        channels, rows, columns = shape
        each = np.dtype(_TORCH_TYPES[self.dtype]).itemsize
        cells = 4 * rows * columns if self.layout in ("sparse", "auto") else 0
        return each * channels * rows * columns + 4 * channels * (self.dtype == "int8") + cells + _HEADER

    def is_sparse(self, coverage: float) -> bool:
        """Whether a map with this share of occupied cells is stored as its occupied cells."""
        return self.layout == "sparse" or (self.layout == "auto" and coverage < SPARSE_BELOW)


@dataclass(frozen=True)
class PackedMap:
    """The tensors of a file.

    Attributes:
        shape: (C, Y, X) of the map.
        values: (C, Y, X), or (C, n) with `cells`; float32, float16 or int8.
        cells: (n,) int32, ascending, or None.
        scale: (C,) float32 with int8, or None.
        coverage: share of the cells that were not zero before anything was rounded.
    """

    shape: tuple[int, int, int]
    values: np.ndarray
    cells: np.ndarray | None = None
    scale: np.ndarray | None = None
    coverage: float = 0.0

    def unpacked(self) -> np.ndarray:
        """The map, (C, Y, X) float32."""
        values = _widened(self.values, self.scale)
        if self.cells is None:
            return values
        dense = np.zeros((self.shape[0], self.shape[1] * self.shape[2]), np.float32)
        dense[:, self.cells] = values
        return dense.reshape(self.shape)


def coverage_of(features: np.ndarray) -> float:
    """Share of the cells where a map (C, Y, X) is not zero in all channels."""
    return float(np.any(features != 0, axis=0).mean())


def pack(features: np.ndarray, how: FileFormat) -> tuple[PackedMap, float]:
    """The tensors to store for a map (C, Y, X) float32, and the largest error they make over the map's largest |value|.

    Raises:
        InputError: the map is not finite, or too large for float16.
    """
    features = np.ascontiguousarray(features, np.float32)
    if features.ndim != 3:
        raise InputError(f"expected a map (C, Y, X), found shape {features.shape}")
    # One pass over the map tells what is occupied, how large it is, and (by NaN and inf) whether all is finite.
    peaks = np.abs(features).max(axis=0, initial=0.0)
    if not np.isfinite(peaks).all():
        wrong = int((~np.isfinite(features)).sum())
        raise InputError(f"expected finite features, found {wrong} of {features.size} that are not")
    largest = float(peaks.max(initial=0.0))
    shape = (features.shape[0], features.shape[1], features.shape[2])
    coverage = float((peaks > 0).mean())
    cells, values = None, features
    if how.is_sparse(coverage):
        cells = np.flatnonzero(peaks).astype(np.int32)
        values = np.ascontiguousarray(features.reshape(shape[0], -1)[:, cells])
    scale = None
    if how.dtype == "float16":
        if largest > float(np.finfo(np.float16).max):
            raise InputError(f"expected |features| up to 65504 for float16, found {largest:g}", "use --dtype float32")
        stored = values.astype(np.float16)
    elif how.dtype == "int8":
        scale, stored = _to_int8(values)
    else:
        stored = values
    packed = PackedMap(shape, stored, cells, scale, coverage)
    if how.dtype == "float32" or largest == 0:
        return packed, 0.0
    back = _widened(stored, scale)
    np.subtract(back, values, out=back)
    return packed, max(float(back.max(initial=0.0)), -float(back.min(initial=0.0))) / largest


def _widened(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Stored values as float32."""
    wide = values.astype(np.float32)
    if scale is not None:
        wide *= scale.reshape(-1, *[1] * (wide.ndim - 1))
    return wide


def _to_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale (C,), values as int8): the largest |value| of a channel becomes 127."""
    flat = values.reshape(values.shape[0], -1)
    largest = np.maximum(flat.max(axis=1, initial=0.0), -flat.min(axis=1, initial=0.0))
    scale = (largest / np.float32(127)).astype(np.float32)
    # A channel whose largest value is below what float32 can divide becomes zero.
    with np.errstate(divide="ignore", over="ignore"):
        per_step = np.where(np.isfinite(1 / scale), 1 / scale, np.float32(0))
    steps = flat * per_step[:, None]
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    return scale, steps.astype(np.int8).reshape(values.shape)


def to_bytes(packed: PackedMap, how: FileFormat, record: dict[str, Any]) -> bytes:
    """The file's bytes; `record` is plain JSON that goes with the map (not in the layout `guide`)."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    tensors = {"features": packed.values, "cells": packed.cells, "scale": packed.scale}
    arrays = {name: array for name, array in tensors.items() if array is not None}
    if how.format == "safetensors":
        from safetensors.numpy import save

        # One key only: safetensors does not promise an order of several.
        return bytes(save(arrays, metadata={_RECORD: text}))
    import torch

    content: Any = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if how.layout == "guide":
        content = content["features"][None, :, None]
    else:
        content[_RECORD] = text
    buffer = io.BytesIO()
    # A file would write its own name into the archive, a buffer does not.
    torch.save(content, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class StoredMap:
    """What is in a file; the tensors are mapped from it, not read, until somebody touches them.

    Attributes:
        values: (C, Y, X), or (C, n) with `cells`; float32, float16 or int8.
        cells: (n,) int32 or None.
        scale: (C,) float32 with int8, or None.
        shape: (C, Y, X) of the map.
        record: what was stored with it; empty in the layout `guide`.
    """

    values: torch.Tensor
    cells: torch.Tensor | None
    scale: torch.Tensor | None
    shape: tuple[int, int, int]
    record: dict[str, Any]

    @property
    def is_sparse(self) -> bool:
        """Whether only occupied cells are stored."""
        return self.cells is not None

    @property
    def dtype(self) -> str:
        """Of the stored values: float32, float16 or int8."""
        return str(self.values.dtype).removeprefix("torch.")

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The map (C, Y, X); float32 unless told otherwise. A dense map of that dtype is the mapped file itself."""
        import torch

        values = self.values
        if self.scale is not None:
            values = values * self.scale.view(-1, *[1] * (values.dim() - 1))
        return self._spread(values.to(dtype or torch.float32))

    def dense_raw(self) -> torch.Tensor:
        """The stored values on all cells, (C, Y, X); those of int8 are still to be multiplied by `scale`."""
        return self._spread(self.values)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        if self.cells is None:
            return values
        dense = values.new_zeros(self.shape[0], self.shape[1] * self.shape[2])
        return dense.index_copy_(1, self.cells.long(), values).view(self.shape)


def read_map(path: Path, how: FileFormat, shape: tuple[int, int, int]) -> StoredMap:
    """The map in a file.

    Raises:
        InputError: the file is not there, or not what `how` and `shape` say.
    """
    try:
        tensors, text = (_read_safetensors if how.format == "safetensors" else _read_pt)(path)
    except FileNotFoundError:
        raise InputError(f"expected a map, found no file {path}") from None
    except InputError:
        raise
    except Exception as error:  # whatever torch and safetensors say of bytes that are none of theirs
        told = " ".join(str(error).split())[:200]
        raise InputError(f"expected a {how.format} file, found {type(error).__name__} ({told}) in {path}") from error
    try:
        return _checked(tensors, text, how, shape)
    except ValueError as error:
        raise InputError(f"{error} in {path}", "run verify_bev_features --repair") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}, (file.metadata() or {}).get(_RECORD)


def _read_pt(path: Path) -> tuple[dict[str, Any], Any]:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(content, torch.Tensor):
        return {"features": content}, None
    if not isinstance(content, dict):
        raise InputError(f"expected a dictionary of tensors, found {type(content).__name__} in {path}")
    content = dict(content)
    text = content.pop(_RECORD, None)
    return content, text


def _checked(tensors: dict[str, Any], text: Any, how: FileFormat, shape: tuple[int, int, int]) -> StoredMap:
    """Raises ValueError with "expected A, found B"."""
    import torch

    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"expected a plain tensor '{name}', found {type(tensor).__name__}")
    extra = sorted(set(map(str, tensors)) - {"features", "cells", "scale"})
    if "features" not in tensors or extra:
        raise ValueError(f"expected the tensor 'features', found {', '.join(map(str, tensors)) or 'none'}"[:300])
    values, cells, scale = tensors["features"], tensors.get("cells"), tensors.get("scale")
    if how.layout == "guide":
        wanted: tuple[int, ...] = (1, shape[0], 1, *shape[1:])
        _expect("features", values, how.dtype, wanted)
        if cells is not None or scale is not None or text is not None:
            raise ValueError("expected one bare tensor, found more")
        return StoredMap(values[0, :, 0], None, None, shape, {})
    if cells is not None:
        if how.layout == "dense":
            raise ValueError("expected a dense map, found 'cells'")
        _expect("cells", cells, "int32", (cells.shape[0] if cells.dim() == 1 else -1,))
        steps = cells.diff()
        if cells.numel() and (int(cells[0]) < 0 or int(cells[-1]) >= shape[1] * shape[2] or bool((steps <= 0).any())):
            raise ValueError(f"expected ascending cells below {shape[1] * shape[2]}, found others")
    elif how.layout == "sparse":
        raise ValueError("expected 'cells', found none")
    _expect("features", values, how.dtype, shape if cells is None else (shape[0], cells.shape[0]))
    if (scale is None) == (how.dtype == "int8"):
        raise ValueError(f"expected {'a' if scale is None else 'no'} 'scale' with {how.dtype}, found otherwise")
    if scale is not None:
        _expect("scale", scale, "float32", (shape[0],))
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError("expected the record of the map, found none")
    return StoredMap(values, cells, scale, shape, record)


def _expect(name: str, tensor: torch.Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    found = str(tensor.dtype).removeprefix("torch.")
    if found != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"expected '{name}' {dtype} {list(shape)}, found {found} {list(tensor.shape)}")
