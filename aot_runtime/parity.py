# SPDX-License-Identifier: Apache-2.0
"""How close a compiled network must be to eager PyTorch, and how close it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aot_runtime.errors import ExportError
from aot_runtime.manifest import OutputParity

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tolerance:
    """|error| <= atol + rtol * max|eager| for every element; cosine similarity >= cosine where that is given."""

    atol: float
    rtol: float
    cosine: float | None = None

    def bound(self, peak: float) -> float:
        """The largest absolute error allowed where `peak` is the largest |eager| element."""
        return self.atol + self.rtol * peak


DEFAULT_TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(1e-5, 1e-4),
    # Fused kernels keep float32 between operations where eager rounds each result: several roundings apart.
    "fp16": Tolerance(1e-3, 2e-2, cosine=0.999),
    "bf16": Tolerance(1e-2, 6e-2, cosine=0.995),
    # 8-bit steps: 1/127 of the largest value in int8, 1/16 of every value in fp8 (e4m3), added up over layers.
    "int8": Tolerance(1e-2, 1e-1, cosine=0.99),
    "fp8": Tolerance(1e-2, 1.5e-1, cosine=0.98),
}


def choose_tolerances(
    names: Sequence[str], precision: str, given: Tolerance | Mapping[str, Tolerance] | None
) -> dict[str, Tolerance]:
    """One tolerance per output: what was given for all, by name, or the precision's default.

    Raises:
        ExportError: `given` names an output that does not exist.
    """
    if isinstance(given, Tolerance):
        return dict.fromkeys(names, given)
    unknown = sorted(set(given or {}) - set(names))
    if unknown:
        raise ExportError(f"expected tolerances for outputs {list(names)}, found {unknown}")
    return {name: (given or {}).get(name, DEFAULT_TOLERANCES[precision]) for name in names}


def compare_outputs(
    eager: Sequence[torch.Tensor],
    compiled: Sequence[torch.Tensor],
    tolerances: Mapping[str, Tolerance],
    what: str = "",
) -> tuple[OutputParity, ...]:
    """Parity of each output, in the order of `tolerances`; `what` is added to the name in errors (e.g. a size).

    Raises:
        ExportError: another number, shape or dtype of outputs, a value that is not finite, or an error above tolerance.
    """
    if len(compiled) != len(eager):
        raise ExportError(f"expected {len(eager)} outputs from the compiled network, found {len(compiled)}")
    return tuple(
        _compare_one(name, reference, result, tolerance, what)
        for (name, tolerance), reference, result in zip(tolerances.items(), eager, compiled)
    )


def _compare_one(
    name: str, reference: torch.Tensor, result: torch.Tensor, tolerance: Tolerance, what: str
) -> OutputParity:
    if result.shape != reference.shape or result.dtype != reference.dtype:
        raise ExportError(
            f"expected compiled output {name}{what} to be {reference.dtype} {tuple(reference.shape)}, "
            f"found {result.dtype} {tuple(result.shape)}"
        )
    require_finite(name, result, f"compiled{what}")
    peak, worst, dots = _accumulate(reference, result)
    bound = tolerance.bound(peak)
    cosine = None
    if tolerance.cosine is not None and dots[1] > 0 and dots[2] > 0:
        cosine = dots[0] / (dots[1] * dots[2]) ** 0.5
    relative = worst / peak if peak > 0 else worst
    if worst > bound:
        raise ExportError(
            f"expected compiled output {name}{what} within {bound:.3g} of eager, found max abs error {worst:.3g} "
            f"(relative to the largest value {relative:.3g})",
            "nothing was written; look for an operation that the compiler gets wrong, or pass a larger tolerance",
        )
    if cosine is not None and tolerance.cosine is not None and cosine < tolerance.cosine:
        raise ExportError(
            f"expected compiled output {name}{what} with cosine similarity >= {tolerance.cosine} to eager, "
            f"found {cosine:.6f}",
            "nothing was written; keep sensitive layers in float32, or pass a smaller cosine",
        )
    return OutputParity(name=name, max_abs=worst, max_rel=relative, cosine=cosine, tolerance=bound)


def _accumulate(reference: torch.Tensor, result: torch.Tensor) -> tuple[float, float, tuple[float, float, float]]:
    """(max |reference|, max |error|, (dot, |reference|^2, |result|^2)), in slices to bound the doubles in memory."""
    import torch

    peak = worst = dot = norm_reference = norm_result = 0.0
    if reference.numel():
        pieces = (torch.split(tensor.reshape(-1), 1 << 22) for tensor in (reference, result))
        for left, right in zip(*pieces):
            a, b = left.to(torch.float64), right.to(torch.float64)
            peak = max(peak, float(a.abs().max()))
            worst = max(worst, float((a - b).abs().max()))
            dot += float(a @ b)
            norm_reference += float(a @ a)
            norm_result += float(b @ b)
    return peak, worst, (dot, norm_reference, norm_result)


def require_finite(name: str, tensor: torch.Tensor, who: str) -> None:
    """Raise ExportError where an output has NaN or infinite elements."""
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        raise ExportError(
            f"expected finite numbers in {who} output {name}, found {bad} of {tensor.numel()} elements NaN or infinite",
            "nothing was written; check the weights, or export with --precision fp32",
        )
