# SPDX-License-Identifier: Apache-2.0
"""The official networks' outputs on real images, with the limits that golden/aliked/README.md states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aliked_half import compare_half

from aliked_ros.alignment import nearest
from aliked_ros.deploy import DeployedALIKED
from aliked_ros.descriptors import DenseMap
from aliked_ros.detection import above, strongest

VARIANTS = ("t16", "n16", "n16rot", "n32")
CASES = ("tum_k1000", "kitti_k500", "crop_th02")
# "n16rot" is "n16" with other weights, so that one program serves both: each case of it is compiled with one of them.
COMPILED = (
    *((variant, case) for variant in ("t16", "n32") for case in CASES),
    *(("n16rot", "tum_k1000"), ("n16", "kitti_k500"), ("n16rot", "crop_th02")),
)
# The artifacts of these networks and images, as few as there must be. In threshold mode K only has to be large enough.
TOP_K = {"tum_k1000": 1000, "kitti_k500": 500, "crop_th02": 300}


def options(golden: Any, case: str) -> dict[str, Any]:
    return {"height": golden.meta["height"], "width": golden.meta["width"], "top_k": TOP_K[case], "score_map": True}


def above_threshold(outputs: dict[str, torch.Tensor], golden: Any) -> dict[str, torch.Tensor]:
    """What remains of an artifact's outputs in the golden's mode; the batch dropped."""
    threshold = golden.meta["scores_th"] if golden.meta["mode"] == "threshold" else 0.0
    kept = outputs["peak_scores"][0] > threshold
    return {
        name: value[0][kept] if value.shape[1] == len(kept) else value[0]
        for name, value in outputs.items()
        if name != "checks"
    }


def compare(found: dict[str, torch.Tensor], golden: Any) -> None:
    arrays = golden.arrays
    wanted = torch.from_numpy(arrays["keypoints"])
    assert len(found["keypoints"]) == len(wanted)
    distance, index = nearest(wanted, found["keypoints"])
    same = (distance < 0.05).numpy()
    assert same.mean() >= 0.998
    assert distance[same].max() <= 1e-3
    rows = {name: value[index].numpy()[same] for name, value in found.items() if name != "score_map"}
    assert np.abs(rows["scores"] - arrays["scores"][same]).max() <= 2e-4
    assert np.abs(rows["peak_scores"] - arrays["nms_scores"][same]).max() <= 2e-4
    assert np.abs(rows["dispersity"] - arrays["dispersity"][same]).max() <= 5e-4
    cosine = (rows["descriptors"].astype(np.float64) * arrays["descriptors"][same]).sum(1)
    assert cosine.min() >= 0.99
    assert (cosine >= 0.9999).mean() >= 0.995
    assert np.abs(found["score_map"].numpy() - golden.score_map).max() <= 1e-4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dense_maps_and_threshold_mode(
    variant: str, case: str, aliked_model: Callable[[str], Any], aliked_golden: Callable[[str, str], Any]
) -> None:
    golden, model = aliked_golden(variant, case), aliked_model(variant)
    image = torch.from_numpy(golden.image).permute(2, 0, 1)[None].float() / 255
    features, scores = model(image)
    meta = golden.meta
    if meta["mode"] == "top_k":
        points = strongest(scores[0, 0], meta["top_k"])
    else:
        points = above(scores[0, 0], meta["scores_th"], meta["n_limit"])
    descriptors = model.desc_head(points.xy, DenseMap(features[0]))
    found = {
        "keypoints": points.xy,
        "scores": points.scores,
        "peak_scores": points.peak_scores,
        "dispersity": points.dispersity,
        "descriptors": descriptors,
        "score_map": scores[0, 0],
    }
    compare(found, golden)
    arrays = golden.arrays
    x, y = arrays["probe_xy"].astype(np.int64).T
    np.testing.assert_allclose(features[0, :, y, x].numpy().T, arrays["probe_features"], atol=1e-5)
    np.testing.assert_allclose(scores[0, 0, y, x].numpy(), arrays["probe_scores"], atol=1e-4)
    if meta["mode"] == "threshold":  # in rows: the order is stable
        np.testing.assert_allclose(points.xy.numpy(), arrays["keypoints"], atol=1e-3)
    offsets = model.desc_head.offsets(torch.from_numpy(arrays["keypoints"][:32]), DenseMap(features[0]))
    np.testing.assert_allclose(offsets.numpy(), arrays["sddh_offsets_first32"], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_levels_of_the_encoder(
    variant: str, aliked_model: Callable[[str], Any], aliked_golden: Callable[[str, str], Any]
) -> None:
    golden = aliked_golden(variant, "tum_k1000")
    levels = aliked_model(variant).encode(torch.from_numpy(golden.image).permute(2, 0, 1)[None].float() / 255)
    for i, level in enumerate(levels, 1):
        assert tuple(level.shape) == tuple(golden.arrays[f"stage_x{i}_shape"])
        found = [float(level.double().mean()), float(level.double().std()), float(level.min()), float(level.max())]
        np.testing.assert_allclose(found, golden.arrays[f"stage_x{i}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_deployed(
    variant: str, case: str, aliked_model: Callable[[str], Any], aliked_golden: Callable[[str, str], Any]
) -> None:
    golden = aliked_golden(variant, case)
    deployed = DeployedALIKED(aliked_model(variant), **options(golden, case))
    compare(above_threshold(deployed(torch.from_numpy(golden.image)[None]), golden), golden)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("variant", "case"), COMPILED)
def test_compiled(
    variant: str, case: str, aliked_artifact: Callable[..., Path], aliked_golden: Callable[[str, str], Any]
) -> None:
    from aot_runtime.compiled_model import load_model

    golden = aliked_golden(variant, case)
    with load_model(aliked_artifact(variant, **options(golden, case))) as model:
        outputs = model.run(image=torch.from_numpy(golden.image)[None])
    compare(above_threshold(outputs, golden), golden)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "case"), [("n16rot", "tum_k1000"), ("t16", "kitti_k500"), ("n32", "crop_th02")])
def test_onnx(
    variant: str, case: str, aliked_artifact: Callable[..., Path], aliked_golden: Callable[[str, str], Any]
) -> None:
    pytest.importorskip("onnxruntime")
    from aot_runtime.compiled_model import load_model

    golden = aliked_golden(variant, case)
    with load_model(aliked_artifact(variant, suffix=".onnx", **options(golden, case))) as model:
        outputs = model.run(image=torch.from_numpy(golden.image)[None])
    compare(above_threshold(outputs, golden), golden)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision(
    variant: str, aliked_model: Callable[[str], Any], aliked_golden: Callable[[str, str], Any]
) -> None:
    golden = aliked_golden(variant, "tum_k1000")
    deployed = DeployedALIKED(aliked_model(variant), **options(golden, "tum_k1000")).cast_precision(torch.float16)
    compare_half(deployed(torch.from_numpy(golden.image)[None]), golden, 0.9998 if variant == "t16" else 0.9999)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_half_precision(
    aliked_artifact: Callable[..., Path], aliked_golden: Callable[[str, str], Any]
) -> None:
    from aot_runtime.compiled_model import load_model

    golden = aliked_golden("n16rot", "tum_k1000")
    with load_model(aliked_artifact("n16rot", precision="fp16", **options(golden, "tum_k1000"))) as model:
        compare_half(model.run(image=torch.from_numpy(golden.image)[None]), golden, 0.9999)
