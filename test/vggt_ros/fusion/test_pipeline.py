# SPDX-License-Identifier: Apache-2.0
"""The pipeline on the room: steps, bootstraps again in the map's world, faults, and maps on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from room_source import RoomDisparity, RoomSource, room_views
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.streaming import FrameResult
from vggt_ros.pipeline import PipelineConfig, ReconstructionPipeline, StepResult


def _error(room: Room, frame: FrameResult, step: int) -> float:
    index = room.index(frame.name, step)
    return float(np.nanmedian(np.abs(frame.depth - room.frames["depth"][index])[room.still(index)]))


def _pipeline(room: Room, **config: object) -> tuple[ReconstructionPipeline, RoomSource]:
    source = RoomSource(room)
    return ReconstructionPipeline(source, RoomDisparity(room), PipelineConfig(**config)), source  # type: ignore[arg-type]


def test_steps_bootstrap_first_and_stream_then(room: Room) -> None:
    pipeline, source = _pipeline(room)
    assert pipeline.state == "empty"
    first = pipeline.step(room_views(room, 0), 0.0)
    assert isinstance(first, StepResult)
    assert first.bootstrapped == CAMERAS
    assert first.reason == "there was no bootstrap yet"
    assert first.frames == []
    assert pipeline.state == "streaming"
    assert first.scale.source == "baselines"
    for step in (1, 2, 3):
        result = pipeline.step(room_views(room, step), float(step))
        assert (result.reason, result.problems, result.bootstrapped) == ("", [], ())
        assert set(result.timings_ms) == {"depth", "update", "total", *(f"depth/{name}" for name in CAMERAS)}
        assert [frame.name for frame in result.frames] == list(CAMERAS)
        for frame in result.frames:
            assert frame.fused
            assert _error(room, frame, step) <= 0.03
            np.testing.assert_array_equal(
                result.cameras[frame.name].pose, room.frames["T_wc"][room.index(frame.name, step)]
            )
    assert source.calls == 1
    with pytest.raises(InputError, match="each camera once"):
        pipeline.step([*room_views(room, 1), *room_views(room, 1)], 4.0)


def test_maps_are_saved_loaded_and_forgotten(room: Room, tmp_path: Path) -> None:
    pipeline, _ = _pipeline(room)
    with pytest.raises(InputError, match="found an empty one"):
        pipeline.save_map(tmp_path / "map.npz")
    pipeline.step(room_views(room, 0), 0.0)
    size = pipeline.map.size
    assert [pipeline.save_map(tmp_path / f"map{suffix}") for suffix in (".npz", ".ply", ".gaussians.ply")] == [size] * 3
    assert b"f_rest_44" in (tmp_path / "map.gaussians.ply").read_bytes()[:3000]
    assert b"f_rest" not in (tmp_path / "map.ply").read_bytes()[:3000]
    with pytest.raises(InputError, match=r"found map\.pcd"):
        pipeline.save_map(tmp_path / "map.pcd")
    pipeline.reset()
    assert (pipeline.state, pipeline.map.size, pipeline.scale.metric) == ("empty", 0, False)
    with pytest.raises(InputError):
        pipeline.load_map(tmp_path / "map.ply")
    pipeline.load_map(tmp_path / "map.npz")
    assert (pipeline.state, pipeline.map.size, pipeline.scale.source) == ("streaming", size, "baselines")
    for frame in pipeline.step(room_views(room, 1), 1.0).frames:
        assert frame.fused
        assert _error(room, frame, 1) <= 0.03


def test_bad_cameras_are_problems_and_cost_only_themselves(room: Room) -> None:
    pipeline, _ = _pipeline(room)
    left, front, right = room_views(room, 0)
    result = pipeline.step([left, front, replace(right, image=np.zeros((0, 4, 3), np.uint8))], 0.0)
    assert result.bootstrapped == ("left", "front")
    assert [problem.camera for problem in result.problems] == ["right"]
    left, front, right = room_views(room, 1)
    assert left.pose is not None
    result = pipeline.step([replace(left, pose=2 * left.pose), replace(front, image_name="x"), right], 1.0)
    assert [frame.name for frame in result.frames] == ["right"]
    told = {problem.camera: problem.text for problem in result.problems}
    assert "found 'x'" in told["front"]
    assert "expected a rotation" in told["left"] or "pose" in told["left"]
    # Never seen in a bootstrap, but calibrated: it streams.
    assert result.frames[0].fused
    result = pipeline.step([replace(right, pose=None)], 2.0)
    assert "it was not in the bootstrap either" in result.problems[0].text
