# SPDX-License-Identifier: Apache-2.0
"""VGGT's network against the official outputs, and against each mistake that is easily made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aot_runtime.errors import InputError
from depth_ros.model.dpt import ProductEnlarging, ResidualConvUnit
from depth_ros.model.vision_transformer import Block
from vggt_ros.config import CAMERA_ROUNDS, VGGT_1B, VggtConfig, from_dict
from vggt_ros.deploy import DeployedVggt, Form, fastest_attention, inductor_options
from vggt_ros.model.dense_head import UvEmbedding, activate_depth, activate_points, uv_axis, uv_waves
from vggt_ros.model.rope import frame_positions, rotate, rotation
from vggt_ros.model.vggt import Vggt, without_values

TOLERANCE = 2e-5
CASES = ("case_3x56x70", "case_1x70x70", "case_2x84x42")


@pytest.fixture(scope="module")
def network(vggt_golden: Any) -> Any:
    return vggt_golden.model()


@pytest.mark.parametrize("case", CASES)
def test_official_outputs(case: str, network: Any, vggt_golden: Any) -> None:
    with torch.no_grad():
        found = network(vggt_golden.images(case))
    assert list(found) == ["pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"]
    for name, value in found.items():
        np.testing.assert_allclose(value, vggt_golden.expected(case, name), rtol=0, atol=TOLERANCE, err_msg=name)
    assert found["depth_conf"].min() >= 1
    assert found["depth"].min() > 0


@pytest.mark.parametrize("case", CASES)
def test_official_tokens_and_rounds(case: str, network: Any, vggt_golden: Any) -> None:
    """After DINOv2, after every layer that the golden has (frame block's channels first), after every camera round."""
    images, golden = vggt_golden.images(case), vggt_golden.cases[case]
    aggregator = network.aggregator
    with torch.no_grad():
        tokens = aggregator.tokens(images)
        layers = aggregator.layers(images, range(network.config.depth))
        rounds = network.camera_head.rounds(layers[-1][:, 0])
    np.testing.assert_allclose(tokens[:, network.config.special :], golden["patch_tokens"], rtol=0, atol=TOLERANCE)
    compared = 0
    for i, layer in enumerate(layers):
        if f"aggregated_{i:02d}" in golden:
            np.testing.assert_allclose(layer, golden[f"aggregated_{i:02d}"][0], rtol=0, atol=1e-5)
            compared += 1
    assert compared >= 1
    assert len(rounds) == CAMERA_ROUNDS == len(golden["pose_enc_iters"])
    for found, wanted in zip(rounds, golden["pose_enc_iters"]):
        np.testing.assert_allclose(found, wanted[0], rtol=0, atol=TOLERANCE)


def test_official_outputs_with_a_plain_convolution_for_patches(vggt_golden: Any) -> None:
    from safetensors.torch import load_file

    model = Vggt(vggt_golden.config(patch_embed="conv"), points=True).eval()
    state = {key: value for key, value in vggt_golden.state.items() if not key.startswith("aggregator.patch_embed.")}
    state |= load_file(vggt_golden.folder / "weights_conv_patch_embed.safetensors")
    model.load_state_dict(state, strict=True)
    golden = vggt_golden.cases["case_conv"]
    with torch.no_grad():
        found = model(vggt_golden.images("case_3x56x70"))
        deployed = DeployedVggt(model, 56, 70)(vggt_golden.images("case_3x56x70"))
    for values in (found, deployed):
        for name, value in values.items():
            wanted = golden[name][0]
            np.testing.assert_allclose(value, wanted.reshape(value.shape), rtol=0, atol=TOLERANCE, err_msg=name)


def test_names_and_shapes_are_those_of_the_official_weights(shared: Path) -> None:
    """Of 1.26 billion parameters, without the memory for them."""
    document = json.loads((shared / "reference" / "vggt_state_dict.json").read_text())
    wanted = {name: tuple(shape) for name, shape in document["shapes"].items() if not name.startswith("track_head.")}
    with torch.device("meta"):
        model = Vggt(VGGT_1B, points=True)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == wanted
    track = document["params_by_group"]["track_head"]
    assert sum(value.numel() for value in model.parameters()) == document["params"] - track
    with torch.device("meta"):
        lean = Vggt(VGGT_1B)
    # The size of "aggregator, camera and depth" that the reference tells.
    assert sum(value.numel() for value in lean.parameters()) == 1_157_941_492


def test_every_layer_norm_has_its_epsilon(network: Any) -> None:
    """Wrong ones move outputs by less than the tolerance of the golden."""
    norms = {name: part for name, part in network.named_modules() if isinstance(part, nn.LayerNorm)}
    wanted = {
        name: 1e-6 if name.startswith("aggregator.patch_embed.") or name == "camera_head.adaln_norm" else 1e-5
        for name in norms
    }
    assert {name: norm.eps for name, norm in norms.items()} == wanted
    blocks = network.config.depth * 2
    assert sum(name.endswith((".q_norm", ".k_norm")) for name in norms) == 2 * blocks
    assert len(norms) == 4 * blocks + 2 * (2 + 2) + 1 + 2 + 1 + 2


def test_first_values_of_layer_scales() -> None:
    with torch.device("meta"):
        model = Vggt(VGGT_1B)
    del model
    config = VggtConfig("t", 16, 4, 2, image_size=28, dino_depth=1, dino_heads=2, camera_depth=1, camera_heads=2,
                        features=8, out_channels=(4, 4, 4, 4), taps=(0, 1, 2, 3))  # fmt: skip
    tiny = Vggt(config)
    scales = {name: value[0].item() for name, value in tiny.named_parameters() if name.endswith("gamma")}
    for name, value in scales.items():
        assert value == pytest.approx(1.0 if name.startswith("aggregator.patch_embed.") else 0.01), name


# Each mistake, and the least that it moves depth by on the golden cases (3 frames of 56 x 70).
def _no_normalisation(model: Any) -> None:
    model.aggregator.mean.zero_()
    model.aggregator.std.fill_(1.0)


def _skip_not_rectified(model: Any) -> None:
    for part in model.depth_head.modules():
        if isinstance(part, ResidualConvUnit):
            part.rectified_skip = False


def _first_frame_everywhere(model: Any) -> None:
    for token in (model.aggregator.camera_token, model.aggregator.register_token):
        token[:, 1] = token[:, 0]


def _no_antialias(model: Any) -> None:
    model.aggregator.patch_embed.interpolate_antialias = False


def _offset_of_dino(model: Any) -> None:
    model.aggregator.patch_embed.interpolate_offset = 0.1


def _wrong_layer(model: Any) -> None:
    object.__setattr__(model.aggregator.config, "taps", (1, 2, 3, 4))


def _x_before_y(model: Any) -> None:
    model.aggregator.table = _table(model, frame_positions(4, 5, 5).flip(-1))


def _positions_from_zero(model: Any) -> None:
    model.aggregator.table = _table(model, (frame_positions(4, 5, 5) - 1).clamp_min(0))


def _no_uv(model: Any) -> None:
    model.depth_head.embedding = None


def _no_rotation(model: Any) -> None:
    for block in model.aggregator.global_blocks:
        block.attn.rope = None


def _table(model: Any, positions: torch.Tensor) -> torch.Tensor:
    config = model.config
    return rotation(positions, config.dim // config.heads, config.rope_base)


@pytest.mark.parametrize(
    ("mistake", "least"),
    [
        (_no_normalisation, 0.5),
        (_skip_not_rectified, 5.0),
        (_first_frame_everywhere, 0.1),
        (_no_antialias, 0.05),
        (_offset_of_dino, 1e-3),
        (_wrong_layer, 0.1),
        (_x_before_y, 0.1),
        (_positions_from_zero, 0.1),
        (_no_uv, 0.01),
        (_no_rotation, 0.01),
    ],
)
def test_the_golden_tells_mistakes(mistake: Callable[[Any], None], least: float, vggt_golden: Any) -> None:
    model = vggt_golden.model()
    with torch.no_grad():
        mistake(model)
        depth = model(vggt_golden.images("case_3x56x70"))["depth"]
    assert np.abs(depth.numpy() - vggt_golden.expected("case_3x56x70", "depth")).max() > least


def test_frames_after_the_first_can_be_exchanged(network: Any, vggt_golden: Any) -> None:
    """No index of a frame is anywhere; which one is first matters."""
    images = vggt_golden.images("case_3x56x70")
    with torch.no_grad():
        plain, swapped, other = (network(images[order]) for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2]))
    for name, value in plain.items():
        torch.testing.assert_close(swapped[name], value[[0, 2, 1]], rtol=0, atol=1e-5)
    assert (other["depth"] - plain["depth"][[1, 0, 2]]).abs().max() > 1e-2


def test_nothing_is_remembered_between_sizes(network: Any, vggt_golden: Any) -> None:
    """A cache of positions that an export or another size leaves behind has broken the official model."""
    images = vggt_golden.images("case_3x56x70")
    with torch.no_grad():
        before = network(images)
        network(vggt_golden.images("case_2x84x42"))
        with pytest.raises(InputError, match="multiples of 14, found 57 x 70"):
            network(torch.zeros(2, 3, 57, 70))
        after = network(images)
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_rope_as_the_official(shared: Path) -> None:
    golden = np.load(shared / "golden" / "vggt" / "ops.npz")
    tokens, positions = torch.from_numpy(golden["rope_tokens"]), torch.from_numpy(golden["rope_positions"])
    for scene in range(len(tokens)):
        table = rotation(positions[scene], tokens.shape[-1], 100.0)
        found = rotate(tokens[scene : scene + 1], table)[0]
        np.testing.assert_allclose(found, golden["rope_out"][scene], rtol=0, atol=1e-6)


def test_positions_of_a_frame() -> None:
    positions = frame_positions(2, 3, 5)
    assert positions[:5].eq(0).all()
    assert positions[5:].tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    x = torch.randn(1, 2, 22, 8)
    turned = rotate(x, rotation(positions, 8, 100.0))
    assert torch.equal(turned[:, :, :5], x[:, :, :5])
    # Both of the two frames turn alike, and lengths stay.
    torch.testing.assert_close(turned[:, :, 11:], rotate(x[:, :, 11:], rotation(positions, 8, 100.0)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_uv_embedding_as_the_official(shared: Path) -> None:
    golden = np.load(shared / "golden" / "vggt" / "ops.npz")
    grid = golden["uv_grid"]
    rows, columns = grid.shape[:2]
    # The golden's aspect is an image's that this map is not of; along one axis only the ratio of its edge differs.
    aspect = float(golden["uv_grid_w7_h5_aspect"])
    u = uv_axis(columns, rows) * (aspect / np.hypot(aspect, 1)) / (columns / np.hypot(rows, columns))
    v = uv_axis(rows, columns) * (1 / np.hypot(aspect, 1)) / (rows / np.hypot(rows, columns))
    np.testing.assert_allclose(u, grid[0, :, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(v, grid[:, 0, 1], rtol=0, atol=1e-6)
    embedded = golden["uv_embed_24"]
    found = torch.cat(
        [uv_waves(u, 6)[:, None].expand(-1, rows, -1), uv_waves(v, 6)[:, :, None].expand(-1, -1, columns)]
    )
    np.testing.assert_allclose(found.permute(1, 2, 0), embedded, rtol=0, atol=1e-6)


def test_a_fixed_uv_embedding_is_the_same() -> None:
    free, fixed = UvEmbedding(), UvEmbedding()
    fixed.fix(24, 5, 7)
    x = torch.zeros(2, 24, 5, 7)
    assert torch.equal(free(x), fixed(x))
    assert not fixed.state_dict()


def test_activations_and_residual_unit_as_the_official(shared: Path) -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(shared / "golden" / "vggt" / "ops.npz").items()}
    raw = golden["head_raw"]
    points, confidence = activate_points(raw)
    np.testing.assert_allclose(points, golden["inv_log"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(confidence, golden["inv_log_conf"], rtol=1e-6, atol=1e-6)
    unit = ResidualConvUnit(6, rectified_skip=True)
    unit.load_state_dict({key.removeprefix("rcu_"): golden[key] for key in golden if key.startswith("rcu_conv")})
    with torch.no_grad():
        np.testing.assert_allclose(unit(golden["rcu_in"]), golden["rcu_out"], rtol=0, atol=1e-6)


def test_depth_is_exponential() -> None:
    depth, confidence = activate_depth(torch.tensor([0.0, -2.0]).view(1, 2, 1, 1))
    assert depth.item() == 1
    assert confidence.item() == pytest.approx(1 + np.exp(-2))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("patches", ["conv", "product"])
def test_deployed_computes_the_same(case: str, patches: str, vggt_golden: Any) -> None:
    images = vggt_golden.images(case)
    model = vggt_golden.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deployed = DeployedVggt(model, images.shape[2], images.shape[3], pcd_only=False, form=Form(patches=patches))
    with torch.no_grad():
        found = deployed(images)
    for name, value in found.items():
        np.testing.assert_allclose(value, vggt_golden.expected(case, name), rtol=0, atol=TOLERANCE, err_msg=name)
    assert model.point_head is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_pcd_only_leaves_out_the_point_head(vggt_golden: Any) -> None:
    deployed = DeployedVggt(vggt_golden.model(), 56, 70)
    with torch.no_grad():
        found = deployed(vggt_golden.images("case_3x56x70"))
    assert list(found) == ["pose_enc", "depth", "depth_conf"]
    assert not any("point_head" in name for name in deployed.state_dict())


# Measured: bf16 0.025 and, with heads in float32, 0.0099 of depth; fp16 0.0033 and 0.00097.
@pytest.mark.parametrize(
    ("dtype", "heads", "stream", "most"),
    [
        (torch.bfloat16, "fp32", "fp32", 1.5e-2),
        (torch.bfloat16, "same", "fp32", 4e-2),
        (torch.bfloat16, "same", "same", 4e-2),
        (torch.float16, "fp32", "fp32", 2e-3),
        (torch.float16, "same", "fp32", 5e-3),
    ],
)
def test_half_precision(dtype: torch.dtype, heads: str, stream: str, most: float, vggt_golden: Any) -> None:
    deployed = DeployedVggt(vggt_golden.model(), 56, 70, form=Form(heads, stream)).cast_precision(dtype)
    with torch.no_grad():
        found = deployed(vggt_golden.images("case_3x56x70"))
    for name, value in found.items():
        assert value.dtype == torch.float32
        error = np.abs(value.numpy() - vggt_golden.expected("case_3x56x70", name)).max()
        assert 1e-4 < error < most, name
    norms = [part for part in deployed.modules() if isinstance(part, nn.LayerNorm) and part.elementwise_affine]
    assert {part.weight.dtype for part in norms} == {torch.float32}
    products = [part for part in deployed.network.aggregator.modules() if isinstance(part, nn.Linear)]
    assert {part.weight.dtype for part in products} == {dtype}


def test_options_by_device(small_network: Any) -> None:
    """The choice of attention for CUDA is a preference: what cannot follow it computes the same."""
    assert inductor_options("cpu", Form()) == {}
    assert inductor_options("cuda:0", Form()) == {"layout_optimization": False}
    assert inductor_options("cpu", Form(quantisation="fp8")) == {"freezing": False}
    fused = inductor_options("cpu", Form(quantisation="int8-dynamic"))
    assert fused == {"freezing": False, "force_fuse_int_mm_with_mul": True}
    images = torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = small_network(images)
        with fastest_attention("cuda"):
            preferred = small_network(images)
    for name, value in plain.items():
        torch.testing.assert_close(preferred[name], value, rtol=0, atol=1e-5)


def test_random_weights_are_the_same_for_a_seed(small_network: Any) -> None:
    config = small_network.config
    again = without_values(config).randomise(3)
    for name, value in small_network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with torch.no_grad():
        found = small_network(torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0)))
    assert all(torch.isfinite(value).all() for value in found.values())
    assert 0.05 < found["depth"].median() < 20
    assert (found["pose_enc"][:, 7:] > 0.05).all()
    assert found["depth"].std() > 1e-3
    blocks = [part for part in small_network.modules() if isinstance(part, Block)]
    assert len(blocks) == 2 * config.depth + config.dino_depth + config.camera_depth


def test_configurations_that_contradict_themselves() -> None:
    for changed in (
        {"patch_embed": "swin"},
        {"dpt_layers": [0, 1, 2, 3]},
        {"dpt_layers": [4, 3, 2, 23]},
        {"num_heads": 7},
        {"hidden": 3},
    ):
        with pytest.raises(InputError):
            from_dict(changed, "wrong")
    assert from_dict({}, "vggt_1b") == VGGT_1B


def test_the_heads_stay_channels_last(vggt_golden: Any) -> None:
    """From the tokens on: a copy between two layouts at full resolution would cost as much as a convolution."""
    deployed = DeployedVggt(vggt_golden.model(), 56, 70).cast_precision(torch.bfloat16)
    seen: dict[str, bool] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
            seen[name] = (
                inputs[0].is_contiguous(memory_format=torch.channels_last) and inputs[0].dtype == torch.bfloat16
            )

        return look

    for name, part in deployed.network.depth_head.named_modules():
        # The last 1x1 convolution is written as sums.
        if isinstance(part, nn.Conv2d | ProductEnlarging) and name != "scratch.output_conv2.2":
            part.register_forward_hook(watch(name))
    with torch.no_grad():
        deployed(vggt_golden.images("case_3x56x70"))
    assert len(seen) == 4 + 3 + 4 + 7 * 2 + 4 + 2
    assert all(seen.values()), [name for name, kept in seen.items() if not kept]
