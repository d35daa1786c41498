# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in tables and sample files, the sources give samples or InputErrors, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes_folder import NuScenesFolder, camera_to_ego, write_nuscenes

from aot_runtime.errors import InputError
from bev_ros.sources.folder import FolderSource
from bev_ros.sources.nuscenes import NuScenesSource
from bev_ros.sources.tables import table_records

_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10), st.just(2**70), st.floats(), st.text(max_size=4), st.just("\0")
)
_JUNK = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_TABLES = ("scene", "sample", "sensor", "calibrated_sensor", "sample_data", "ego_pose")


def _use(source: Any) -> None:
    for token in source.tokens("all"):
        with contextlib.suppress(InputError):
            for load in source.sample("all", token).images.values():
                with contextlib.suppress(InputError):
                    load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> NuScenesFolder:
    return write_nuscenes(tmp_path_factory.mktemp("fuzz") / "data", scenes=1, samples=1, cameras=("CAM_FRONT",))


@_QUICK
@given(st.data())
def test_nuscenes_tables(folder: NuScenesFolder, data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(_TABLES))
    records = folder.read(table)
    changed = copy.deepcopy(records)
    record = changed[data.draw(st.integers(0, len(changed) - 1))]
    field = data.draw(st.sampled_from(sorted(record)))
    if data.draw(st.booleans()):
        record[field] = data.draw(_JUNK)
    else:
        del record[field]
    folder.write(table, changed)
    try:
        with contextlib.suppress(InputError):
            _use(NuScenesSource(folder.root))
    finally:
        folder.write(table, records)


@_QUICK
@given(st.binary(max_size=60) | st.text('[]{}",:1 a\\', max_size=60).map(str.encode))
def test_table_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        for record in table_records(path):
            assert isinstance(record, dict)


@_QUICK
@given(st.data())
def test_sample_files(tmp_path: Path, data: st.DataObject) -> None:
    import cv2

    (tmp_path / "samples").mkdir(exist_ok=True)
    if not (tmp_path / "a.png").is_file():
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6, 3), np.uint8))
    camera: dict[str, Any] = {
        "image": "a.png",
        "matrix": [[5, 0, 3], [0, 5, 2], [0, 0, 1]],
        "sensor_to_ego": camera_to_ego(0.0).tolist(),
        "distortion": [0.1, 0, 0, 0],
        "model": "plumb_bob",
    }
    told: dict[str, Any] = {"stamp": 1.5, "cameras": {"a": camera}, "ego_pose": np.eye(4).tolist(), "scene": "s"}
    place = data.draw(st.sampled_from([told, camera]))
    field = data.draw(st.sampled_from([*sorted(place), "width", "height", "stamp_ns", "split"]))
    place[field] = data.draw(_JUNK)
    (tmp_path / "samples" / "x.json").write_text(json.dumps(told))
    with contextlib.suppress(InputError):
        _use(FolderSource(tmp_path))
