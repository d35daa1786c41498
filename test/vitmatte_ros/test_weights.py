# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of both code bases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.errors import CheckpointError, InputError
from vitmatte_ros.config import CONFIGS, from_name, from_transformers, normalization
from vitmatte_ros.model.vitmatte import VitMatte
from vitmatte_ros.weights import load_checkpoint, rename


def authors_name(key: str) -> str:
    """Our name -> the authors', written from their code and not from `weights`."""
    key = key.replace("backbone.embeddings.position_embeddings", "backbone.pos_embed")
    key = key.replace("backbone.embeddings.projection", "backbone.patch_embed.proj")
    key = re.sub(r"^backbone\.encoder\.layer\.(\d+)\.attention\.", r"backbone.blocks.\1.attn.", key)
    key = key.replace("backbone.encoder.layer.", "backbone.blocks.")
    key = key.replace("decoder.fusion_blocks.", "decoder.fusion_blks.")
    return key.replace(".batch_norm.", ".bn.")


def test_safetensors_load_unchanged(matte_golden: Any, shared: Path) -> None:
    file = shared / "golden" / "vitmatte" / "weights.safetensors"
    model = VitMatte(matte_golden.config)
    info = load_checkpoint(model, file)
    assert (info.file, info.licence, info.random_seed) == ("weights.safetensors", "MIT", None)
    assert len(info.sha256) == 64
    for key, value in model.state_dict().items():
        assert torch.equal(value, matte_golden.state[key]), key


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_authors_pth_loads_with_its_own_names(matte_golden: Any, tmp_path: Path, wrapped: bool) -> None:
    theirs = {authors_name(key): value for key, value in matte_golden.state.items()}
    assert not [key for key in theirs if "attention" in key or "batch_norm" in key or "encoder" in key]
    assert {rename(key) for key in theirs} == set(matte_golden.state)
    torch.save({"model": theirs} if wrapped else theirs, tmp_path / "ViTMatte_S_Com.pth")
    model = VitMatte(matte_golden.config)
    load_checkpoint(model, tmp_path / "ViTMatte_S_Com.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(value, matte_golden.state[key]), key


def test_names_of_both_code_bases_in_one_file(matte_golden: Any, tmp_path: Path) -> None:
    key = "decoder.fusion_blocks.0.conv.conv.weight"
    state = {**matte_golden.state, authors_name(key): matte_golden.state[key]}
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="found names of both code bases"):
        load_checkpoint(VitMatte(matte_golden.config), tmp_path / "c.pth")


def test_another_size_of_network_is_named(tmp_path: Path) -> None:
    torch.save({"backbone.pos_embed": torch.zeros(1, 197, 768)}, tmp_path / "ViTMatte_B_Com.pth")
    with torch.device("meta"):
        small = VitMatte(CONFIGS["small"])
    with pytest.raises(CheckpointError, match=r"small \(384 channels\), found those of base .*variant base"):
        load_checkpoint(small, tmp_path / "ViTMatte_B_Com.pth")
    torch.save({"backbone.pos_embed": torch.zeros(1, 197, 100)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"an unknown network \(100 channels\)"):
        load_checkpoint(small, tmp_path / "other.pth")


def test_missing_and_unexpected_keys_are_named(matte_golden: Any, tmp_path: Path) -> None:
    state = dict(matte_golden.state)
    state["head.weight"] = state.pop("decoder.matting_head.matting_convs.3.bias")
    torch.save(state, tmp_path / "c.pth")
    model = VitMatte(matte_golden.config).randomise(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 missing: decoder.*convs\.3\.bias; 1 unexpected: head\.weight"):
        load_checkpoint(model, tmp_path / "c.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    model = VitMatte.__new__(VitMatte)
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_checkpoint(model, tmp_path / "page.safetensors")
    with pytest.raises(CheckpointError, match="found no file"):
        load_checkpoint(model, tmp_path / "absent.pth")


def test_published_configurations() -> None:
    assert {name: (config.dim, config.heads, config.head_dim) for name, config in CONFIGS.items()} == {
        "small": (384, 6, 64),
        "base": (768, 12, 64),
    }
    with pytest.raises(InputError, match="small or base, found 'large'"):
        from_name("large")
    with pytest.raises(InputError, match="imagenet or hf, found 'none'"):
        normalization("none")


def test_configurations_of_hugging_face(shared: Path) -> None:
    import json

    config = json.loads((shared / "golden" / "vitmatte" / "config.json").read_text())
    tiny = from_transformers(config, "tiny")
    assert (tiny.dim, tiny.heads, tiny.window, tiny.windowed, tiny.residual) == (32, 2, 3, (0, 2), (1, 3))
    assert (tiny.image_tokens, tiny.pretrain_grid, tiny.details) == (5, 3, (8, 16, 24))
    del config["backbone_config"]["window_size"]
    with pytest.raises(InputError, match="none of name 'window_size'"):
        from_transformers(config, "tiny")
    config["backbone_config"]["window_size"] = 3
    config["backbone_config"]["hidden_act"] = "gelu_new"
    with pytest.raises(InputError, match="expected hidden_act 'gelu' in the configuration, found 'gelu_new'"):
        from_transformers(config, "tiny")
