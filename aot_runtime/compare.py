# SPDX-License-Identifier: Apache-2.0
"""Command `compare_artifacts A B`: how far two artifacts of one network (other precision or runtime) are apart.

Both run on the same inputs: those of A's self-test, or arrays from a file. Outputs are compared element by element by
name. Keypoints come in an order that the last bit decides, so the outputs keypoints, scores and descriptors (1, K, ...)
are first matched by mutual nearest neighbour in the image.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import AotError, InputError
from aot_runtime.keypoints import is_keypoints, mutual_nearest, per_point
from aot_runtime.progress import table_console

if TYPE_CHECKING:
    from aot_runtime.compiled_model import CompiledModel

DEFAULT_DISTANCE = 3.0
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutputError:
    """B against A, of one output: |B - A|, its largest value over the largest |A|, and the cosine of the two."""

    name: str
    max_abs: float
    mean_abs: float
    max_rel: float
    cosine: float | None
    finite: bool


@dataclass(frozen=True)
class KeypointError:
    """B against A over matched keypoints: mutual nearest neighbours at most `distance` pixels apart.

    Attributes:
        missed: share of A's keypoints without a match in B.
        position_median, position_p99, position_max: distance of matches in pixels.
        score_max: largest difference of matched scores; None without scores.
        cosine_p01, cosine_median: of matched descriptors, the 1st percentile and the median; None without them.
    """

    count_a: int
    count_b: int
    matched: int
    missed: float
    distance: float
    position_median: float
    position_p99: float
    position_max: float
    score_max: float | None
    cosine_p01: float | None
    cosine_median: float | None


@dataclass(frozen=True)
class Comparison:
    """The errors of every output, and of keypoints where the artifact has them."""

    outputs: tuple[OutputError, ...]
    keypoints: KeypointError | None


def compare_artifacts(
    path_a: Path,
    path_b: Path,
    *,
    device_a: str | None = None,
    device_b: str | None = None,
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    distance: float = DEFAULT_DISTANCE,
) -> Comparison:
    """Run both and compare.

    Args:
        device_a, device_b: cpu, cuda or cuda:N; by default what each artifact was made for.
        inputs: arrays by name; by default A's golden inputs.
        distance: pixels within which two keypoints may be the same one.

    Raises:
        AotError: an artifact may not run here, an input does not fit, or the artifacts have different outputs.
    """
    results = []
    for path, device in ((path_a, device_a), (path_b, device_b)):
        results.append(_run(path, device, path_a, inputs))
    (a, b) = results
    if list(a) != list(b):
        raise InputError(f"expected the outputs {', '.join(a)} of {path_a}, found {', '.join(b)} in {path_b}")
    return compare_outputs(a, b, distance)


def compare_outputs(a: Mapping[str, _Array], b: Mapping[str, _Array], distance: float = DEFAULT_DISTANCE) -> Comparison:
    """Compare results by name; those of keypoints by matches too.

    Raises:
        InputError: an output has another shape.
    """
    keypoints = None
    skipped: tuple[str, ...] = ()
    if is_keypoints(a):
        keypoints = compare_keypoints(a, b, distance)
        skipped = per_point(a)
    errors = tuple(_output_error(name, a[name], b[name]) for name in a if name not in skipped)
    return Comparison(errors, keypoints)


def compare_keypoints(a: Mapping[str, _Array], b: Mapping[str, _Array], distance: float) -> KeypointError:
    """Match keypoints by mutual nearest neighbour and compare the matched ones.

    Raises:
        InputError: B has no keypoints as A has them.
    """
    if not is_keypoints(b):
        raise InputError(
            "expected keypoints (1, K, 2) with scores or descriptors in both artifacts, found other shapes"
        )
    points_a, points_b = a["keypoints"][0], b["keypoints"][0]
    index_a, index_b = mutual_nearest(points_a, points_b, distance)
    errors = np.linalg.norm(points_a[index_a] - points_b[index_b], axis=1)
    scores = cosines = None
    if "scores" in a and "scores" in b:
        scores = np.abs(a["scores"][0][index_a] - b["scores"][0][index_b])
    if "descriptors" in a and "descriptors" in b:
        left, right = a["descriptors"][0][index_a], b["descriptors"][0][index_b]
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines = (left * right).sum(1) / np.maximum(norms, 1e-30)
    return KeypointError(
        count_a=len(points_a),
        count_b=len(points_b),
        matched=len(index_a),
        missed=1.0 - len(index_a) / len(points_a) if len(points_a) else 0.0,
        distance=distance,
        position_median=_percentile(errors, 50) or 0.0,
        position_p99=_percentile(errors, 99) or 0.0,
        position_max=_percentile(errors, 100) or 0.0,
        score_max=None if scores is None else _percentile(scores, 100),
        cosine_p01=None if cosines is None else _percentile(cosines, 1),
        cosine_median=None if cosines is None else _percentile(cosines, 50),
    )


def _percentile(values: _Array, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _output_error(name: str, a: _Array, b: _Array) -> OutputError:
    if a.shape != b.shape:
        raise InputError(f"expected output {name} of shape {a.shape} in both artifacts, found {b.shape}")
    finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
    errors = np.abs(b - a)
    peak = float(np.abs(a).max()) if a.size else 0.0
    worst = float(errors.max()) if a.size else 0.0
    norm = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return OutputError(
        name=name,
        max_abs=worst,
        mean_abs=float(errors.mean()) if a.size else 0.0,
        max_rel=worst / peak if peak > 0 else worst,
        cosine=float((a * b).sum()) / norm if norm > 0 else None,
        finite=finite,
    )


def _run(
    path: Path, device: str | None, golden_of: Path, inputs: Mapping[str, npt.NDArray[Any]] | None
) -> dict[str, _Array]:
    import torch

    from aot_runtime import golden as goldens
    from aot_runtime.benchmark import own_device
    from aot_runtime.compiled_model import load_model
    from aot_runtime.verdict import read_manifest

    chosen = device or own_device(path)
    with load_model(path, chosen) as model:
        if inputs is None:
            golden = read_manifest(golden_of).golden
            dtypes = {spec.name: spec.dtype for spec in model.manifest.inputs}
            unknown = [item.name for item in golden.inputs if item.name not in dtypes]
            if unknown:
                raise InputError(
                    f"expected an input {unknown[0]} as in {golden_of}, found {', '.join(dtypes)} in {path}"
                )
            tensors = goldens.make_inputs(golden.inputs, dtypes, golden.seed, str(model.device))
        else:
            tensors = _tensors(inputs, model)
        results = model.run(**tensors)
        return {
            name: np.asarray(tensor.to("cpu", torch.float64).numpy(), np.float64) for name, tensor in results.items()
        }


def _tensors(inputs: Mapping[str, npt.NDArray[Any]], model: CompiledModel) -> dict[str, Any]:
    import torch

    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in model.manifest.inputs}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(model.device, dtypes.get(name))
        for name, array in inputs.items()
    }


def print_comparison(comparison: Comparison) -> None:
    """Tables on standard output."""
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    if comparison.outputs:
        table = Table("output", "max abs error", "mean abs error", "relative", "cosine", "")
        for item in comparison.outputs:
            numbers = (f"{item.max_abs:.3g}", f"{item.mean_abs:.3g}", f"{item.max_rel:.3g}")
            cosine = "" if item.cosine is None else f"{item.cosine:.6f}"
            table.add_row(*(Text(text) for text in (item.name, *numbers, cosine, "" if item.finite else "NOT FINITE")))
        console.print(table)
    points = comparison.keypoints
    if points is None:
        return
    table = Table("keypoints", "", show_header=False)
    for label, value in (
        ("keypoints", f"{points.count_a} and {points.count_b}"),
        (f"matched within {points.distance:g} px", f"{points.matched} ({100 * points.missed:.2f} % missed)"),
        (
            "position error, px",
            f"median {points.position_median:.3g}, p99 {points.position_p99:.3g}, max {points.position_max:.3g}",
        ),
        ("score error", "" if points.score_max is None else f"max {points.score_max:.3g}"),
        (
            "descriptor cosine",
            ""
            if points.cosine_p01 is None or points.cosine_median is None
            else f"1st percentile {points.cosine_p01:.6f}, median {points.cosine_median:.6f}",
        ),
    ):
        table.add_row(label, value)
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 where an error exceeds --max-error or --max-missed, or 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="compare_artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="the reference (.pt2, .onnx, .engine)")
    parser.add_argument("b", help="the artifact to compare with it")
    parser.add_argument("--input", metavar="FILE", help=".npz with an array per input (default: A's self-test)")
    parser.add_argument("--device-a", help="cpu, cuda or cuda:N (default: what A was made for)")
    parser.add_argument("--device-b", help="the same for B")
    parser.add_argument("--distance", type=float, default=DEFAULT_DISTANCE, help="px between matches (default 3)")
    parser.add_argument("--max-error", type=float, help="exit with 1 where a relative error is larger")
    parser.add_argument("--max-missed", type=float, help="exit with 1 where a larger share of keypoints is missed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        comparison = compare_artifacts(
            Path(options.a),
            Path(options.b),
            device_a=options.device_a,
            device_b=options.device_b,
            inputs=None if options.input is None else read_inputs(options.input),
            distance=options.distance,
        )
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(asdict(comparison), indent=2))
    else:
        print_comparison(comparison)
    return 1 if _exceeds(comparison, options.max_error, options.max_missed) else 0


def _exceeds(comparison: Comparison, max_error: float | None, max_missed: float | None) -> bool:
    if max_error is not None and any(not item.max_rel <= max_error for item in comparison.outputs):
        return True
    points = comparison.keypoints
    return max_missed is not None and points is not None and points.missed > max_missed


def read_inputs(path: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a `.npz` file by name.

    Raises:
        InputError: the file is unreadable.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"expected a .npz file, found {path} unreadable ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
