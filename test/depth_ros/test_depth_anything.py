# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.backends.engine_file import check_digest
from aot_runtime.compiled_model import load_model
from aot_runtime.environment import module_version
from aot_runtime.errors import InputError
from aot_runtime.verdict import read_manifest
from depth_ros.deploy import PATCHES, DeployedDepth, fastest_patches, require_range
from depth_ros.export_dav2 import ENCODER_NAMES
from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2

CASES = [
    ("dav2_rel_518grid", "42x56"),
    ("dav2_rel_56grid", "56x56"),
    ("dav2_rel_56grid", "42x56"),
    ("dav2_metric20", "42x56"),
    ("dav2_swiglu_rgb", "42x56"),
]
RTX = module_version("tensorrt_rtx")


def size_of(case: str) -> tuple[int, int]:
    height, width = case.split("x")
    return int(height), int(width)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_eager(name: str, case: str, depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden(name)
    model, image = golden.model(), golden.inputs[f"x_{case}"]
    with torch.no_grad():
        found = {"plain": model(image)}
        for patches in PATCHES:
            found[patches] = DeployedDepth(model, *size_of(case), patches=patches)(image)
    for depth in found.values():
        torch.testing.assert_close(depth, golden.outputs[f"depth_{case}"], atol=golden.atol(), rtol=0)
        assert depth.is_contiguous()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_compiled(
    name: str, case: str, depth_golden: Callable[[str], Any], depth_artifact: Callable[..., Path]
) -> None:
    golden = depth_golden(name)
    height, width = size_of(case)
    with load_model(depth_artifact(name, height, width)) as model:
        (spec,) = model.manifest.inputs
        depth = model.run(**{spec.name: golden.inputs[f"x_{case}"]})["depth"]
    torch.testing.assert_close(depth, golden.outputs[f"depth_{case}"], atol=golden.atol(), rtol=0)


def errors(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float, float]:
    """(1 - cosine similarity, rms error over rms, max error over max)."""
    found, wanted = found.double().flatten(), wanted.double().flatten()
    cosine = float(found @ wanted / found.norm() / wanted.norm())
    error = found - wanted
    return 1 - cosine, float(error.norm() / wanted.norm()), float(error.abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_in_onnx_runtime(
    name: str, case: str, depth_golden: Callable[[str], Any], depth_artifact: Callable[..., Path]
) -> None:
    golden = depth_golden(name)
    with load_model(depth_artifact(name, *size_of(case), suffix=".onnx")) as model:
        (spec,) = model.manifest.inputs
        depth = model.run(**{spec.name: golden.inputs[f"x_{case}"]})["depth"]
    torch.testing.assert_close(depth, golden.outputs[f"depth_{case}"], atol=golden.atol(), rtol=0)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_in_onnx_runtime_in_float16(
    name: str, case: str, depth_golden: Callable[[str], Any], depth_artifact: Callable[..., Path]
) -> None:
    golden = depth_golden(name)
    with load_model(depth_artifact(name, *size_of(case), suffix=".onnx", precision="fp16")) as model:
        (spec,) = model.manifest.inputs
        assert spec.dtype == "float32"
        depth = model.run(**{spec.name: golden.inputs[f"x_{case}"]})["depth"]
    angle, _, worst = errors(depth, golden.outputs[f"depth_{case}"])
    assert angle < 1e-3
    assert worst < 2e-2


@pytest.mark.skipif(not (RTX or os.environ.get("CI") == "true"), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["dav2_metric20", "dav2_swiglu_rgb"])
def test_engines_build_without_a_gpu(
    name: str, precision: str, target: str, depth_artifact: Callable[..., Path]
) -> None:
    path = depth_artifact(name, suffix=".engine", precision=precision, target=target)
    check_digest(path)
    manifest = read_manifest(path)
    parity_of = "graph" if precision == "bf16" else "onnx"
    assert (manifest.family, manifest.precision, manifest.parity_of) == ("depth", precision, parity_of)
    assert (manifest.target.device_name, manifest.target.runtime) == (target, "tensorrt_rtx")
    assert manifest.inputs[0].dtype == manifest.outputs[0].dtype == "float32"


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_in_float16(name: str, case: str, depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden(name)
    module = DeployedDepth(golden.model(), *size_of(case)).cast_precision(torch.float16)
    with torch.no_grad():
        depth = module(golden.inputs[f"x_{case}"])
    assert depth.dtype == torch.float32
    angle, _, worst = errors(depth, golden.outputs[f"depth_{case}"])
    assert angle < 1e-3
    assert worst < 2e-2


@pytest.mark.parametrize(("name", "case"), CASES)
def test_goldens_in_bfloat16(name: str, case: str, depth_golden: Callable[[str], Any]) -> None:
    """Within the goldens' tolerance of 2e-2 as rms.

    The largest error of a pixel passes 2e-2 in two of these networks of 8 to 32 channels, also in the official way of
    running them (autocast): rounding the weights alone gives more than half of it. There it is held against that.
    """
    golden = depth_golden(name)
    image, wanted = golden.inputs[f"x_{case}"], golden.outputs[f"depth_{case}"]
    module = DeployedDepth(golden.model(), *size_of(case)).cast_precision(torch.bfloat16)
    with torch.no_grad():
        depth = module(image)
        with torch.autocast("cpu", torch.bfloat16):
            official = errors(golden.model()(image), wanted)
    angle, rms, worst = errors(depth, wanted)
    assert angle < 1e-3
    assert rms < 2e-2
    assert worst < max(2e-2, 1.25 * official[2])


def test_compiled_bfloat16_is_a_float32_depth(
    depth_golden: Callable[[str], Any], depth_artifact: Callable[..., Path]
) -> None:
    golden = depth_golden("dav2_rel_518grid")
    with load_model(depth_artifact("dav2_rel_518grid", precision="bf16")) as model:
        assert model.manifest.precision == "bf16"
        assert {spec.dtype for spec in (*model.manifest.inputs, *model.manifest.outputs)} == {"float32"}
        depth = model.run(features=golden.inputs["x_42x56"])["depth"]
    angle, rms, worst = errors(depth, golden.outputs["depth_42x56"])
    assert angle < 1e-3
    assert rms < 2e-2
    assert worst < 2e-2
    # The last sum is not rounded to 8 bits.
    assert len(torch.unique(depth)) > 0.9 * depth.numel()


@pytest.mark.parametrize("encoder", ["vits", "vitb"])
def test_names_and_shapes_are_those_of_f3s_checkpoints(encoder: str, shared: Path) -> None:
    told = json.loads((shared / "reference" / "f3_state_dict.json").read_text())[f"FFDepthAnythingV2_{encoder}_32ch"]
    with torch.device("meta"):
        model = DepthAnythingV2(replace(ENCODERS[encoder], input_channels=32))
    wanted = {key.removeprefix("dav2."): tuple(shape) for key, (shape, _) in told.items()}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == wanted


@pytest.mark.parametrize(
    ("encoder", "count"), [("vits", "24.8"), ("vitb", "97.5"), ("vitl", "335.3"), ("vitg", "1258.1")]
)
def test_parameters_count_as_published(encoder: str, count: str) -> None:
    with torch.device("meta"):
        model = DepthAnythingV2(ENCODERS[encoder])
    assert f"{sum(value.numel() for value in model.parameters()) / 1e6:.1f}" == count


def test_encoders_are_those_of_the_command() -> None:
    assert tuple(ENCODERS) == ENCODER_NAMES
    assert {name: config.licence for name, config in ENCODERS.items()} == {
        "vits": "Apache-2.0",
        **dict.fromkeys(("vitb", "vitl", "vitg"), "CC-BY-NC-4.0"),
    }


def test_random_weights_give_depths_worth_comparing() -> None:
    config = replace(ENCODERS["vits"], depth=4, taps=(0, 1, 2, 3))
    image = torch.rand(1, 3, 70, 84, generator=torch.Generator().manual_seed(0)) * 4.7 - 2.1
    with torch.no_grad():
        relative = DepthAnythingV2(config).randomise(3)(image)
        metric = DepthAnythingV2(replace(config, max_depth=20.0)).randomise(3)(image)
        again = DepthAnythingV2(config).randomise(3)(image)
        other = DepthAnythingV2(config).randomise(4)(image)
    assert float((relative == 0).float().mean()) < 0.1
    assert float(relative.std()) > 0.1 * float(relative.mean())
    assert 0.5 < float(metric.min()) < float(metric.max()) < 19.9
    assert torch.equal(relative, again)
    assert not torch.allclose(relative, other)


def test_deploying_leaves_the_network_alone_and_drops_what_is_never_read(depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden("dav2_rel_56grid")
    model = golden.model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = DeployedDepth(model, 42, 56)
    deployed.cast_precision(torch.bfloat16)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    names = set(deployed.network.state_dict())
    assert not [name for name in names if "mask_token" in name or "gamma" in name or "refinenet4.resConfUnit1" in name]
    assert deployed.network.state_dict()["pretrained.pos_embed"].shape == (1, 13, 24)


def test_the_exported_graph_has_no_casts_of_weights(depth_golden: Callable[[str], Any]) -> None:
    module = DeployedDepth(depth_golden("dav2_rel_56grid").model(), 42, 56).cast_precision(torch.bfloat16)
    program = torch.export.export(module, (torch.zeros(1, 32, 42, 56),), strict=False)
    weights = set(program.graph_signature.inputs_to_parameters)
    last = "network.depth_head.scratch.output_conv2.2."
    sources = [str(node.args[0]) for node in program.graph.nodes if str(node.target) == "aten.to.dtype"]
    assert len(sources) > 20  # activations
    cast = [program.graph_signature.inputs_to_parameters[source] for source in sources if source in weights]
    assert [name for name in cast if not name.startswith(last)] == []


def test_sizes_and_options_that_do_not_fit_are_refused(depth_golden: Callable[[str], Any]) -> None:
    model = depth_golden("dav2_rel_56grid").model()
    with pytest.raises(InputError, match="nearest are 42 x 56 or 70"):
        DeployedDepth(model, 42, 60)
    with pytest.raises(InputError, match="nearest are 42 x 56 or 70"):
        model(torch.zeros(1, 32, 42, 60))
    with pytest.raises(InputError, match="expected patches conv, product"):
        DeployedDepth(model, 42, 56, patches="unfold")
    with pytest.raises(InputError, match="one or more input channels"):
        replace(model.config, input_channels=0)
    with pytest.raises(InputError, match="positive --max-depth"):
        replace(model.config, max_depth=-1.0)
    assert {fastest_patches(device) for device in ("cpu", "cuda:1")} <= set(PATCHES)


def test_an_overflow_names_its_first_layer(depth_golden: Callable[[str], Any]) -> None:
    from aot_runtime.errors import ExportError

    golden = depth_golden("dav2_rel_56grid")
    model, image = golden.model(), golden.inputs["x_42x56"]
    require_range(DeployedDepth(model, 42, 56), image, torch.float16, "cpu")
    with torch.no_grad():
        model.pretrained.blocks[1].mlp.fc1.weight.mul_(3e4)
    with pytest.raises(
        ExportError, match=r"within the range of float16.* first in layer pretrained\.blocks\.1\.mlp\.fc1"
    ):
        require_range(DeployedDepth(model, 42, 56), image, torch.float16, "cpu")
    require_range(DeployedDepth(model, 42, 56), image, torch.bfloat16, "cpu")
