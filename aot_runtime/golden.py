# SPDX-License-Identifier: Apache-2.0
"""Inputs from a seed, and what a network must compute from them.

The generator is counter-based, so any language reproduces element i without the ones before it. All integers are
unsigned 64-bit and wrap:

    finalise(z): z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;  z ^ (z >> 31)
    key          = finalise(seed + (stream + 1) * 0xD1342543DE82EF95)
    word(i)      = finalise(key + (i + 1) * 0x9E3779B97F4A7C15)

that is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) started at
`key`. Input number j of an artifact (in the manifest's order) is stream j; i counts its elements in C order. The
positions sampled from output number j are stream 2^32 + j: index(i) = word(i) mod elements, for i < min(256, elements).

Laws turn a word w into an element, always in double precision, then rounded once to float32 (ties to even), and from
there to the input's dtype:

    uniform  low + range * (w >> 40) * 2^-24, where low and range = float32(high) - float32(low) are float32 values
             (range rounded to float32). The product of two 24-bit numbers is exact in a double, so that a compiler
             that fuses multiply and add computes the same.
    grid     the last axis holds columns; column c has (count, divisor): (w mod count) / divisor
    integer  low + (w mod (high - low)), high excluded; for integer and bool dtypes
    ramp     low + floor(i (high - low) / (elements - 1)), whatever w is: from low to high in even steps, both included;
             for offsets into another input
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import Golden, GoldenInput, GoldenOutput

if TYPE_CHECKING:
    import torch

DEFAULT_SEED = 20_250_101
MAX_SAMPLES = 256
SAMPLE_STREAM = 1 << 32
_MASK = (1 << 64) - 1
_RAMP_LIMIT = 1 << 31
_STREAM_STEP = 0xD1342543DE82EF95
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

Law = dict[str, Any]


def uniform(low: float = 0.0, high: float = 1.0) -> Law:
    """Law of independent float elements in [low, high)."""
    return {"kind": "uniform", "low": float(np.float32(low)), "high": float(np.float32(high))}


def grid(*columns: int | tuple[int, int]) -> Law:
    """Law of float columns of the last axis: n draws from 0/n .. (n-1)/n; (count, divisor) from 0 .. (count-1)/divisor.

    Events normalised as x/W, y/H, k/T, p are grid(W, H, T, (2, 1)).
    """
    pairs = [(c, c) if isinstance(c, int) else c for c in columns]
    return {"kind": "grid", "columns": [[int(count), int(divisor)] for count, divisor in pairs]}


def integer(low: int, high: int) -> Law:
    """Law of independent integer elements in [low, high)."""
    return {"kind": "integer", "low": int(low), "high": int(high)}


def ramp(low: int, high: int) -> Law:
    """Law of integer elements that rise (or stay) from `low` to `high`, both included."""
    return {"kind": "ramp", "low": int(low), "high": int(high)}


def _finalise(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return np.asarray(z ^ (z >> np.uint64(31)))


def words(seed: int, stream: int, count: int) -> npt.NDArray[np.uint64]:
    """The first `count` words of a stream (module docstring)."""
    start = np.array([(seed + (stream + 1) * _STREAM_STEP) & _MASK], dtype=np.uint64)
    key = _finalise(start)
    return _finalise(key + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA))


def draw(law: Law, shape: tuple[int, ...], seed: int, stream: int) -> npt.NDArray[Any]:
    """An array of `shape` by a law: float32, or int64 for the laws `integer` and `ramp`.

    Raises:
        ArtifactError: the law is unknown or malformed.
    """
    count = int(np.prod(shape, dtype=np.int64))
    w = words(seed, stream, count).reshape(shape)
    try:
        if law["kind"] == "uniform":
            low, high = np.float32(law["low"]), np.float32(law["high"])
            span = np.float32(float(high) - float(low))
            unit = (w >> np.uint64(40)).astype(np.float64) * 2.0**-24
            return np.asarray(float(low) + float(span) * unit, dtype=np.float32)
        if law["kind"] == "grid":
            columns = np.array(law["columns"], dtype=np.uint64)
            if columns.shape != (shape[-1], 2) or (columns == 0).any():
                raise ValueError(f"{len(columns)} columns for a last axis of {shape[-1]}")
            quotients = (w % columns[:, 0]).astype(np.float64) / columns[:, 1].astype(np.float64)
            return np.asarray(quotients, dtype=np.float32)
        if law["kind"] == "integer":
            low_int, high_int = int(law["low"]), int(law["high"])
            if high_int <= low_int:
                raise ValueError(f"the range [{low_int}, {high_int}) is empty")
            return np.asarray((w % np.uint64(high_int - low_int)).astype(np.int64) + low_int)
        if law["kind"] == "ramp":
            low_int, high_int = int(law["low"]), int(law["high"])
            # Sums of 32-bit numbers and products with a count of elements fit 64 bits.
            if not -_RAMP_LIMIT <= low_int <= high_int <= _RAMP_LIMIT or count >= _RAMP_LIMIT:
                raise ValueError(f"from {low_int} to {high_int}")
            places = np.arange(count, dtype=np.int64).reshape(shape)
            return np.asarray(low_int + places * (high_int - low_int) // max(count - 1, 1))
        raise ValueError(f"kind {law['kind']!r}")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ArtifactError(
            f"expected a law uniform, grid, integer or ramp that fits shape {shape}, found {law!r:.100} ({error})",
            "export the artifact again",
        ) from error


def make_inputs(
    inputs: tuple[GoldenInput, ...], dtypes: dict[str, str], seed: int, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """The golden inputs as tensors, by name; `dtypes` maps names to the manifest's dtypes."""
    import torch

    tensors = {}
    for stream, item in enumerate(inputs):
        values = draw(item.law, item.shape, seed, stream)
        tensors[item.name] = torch.from_numpy(values).to(getattr(torch, dtypes[item.name])).to(device)
    return tensors


def sample_indices(seed: int, output: int, elements: int) -> npt.NDArray[np.int64]:
    """Flat positions (C order) at which output number `output` is compared; some may repeat."""
    count = min(MAX_SAMPLES, elements)
    if count == 0:
        return np.zeros(0, np.int64)
    return np.asarray(words(seed, SAMPLE_STREAM + output, count) % np.uint64(elements), dtype=np.int64)


@dataclass(frozen=True)
class Statistics:
    """Numbers over the finite elements of one output (0 where there is none), and the share that is finite."""

    mean: float
    std: float
    min: float
    max: float
    finite_fraction: float


def statistics(tensor: torch.Tensor) -> Statistics:
    """Mean, population standard deviation, minimum, maximum and finite share of a tensor, summed in double."""
    import torch

    # In slices of bounded size: a converted copy of a large output would double its memory.
    flat = tensor.detach().reshape(-1)
    total, finite, sum_1, sum_2, low, high = flat.numel(), 0, 0.0, 0.0, float("inf"), float("-inf")
    for piece in torch.split(flat, 1 << 22) if total else ():
        part = piece.to(torch.float64)
        part = part[torch.isfinite(part)]
        if part.numel():
            finite += part.numel()
            sum_1 += float(part.sum())
            sum_2 += float((part * part).sum())
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if not finite:
        return Statistics(0.0, 0.0, 0.0, 0.0, 1.0 if total == 0 else 0.0)
    mean = sum_1 / finite
    return Statistics(mean, max(sum_2 / finite - mean * mean, 0.0) ** 0.5, low, high, finite / total)


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes of a tensor in C order."""
    import torch

    data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8) if tensor.numel() else None
    return hashlib.sha256(b"" if data is None else data.numpy().data).hexdigest()


def sampled_values(tensor: torch.Tensor, seed: int, output: int) -> npt.NDArray[np.float64]:
    """The elements at sample_indices(), as doubles."""
    import torch

    indices = torch.from_numpy(sample_indices(seed, output, tensor.numel())).to(tensor.device)
    return np.asarray(tensor.detach().reshape(-1)[indices].to(torch.float64).cpu().numpy())


def describe_output(
    name: str, reference: torch.Tensor, compiled: torch.Tensor, seed: int, output: int, tolerance: float
) -> GoldenOutput:
    """The golden record of one output: numbers of `reference` (eager), digest of `compiled`."""
    numbers = statistics(reference)
    return GoldenOutput(
        name=name,
        shape=tuple(reference.shape),
        values=tuple(float(v) for v in sampled_values(reference, seed, output)),
        mean=numbers.mean,
        std=numbers.std,
        min=numbers.min,
        max=numbers.max,
        finite_fraction=numbers.finite_fraction,
        sha256=tensor_sha256(compiled),
        tolerance=tolerance,
    )


@dataclass(frozen=True)
class Mismatch:
    """Why an output fails the self-test; `non_finite` tells NaN or infinity from a wrong number."""

    output: str
    non_finite: bool
    text: str


def compare(golden: Golden, outputs: dict[str, torch.Tensor]) -> Mismatch | None:
    """The first output that differs from what the golden expects, or None."""
    for index, expected in enumerate(golden.outputs):
        tensor = outputs[expected.name]
        if tuple(tensor.shape) != expected.shape:
            return Mismatch(expected.name, False, f"shape {expected.shape}, found {tuple(tensor.shape)}")
        numbers = statistics(tensor)
        if numbers.finite_fraction < expected.finite_fraction:
            share = 100.0 * (1.0 - numbers.finite_fraction)
            return Mismatch(expected.name, True, f"finite numbers, found {share:.3g} % NaN or infinite")
        values = sampled_values(tensor, golden.seed, index)
        if len(values) != len(expected.values):
            return Mismatch(expected.name, False, f"{len(expected.values)} samples, found {len(values)}")
        errors = np.abs(values - np.array(expected.values, np.float64))
        if not (errors <= expected.tolerance).all():  # so asked, because NaN compares false
            worst = int(errors.argmax())
            return Mismatch(
                expected.name,
                False,
                f"{expected.values[worst]:.6g} +- {expected.tolerance:.3g} at sample {worst}, "
                f"found {values[worst]:.6g}",
            )
        for what in ("mean", "std", "min", "max"):
            want, found = getattr(expected, what), getattr(numbers, what)
            # The standard deviation is a difference of large sums; it moves no more than the elements do.
            if not abs(want - found) <= expected.tolerance + 1e-6 * abs(want):
                return Mismatch(
                    expected.name, False, f"{what} {want:.6g} +- {expected.tolerance:.3g}, found {found:.6g}"
                )
    return None
