# SPDX-License-Identifier: Apache-2.0
"""8-bit graphs by both tools. NVIDIA's ModelOpt is seldom installed beside us: a stand-in checks how it is called."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from picture_engine import PICTURE, Picture, samples

from aot_runtime.backends import quantise
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.errors import ExportError
from aot_runtime.export import export_model

MODELOPT = importlib.util.find_spec("modelopt") is not None


@pytest.fixture(scope="module")
def picture_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantise") / "picture.onnx"
    export_model(Picture(), path=path, **PICTURE)
    return path


def error_of(graph: Path, source: Path, mode: str) -> float:
    """Root mean square error over that of the fp32 graph's output, on inputs of the calibration's kind."""
    found, wanted = OnnxRunner(graph, optimize=mode != "fp8"), OnnxRunner(source)
    image = [torch.from_numpy(np.random.default_rng(8).random((1, 3, 24, 32), dtype=np.float32))]
    exact = wanted.run(image)[0]
    return float((found.run(image)[0] - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("tool", "mode", "largest"),
    [
        ("onnxruntime", "int8", 0.02),
        ("onnxruntime", "fp8", 0.08),
        # It changes ONNX Runtime's quantiser for its process, so that it comes last.
        pytest.param(
            *("modelopt", "int8", 0.02), marks=pytest.mark.skipif(not MODELOPT, reason="modelopt is not installed")
        ),
    ],
)
def test_pairs_before_products(picture_onnx: Path, tmp_path: Path, tool: str, mode: str, largest: float) -> None:
    graph = tmp_path / "q.onnx"
    assert quantise.quantise(picture_onnx, graph, mode, samples(), tool=tool) == tool
    model = onnx.load(graph)
    producer = {name: node for node in model.graph.node for name in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    wanted = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[mode]
    quantised = []
    for node in model.graph.node:
        pairs = [producer[name] for name in node.input[:2] if name in producer]
        if [pair.op_type for pair in pairs] == ["DequantizeLinear"] * 2:
            assert {kinds[pair.input[2]] for pair in pairs} == {wanted}
            quantised.append(node.op_type)
    # ModelOpt leaves products of few columns in fp32.
    assert sorted(quantised) == ["Conv", "Conv", "ConvTranspose", *(["MatMul"] if tool == "onnxruntime" else [])]
    assert 0 < error_of(graph, picture_onnx, mode) < largest


def test_what_is_excluded_stays(picture_onnx: Path, tmp_path: Path) -> None:
    first = next(node.name for node in onnx.load(picture_onnx).graph.node if node.op_type == "Conv")
    quantise.quantise(picture_onnx, tmp_path / "q.onnx", "int8", samples(), tool="onnxruntime", exclude=[first])
    model = onnx.load(tmp_path / "q.onnx")
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    quantised = [producer.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"]
    assert quantised == [None, "DequantizeLinear"]


@pytest.fixture
def modelopt(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for ModelOpt 0.47 that keeps what it is called with, and reads the samples as the real one does."""
    called: dict[str, Any] = {}

    def quantize(onnx_path: str, **options: Any) -> None:
        called.update(options, onnx_path=onnx_path)
        reader = options["calibration_data_reader"]
        called["read"] = [reader.get_first(), *iter(reader.get_next, None)]
        reader.rewind()
        called["again"] = list(iter(reader.get_next, None))
        quantise._by_onnxruntime(Path(onnx_path), Path(options["output_path"]), "int8", called["again"], ())

    for name in ("modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["modelopt.onnx.quantization"].quantize = quantize  # type: ignore[attr-defined]
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return object() if name == "modelopt" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return called


def test_modelopt_is_taken_where_it_is_installed(picture_onnx: Path, tmp_path: Path, modelopt: dict[str, Any]) -> None:
    given = samples(3)
    assert quantise.default_tool() == "modelopt"
    assert quantise.quantise(picture_onnx, tmp_path / "q.onnx", "int8", given, exclude=["a", "b"]) == "modelopt"
    assert (modelopt["quantize_mode"], modelopt["nodes_to_exclude"]) == ("int8", ["a", "b"])
    assert modelopt["onnx_path"] == str(picture_onnx)
    # Without it ModelOpt would look for a GPU, and cast what it leaves unquantised to fp16.
    assert (modelopt["calibration_eps"], modelopt["high_precision_dtype"]) == (["cpu"], "fp32")
    assert _same(modelopt["read"], [given[0], *given])
    assert _same(modelopt["again"], given)
    assert quantise.quantise(picture_onnx, tmp_path / "r.onnx", "int8", given, tool="onnxruntime") == "onnxruntime"


def _same(found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> bool:
    return len(found) == len(wanted) and all(
        np.array_equal(left["image"], right["image"]) for left, right in zip(found, wanted)
    )


def test_a_modelopt_without_its_parts(
    picture_onnx: Path, tmp_path: Path, modelopt: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install nvidia-modelopt` alone lacks what its ONNX half imports."""
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    with pytest.raises(ExportError, match=r"expected modelopt to quantise .*picture\.onnx to int8, found") as caught:
        quantise.quantise(picture_onnx, tmp_path / "q.onnx", "int8", samples())
    assert "pip install 'nvidia-modelopt[onnx]'" in caught.value.remedy
    assert "--quantiser onnxruntime" in caught.value.remedy


def test_a_tool_that_fails(picture_onnx: Path, tmp_path: Path) -> None:
    wrong = [{"pixels": np.zeros((1, 3, 24, 32), np.float32)}]
    with pytest.raises(ExportError, match=r"expected onnxruntime to quantise .* to int8, found ") as caught:
        quantise.quantise(picture_onnx, tmp_path / "q.onnx", "int8", wrong, tool="onnxruntime")
    assert "chained error" in caught.value.remedy
    assert caught.value.__cause__ is not None
