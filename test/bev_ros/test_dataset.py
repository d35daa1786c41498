# SPDX-License-Identifier: Apache-2.0
"""The data set of precomputed maps: the right map for a token, from any worker, or an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_fakes import START_NS, FakeEncoder, FakeSource, fake_config, make_store
from torch.utils.data import DataLoader

from aot_runtime.errors import InputError
from bev_ros.dataset import PrecomputedBevDataset, dataset_from_config
from bev_ros.store.formats import FileFormat
from bev_ros.warp import sample_world


def wanted_map(token: str) -> np.ndarray:
    sample = FakeSource(6).sample("train", token)
    return FakeEncoder().process({name: read() for name, read in sample.images.items()}, sample.rig).features


def test_items_come_by_number_and_by_token(tmp_path: Path) -> None:
    make_store(tmp_path, files=FileFormat(dtype="float32"))
    dataset = PrecomputedBevDataset(tmp_path, "train")
    assert len(dataset) == 6
    assert dataset.tokens == tuple(FakeSource(6).tokens("train"))
    for key in (4, "sample00004", -2):
        item = dataset[key]
        assert (item["token"], item["stamp_ns"], item["scene"]) == ("sample00004", START_NS + 4 * 10**8, "scene-1")
        np.testing.assert_array_equal(item["features"], wanted_map("sample00004"))
        np.testing.assert_array_equal(item["ego_pose"][:3, 3], [2.0, 0.4, 0.0])
        assert item["grid"].tolist() == [[-10, 10, 1], [-5, 5, 1], [-10, 10, 20]]
    assert "sample00003" in dataset
    assert "sample00009" not in dataset
    with pytest.raises(IndexError):
        dataset[6]


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_every_format_gives_float32_or_what_is_stored(tmp_path: Path, form: str, dtype: str, layout: str) -> None:
    make_store(tmp_path, files=FileFormat(form, dtype, layout))
    wanted = wanted_map("sample00001")
    item = PrecomputedBevDataset(tmp_path, "train")["sample00001"]
    assert item["features"].dtype == torch.float32
    assert np.abs(item["features"].numpy() - wanted).max() <= {"float32": 0, "float16": 2e-3, "int8": 2e-2}[dtype]
    raw = PrecomputedBevDataset(tmp_path, "train", dtype="raw")["sample00001"]
    assert raw["features"].dtype == getattr(torch, dtype)
    values = raw["features"].float() * (raw["scale"][:, None, None] if dtype == "int8" else 1)
    np.testing.assert_array_equal(values, item["features"])
    half = PrecomputedBevDataset(tmp_path, "train", dtype="float16")["sample00001"]
    assert half["features"].dtype == torch.float16


def test_the_guides_layout_comes_as_channels_rows_columns(tmp_path: Path) -> None:
    make_store(tmp_path, files=FileFormat("pt", "float32", "guide"))
    item = PrecomputedBevDataset(tmp_path, "train")[2]
    np.testing.assert_array_equal(item["features"], wanted_map("sample00002"))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_with_workers_give_all_maps_in_order(tmp_path: Path, workers: int) -> None:
    make_store(tmp_path, files=FileFormat(dtype="float32"))
    dataset = PrecomputedBevDataset(tmp_path, "train")
    more: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, **more)
    for _ in range(2):
        tokens = []
        for batch in loader:
            assert batch["features"].shape[1:] == (8, 10, 20)
            assert batch["ego_pose"].shape[1:] == (4, 4)
            for token, features in zip(batch["token"], batch["features"]):
                np.testing.assert_array_equal(features, wanted_map(token))
            tokens += batch["token"]
        assert tokens == list(dataset.tokens)


def test_a_batch_is_sampled_at_points_of_the_world(tmp_path: Path) -> None:
    make_store(tmp_path, files=FileFormat(dtype="float32"))
    dataset = PrecomputedBevDataset(tmp_path, "train")
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    # The vehicle itself: between the two middle rows and columns.
    here = batch["ego_pose"][:, None, :3, 3]
    values, inside = sample_world(batch["features"], dataset.grid, batch["ego_pose"], here)
    assert inside.all()
    torch.testing.assert_close(values[:, 0], batch["features"][:, :, 4:6, 9:11].mean((2, 3)))


def test_some_tokens_in_their_order(tmp_path: Path) -> None:
    make_store(tmp_path)
    tokens = ["sample00004", "sample00001"]
    dataset = PrecomputedBevDataset(tmp_path, "train", tokens=tokens)
    assert [item["token"] for item in dataset] == tokens  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="expected a token of the 2 of split 'train', found 'sample00000'"):
        dataset["sample00000"]
    with pytest.raises(InputError, match="found none of sample00007 and 1 others; run precompute"):
        PrecomputedBevDataset(tmp_path, "train", tokens=["sample00000", "sample00007", "nobody"])
    with pytest.raises(InputError, match="expected each token once"):
        PrecomputedBevDataset(tmp_path, "train", tokens=["sample00000", "sample00000"])


def test_a_missing_or_damaged_map_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    dataset = PrecomputedBevDataset(tmp_path, "train")
    store.path("train", "sample00002").unlink()
    store.path("train", "sample00003").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected the map of sample00002: expected a map, found no file"):
        dataset[2]
    with pytest.raises(InputError, match=r"expected the map of sample00003: .*; run verify_bev_features .* --repair"):
        dataset[3]
    with pytest.raises(InputError, match=r"expected maps of 6 tokens in .*, found none of sample00002"):
        PrecomputedBevDataset(tmp_path, "train")


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder of BEV features, found no manifest\.json"):
        PrecomputedBevDataset(tmp_path, "train")
    store = make_store(tmp_path / "out")
    with pytest.raises(InputError, match="expected a split among train, found 'val'"):
        PrecomputedBevDataset(store.root, "val")
    with pytest.raises(InputError, match="expected a dtype among float32, float16, bfloat16, raw, found 'float8'"):
        PrecomputedBevDataset(store.root, "train", dtype="float8")
    with store.index("train").path.open("ab") as file:
        file.write(b'{"token": "x"}\n')
    with pytest.raises(InputError, match=r"expected a row of a map, found .*; run verify_bev_features"):
        PrecomputedBevDataset(store.root, "train")


def test_random_weights_are_told(tmp_path: Path) -> None:
    make_store(tmp_path, FakeEncoder(random_weights=True))
    with pytest.warns(UserWarning, match="of random weights: they mean nothing"):
        PrecomputedBevDataset(tmp_path, "train")


def test_samples_without_a_pose_have_nan(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    rows = [json.loads(line) for line in store.index("train").path.read_text().splitlines()]
    for row in rows:
        row["ego_pose"] = None
    store.index("train").path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert PrecomputedBevDataset(tmp_path, "train")[0]["ego_pose"].isnan().all()


def test_only_touched_pages_of_a_dense_map_are_read(tmp_path: Path) -> None:
    config = fake_config(channels=64, size=100)
    make_store(tmp_path, FakeEncoder(config), FakeSource(1), files=FileFormat(dtype="float16", layout="dense"))
    features = PrecomputedBevDataset(tmp_path, "train", dtype="raw")[0]["features"]
    maps = Path("/proc/self/maps").read_text()
    assert "sample00000.safetensors" in maps
    assert features.shape == config.shape


@pytest.mark.parametrize("as_file", [True, False])
def test_a_training_configuration_asks_for_it(tmp_path: Path, as_file: bool) -> None:
    make_store(tmp_path / "out")
    (tmp_path / "tokens.txt").write_text("sample00003\nsample00001\n")
    told: dict[str, Any] = {
        "use_precomputed_bev": True, "bev_features_dir": str(tmp_path / "out"), "bev_dtype": "float16",
        "bev_tokens": str(tmp_path / "tokens.txt"), "learning_rate": 1e-3,
    }  # fmt: skip

    def read(config: dict[str, Any]) -> PrecomputedBevDataset | None:
        if not as_file:
            return dataset_from_config(config, "train")
        (tmp_path / "train.yml").write_text(json.dumps(config))
        return dataset_from_config(tmp_path / "train.yml", "train")

    dataset = read(told)
    assert dataset is not None
    assert dataset.tokens == ("sample00003", "sample00001")
    assert dataset[0]["features"].dtype == torch.float16
    assert read({**told, "use_precomputed_bev": False}) is None
    assert read({"learning_rate": 1}) is None
    for change, reason in (
        ({"use_precomputed_bev": "yes"}, "use_precomputed_bev: true or false, found 'yes'"),
        ({"bev_features_dir": None}, "expected bev_features_dir with use_precomputed_bev: true, found None"),
        ({"bev_features_dir": str(tmp_path)}, "expected a folder of BEV features"),
        ({"bev_dtype": "int4"}, "expected a dtype among"),
        ({"bev_tokens": str(tmp_path / "none.txt")}, "expected a list of tokens"),
    ):
        with pytest.raises(InputError, match=reason):
            read({**told, **change})


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a YAML file"):
        dataset_from_config(tmp_path / "none.yml", "train")
    (tmp_path / "list.yml").write_text("[1]")
    with pytest.raises(InputError, match="expected a mapping, found list"):
        dataset_from_config(tmp_path / "list.yml", "train")
