# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aot_runtime.errors import CheckpointError, InputError
from vggt_ros.config import LICENCE, VGGT_1B
from vggt_ros.model.vggt import Vggt, without_values
from vggt_ros.weights import load_checkpoint, read_config


def test_official_weights_load_unchanged(vggt_golden: Any) -> None:
    model = without_values(read_config(vggt_golden.weights), points=True)
    loaded = load_checkpoint(model, vggt_golden.weights)
    assert loaded.notes == []
    assert (loaded.info.file, loaded.info.licence) == ("weights.safetensors", LICENCE)
    state = model.state_dict()
    assert set(state) == set(vggt_golden.state)
    for name, value in vggt_golden.state.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_heads_that_are_not_here_are_skipped_and_named(
    points: bool, suffix: str, vggt_golden: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    state = {**vggt_golden.state, "track_head.tracker.updateformer.virual_tracks": torch.zeros(1, 4, 1, 8)}
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    model = Vggt(vggt_golden.config(), points=points)
    notes = load_checkpoint(model, path).notes
    assert notes[0].startswith("skipped the 1 tensors of track_head.*")
    assert len(notes) == (1 if points else 2)
    if not points:
        assert notes[1].startswith("skipped the 62 tensors of point_head.*")
    assert torch.equal(model.aggregator.camera_token, state["aggregator.camera_token"])


def test_wrong_checkpoints(vggt_golden: Any, tmp_path: Path) -> None:
    model = Vggt(vggt_golden.config(), points=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def load(state: dict[str, Any]) -> None:
        save_file(state, tmp_path / "w.safetensors")
        load_checkpoint(model, tmp_path / "w.safetensors")

    with pytest.raises(CheckpointError, match="expected weights of VGGT") as caught:
        load({"pretrained.cls_token": torch.zeros(1, 1, 64)})
    assert "facebook/VGGT-1B" in caught.value.remedy
    with pytest.raises(CheckpointError, match=r"tokens of 64 channels\), found tokens of 1024 channels \(vggt_1b\)"):
        load({"aggregator.camera_token": torch.zeros(1, 2, 1, 1024)})
    missing = dict(vggt_golden.state)
    del missing["camera_head.embed_pose.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: camera_head\.embed_pose\.bias"):
        load(missing)
    with pytest.raises(CheckpointError, match=r"1 unexpected: another_head\.weight"):
        load({**vggt_golden.state, "another_head.weight": torch.zeros(3)})
    (tmp_path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(model, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        load_checkpoint(model, tmp_path / "absent.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_size_of_a_network_is_read_from_its_file(vggt_golden: Any, tmp_path: Path) -> None:
    assert read_config(vggt_golden.weights).dim == 64
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert read_config(tmp_path / "plain.safetensors") == VGGT_1B
    assert read_config(tmp_path / "model.pt") == VGGT_1B
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={"config": "[1]"})
    with pytest.raises(InputError, match="expected a VGGT configuration"):
        read_config(tmp_path / "odd.safetensors")


def test_a_billion_parameters_need_no_first_values() -> None:
    with torch.device("meta"):
        model = Vggt(VGGT_1B)
    assert all(value.is_meta for value in model.parameters())
    # What no checkpoint brings has its values even so.
    assert model.aggregator.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
