# SPDX-License-Identifier: Apache-2.0
"""The parts of ALIKED against golden/aliked/blocks.npz and deform_conv.npz: eager, and all of them compiled at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept_artifacts import kept
from torch import Tensor, nn

from aliked_ros.config import from_name
from aliked_ros.descriptors import DenseMap, Pyramid, patches
from aliked_ros.detection import above, peaks, strongest, suppress
from aliked_ros.model import ALIKED, padding, upsample
from aot_runtime.deform_conv import deform_conv2d

DCN_CASES = (
    *("aliked_like_nomask", "aliked_like_bias", "mask_bias", "big_offsets_border", "integer_offsets", "half_offsets"),
    *("zero_offsets", "stride2_dil2_og2", "groups2", "k1x1", "asym_pad_kernel"),
)


@pytest.fixture(scope="module")
def blocks(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "aliked" / "blocks.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def dcn_cases(shared: Path) -> dict[str, dict[str, Any]]:
    """Case -> tensors by name and `options` of deform_conv2d."""
    with np.load(shared / "golden" / "aliked" / "deform_conv.npz") as archive:
        told = json.loads(str(archive["meta"]))["cases"]
        cases: dict[str, dict[str, Any]] = {
            name: {"options": {key: tuple(case[key]) for key in ("stride", "padding", "dilation")}}
            for name, case in told.items()
        }
        for key in archive.files:
            if key != "meta":
                name, _, field = key.partition("/")
                cases[name][field] = torch.from_numpy(archive[key])
    return cases


def run_dcn(case: dict[str, Any]) -> Tensor:
    return deform_conv2d(
        case["input"], case["offset"], case["weight"], case.get("bias"), case.get("mask"), **case["options"]
    )


def pixels(normalised: np.ndarray, width: int, height: int) -> np.ndarray:
    return (normalised + 1) / 2 * (np.array([width, height]) - 1)


def test_all_deformable_convolutions_are_here(dcn_cases: dict[str, Any]) -> None:
    assert sorted(dcn_cases) == sorted(DCN_CASES)


@pytest.mark.parametrize("name", DCN_CASES)
def test_deformable_convolution(name: str, dcn_cases: dict[str, dict[str, Any]]) -> None:
    case = dcn_cases[name]
    np.testing.assert_allclose(run_dcn(case).numpy(), case["out"].numpy(), atol=1e-5)


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, weight = torch.randn(2, 6, 9, 7), torch.randn(4, 6, 3, 3)
    found = deform_conv2d(x, torch.zeros(2, 18, 9, 7), weight, padding=(1, 1))
    torch.testing.assert_close(found, nn.functional.conv2d(x, weight, padding=1), atol=1e-5, rtol=1e-5)


def test_far_offsets_read_zeros() -> None:
    far = torch.full((1, 18, 4, 5), 1e6)
    assert deform_conv2d(torch.ones(1, 2, 4, 5), far, torch.ones(3, 2, 3, 3), padding=(1, 1)).abs().max() == 0
    assert deform_conv2d(torch.ones(1, 2, 4, 5), -far, torch.ones(3, 2, 3, 3), padding=(1, 1)).abs().max() == 0


@pytest.mark.parametrize("name", ["smooth", "ties"])
def test_non_maximum_suppression(name: str, blocks: dict[str, np.ndarray]) -> None:
    scores = torch.from_numpy(blocks[f"nms_in_{name}"])
    np.testing.assert_array_equal(suppress(scores[None, None])[0, 0].numpy(), blocks[f"nms_out_{name}"])


@pytest.mark.parametrize("mode", ["top20", "th", "limit", "mean_fallback", "mean_mode"])
def test_detection(mode: str, blocks: dict[str, np.ndarray]) -> None:
    scores = torch.from_numpy(blocks["nms_in_smooth"])
    settings = json.loads(str(blocks[f"dkd_{mode}_cfg"]))
    if settings["top_k"] > 0:
        points = strongest(scores, settings["top_k"])
    else:
        points = above(scores, settings["scores_th"], settings["n_limit"])
    wanted = pixels(blocks[f"dkd_{mode}_keypoints_norm"], scores.shape[1], scores.shape[0])
    np.testing.assert_allclose(points.xy.numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(points.scores.numpy(), blocks[f"dkd_{mode}_scores"], atol=1e-5)
    np.testing.assert_allclose(points.dispersity.numpy(), blocks[f"dkd_{mode}_dispersity"], atol=1e-5)


def test_strict_maxima_are_some_of_all() -> None:
    scores = torch.rand(61, 77, generator=torch.Generator().manual_seed(0))
    strict, every = peaks(scores, rounds=1) > 0, peaks(scores) > 0
    assert bool((every | ~strict).all())
    assert 0 < int(strict.sum()) < int(every.sum())


@pytest.mark.parametrize("size", [(48, 60), (49, 61), (50, 62)])
def test_one_candidate_per_cell_loses_none(size: tuple[int, int]) -> None:
    scores = torch.rand(size, generator=torch.Generator().manual_seed(1))
    found = peaks(scores)
    wanted = found.flatten().topk(200)
    points = strongest(scores, 200)
    torch.testing.assert_close(points.peak_scores, wanted.values, rtol=0, atol=0)


def test_fillers_have_no_peak() -> None:
    scores = torch.full((40, 50), 0.01)
    scores[20, 25] = 0.9
    scores += torch.linspace(0, 1e-3, 50)  # falls off to the left without a plateau
    points = strongest(scores, 30)
    assert points.peak_scores[0] > 0.9
    np.testing.assert_allclose(points.xy[0].numpy(), [25, 20], atol=0.05)
    assert int((points.peak_scores > 0.5).sum()) == 1
    for value in (points.xy, points.scores, points.dispersity):
        assert bool(torch.isfinite(value).all())


def test_patches_outside_are_zero(blocks: dict[str, np.ndarray]) -> None:
    features = DenseMap(torch.from_numpy(blocks["patch_map"]))
    patch = patches(torch.from_numpy(blocks["patch_points_xy"]).float(), features)
    np.testing.assert_array_equal(patch.permute(0, 3, 1, 2).numpy(), blocks["patch_out"])


def test_padding(blocks: dict[str, np.ndarray]) -> None:
    for height, width, *wanted in blocks["pad_cases_hw_l_r_t_b"].tolist():
        assert padding(height, width) == tuple(wanted)


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_upsampling(factor: int, blocks: dict[str, np.ndarray]) -> None:
    wanted = blocks[f"up_{factor}"]
    found = upsample(torch.from_numpy(blocks["up_in"]), wanted.shape[2:])[:, : wanted.shape[1]]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_deformable_layer_and_block(blocks: dict[str, np.ndarray], aliked_model: Callable[[str], Any]) -> None:
    model = aliked_model("n16")
    conv, x = model.block3.conv1, torch.from_numpy(blocks["dcn_in"])
    np.testing.assert_allclose(conv.offset_conv(x).numpy(), blocks["dcn_offset_raw"], atol=1e-5)
    np.testing.assert_allclose(conv(x).numpy(), blocks["dcn_out"], atol=1e-5)
    x = torch.from_numpy(blocks["block4_in"])
    raw = model.block4.conv1.offset_conv(x)
    np.testing.assert_allclose(raw.numpy(), blocks["block4_offset_raw_conv1"], atol=1e-4)
    assert raw.abs().max() > 2  # the clamp has something to do
    np.testing.assert_allclose(model.block4(x).numpy(), blocks["block4_out"], atol=1e-4)
    np.testing.assert_allclose(model.fold_batch_norm().block4(x).numpy(), blocks["block4_out"], atol=1e-4)


def test_descriptor_head(blocks: dict[str, np.ndarray], aliked_model: Callable[[str], Any]) -> None:
    features = torch.from_numpy(blocks["sddh_map"])
    points = pixels(blocks["sddh_keypoints_norm"], features.shape[2], features.shape[1])
    xy, head = torch.from_numpy(points.astype(np.float32)), aliked_model("n16").desc_head
    np.testing.assert_allclose(head.offsets(xy, DenseMap(features)).numpy(), blocks["sddh_offsets"], atol=1e-4)
    np.testing.assert_allclose(head(xy, DenseMap(features)).numpy(), blocks["sddh_descriptors"], atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_a_pyramid_reads_as_the_whole_map(size: tuple[int, int]) -> None:
    model = ALIKED(from_name("t16")).randomise(3)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(4))
    features, _ = model(image)
    left, right, top, bottom = padding(*size)
    padded = nn.functional.pad(image, (left, right, top, bottom), mode="replicate")
    pyramid = Pyramid(model.branches(model.encode(padded)), size, (top, left))
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    torch.testing.assert_close(pyramid(y, x), DenseMap(features[0])(y, x), atol=1e-5, rtol=0)


class AllParts(nn.Module):
    """Every part that has a golden, as one network to compile."""

    def __init__(self, model: ALIKED, options: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def forward(
        self, cases: dict[str, dict[str, Tensor]], blocks: dict[str, Tensor], xy: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        convolved = {name: run_dcn({**case, "options": self.options[name]}) for name, case in cases.items()}
        points = strongest(blocks["nms_in_smooth"], 20)
        size = blocks["up_in"].shape[2], blocks["up_in"].shape[3]
        features = DenseMap(blocks["sddh_map"])
        parts = {
            "nms_out_smooth": suppress(blocks["nms_in_smooth"][None, None])[0, 0],
            "nms_out_ties": suppress(blocks["nms_in_ties"][None, None])[0, 0],
            "dkd_top20_xy": points.xy,
            "dkd_top20_scores": points.scores,
            "dkd_top20_dispersity": points.dispersity,
            "dcn_out": self.model.block3.conv1(blocks["dcn_in"]),
            "block4_out": self.model.block4(blocks["block4_in"]),
            "sddh_offsets": self.model.desc_head.offsets(xy, features),
            "sddh_descriptors": self.model.desc_head(xy, features),
            **{f"up_{n}": upsample(blocks["up_in"], (size[0] * n, size[1] * n)) for n in (2, 8, 32)},
        }
        return convolved, parts


@pytest.mark.slow
def test_all_parts_compiled(
    blocks: dict[str, np.ndarray],
    dcn_cases: dict[str, dict[str, Any]],
    aliked_model: Callable[[str], Any],
    parts_file: Path,
) -> None:
    from aot_runtime.backends.aoti import AotiRunner, compile_program
    from aot_runtime.files import atomic_write

    inputs = ("nms_in_smooth", "nms_in_ties", "dcn_in", "block4_in", "sddh_map", "up_in")
    tensors = {name: torch.from_numpy(blocks[name]) for name in inputs}
    cases = {
        name: {key: value for key, value in case.items() if key not in ("options", "out")}
        for name, case in dcn_cases.items()
    }
    network = AllParts(aliked_model("n16"), {name: case["options"] for name, case in dcn_cases.items()})
    points = pixels(blocks["sddh_keypoints_norm"], 32, 24).astype(np.float32)
    arguments = (cases, tensors, torch.from_numpy(points))
    program = torch.export.export(network.eval(), arguments, strict=False)

    def make(path: Path) -> None:
        with atomic_write(path) as temporary:
            compile_program(program, temporary.with_suffix(".pt2"))
            temporary.with_suffix(".pt2").replace(temporary)

    kept(parts_file, make, Path.is_file)
    flat = torch.utils._pytree.tree_leaves(arguments)
    results = AotiRunner(parts_file).run(flat)
    convolved, parts = torch.utils._pytree.tree_unflatten(results, program.call_spec.out_spec)
    for name, found in convolved.items():
        np.testing.assert_allclose(found.numpy(), dcn_cases[name]["out"].numpy(), atol=1e-5, err_msg=name)
    wanted = dict(blocks)
    wanted["dkd_top20_xy"] = pixels(blocks["dkd_top20_keypoints_norm"], 56, 40)
    for name, found in parts.items():
        atol = {"block4_out": 1e-4, "sddh_offsets": 1e-4, "dkd_top20_xy": 1e-4}.get(name, 1e-5)
        array = found.numpy()[:, : wanted[name].shape[1]] if name == "up_32" else found.numpy()
        np.testing.assert_allclose(array, wanted[name], atol=atol, err_msg=name)
