# SPDX-License-Identifier: Apache-2.0
"""Products rounded to fp16 or bf16 in a graph, for TensorRT and simulated for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from picture_engine import Picture, needs_tensorrt_rtx

from aot_runtime.backends import mixed_precision
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.errors import ExportError

pytestmark = needs_tensorrt_rtx


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_are_rounded_and_nothing_else(picture_onnx: Path, tmp_path: Path, precision: str) -> None:
    """The simulated graph computes in ONNX Runtime what the cast one does in TensorRT; torch's autocast judges both."""
    model = onnx.load(picture_onnx)
    assert mixed_precision.cast_products(model, precision) == {"fp16": 4, "bf16": 3}[precision]
    if precision == "fp16":
        # bf16 convolutions are in ONNX from opset 22 on; TensorRT takes them at any.
        onnx.checker.check_model(model, full_check=True)
    small = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    by_kind = {node.op_type: node for node in model.graph.node}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert all(types[node.input[1]] == small for node in model.graph.node if node.op_type in ("Conv", "MatMul"))
    # TensorRT-RTX has no bf16 deconvolution.
    deconvolution = types[by_kind["ConvTranspose"].input[1]]
    assert deconvolution == (small if precision == "fp16" else onnx.TensorProto.FLOAT)
    assert "Resize" in by_kind
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.FLOAT}
    simulated = onnx.load(picture_onnx)
    mixed_precision.cast_products(simulated, precision, simulate=True)
    onnx.save(simulated, tmp_path / "s.onnx")
    image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(4))
    got = OnnxRunner(tmp_path / "s.onnx").run([image])[0]
    network = Picture().eval()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.no_grad():
        exact = network(image)["features"]
        with torch.autocast("cpu", dtype):
            rounded = network(image)["features"].float()
    error, reference = float((got - exact).abs().max()), float((rounded - exact).abs().max())
    assert 0 < error < 3 * reference
    if precision == "fp16":
        onnx.save(model, tmp_path / "c.onnx")
        assert torch.allclose(OnnxRunner(tmp_path / "c.onnx").run([image])[0], got, atol=2 * error)


def test_a_weight_that_overflows_fp16(picture_onnx: Path, tmp_path: Path) -> None:
    from onnx import numpy_helper

    model = onnx.load(picture_onnx)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [16, 3, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(np.full((16, 3, 3, 3), 1e5, np.float32), weight.name))
    with pytest.raises(ExportError, match=r"weights that fit into fp16, found .* with 1e\+05") as caught:
        mixed_precision.cast_products(model, "fp16")
    assert "bf16" in caught.value.remedy
