# SPDX-License-Identifier: Apache-2.0
"""Files made up like the published ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.checkpoint import state_digest
from aot_runtime.errors import CheckpointError
from depth_ros.model.depth_anything import ENCODERS, DepthAnythingV2, DepthConfig
from depth_ros.weights import compare_backbone, inflate, load_depth_checkpoint

TINY = DepthConfig("tiny", 24, 4, 3, (0, 1, 2, 3), 8, (6, 8, 10, 12), licence="Apache-2.0", image_size=56)
BACKBONE = {"stages.0.0.dwconv.weight": torch.ones(4, 1, 7, 7), "pred.bias": torch.arange(3.0)}


def network(channels: int, seed: int = 1) -> DepthAnythingV2:
    return DepthAnythingV2(replace(TINY, input_channels=channels)).eval().randomise(seed)


def same(left: DepthAnythingV2, right: DepthAnythingV2) -> bool:
    theirs = right.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in left.state_dict().items())


def best_pth(path: Path, head: DepthAnythingV2, prefix: str = "dav2.", backbone: Any = BACKBONE) -> Path:
    """Like F3's `best.pth`: head and backbone in one state dict, with what training needs around it."""
    state = {f"{prefix}{key}": value for key, value in head.state_dict().items()}
    state.update({f"eventff._orig_mod.{key}": value for key, value in backbone.items()})
    torch.save({"epoch": 3, "results": {"absrel": 0.1}, "model": state, "optimizer": {"state": {}}}, path)
    return path


def test_an_official_rgb_file(tmp_path: Path) -> None:
    official, model = network(3), network(3, seed=2)
    torch.save(official.state_dict(), tmp_path / "depth_anything_v2_tiny.pth")
    loaded = load_depth_checkpoint(model, tmp_path / "depth_anything_v2_tiny.pth")
    assert same(model, official)
    assert (loaded.info.file, loaded.info.licence) == ("depth_anything_v2_tiny.pth", "Apache-2.0")
    assert loaded.backbone_digest is None
    assert loaded.notes == []


@pytest.mark.parametrize("prefix", ["dav2.", "dav2._orig_mod."])
def test_the_file_of_f3(prefix: str, tmp_path: Path) -> None:
    official, model = network(32), network(32, seed=2)
    path = best_pth(tmp_path / "best.pth", official, prefix)
    loaded = load_depth_checkpoint(model, path)
    assert same(model, official)
    assert loaded.backbone_digest == state_digest(BACKBONE)
    assert loaded.notes == []


def test_a_file_of_f3_without_its_backbone(tmp_path: Path) -> None:
    path = best_pth(tmp_path / "best.pth", network(32), backbone={})
    assert load_depth_checkpoint(network(32, seed=2), path).backbone_digest is None
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in BACKBONE.items()}}, tmp_path / "f3.pth")
    warning = compare_backbone(None, path, tmp_path / "f3.pth")
    assert warning is not None
    assert "found none; it cannot be compared" in warning


def test_the_backbone_is_compared_with_the_f3_in_use(tmp_path: Path) -> None:
    path = best_pth(tmp_path / "best.pth", network(32))
    digest = load_depth_checkpoint(network(32), path).backbone_digest
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in BACKBONE.items()}}, tmp_path / "same.pth")
    torch.save({**BACKBONE, "pred.bias": torch.tensor([0.0, 1.0, 2.5])}, tmp_path / "other.pth")
    assert compare_backbone(digest, path, tmp_path / "same.pth") is None
    warning = compare_backbone(digest, path, tmp_path / "other.pth")
    assert warning is not None
    assert "other.pth to be the F3 that" in warning
    assert "export F3 from the right checkpoint" in warning


def test_inflating_a_patch_embedding_is_as_in_f3(depth_golden: Callable[[str], Any]) -> None:
    golden = depth_golden("dav2_patch_embed_inflate")
    found = inflate(golden.inputs["weight_3ch"], golden.options["input_channels"])
    assert torch.equal(found, golden.outputs["weight_32ch"])
    assert torch.equal(inflate(golden.inputs["weight_3ch"], 2), golden.inputs["weight_3ch"][:, :2])


def test_rgb_weights_in_a_network_for_features_are_inflated_and_said_to_be(tmp_path: Path) -> None:
    official, model = network(3), network(32, seed=2)
    torch.save(official.state_dict(), tmp_path / "rgb.pth")
    loaded = load_depth_checkpoint(model, tmp_path / "rgb.pth")
    weight = model.pretrained.patch_embed.proj.weight
    assert torch.equal(weight, inflate(official.pretrained.patch_embed.proj.weight, 32))
    assert torch.equal(model.pretrained.patch_embed.proj.bias, official.pretrained.patch_embed.proj.bias)
    assert torch.equal(model.pretrained.pos_embed, official.pretrained.pos_embed)
    (note,) = loaded.notes
    assert "patch embedding was repeated for 32 channels" in note
    assert "--input-channels 3" in note


def test_other_channels_are_refused(tmp_path: Path) -> None:
    best_pth(tmp_path / "best.pth", network(32))
    model = network(3, seed=2)
    with pytest.raises(CheckpointError, match=r"3 input channels, found 32 in .*best\.pth; use --input-channels 32"):
        load_depth_checkpoint(model, tmp_path / "best.pth")
    assert same(model, network(3, seed=2))


def test_another_encoder_is_named(tmp_path: Path) -> None:
    state = network(3).state_dict()
    state["pretrained.cls_token"] = torch.zeros(1, 1, ENCODERS["vitl"].dim)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError) as error:
        load_depth_checkpoint(network(3), tmp_path / "c.pth")
    assert "expected weights of tiny (tokens of 24 channels), found those of vitl" in error.value.reason
    assert error.value.remedy == "use --encoder vitl"
    state["pretrained.cls_token"] = torch.zeros(1, 1, 5)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="an unknown encoder"):
        load_depth_checkpoint(network(3), tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("pretrained.norm.weight"), r"1 missing: pretrained\.norm\.weight"),
        (lambda state: state.update({"head.extra": torch.ones(1)}), r"1 unexpected: head\.extra"),
        (lambda state: state.pop("pretrained.cls_token"), r"1 missing: pretrained\.cls_token"),
        (lambda state: state.pop("pretrained.patch_embed.proj.weight"), r"1 missing: .*proj\.weight"),
        (
            lambda state: state.update({"pretrained.patch_embed.proj.weight": torch.ones(3)}),
            r"1 of another shape: pretrained.*proj\.weight \(network \(24, 3, 14, 14\), checkpoint \(3,\)\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    state = network(3).state_dict()
    change(state)
    torch.save(state, tmp_path / "c.pth")
    model = network(3, seed=2)
    with pytest.raises(CheckpointError, match=message):
        load_depth_checkpoint(model, tmp_path / "c.pth")
    assert same(model, network(3, seed=2))


def test_an_f3_checkpoint_is_not_a_head(tmp_path: Path) -> None:
    torch.save({"model": BACKBONE}, tmp_path / "f3.pth")
    with pytest.raises(CheckpointError, match="missing: pretrained"):
        load_depth_checkpoint(network(3), tmp_path / "f3.pth")
