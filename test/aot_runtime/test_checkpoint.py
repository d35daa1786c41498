# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.checkpoint import load_into, load_state_dict
from aot_runtime.errors import CheckpointError

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def named_network() -> torch.nn.Module:
    module = torch.nn.Module()
    module.layer = torch.nn.Linear(3, 2)
    return module


def prefixed(prefix: str, weights: dict[str, torch.Tensor] = WEIGHTS) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "epoch": 3, "optimizer": {"state": {}}},
        {"state_dict": WEIGHTS},
        {"state_dict": {"model": WEIGHTS}, "loss": 0.5},
        prefixed("_orig_mod."),
        prefixed("module."),
        prefixed("module._orig_mod."),
        {"model": {"layer._orig_mod.weight": WEIGHTS["layer.weight"], "layer.bias": WEIGHTS["layer.bias"]}},
    ],
    ids=["plain", "model", "state_dict", "nested", "compiled", "parallel", "both", "inside"],
)
def test_every_wrapping_gives_the_plain_names(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "w.pth", content)
    tensors, info = load_state_dict(path, licence="Apache-2.0")
    assert sorted(tensors) == ["layer.bias", "layer.weight"]
    assert torch.equal(tensors["layer.weight"], WEIGHTS["layer.weight"])
    assert info.file == "w.pth"
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.licence == "Apache-2.0"
    assert not info.is_random


def test_a_prefix_selects_one_network_of_several(tmp_path: Path) -> None:
    content = {"model": {**prefixed("dav2."), **prefixed("eventff._orig_mod."), "flowhead.x": torch.zeros(1)}}
    path = save(tmp_path / "best.pth", content)
    for prefix in ("dav2.", "eventff."):
        assert sorted(load_state_dict(path, prefix)[0]) == ["layer.bias", "layer.weight"]
    with pytest.raises(
        CheckpointError, match=r"begin with 'vit\.', found only dav2\., eventff\., flowhead\. in .*best"
    ):
        load_state_dict(path, "vit.")


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(prefixed("_orig_mod."), tmp_path / "w.safetensors")
    tensors, _ = load_state_dict(tmp_path / "w.safetensors")
    assert torch.equal(tensors["layer.weight"], WEIGHTS["layer.weight"])
    (tmp_path / "bad.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0hello")
    with pytest.raises(CheckpointError, match=r"safetensors file, found .*bad.* damaged .*download it again"):
        load_state_dict(tmp_path / "bad.safetensors")


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no file .*none\.pth; check the path"):
        load_state_dict(tmp_path / "none.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"found .*empty\.pth empty; download it again"):
        load_state_dict(tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="no regular file"):
        load_state_dict(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "w.pth", WEIGHTS).read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("text", b"<html>404</html>"), ("byte", b"\x80")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            CheckpointError, match=rf"found .*{name} damaged or of another format .*; download it again"
        ):
            load_state_dict(tmp_path / name)


class Custom:
    """Something a weights_only load refuses."""


def test_a_pickle_that_needs_code_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", {"model": WEIGHTS, "config": Custom()})
    with pytest.raises(CheckpointError, match=r"objects that need code .*Custom.*; if you trust its author") as caught:
        load_state_dict(path)
    assert f"torch.load('{path}', weights_only=False)" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "expected a dict of tensors, found list"),
        ({"epoch": 1, "loss": 0.1}, "found keys epoch, loss in"),
        ({}, r"found keys \(none\) in"),
        ({"a": torch.zeros(1), "b": 3}, "expected names of tensors, found 'b' is a int"),
        ({"a.b": torch.zeros(1), "a._orig_mod.b": torch.zeros(1)}, r"found a\.b twice"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_state_dict(save(tmp_path / "w.pth", content))


def test_loading_copies_and_converts() -> None:
    module = named_network()
    load_into(module, {key: value.half() for key, value in WEIGHTS.items()})
    assert torch.equal(module.layer.weight, WEIGHTS["layer.weight"])
    assert module.layer.weight.dtype == torch.float32


def test_all_kinds_of_misfit_are_named_at_once_and_nothing_changes() -> None:
    module = named_network()
    before = module.layer.bias.clone()
    wrong = {"layer.weight": torch.zeros(2, 4), "extra.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_into(module, wrong, source="best.pth")
    assert caught.value.reason == (
        "expected the 2 keys of Module, found 1 missing: layer.bias; 1 unexpected: extra.weight; "
        "1 of another shape: layer.weight (network (2, 3), checkpoint (2, 4)) in best.pth"
    )
    assert torch.equal(module.layer.bias, before)


def test_a_long_list_of_keys_is_cut() -> None:
    with pytest.raises(CheckpointError, match=r"20 unexpected: .*k7 and 12 more"):
        load_into(named_network(), {**WEIGHTS, **{f"k{i}": torch.zeros(1) for i in range(20)}})


def test_exceptions_for_keys_are_by_prefix() -> None:
    module = named_network()
    load_into(module, {**WEIGHTS, "head.w": torch.zeros(1)}, ignore_unexpected=["head."])
    load_into(module, {"layer.weight": torch.zeros(2, 3)}, allow_missing=["layer.bias"])
    assert module.layer.bias.tolist() == [1.0, 1.0]
    assert module.layer.weight.abs().sum() == 0


def test_the_digest_of_weights_ignores_order_and_precision_of_storage_but_no_value() -> None:
    import torch

    from aot_runtime.checkpoint import state_digest

    weights = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[0.5]])}
    digest = state_digest(weights)
    assert digest == state_digest({"a": torch.tensor([[0.5]], dtype=torch.float16), "b": torch.tensor([1.0, 2.0])})
    assert digest != state_digest({**weights, "b": torch.tensor([1.0, 2.0000002])})
    assert digest != state_digest({**weights, "b": torch.tensor([[1.0, 2.0]])})
    assert digest != state_digest({"a": weights["a"], "c": weights["b"]})
