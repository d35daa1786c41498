# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from aot_runtime.errors import InputError
from f3_ros.config import from_name
from f3_ros.deploy import DeployedUNet, deploy
from f3_ros.unet import EventUNetFF


def test_matches_the_official_outputs(f3_golden: Any) -> None:
    golden = f3_golden("f3_unetff")
    model = golden.model()
    with torch.no_grad():
        voxels = model.voxels(golden.events(""), golden.inputs["counts"])
        assert torch.equal(voxels, golden.outputs["voxelgrid_BTWH"])
        bottleneck, skips = model.bottleneck(voxels)
        torch.testing.assert_close(model.features(bottleneck), golden.outputs["feat_BWHC"], atol=2e-4, rtol=1e-4)
        logits = model.logits(bottleneck, skips)
        torch.testing.assert_close(logits, golden.outputs["logits_BWHT"], atol=2e-4, rtol=1e-4)


def test_one_window_padding_and_no_events(f3_golden: Any) -> None:
    golden = f3_golden("f3_unetff")
    model = golden.model()
    first = golden.events("")[: int(golden.inputs["counts"][0])]
    with torch.no_grad():
        features, logits = DeployedUNet(model, logits=True)(first)
        torch.testing.assert_close(features[0], golden.outputs["feat_BWHC"][0], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(logits[0], golden.outputs["logits_BWHT"][0], atol=2e-4, rtol=1e-4)
        padding = torch.full((4, 3), -1.0)
        assert torch.equal(model.voxels(torch.cat([first, padding])), model.voxels(first))
        assert not model.voxels(torch.zeros(0, 3)).any()


def test_the_published_configuration_builds() -> None:
    with torch.device("meta"):
        model = EventUNetFF(from_name("1280x720x20_unetff_ds4_small"))
    assert model.pred.weight.shape == (20, 32, 1, 1)
    assert model.inc.double_conv[0].weight.shape == (32, 20, 7, 7)


def test_what_does_not_fit_is_refused(f3_golden: Any) -> None:
    config = from_name("1280x720x20_unetff_ds4_small")
    with pytest.raises(InputError, match="divisible by 4"):
        EventUNetFF(replace(config, frame=(346, 260, 20)))
    with pytest.raises(InputError, match="EventPatchFF"):
        EventUNetFF(from_name("1280x720x20_patchff_ds1_small"))
    with pytest.raises(InputError, match="--downsample"):
        deploy(f3_golden("f3_unetff").model(), downsample=(12, 10))
