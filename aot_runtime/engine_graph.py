# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph that an engine is built from, at the precision asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.backends import mixed_precision, onnx_file, quantise
from aot_runtime.calibration import read_samples
from aot_runtime.errors import ExportError
from aot_runtime.manifest import Manifest

if TYPE_CHECKING:
    from aot_runtime.engine import EngineOptions

_CAST = ("fp16", "bf16")


def make_graph(
    source: Path, scratch: Path, manifest: Manifest, precision: str, options: EngineOptions
) -> tuple[Path, Path]:
    """(the graph to build, the graph that ONNX Runtime can run on a CPU with the same numbers)."""
    if precision == manifest.precision:
        return source, source
    import onnx

    graph = scratch / "graph.onnx"
    if precision in _CAST:
        outside = onnx_file.external_file(source) is not None
        simulated = scratch / "simulated.onnx"
        for target, simulate in ((graph, False), (simulated, True)):
            model = onnx.load(str(source))
            count = mixed_precision.cast_products(model, precision, simulate=simulate)
            if not count:
                raise ExportError(
                    f"expected convolutions or matrix products to cast, found none in {source}",
                    "build with --precision fp32",
                )
            if outside:
                # Above protobuf's 2 GB in float32 means above it in the simulation too.
                onnx.save(model, str(target), save_as_external_data=True, location=f"{target.name}.data")
            else:
                onnx.save(model, str(target))
        return graph, simulated
    samples = list(options.samples)
    if not samples:
        if options.calib_data is None:
            raise ExportError(f"expected calibration data for {precision}, found none", "give --calib-data")
        samples = read_samples(options.calib_data, manifest.inputs, manifest.dims, options.calib_batches)
    quantise.quantise(source, graph, precision, samples, tool=options.quantiser, exclude=options.quantise_exclude)
    return graph, graph
