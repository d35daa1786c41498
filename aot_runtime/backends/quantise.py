# SPDX-License-Identifier: Apache-2.0
"""An fp32 ONNX graph -> one with explicit quantise/dequantise pairs in int8 or fp8, its ranges measured on real inputs.

NVIDIA's ModelOpt places the pairs as TensorRT fuses best and is used where it is installed; it pins older versions of
onnx and onnxruntime, so that it mostly lives in an environment of its own. ONNX Runtime's static quantiser serves
elsewhere: pairs in front of convolutions and products, int8 symmetric with one scale per output channel of the weights
(entropy calibration), fp8 e4m3 with one scale per tensor.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aot_runtime.backends import onnx_file
from aot_runtime.calibration import Sample
from aot_runtime.errors import ExportError

MODES = ("int8", "fp8")
TOOLS = ("modelopt", "onnxruntime")
_PRODUCTS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_FP8_OPSET = 19
_INSTALL = "run: pip install 'nvidia-modelopt[onnx]' in an environment of its own, or take --quantiser onnxruntime"
_OTHER_TOOL = {
    "modelopt": "see the chained error above; --quantiser onnxruntime may do",
    "onnxruntime": "see the chained error above; --quantiser modelopt may do where it is installed",
}


def default_tool() -> str:
    """modelopt where it is installed, else onnxruntime."""
    return "modelopt" if importlib.util.find_spec("modelopt") is not None else "onnxruntime"


def quantise(
    source: Path,
    destination: Path,
    mode: str,
    samples: Sequence[Sample],
    *,
    tool: str | None = None,
    exclude: Sequence[str] = (),
) -> str:
    """Write the quantised graph; returns the tool that was used.

    Args:
        mode: int8 or fp8.
        samples: calibration inputs.
        tool: modelopt or onnxruntime; by default default_tool().
        exclude: names of nodes to leave in fp32.

    Raises:
        ExportError: the tool is missing or fails, or the graph's opset has no 8-bit floats.
    """
    import onnx

    if not samples:
        raise ExportError(f"expected calibration data for {mode}, found none", "give --calib-data")
    opset = next(
        (item.version for item in onnx.load(str(source), load_external_data=False).opset_import if item.domain == ""), 0
    )
    if mode == "fp8" and opset < _FP8_OPSET:
        raise ExportError(f"expected opset {_FP8_OPSET} or newer for fp8, found {opset} in {source}", "export it again")
    chosen = tool or default_tool()
    with _quiet():
        try:
            if chosen == "modelopt":
                _by_modelopt(source, destination, mode, samples, exclude)
            else:
                _by_onnxruntime(source, destination, mode, samples, exclude)
        except Exception as error:
            # Both tools raise whatever their passes raise.
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ExportError(
                f"expected {chosen} to quantise {source} to {mode}, found {type(error).__name__}: "
                f"{lines[0] if lines else ''}",
                _INSTALL if chosen == "modelopt" and isinstance(error, ImportError) else _OTHER_TOOL[chosen],
            ) from error
    kinds = {node.op_type for node in onnx.load(str(destination), load_external_data=False).graph.node}
    if "QuantizeLinear" not in kinds:
        raise ExportError(
            f"expected convolutions or matrix products to quantise, found none in {source}",
            "build with --precision fp16",
        )
    return chosen


class _Reader:
    """Samples one by one, as both tools ask for them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._next = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._next, None)

    def get_first(self) -> Sample:
        return self._samples[0]

    def rewind(self) -> None:
        self._next = iter(self._samples)


def _by_onnxruntime(
    source: Path, destination: Path, mode: str, samples: Sequence[Sample], exclude: Sequence[str]
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(_Reader, CalibrationDataReader):  # type: ignore[misc]
        pass

    int8 = mode == "int8"
    kind = QuantType.QInt8 if int8 else QuantType.QFLOAT8E4M3FN
    quantize_static(
        str(source),
        str(destination),
        Reader(samples),
        quant_format=QuantFormat.QDQ,
        activation_type=kind,
        weight_type=kind,
        per_channel=int8,
        # ONNX Runtime measures fp8 ranges by this method only.
        calibrate_method=CalibrationMethod.Entropy if int8 else CalibrationMethod.Distribution,
        op_types_to_quantize=_PRODUCTS,
        nodes_to_exclude=list(exclude),
        use_external_data_format=onnx_file.external_file(source) is not None,
        extra_options={
            "ActivationSymmetric": int8,
            "WeightSymmetric": int8,
            # TensorRT adds fp32 biases, and fuses a product with the operation after it if nothing stands between.
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": _PRODUCTS,
        },
    )


def _by_modelopt(source: Path, destination: Path, mode: str, samples: Sequence[Sample], exclude: Sequence[str]) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        quantize_mode=mode,
        calibration_data_reader=_Reader(samples),
        calibration_eps=["cpu"],
        nodes_to_exclude=list(exclude) or None,
        use_external_data_format=onnx_file.external_file(source) is not None,
        output_path=str(destination),
        high_precision_dtype="fp32",
        log_level="ERROR",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools print, draw progress bars and log advice about preprocessing."""
    root: Any = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
