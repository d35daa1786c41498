# SPDX-License-Identifier: Apache-2.0
"""fp16 or bf16 products in an fp32 ONNX graph, by explicit casts: what autocast does in PyTorch.

Convolutions and matrix products, where the time goes, take and give the small type; everything else (coordinates,
norms, softmax, sums) stays in fp32. TensorRT's strongly typed networks, the only ones from version 11 on, take their
precisions from the graph in this way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx

# Shape inference reads the values of shapes, axes and the like, never those of weights.
_SMALL_WEIGHT = 1 << 16
# TensorRT-RTX 1.7 has no bf16 deconvolution ("could not infer output types").
PRODUCTS = {
    "fp16": frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    "bf16": frozenset({"Conv", "Gemm", "MatMul"}),
}


def cast_products(model: onnx.ModelProto, precision: str, *, simulate: bool = False) -> int:
    """Cast the products of a model in place; returns how many there were.

    bf16 convolutions are in ONNX from opset 22 on; TensorRT's parser takes them at any, ONNX's checker does not.

    Args:
        precision: fp16 or bf16.
        simulate: round to the small type and compute in fp32, for runtimes that lack its kernels (ONNX Runtime on a
            CPU has none for bf16). Products of tensor cores, which sum in fp32, differ from it by the last rounding.

    Raises:
        ExportError: a weight overflows fp16.
    """
    import onnx

    small = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    return _Casting(model, small, PRODUCTS[precision], f"_{precision}", simulate).run()


class _Casting:
    """One pass over the nodes of a graph; subgraphs of control flow stay as they are."""

    def __init__(
        self, model: onnx.ModelProto, small: int, products: frozenset[str], suffix: str, simulate: bool
    ) -> None:
        import onnx

        self._model = model
        self._small = small
        self._products = products
        self._suffix = suffix
        self._simulate = simulate
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = _element_types(onnx.shape_inference.infer_shapes(_without_large_weights(model)))
        self._nodes: list[onnx.NodeProto] = []
        self._casted: dict[str, str] = {}

    def run(self) -> int:
        count = 0
        for node in list(self._model.graph.node):
            if node.op_type in self._products and node.domain == "" and self._is_fp32(node):
                self._product(node)
                count += 1
            else:
                self._nodes.append(node)
        del self._model.graph.node[:]
        self._model.graph.node.extend(self._nodes)
        self._drop_unused_weights()
        return count

    def _is_fp32(self, node: onnx.NodeProto) -> bool:
        import onnx

        names = [name for name in (*node.input, *node.output) if name]
        return all(self._types.get(name) == onnx.TensorProto.FLOAT for name in names)

    def _product(self, node: onnx.NodeProto) -> None:
        import onnx

        for position, name in enumerate(node.input):
            if name:
                node.input[position] = self._rounded(name)
        self._nodes.append(node)
        (name,) = node.output
        raw, small = f"{name}{self._suffix}_raw", f"{name}{self._suffix}"
        if self._simulate:
            node.output[0] = raw
            self._cast(raw, small, self._small)
        else:
            node.output[0] = small
        self._cast(small, name, onnx.TensorProto.FLOAT)
        # A product that follows directly takes the small tensor, not its copy in fp32.
        self._casted[name] = name if self._simulate else small

    def _rounded(self, name: str) -> str:
        """The name of the tensor that a product takes instead of `name`."""
        import onnx

        if name in self._casted:
            return self._casted[name]
        small = f"{name}{self._suffix}"
        if name in self._weights:
            self._model.graph.initializer.append(self._small_weight(self._weights[name], small))
            result = small
        elif self._simulate:
            result = f"{small}_fp32"
            self._cast(name, small, self._small)
            self._cast(small, result, onnx.TensorProto.FLOAT)
        else:
            result = small
            self._cast(name, small, self._small)
        self._casted[name] = result
        return result

    def _cast(self, source: str, result: str, to: int) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node("Cast", [source], [result], name=f"cast_{result}", to=to))

    def _small_weight(self, tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
        import ml_dtypes
        import onnx
        from onnx import numpy_helper

        values: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
        if self._small == onnx.TensorProto.FLOAT16:
            with np.errstate(over="ignore"):
                rounded = values.astype(np.float16)
        else:
            rounded = values.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise ExportError(
                f"expected weights that fit into fp16, found {tensor.name} with {np.abs(values).max():.3g}",
                "build with --precision bf16 or fp32",
            )
        return numpy_helper.from_array(rounded.astype(np.float32) if self._simulate else rounded, name)

    def _drop_unused_weights(self) -> None:
        used = set(_used_names(self._model.graph))
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(kept)


def _used_names(graph: onnx.GraphProto) -> list[str]:
    """Every name that nodes read, those inside subgraphs too, and the graph's outputs."""
    names = [value.name for value in graph.output]
    for node in graph.node:
        names.extend(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    names.extend(_used_names(inner))
    return names


def _without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for shape inference, which cannot take models above protobuf's 2 GB: large weights become inputs."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    source, graph = model.graph, light.graph
    graph.name = source.name
    for name in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, name).extend(getattr(source, name))
    declared = {value.name for value in source.input}
    for tensor in source.initializer:
        if tensor.ByteSize() <= _SMALL_WEIGHT:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return types
