# SPDX-License-Identifier: Apache-2.0
"""An engine's numbers against those of the ONNX artifact it is built from: bounds, order of rows, self-test."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime import golden as goldens
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.errors import ExportError
from aot_runtime.keypoints import align_keypoints, is_keypoints, per_point
from aot_runtime.manifest import Golden, GoldenOutput, Manifest, OutputParity
from aot_runtime.parity import Tolerance, choose_tolerances, compare_outputs

if TYPE_CHECKING:
    import torch

    from aot_runtime.export import Align
    from aot_runtime.runner import Runner

_MISSING = {"fp16": 0.02, "bf16": 0.1, "int8": 0.1, "fp8": 0.1}
"""Share of keypoints that a precision may lose."""


@dataclass(frozen=True)
class Measured:
    """What the manifest of an engine says about its numbers."""

    parity: tuple[OutputParity, ...]
    golden: Golden


class EngineChecks:
    """The comparison of graphs and engines of one precision with their ONNX artifact, on the golden inputs.

    Args:
        source: the ONNX artifact, and `manifest` what it says.
        precision: of the engine.
        tolerances, align: see `aot_runtime.engine.build_engine`.

    Raises:
        ExportError: the artifact does not compute what eager did when it was exported, or `tolerances` names an output
            that does not exist.
    """

    def __init__(
        self,
        source: Path,
        manifest: Manifest,
        precision: str,
        tolerances: Tolerance | Mapping[str, Tolerance] | None = None,
        align: Align | None = None,
    ) -> None:
        names = [spec.name for spec in manifest.outputs]
        self._manifest = manifest
        self._bounds = choose_tolerances(names, precision, tolerances)
        if not isinstance(tolerances, Tolerance):
            for name, own in exporters_bounds(manifest, precision).items():
                if name not in (tolerances or {}):
                    self._bounds[name] = own
        self._reference = _reference_outputs(source, manifest)
        self._align = align
        self._in_range_only: tuple[str, ...] = ()
        by_name = dict(zip(names, self._reference))
        if align is None and is_keypoints(by_name):
            self._align = functools.partial(align_keypoints, missing=_MISSING.get(precision, 0.01))
            # The self-test compares row by row. Rows without a stable order can only be tested to be in range.
            self._in_range_only = per_point(by_name)

    def source(self) -> Measured:
        """Of the ONNX artifact itself, where the engine has its precision: the parity with eager."""
        return Measured(self._manifest.parity, self._golden(self._reference, self._manifest.parity))

    def measure(self, runner: Runner, what: str, device: str = "cpu") -> Measured:
        """Of a graph or an engine on `device`, against the ONNX artifact.

        Args:
            what: added to the names of outputs in errors.

        Raises:
            ExportError: an output is out of bounds, or load_model would refuse it.
        """
        outputs = runner.run(_golden_inputs(self._manifest, device))
        reference = [tensor.to(device) for tensor in self._reference]
        compared = outputs
        if self._align is not None and len(outputs) == len(reference):
            ordered = self._align(dict(zip(self._bounds, reference)), dict(zip(self._bounds, outputs)))
            compared = [ordered[name] for name in self._bounds]
        parity = compare_outputs(reference, compared, self._bounds, what)
        golden = self._golden(outputs, parity)
        mismatch = goldens.compare(golden, dict(zip(self._bounds, outputs)))
        if mismatch is not None:
            raise ExportError(
                f"expected output {mismatch.output}{what} to pass its self-test with {mismatch.text}",
                "nothing was written; export with self_test_tolerances for outputs whose order is not stable",
            )
        return Measured(parity, golden)

    def _golden(self, outputs: Sequence[torch.Tensor], parity: Sequence[OutputParity]) -> Golden:
        """Eager's numbers, with the bounds of this precision and the digest of what was computed with it.

        The bounds are against the ONNX artifact; its own distance from eager comes on top.
        """
        own = {item.name: item.max_abs for item in self._manifest.parity}
        golden = self._manifest.golden
        records = []
        for expected, item, tensor in zip(golden.outputs, parity, outputs):
            tolerance = max(expected.tolerance, item.tolerance + own.get(expected.name, 0.0))
            if expected.name in self._in_range_only:
                tolerance = max(tolerance, expected.max - expected.min)
            records.append(replace(expected, tolerance=tolerance, sha256=goldens.tensor_sha256(tensor)))
        return replace(golden, outputs=tuple(records))


def exporters_bounds(manifest: Manifest, precision: str) -> dict[str, Tolerance]:
    """Outputs for which the exporter allowed more than `DEFAULT_TOLERANCES`, at the same precision.

    A network whose numbers jump (keypoints that cross the border of a pixel) is exported with bounds of its own, and
    an engine of it may be as far from the ONNX artifact as that was allowed to be from eager.
    """
    if precision != manifest.precision:
        return {}
    defaults = choose_tolerances([item.name for item in manifest.parity], precision, None)
    peaks = {expected.name: _peak(expected) for expected in manifest.golden.outputs}
    return {
        item.name: Tolerance(item.tolerance, 0.0, None if item.cosine is None else defaults[item.name].cosine)
        for item in manifest.parity
        if item.tolerance > defaults[item.name].bound(peaks.get(item.name, 0.0))
    }


def _peak(expected: GoldenOutput) -> float:
    return max(abs(expected.min), abs(expected.max))


def _golden_inputs(manifest: Manifest, device: str) -> list[torch.Tensor]:
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs}
    return list(goldens.make_inputs(manifest.golden.inputs, dtypes, manifest.golden.seed, device).values())


def _reference_outputs(source: Path, manifest: Manifest) -> list[torch.Tensor]:
    """What the ONNX artifact computes from the golden inputs.

    Raises:
        ExportError: not what eager computed when it was exported.
    """
    outputs = OnnxRunner(source).run(_golden_inputs(manifest, "cpu"))
    mismatch = goldens.compare(manifest.golden, dict(zip((spec.name for spec in manifest.outputs), outputs)))
    if mismatch is not None:
        raise ExportError(
            f"expected output {mismatch.output} of {source} to be {mismatch.text}", "export the ONNX file again"
        )
    return outputs
