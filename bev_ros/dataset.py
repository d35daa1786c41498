# SPDX-License-Identifier: Apache-2.0
"""Precomputed BEV features in training: a torch data set that finds a map by its token, or says that it is not there.

Example:
    dataset = PrecomputedBevDataset("features", "train")
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=4, prefetch_factor=4)
    values, inside = sample_world(batch["features"], dataset.grid, batch["ego_pose"], agents)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from aot_runtime.errors import InputError
from bev_ros.grid import BevGrid
from bev_ros.samples import read_token_list
from bev_ros.store.index import MapRecord
from bev_ros.store.manifest import StoreManifest
from bev_ros.store.store import BevStore

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "raw": None}
"""What `PrecomputedBevDataset` can give; "raw" is what is stored, with the `scale` of int8 beside it."""


class PrecomputedBevDataset(Dataset[dict[str, Any]]):
    """Maps of a split, by number or by token.

    An item is a dictionary that torch's default collation takes: `features` (C, Y, X); `token`; `stamp_ns`; `ego_pose`
    (4, 4) float64 world <- vehicle, NaN where it is not known; `grid` (3, 3) float64, rows x, y, z of low, high and
    step; `scene`; with "raw" and int8 also `scale` (C,), value = features * scale.

    Args:
        folder: that `precompute_bev_features` wrote.
        split: whose maps.
        tokens: some of them, in this order; None: all, sorted.
        dtype: a member of `DTYPES`. Where it is the stored one, and maps are stored dense, a map is mapped from its
            file: what nobody touches is never read.

    Raises:
        InputError: the folder holds no features, there is no such split, the index is damaged, or a map is missing.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        *,
        tokens: Sequence[str] | None = None,
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"expected a dtype among {', '.join(DTYPES)}, found {dtype!r}")
        self._store = BevStore.open(Path(folder))
        self._split = split
        self._dtype = dtype
        known = self.manifest.splits
        if split not in known:
            raise InputError(f"expected a split among {', '.join(sorted(known))}, found {split!r} for {folder}")
        if self.manifest.encoder.random_weights:
            warnings.warn(f"the features in {folder} are of random weights: they mean nothing", stacklevel=2)
        records, problems = self._store.records(split)
        if problems:
            raise InputError(problems[0], f"run verify_bev_features {folder} --repair")
        self._tokens = tuple(sorted(records) if tokens is None else tokens)
        self._records = records
        self._check_tokens()
        self._places = {token: place for place, token in enumerate(self._tokens)}
        self._bounds = torch.tensor([self.grid.x, self.grid.y, self.grid.z], dtype=torch.float64)

    @property
    def manifest(self) -> StoreManifest:
        """What computed the features, and how they are stored."""
        return self._store.manifest

    @property
    def grid(self) -> BevGrid:
        """Of the maps."""
        return self.manifest.grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of the maps."""
        return self.manifest.shape

    @property
    def tokens(self) -> tuple[str, ...]:
        """In the order of the numbers."""
        return self._tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._places

    def __getitem__(self, key: int | str) -> dict[str, Any]:
        """The item of a number or a token.

        Raises:
            IndexError: no such number.
            InputError: no such token, or its file is missing or damaged; the message names the token.
        """
        token = key if isinstance(key, str) else self._tokens[key]
        record = self.record(token)
        try:
            stored = self._store.read(self._split, token)
        except InputError as error:
            raise InputError(
                f"expected the map of {token}: {error.reason}", f"run verify_bev_features {self._store.root} --repair"
            ) from error
        item: dict[str, Any] = {}
        if (dtype := DTYPES[self._dtype]) is not None:
            item["features"] = stored.dense(dtype)
        else:
            item["features"] = stored.dense_raw()
            if stored.scale is not None:
                item["scale"] = stored.scale
        pose = record.pose
        item["token"] = token
        item["stamp_ns"] = record.stamp_ns
        item["ego_pose"] = torch.full((4, 4), torch.nan, dtype=torch.float64) if pose is None else torch.tensor(pose)
        item["grid"] = self._bounds
        item["scene"] = record.scene
        return item

    def record(self, token: str) -> MapRecord:
        """What the index tells of a token.

        Raises:
            InputError: it is none of this data set's.
        """
        if token not in self._places:
            raise InputError(
                f"expected a token of the {len(self)} of split {self._split!r}, found {token!r} for {self._store.root}",
                "features belong to samples by token: take the tokens that were extracted, or extract this one",
            )
        return self._records[token]

    def _check_tokens(self) -> None:
        if len(set(self._tokens)) != len(self._tokens):
            raise InputError("expected each token once, found some twice")
        sizes = self._store.sizes(self._split)
        missing = [
            token for token in self._tokens if token not in self._records or self._records[token].file not in sizes
        ]
        if missing:
            raise InputError(
                f"expected maps of {len(self._tokens)} tokens in {self._store.folder(self._split)}, found none of "
                f"{missing[0]}{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}",
                "run precompute_bev_features --resume",
            )


def dataset_from_config(
    config: Mapping[str, Any] | str | os.PathLike[str], split: str, tokens: Sequence[str] | None = None
) -> PrecomputedBevDataset | None:
    """The data set that a training's configuration asks for; None if it does not.

    Keys: `use_precomputed_bev` (true or false); `bev_features_dir`, as one would give it on the command line; optional
    `bev_dtype`, see `PrecomputedBevDataset`, and `bev_tokens`, a file of the tokens to use.

    Args:
        config: a mapping, or the path of a YAML file with one; other keys are left to the training.
        split: whose maps.
        tokens: as of `PrecomputedBevDataset`; the file of the configuration otherwise.

    Raises:
        InputError: a value is missing or malformed, or the folder holds no features of the split.
    """
    source = "the configuration"
    if not isinstance(config, Mapping):
        source = str(config)
        config = _read_yaml(Path(config))
    use = config.get("use_precomputed_bev", False)
    if not isinstance(use, bool):
        raise InputError(f"expected use_precomputed_bev: true or false, found {use!r} in {source}")
    if not use:
        return None
    folder, dtype, listed = (config.get(name) for name in ("bev_features_dir", "bev_dtype", "bev_tokens"))
    if not isinstance(folder, str) or not folder:
        raise InputError(
            f"expected bev_features_dir with use_precomputed_bev: true, found {folder!r} in {source}",
            "give the --output_dir of precompute_bev_features",
        )
    if tokens is None and listed is not None:
        tokens = read_token_list(Path(str(listed)))
    return PrecomputedBevDataset(folder, split, tokens=tokens, dtype="float32" if dtype is None else str(dtype))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"expected a YAML file, found {error} for {path}") from error
    if not isinstance(told, dict):
        raise InputError(f"expected a mapping, found {type(told).__name__} in {path}")
    return told
