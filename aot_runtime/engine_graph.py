# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph that an engine is built from, at the precision asked for, and its check in ONNX Runtime."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime import golden as goldens
from aot_runtime.backends import mixed_precision, onnx_file, quantise
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.calibration import read_samples
from aot_runtime.errors import ExportError
from aot_runtime.keypoints import align_keypoints, is_keypoints
from aot_runtime.manifest import Manifest, OutputParity
from aot_runtime.parity import Tolerance, compare_outputs

if TYPE_CHECKING:
    import torch

    from aot_runtime.engine import EngineOptions
    from aot_runtime.export import Align
    from aot_runtime.runner import Runner

_CAST = ("fp16", "bf16")
_MISSING = {"fp16": 0.02, "bf16": 0.1, "int8": 0.1, "fp8": 0.1}
"""Share of keypoints that a precision may lose."""


def make_graph(
    source: Path, scratch: Path, manifest: Manifest, precision: str, options: EngineOptions
) -> tuple[Path, Path]:
    """(the graph to build, the graph that ONNX Runtime can run on a CPU with the same numbers)."""
    if precision == manifest.precision:
        return source, source
    import onnx

    graph = scratch / "graph.onnx"
    if precision in _CAST:
        _require_inline(source, precision)
        simulated = scratch / "simulated.onnx"
        for target, simulate in ((graph, False), (simulated, True)):
            model = onnx.load(str(source))
            count = mixed_precision.cast_products(model, precision, simulate=simulate)
            if not count:
                raise ExportError(
                    f"expected convolutions or matrix products to cast, found none in {source}",
                    "build with --precision fp32",
                )
            onnx.save(model, str(target))
        return graph, simulated
    samples = list(options.samples)
    if not samples:
        if options.calib_data is None:
            raise ExportError(f"expected calibration data for {precision}, found none", "give --calib-data")
        samples = read_samples(options.calib_data, manifest.inputs, manifest.dims, options.calib_batches)
    quantise.quantise(source, graph, precision, samples, tool=options.quantiser, exclude=options.quantise_exclude)
    return graph, graph


def _require_inline(source: Path, precision: str) -> None:
    if onnx_file.external_file(source) is not None:
        raise ExportError(
            f"expected an ONNX file with its weights inside to cast to {precision}, found weights beside {source}",
            f"export the network itself with --precision {precision}",
        )


def _golden_inputs(manifest: Manifest, device: str) -> list[torch.Tensor]:
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs}
    return list(goldens.make_inputs(manifest.golden.inputs, dtypes, manifest.golden.seed, device).values())


def reference_outputs(source: Path, manifest: Manifest) -> list[torch.Tensor]:
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


def compare(
    runner: Runner,
    manifest: Manifest,
    reference: Sequence[torch.Tensor],
    bounds: Mapping[str, Tolerance],
    align: Align | None,
    what: str,
) -> tuple[tuple[OutputParity, ...], list[torch.Tensor]]:
    """(parity with the ONNX artifact, outputs) of a runner on the reference's device."""
    outputs = runner.run(_golden_inputs(manifest, str(reference[0].device)))
    compared = outputs
    if align is not None:
        ordered = align(dict(zip(bounds, reference)), dict(zip(bounds, outputs)))
        compared = [ordered[name] for name in bounds]
    return compare_outputs(reference, compared, bounds, what), outputs


def default_align(manifest: Manifest, reference: Sequence[torch.Tensor], precision: str) -> Align | None:
    """Keypoints matched by place, with the share of them that a precision may lose; None for other outputs."""
    if not is_keypoints(dict(zip((spec.name for spec in manifest.outputs), reference))):
        return None
    return functools.partial(align_keypoints, missing=_MISSING.get(precision, 0.01))
