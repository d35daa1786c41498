# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.errors import InputError
from f3_ros.config import CONFIGS, F3Config, from_name, level_resolutions

PATCHFF = [name for name, config in CONFIGS.items() if config.model == "EventPatchFF"]


@pytest.fixture(scope="module")
def official(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference" / "f3_state_dict.json").read_text())


def test_every_published_configuration_is_here(official: dict[str, Any]) -> None:
    published = {name for name in official if "patchff" in name}
    assert published == set(PATCHFF)
    assert "1280x720x20_unetff_ds4_small" in CONFIGS


@pytest.mark.parametrize("name", PATCHFF)
def test_resolutions_are_the_official_ones(name: str, official: dict[str, Any]) -> None:
    meta = official["_meta"][name]
    encoder = CONFIGS[name].encoder
    assert encoder is not None
    assert [list(level) for level in encoder.resolutions] == meta["resolutions"]
    assert encoder.hashed_levels == meta["L_H"]


def test_resolutions_on_the_edge_are_pinned() -> None:
    # 139, not the 140 of the configuration file: float32 arithmetic fell short of it when the models were trained.
    encoder = from_name("346x260x20_patchff_ds1_small").encoder
    assert encoder is not None
    assert encoder.resolutions[-1] == (180, 139, 8)


def test_computed_resolutions() -> None:
    assert level_resolutions((4, 4, 1), (20, 15, 4), 4)[:3] == ((4, 4, 1), (6, 6, 1), (11, 9, 2))
    assert level_resolutions((5, 5, 5), (5, 5, 5), 1) == ((5, 5, 5),)


def test_rows_of_dense_and_hashed_levels() -> None:
    encoder = from_name("640x480x50_patchff_ds1_small").encoder
    assert encoder is not None
    assert encoder.rows(0) == 8 + 8 * 8 + 8 * 8 + 1 == 137
    assert encoder.rows(3) == 1 << 19


@pytest.mark.parametrize(
    ("name", "downsample", "shape"),
    [
        ("1280x720x20_patchff_ds1_small", None, (1280, 720, 32)),
        ("1280x720x20_patchff_ds1_small", (320, 240), (320, 240, 32)),
        ("1280x720_patchff_ds16", None, (80, 45, 256)),
        ("640x480x20_patchff_ds1_small_v1", None, (640, 480, 16)),
        ("1280x720x20_unetff_ds4_small", None, (1280, 720, 32)),
    ],
)
def test_feature_shape(name: str, downsample: tuple[int, int] | None, shape: tuple[int, int, int]) -> None:
    assert from_name(name).feature_shape(downsample) == shape


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="patchff_ds9") as caught:
        from_name("1280x720x20_patchff_ds9")
    assert all(name in str(caught.value) for name in CONFIGS)


OPTIONS: dict[str, Any] = {
    "frame_sizes": [64, 48, 20],
    "T": 20,
    "dims": [8, 8],
    "convkernels": [7, 7],
    "convdepths": [1, 1],
    "convbtlncks": [2, 2],
    "convdilations": [1, 1],
    "dskernels": [1, 1],
    "dsstrides": [1, 1],
    "multi_hash_encoder": {
        "levels": 2,
        "feature_size": 2,
        "log2_entries_per_level": 8,
        "coarsest_resolution": [4, 4, 1],
        "finest_resolution": [9, 9, 4],
    },
}


def test_from_dict_computes_resolutions_that_are_not_pinned() -> None:
    encoder = F3Config.from_dict(OPTIONS).encoder
    assert encoder is not None
    assert encoder.resolutions[0] == (4, 4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": None}, "dims"),
        ({"dsstrides": [1]}, "2 stages"),
        ({"model": "EventSparsePatchFF"}, "EventSparsePatchFF"),
        ({"resolutions": [[4, 4, 1]]}, "2 level resolutions"),
    ],
)
def test_from_dict_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    options = {key: value for key, value in {**OPTIONS, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        F3Config.from_dict(options)
