# SPDX-License-Identifier: Apache-2.0
"""BEVDepth's checkpoints by their official names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bev_artifacts import tiny_encoder

from aot_runtime.errors import CheckpointError
from bev_ros.grid import BevGrid
from bev_ros.model.encoder import BevEncoder
from bev_ros.weights import load_checkpoint

GRID = BevGrid((-8.0, 8.0, 1.0), (-8.0, 8.0, 1.0), (-5.0, 5.0, 10.0), "floor")
STAGED: dict[str, Any] = {"grid": GRID, "bev_stage": "resnet18", "bev_base": 8, "bev_channels": 4}


def published(state: dict[str, torch.Tensor], prefix: str = "model.") -> dict[str, torch.Tensor]:
    """A whole detector's names: the encoder's, its geometry's, and what comes behind."""
    named = {f"{prefix}{key}": value for key, value in state.items()}
    for name in ("frustum", "voxel_size", "voxel_coord", "voxel_num"):
        named[f"{prefix}backbone.{name}"] = torch.zeros(3)
    named[f"{prefix}head.shared_conv.conv.weight"] = torch.zeros(64, 256, 3, 3)
    for task in range(2):
        named[f"{prefix}head.task_heads.{task}.reg.0.conv.weight"] = torch.zeros(64, 64, 3, 3)
    for level in (0, 2, 3):
        named[f"{prefix}backbone.img_neck.fpn_convs.{level}.conv.weight"] = torch.zeros(16, 16, 3, 3)
    named[f"{prefix}backbone.img_neck.lateral_convs.0.conv.weight"] = torch.zeros(16, 8, 1, 1)
    return named


def same(first: BevEncoder, second: BevEncoder) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("prefix", ["model.", "", "module.model."])
def test_a_detectors_checkpoint(tmp_path: Path, prefix: str) -> None:
    source = tiny_encoder(1, **STAGED)
    torch.save({"epoch": 3, "state_dict": published(source.state_dict(), prefix)}, tmp_path / "c.pth")
    encoder = tiny_encoder(2, **STAGED)
    assert not same(encoder, source)
    info, left = load_checkpoint(encoder, tmp_path / "c.pth")
    assert same(encoder, source)
    assert (info.file, info.licence) == ("c.pth", "MIT")
    assert left == (
        "backbone.img_neck.fpn_convs of other levels (3)",
        "backbone.img_neck.lateral_convs of other levels (1)",
        "geometry (4)",
        "head.shared_conv (1)",
        "head.task_heads (2)",
    )


def test_a_bev_stage_that_nobody_wants_is_told(tmp_path: Path) -> None:
    source = tiny_encoder(1, **STAGED)
    torch.save(published(source.state_dict()), tmp_path / "c.pth")
    encoder = tiny_encoder(2, grid=GRID)
    _, left = load_checkpoint(encoder, tmp_path / "c.pth")
    assert same(encoder, source)
    trunk = sum(key.startswith("head.trunk") for key in source.state_dict())
    assert f"head.trunk (no BEV stage) ({trunk})" in left


def test_the_golden_weights_by_the_encoders_own_names(lss_golden: Any, shared: Path) -> None:
    encoder = BevEncoder(lss_golden.config).eval()
    _, left = load_checkpoint(encoder, shared / "golden" / "bev" / "lss_tiny_weights.safetensors")
    assert left == ("backbone.img_neck.fpn_convs of other levels (6)", "geometry (4)")
    assert same(encoder, lss_golden.encoder())


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path: Path) -> None:
    source = tiny_encoder(1)
    state = published(source.state_dict())
    del state["model.backbone.depth_net.bn.weight"]
    state["model.backbone.depth_net.extra.weight"] = torch.zeros(1)
    state["model.backbone.img_backbone.conv1.weight"] = torch.zeros(4, 3, 7, 7)
    state["model.fuser.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    encoder, before = tiny_encoder(2), tiny_encoder(2)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(encoder, tmp_path / "c.pth")
    for text in (
        "1 missing: backbone.depth_net.bn.weight",
        "2 unexpected: backbone.depth_net.extra.weight, fuser.weight",
        "1 of another shape: backbone.img_backbone.conv1.weight (network (8, 3, 7, 7), checkpoint (4, 3, 7, 7))",
    ):
        assert text in caught.value.reason
    assert same(encoder, before)


def test_a_bev_stage_without_weights_is_an_error(tmp_path: Path) -> None:
    torch.save(published(tiny_encoder(1, grid=GRID).state_dict()), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"missing: head.trunk.conv1.weight"):
        load_checkpoint(tiny_encoder(2, **STAGED), tmp_path / "c.pth")


def test_the_bev_stage_of_two_key_frames_does_not_fit_one(tmp_path: Path) -> None:
    state = published(tiny_encoder(1, **STAGED).state_dict())
    state["model.head.trunk.conv1.weight"] = torch.zeros(8, 16, 7, 7)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"head.trunk.conv1.weight \(network \(8, 8, 7, 7\), checkpoint"):
        load_checkpoint(tiny_encoder(2, **STAGED), tmp_path / "c.pth")


def test_two_models_in_one_file(tmp_path: Path) -> None:
    state = tiny_encoder(1).state_dict()
    torch.save({**published(state), "backbone.depth_net.bn.weight": torch.zeros(27)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"found backbone.depth_net.bn.weight under two prefixes"):
        load_checkpoint(tiny_encoder(2), tmp_path / "c.pth")


def test_lss_and_secondfpn_names(tmp_path: Path) -> None:
    source = tiny_encoder(1, head="lss", neck="second_fpn")
    torch.save({f"model.{key}": value for key, value in source.state_dict().items()}, tmp_path / "c.pth")
    encoder = tiny_encoder(2, head="lss", neck="second_fpn")
    assert load_checkpoint(encoder, tmp_path / "c.pth")[1] == ()
    assert same(encoder, source)
    assert "backbone.img_neck.deblocks.3.0.weight" in source.state_dict()
    with pytest.raises(CheckpointError, match="unexpected"):
        load_checkpoint(tiny_encoder(2), tmp_path / "c.pth")


def test_the_published_networks_names() -> None:
    # What BEVDepth's own modules are called; a change here would refuse its checkpoints.
    from bev_ros.config import preset

    with torch.device("meta"):
        encoder = BevEncoder(replace(preset("bevdepth-r50-256x704"), bev_stage="resnet18", use_da=True))
    names = set(encoder.state_dict())
    for name in (
        "backbone.img_backbone.layer4.2.bn3.running_var",
        "backbone.img_neck.deblocks.0.1.num_batches_tracked",
        "backbone.depth_net.reduce_conv.1.weight",
        "backbone.depth_net.depth_mlp.fc2.bias",
        "backbone.depth_net.context_se.conv_expand.weight",
        "backbone.depth_net.depth_conv.2.bn2.weight",
        "backbone.depth_net.depth_conv.3.aspp4.atrous_conv.weight",
        "backbone.depth_net.depth_conv.3.global_avg_pool.1.weight",
        "backbone.depth_net.depth_conv.4.conv_offset.bias",
        "backbone.depth_net.depth_conv.5.bias",
        "backbone.depth_aggregation_net.reduce_conv.0.weight",
        "backbone.depth_aggregation_net.conv.4.running_mean",
        "backbone.depth_aggregation_net.out_conv.0.bias",
        "head.trunk.layer3.0.downsample.1.weight",
        "head.neck.deblocks.3.0.weight",
    ):
        assert name in names
    assert not any(name.startswith("head.trunk.layer4") for name in names)


def test_a_lightning_checkpoint_with_objects_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training_settings.py").write_text("class Settings(dict):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = importlib.import_module("training_settings").Settings(lr=1)
    source = tiny_encoder(1)
    state = published(source.state_dict())
    torch.save({"epoch": 3, "hyper_parameters": settings, "state_dict": state}, tmp_path / "c.ckpt")
    encoder = tiny_encoder(2)
    with pytest.raises(CheckpointError, match="found objects that need code to be loaded") as caught:
        load_checkpoint(encoder, tmp_path / "c.ckpt")
    # What the remedy says is done to the letter.
    code = caught.value.remedy.split('python3 -c "', 1)[1].removesuffix('"')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    load_checkpoint(encoder, tmp_path / "weights.pth")
    assert same(encoder, source)
