# SPDX-License-Identifier: Apache-2.0
"""The eager network against the official implementation's outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.checkpoint import load_into, load_state_dict
from aot_runtime.errors import CheckpointError, InputError
from f3_ros.blocks import GRN, Block, depthwise_taps
from f3_ros.config import CONFIGS, from_name
from f3_ros.deploy import DeployedF3
from f3_ros.model import EventPatchFF

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}  # of golden/f3/README.md
BATCHED = ["f3_small_direct", "f3_small_hashed", "f3_v1_upsampling", "f3_ds8_decoder", "f3_dilated_k5"]
FEATURES = [
    *((name, case) for name in BATCHED[:2] for case in ("grid", "dup", "border", "offgrid", "one")),
    *((name, "grid") for name in BATCHED[2:]),
    ("f3_polarity_tables", ""),
]
PATCHFF = [name for name, config in CONFIGS.items() if config.model == "EventPatchFF"]


def feature_key(prefix: str, case: str) -> str:
    return f"{prefix}_{case}" if case else prefix


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", PATCHFF)
def test_parameter_names_and_shapes_are_official(name: str, shared: Path) -> None:
    official = json.loads((shared / "reference" / "f3_state_dict.json").read_text())
    with torch.device("meta"):
        model = EventPatchFF(from_name(name))
    found = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in model.state_dict().items()
    }
    assert found == official[name]
    assert sum(value.numel() for value in model.parameters()) == official["_meta"][name]["params"]


@pytest.mark.parametrize(("name", "case"), [pair for pair in FEATURES if pair[1] not in ("offgrid", "one", "")])
def test_field(name: str, case: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    field = golden.model().field(golden.events(case)).permute(0, 3, 1, 2)
    torch.testing.assert_close(field, golden.outputs[f"field_{case}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "case"), FEATURES)
def test_features(name: str, case: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    features = golden.model()(golden.events(case))
    torch.testing.assert_close(features, golden.outputs[feature_key("feat", case)], **TOLERANCE)


@pytest.mark.parametrize("name", BATCHED)
def test_batches_of_variable_counts_and_logits(name: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    model = golden.model()
    features = model(golden.events("grid"), golden.inputs["counts_variable_b2"])
    torch.testing.assert_close(features, golden.outputs["feat_variable_b2"], **TOLERANCE)
    logits = model.logits(features)[:, ::4, ::4]
    torch.testing.assert_close(logits, golden.outputs["logits_variable_b2"], **TOLERANCE)


@pytest.mark.parametrize("name", BATCHED[:2])
def test_batches_of_fixed_counts(name: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    events = golden.events("grid")
    half = len(events) // 2
    field = golden.model().field(events[: 2 * half], torch.tensor([half, half]))
    torch.testing.assert_close(field[:, ::2, ::2], golden.outputs["field_fixed_b2_WHC"], atol=1e-6, rtol=0)


def test_counts_must_cover_the_events(f3_golden: Any) -> None:
    golden = f3_golden("f3_small_direct")
    with pytest.raises(InputError, match="sum to 1500"):
        golden.model()(golden.events("grid"), torch.tensor([10, 20]))


@pytest.mark.parametrize("depthwise", ["conv", "taps"])
@pytest.mark.parametrize(("name", "case"), FEATURES)
def test_deployed_direct(name: str, case: str, depthwise: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    features = DeployedF3(golden.model(), depthwise=depthwise)(golden.events(case))
    torch.testing.assert_close(features, golden.outputs[feature_key("feat", case)], **TOLERANCE)


@pytest.mark.parametrize("name", BATCHED[:2])
def test_deployed_with_the_voxel_table(name: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    model = golden.model()
    deployed = DeployedF3(model, hashed=True)
    for case in ("border", "offgrid"):
        expected = golden.outputs[f"feat_hashed_{case}"]
        torch.testing.assert_close(deployed(golden.events(case)), expected, **TOLERANCE)
    for case in ("grid", "dup", "one"):
        assert golden.outputs[f"maxdiff_hashed_{case}"] == 0
        events = golden.events(case)
        assert torch.equal(deployed.field(events), model.field(events)), "no difference on the grid"


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("name", BATCHED[:3])
def test_deployed_downsampled(name: str, hashed: bool, f3_golden: Any) -> None:
    golden = f3_golden(name)
    size = tuple(golden.options["run_downsampled"])
    deployed = DeployedF3(golden.model(), hashed=hashed, downsample=size)
    assert deployed.scatter is not None
    features = deployed(golden.events("grid"))
    torch.testing.assert_close(features, golden.outputs["feat_hashed_down_grid"], **TOLERANCE)


@pytest.mark.parametrize("size", [(21, 17), (16, 12), (40, 31), (64, 30), (63, 47), (64, 48), (80, 30), (128, 96)])
@pytest.mark.parametrize("hashed", [False, True])
def test_any_size_equals_resizing_the_full_field(size: tuple[int, int], hashed: bool, f3_golden: Any) -> None:
    golden = f3_golden("f3_small_direct")
    model, events = golden.model(), golden.events("grid")
    deployed = DeployedF3(model, hashed=hashed, downsample=size)
    assert (deployed.scatter is not None) == (size[0] <= 64 and size[1] <= 48 and size != (64, 48))
    expected = model.features(model.resize(model.field(events), size))
    torch.testing.assert_close(deployed(events), expected, **TOLERANCE)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("downsample", [None, (21, 17), (48, 40)])
def test_padding_and_no_events(hashed: bool, downsample: tuple[int, int] | None, f3_golden: Any) -> None:
    golden = f3_golden("f3_small_direct")
    deployed = DeployedF3(golden.model(), hashed=hashed, downsample=downsample)
    events = golden.events("grid")
    padded = torch.cat([events, torch.full((37, 4), -1.0)])
    torch.testing.assert_close(deployed.field(padded), deployed.field(events), atol=1e-6, rtol=0)
    nothing = deployed(torch.zeros(0, 4))
    assert torch.equal(nothing, deployed(torch.full((5, 4), -1.0)))
    zero = torch.zeros_like(deployed.field(events))
    torch.testing.assert_close(nothing, deployed.network.features(zero))


@pytest.mark.parametrize("name", [*BATCHED, "f3_polarity_tables"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype, f3_golden: Any) -> None:
    golden = f3_golden(name)
    case = "" if "polarity" in name else "grid"
    found = DeployedF3(golden.model()).cast_precision(dtype)(golden.events(case))
    assert found.dtype == dtype
    expected = golden.outputs[feature_key("feat", case)]
    cosine, error = 0.999, 2e-2
    if dtype == torch.bfloat16 and name == "f3_v1_upsampling":
        # Rounding nothing but this network's weights to bfloat16 already gives 3.2e-2.
        cosine, error = 0.998, 5e-2
    assert float(torch.cosine_similarity(found.float(), expected, dim=-1).min()) > cosine
    assert float((found.float() - expected).abs().max() / expected.abs().max()) < error


def test_deploying_leaves_the_model_alone(f3_golden: Any) -> None:
    golden = f3_golden("f3_small_direct")
    model = golden.model()
    DeployedF3(model, hashed=True, depthwise="taps").cast_precision(torch.float16)
    torch.testing.assert_close(model(golden.events("grid")), golden.outputs["feat_grid"], **TOLERANCE)


def test_upsampling_needs_a_divisible_field(f3_golden: Any) -> None:
    with pytest.raises(InputError, match="divisible by 16"):
        DeployedF3(f3_golden("f3_v1_upsampling").model(), downsample=(40, 32))


def test_taps_equal_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, 17, 6, generator=generator)
    for size, dilation in ((3, 1), (5, 2), (7, 1), (7, 3)):
        weight, bias = torch.randn(6, 1, size, size, generator=generator), torch.randn(6, generator=generator)
        pad = (size - 1) // 2 * dilation
        expected = torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2), weight, bias, padding=pad, dilation=dilation, groups=6
        )
        found = depthwise_taps(x, weight, bias, dilation)
        torch.testing.assert_close(found, expected.permute(0, 2, 3, 1), atol=1e-4, rtol=1e-5)


def test_folded_grn_equals_its_formula() -> None:
    torch.manual_seed(0)
    block = Block(6, 7, 2)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 9, 8, 6)
    y = block.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = torch.nn.functional.gelu(block.pwconv1(block.norm(y)))
    norm = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
    y = block.grn.gamma * (y * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + block.grn.beta + y
    torch.testing.assert_close(block(x), x + block.pwconv2(y), atol=1e-5, rtol=1e-5)
    assert not GRN(3).gamma.any()


def test_random_weights_are_reproducible_and_alive() -> None:
    config = from_name("346x260x20_patchff_ds1_small")
    first, second, other = (EventPatchFF(config).randomise(seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert not torch.equal(first.pred.weight, other.pred.weight)
    features = first(torch.rand(2000, 4) * 0.99)
    assert 0.05 < float(features.std()) < 50


@pytest.mark.parametrize("form", ["bare", "nested", "compiled"])
def test_official_checkpoint_forms_load(form: str, f3_golden: Any, tmp_path: Path) -> None:
    golden = f3_golden("f3_small_direct")
    state: dict[str, Any] = dict(golden.state)
    if form == "compiled":
        state = {f"_orig_mod.{key}": value for key, value in state.items()}
    path = tmp_path / "f3.pth"
    torch.save({"epoch": 3, "loss": 0.1, "acc": 0.9, "model": state} if form != "bare" else state, path)
    model = golden.model()
    torch.nn.init.zeros_(model.pred.weight)
    loaded, info = load_state_dict(path)
    load_into(model, loaded, source=str(path))
    assert torch.equal(model.pred.weight, golden.state["pred.weight"])
    assert info.file == "f3.pth"


def test_a_wrong_checkpoint_is_named(f3_golden: Any) -> None:
    golden, other = f3_golden("f3_small_direct"), f3_golden("f3_small_hashed")
    with pytest.raises(CheckpointError, match=r"stages\.0\.1\.dwconv\.weight"):
        load_into(golden.model(), other.state)


def test_a_unet_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="EventUNetFF"):
        EventPatchFF(from_name("1280x720x20_unetff_ds4_small"))
