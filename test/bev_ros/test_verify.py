# SPDX-License-Identifier: Apache-2.0
"""Verification: every kind of damage is found and named, and mended by computing just that again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bev_fakes import FakeEncoder, FakeSource, make_store, visible_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from bev_ros.store.formats import FileFormat, pack, to_bytes
from bev_ros.store.lines import to_line
from bev_ros.store.store import BevStore
from bev_ros.verification import Report, VerifyOptions, repair, require_source, verify

SOURCE = FakeSource(6)
ALL_SIX = SOURCE.tokens("train")


def look(store: BevStore, **more: Any) -> Report:
    return verify(store, "train", **{"tokens": ALL_SIX, "source": SOURCE, "encoder": FakeEncoder(), **more})


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(problem.kind, problem.token) for problem in report.problems]


def rows_of(store: BevStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.index("train").path.read_text().splitlines()]


def change_row(store: BevStore, number: int, **change: Any) -> None:
    rows = rows_of(store)
    rows[number].update(change)
    store.index("train").path.write_bytes(b"".join(map(to_line, rows)))


def overwrite(store: BevStore, token: str, features: np.ndarray, **change: Any) -> None:
    """Another map in a file, with digest and size in the index as they should be."""
    how = replace(store.manifest.files, **change)
    data = to_bytes(pack(features, how)[0], how, store.read("train", token).record)
    store.path("train", token).write_bytes(data)
    number = ALL_SIX.index(token)
    change_row(store, number, size=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("layout", ["dense", "sparse", "guide"])
def test_a_sound_folder_is_well(tmp_path: Path, layout: str) -> None:
    files = FileFormat("pt", "float32", layout) if layout == "guide" else FileFormat(layout=layout)
    report = look(make_store(tmp_path, FakeEncoder(), files=files))
    assert report.problems == []
    assert report.warnings == []
    assert (report.expected, report.indexed, report.recomputed) == (6, 6, 4)
    assert report.statistics["coverage_min"] == report.statistics["coverage_max"] == 1.0
    assert report.statistics["largest_max"] > 2
    assert json.loads(json.dumps(report.to_json()))["good"] is True


def test_without_a_source_the_index_is_compared_with_the_files(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    report = verify(store, "train")
    assert report.good
    assert (report.expected, report.recomputed) == (6, 0)
    store = make_store(tmp_path / "some", tokens=lambda tokens: tokens[:4])
    report = verify(store, "train")
    assert [str(problem) for problem in report.problems] == ["count: expected maps of 6 samples, found 4"]
    assert verify(store, "train", tokens=ALL_SIX[:4]).good


def torn_index(store: BevStore) -> None:
    with store.index("train").path.open("ab") as file:
        file.write(b'{"token": "sampl')


DAMAGE: list[tuple[str, str, Callable[[BevStore], Any]]] = [
    ("missing", "sample00002", lambda store: store.path("train", "sample00002").unlink()),
    ("size", "sample00002", lambda store: store.path("train", "sample00002").write_bytes(b"")),
    ("digest", "sample00002", lambda store: flip(store.path("train", "sample00002"))),
    ("file", "sample00002", lambda store: overwrite(store, "sample00002", np.ones((7, 10, 20), np.float32))),
    ("file", "sample00002", lambda store: overwrite(store, "sample00002", np.ones((8, 10, 20)), dtype="float32")),
    ("values", "sample00002", lambda store: overwrite(store, "sample00002", np.zeros((8, 10, 20)), layout="dense")),
    ("record", "sample00002", lambda store: change_row(store, 2, stamp_ns=5)),
    ("record", "sample00002", lambda store: change_row(store, 2, coverage=0.25)),
    ("recomputed", "sample00002", lambda store: overwrite(store, "sample00002", np.ones((8, 10, 20)))),
    ("unindexed", "sample00005", lambda store: change_index(store, rows_of(store)[:5])),
    ("index", "", torn_index),
]


def change_index(store: BevStore, rows: list[dict[str, Any]]) -> None:
    store.index("train").path.write_bytes(b"".join(map(to_line, rows)))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "token", "damage"), DAMAGE, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(DAMAGE)]
)
def test_damage_is_found_and_mended_by_making_only_that_again(
    tmp_path: Path, kind: str, token: str, damage: Callable[[BevStore], Any]
) -> None:
    store = make_store(tmp_path / "out")
    sound = visible_files(tmp_path)
    others = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/train").glob("*.safetensors")}
    damage(store)
    report = look(store, options=VerifyOptions(recompute=6))
    assert (kind, token) in kinds(report)
    assert {name for _, name in kinds(report)} == {token}
    encoder = FakeEncoder()
    summary = repair(store, report, SOURCE, encoder)
    assert encoder.calls == summary.stored == (0 if kind in ("unindexed", "index") else 1)
    assert summary.adopted == (kind == "unindexed")
    assert look(store, options=VerifyOptions(recompute=6)).good
    assert visible_files(tmp_path) == sound
    changed = {path.stem for path, when in others.items() if path.stat().st_mtime_ns != when}
    assert changed <= {token}


def test_values_that_are_not_finite_are_found(tmp_path: Path) -> None:
    files = FileFormat("pt", "float32", "guide")
    store = make_store(tmp_path, files=files)
    path = store.path("train", "sample00001")
    import torch

    tensor = torch.load(path, weights_only=True)
    tensor[0, 0, 0, 0, 0] = float("inf")
    torch.save(tensor, path)
    data = path.read_bytes()
    change_row(store, 1, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    report = look(store)
    assert [str(problem) for problem in report.problems] == [
        "values sample00001: expected finite values, found 1 others"
    ]


def test_missing_and_extra_tokens_and_files_are_named(tmp_path: Path) -> None:
    broken = {"sample00003": "expected an image, found rain"}
    store = make_store(tmp_path, source=FakeSource(6, broken=broken))
    (store.folder("train") / "notes.txt").write_text("mine")
    report = look(store, tokens=[token for token in ALL_SIX if token != "sample00000"])
    assert [str(problem) for problem in report.problems] == [
        "extra sample00000: expected none of a sample that is not in the list, found a map",
        "missing sample00003: expected a map, found expected an image, found rain",
        "extra: expected only files of the features, found notes.txt",
    ]
    assert report.failed == 1
    # Only what is missing is made; what is there beside stays.
    summary = repair(store, report, SOURCE, FakeEncoder())
    assert summary.stored == 1
    assert kinds(look(store)) == [("extra", "")]
    assert (store.folder("train") / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("change", ["stamp", "pose", "rig"])
def test_samples_that_the_source_has_changed_are_stale(tmp_path: Path, change: str) -> None:
    store = make_store(tmp_path / "out")

    class Changed(FakeSource):
        def sample(self, split: str, token: str) -> Any:
            sample = super().sample(split, token)
            if token != "sample00004":
                return sample
            pose = np.diag([1.0, -1, -1, 1]) @ sample.ego_pose
            rig = sample.rig.moved({"right": sample.rig.camera("front").sensor_to_ego})
            return replace(
                sample,
                stamp_ns=sample.stamp_ns + (change == "stamp"),
                ego_pose=pose if change == "pose" else sample.ego_pose,
                rig=rig if change == "rig" else sample.rig,
            )

    source = Changed(6)
    report = look(store, source=source)
    assert kinds(report) == [("stale", "sample00004")]
    summary = repair(store, report, source, FakeEncoder())
    assert summary.stored == 1
    assert look(store, source=source).good


def test_another_encoder_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    report = look(store, encoder=FakeEncoder(seed=1))
    assert kinds(report) == [("encoder", "")]
    with pytest.raises(InputError, match="source that split 'train' was made of, fake-6-0, found fake-6-3"):
        require_source(store, "train", FakeSource(6, salt=3))


def test_quick_leaves_digests_and_values(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    flip(store.path("train", "sample00002"))
    options = VerifyOptions(quick=True)
    assert look(store, options=options).good
    store.path("train", "sample00003").write_bytes(b"short")
    (store.path("train", "sample00004")).unlink()
    assert kinds(look(store, options=options)) == [("missing", "sample00004"), ("size", "sample00003")]


def test_maps_that_are_much_emptier_than_the_others_are_told(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    features = store.read("train", "sample00001").dense().numpy().copy()
    features[:, 4:] = 0
    overwrite(store, "sample00001", features)
    report = look(store, encoder=None)
    assert report.good
    assert report.warnings == ["1 maps occupy less than half of the usual 100% of the cells, among them sample00001"]


def test_another_dtype_is_within_its_error(tmp_path: Path) -> None:
    store = make_store(tmp_path, files=FileFormat(dtype="int8"))
    assert look(store, options=VerifyOptions(recompute=6)).good
    assert not look(store, options=VerifyOptions(recompute=6, tolerance=-0.0035)).good


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_any_file_is_told_and_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "fuzz"
    if not root.exists():
        make_store(root, source=FakeSource(2), files=FileFormat("safetensors", "float16"))
    files = [root / "manifest.json", root / "train/index.jsonl", *sorted((root / "train").glob("*.safetensors"))]
    path = data.draw(st.sampled_from(files))
    sound = path.read_bytes()
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
    path.write_bytes(damaged)
    try:
        if path.name == "manifest.json":
            with contextlib.suppress(InputError):
                store = BevStore.open(root)
                # A split may have lost its name.
                assert [verify(store, split).split for split in store.manifest.splits] == list(store.manifest.splits)
        else:
            assert bytes(damaged) == sound or not verify(BevStore.open(root), "train").good
    finally:
        path.write_bytes(sound)
