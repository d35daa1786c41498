# SPDX-License-Identifier: Apache-2.0
"""The flow head against the official implementation's outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.environment import module_version
from aot_runtime.errors import InputError
from f3_ros.flow_head import FlowHead

GOLDENS = ["flowhead_k9999", "flowhead_mixed"]
RTX = module_version("tensorrt_rtx")


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def assert_half_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """The bounds of golden/f3/README.md for 16-bit arithmetic."""
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999
    assert (found - expected).abs().max() < 2e-2 * expected.abs().max()


def test_parameter_names_and_shapes_are_official(shared: Path) -> None:
    official = json.loads((shared / "reference" / "f3_state_dict.json").read_text())
    name = "FlowHead_32ch_k9999_b2222_d1111"
    model = FlowHead()
    found = {key: [list(value.shape), str(value.dtype)[6:]] for key, value in model.state_dict().items()}
    assert found == official[name]
    assert sum(value.numel() for value in model.parameters()) == official["_meta"][name]["params"] == 28_098


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("depthwise", ["conv", "taps"])
def test_flow(name: str, depthwise: str, flow_golden: Any) -> None:
    golden = flow_golden(name)
    flow = golden.model().write_depthwise(depthwise)(golden.features)
    assert flow.dtype == torch.float32
    assert flow.is_contiguous()
    torch.testing.assert_close(flow, golden.flow, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flow_in_half_precision(name: str, dtype: torch.dtype, flow_golden: Any) -> None:
    golden = flow_golden(name)
    model = golden.model().cast_precision(dtype)
    flow = model(golden.features)
    assert flow.dtype == torch.float32
    assert_half_close(flow, golden.flow)
    assert model.decoder[0].norm.weight.dtype == torch.float32


def test_layout_of_the_features_does_not_matter(flow_golden: Any) -> None:
    golden = flow_golden("flowhead_k9999")
    model = golden.model().write_depthwise("taps")
    expected = model(golden.features)
    assert torch.equal(model(golden.features.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("depthwise", ["conv", "taps"])
def test_compiled_flow(name: str, depthwise: str, flow_golden: Any, flow_artifact: Any) -> None:
    from aot_runtime.compiled_model import load_model

    golden = flow_golden(name)
    # The artifact of a node takes one sample; the golden file may hold two.
    model = load_model(flow_artifact(name, depthwise=depthwise))
    for sample in range(len(golden.features)):
        flow = model.run(features=golden.features[sample : sample + 1].contiguous())["flow"]
        torch.testing.assert_close(flow, golden.flow[sample : sample + 1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_compiled_flow_in_half_precision(precision: str, flow_golden: Any, flow_artifact: Any) -> None:
    from aot_runtime.compiled_model import load_model

    golden = flow_golden("flowhead_k9999")
    model = load_model(flow_artifact("flowhead_k9999", precision=precision))
    assert_half_close(model.run(features=golden.features)["flow"], golden.flow)


@pytest.mark.parametrize("name", GOLDENS)
def test_flow_in_onnx_runtime(name: str, flow_golden: Any, flow_artifact: Any) -> None:
    from aot_runtime.compiled_model import load_model

    golden = flow_golden(name)
    with load_model(flow_artifact(name, suffix=".onnx")) as model:
        assert model.manifest.preprocessing["depthwise"] == "conv"
        for sample in range(len(golden.features)):
            flow = model.run(features=golden.features[sample : sample + 1].contiguous())["flow"]
            torch.testing.assert_close(flow, golden.flow[sample : sample + 1], atol=2e-5, rtol=0)


def test_flow_in_onnx_runtime_in_half_precision(flow_golden: Any, flow_artifact: Any) -> None:
    from aot_runtime.compiled_model import load_model

    golden = flow_golden("flowhead_k9999")
    with load_model(flow_artifact("flowhead_k9999", suffix=".onnx", precision="fp16")) as model:
        assert_half_close(model.run(features=golden.features)["flow"], golden.flow)


@pytest.mark.skipif(not (RTX or os.environ.get("CI") == "true"), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_build_without_a_gpu(precision: str, target: str, flow_artifact: Any) -> None:
    from aot_runtime.backends.engine_file import check_digest
    from aot_runtime.verdict import read_manifest

    path = flow_artifact("flowhead_k9999", suffix=".engine", precision=precision, target=target)
    check_digest(path)
    manifest = read_manifest(path)
    parity_of = "graph" if precision == "bf16" else "onnx"
    assert (manifest.family, manifest.precision, manifest.parity_of) == ("flow", precision, parity_of)
    assert (manifest.target.device_name, manifest.target.runtime) == (target, "tensorrt_rtx")
    assert manifest.preprocessing["interval_us"] == 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": (9, 9)}, "found 2, 4 and 4"),
        ({"kernels": (), "btlncks": (), "dilations": ()}, "found 0, 0 and 0"),
        ({"kernels": (9, 8, 9, 9)}, "odd kernels"),
        ({"btlncks": (2, 2, 0, 2)}, "from 1"),
        ({"channels": 0}, "from 1"),
        ({"depthwise": "fast"}, "conv, taps, triton"),
    ],
)
def test_impossible_configurations_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlowHead(**arguments)


def test_random_weights_are_the_same_for_a_seed() -> None:
    first, second, third = (FlowHead(4, (3,), (2,), (1,)).randomise(seed) for seed in (1, 1, 2))
    x = torch.randn(1, 4, 6, 7)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))
    assert first.decoder[0].grn.gamma.abs().min() > 0
