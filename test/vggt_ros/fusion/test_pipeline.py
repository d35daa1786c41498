# SPDX-License-Identifier: Apache-2.0
"""The pipeline on the room: steps, bootstraps again in the map's world, faults, and maps on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from room_source import RoomDisparity, RoomMetricDepth, RoomSource, room_views
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.bootstrap import Bootstrap
from vggt_ros.fusion.streaming import FrameResult
from vggt_ros.pipeline import PipelineConfig, ReconstructionPipeline
from vggt_ros.steps import StepResult, View


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
    # Without a pose it stays where the map last agreed with it.
    again = replace(right, pose=None)
    assert pipeline.step([again], 2.0).frames[0].fused
    result = pipeline.step([again, replace(right, name="rear", pose=None)], 3.0)
    assert "it was not in the bootstrap either" in result.problems[0].text
    assert [frame.name for frame in result.frames] == ["right"]


def test_depth_of_nothing_and_images_of_another_size_go_by_without_harm(room: Room) -> None:
    class Blind(RoomDisparity):
        def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
            found = super().disparity(camera, name, image)
            return np.full_like(found, np.nan) if camera == "left" else found

    pipeline = ReconstructionPipeline(RoomSource(room), Blind(room))
    pipeline.step(room_views(room, 0, matrices=False), 0.0)
    result = pipeline.step(room_views(room, 1, matrices=False), 1.0)
    assert [frame.fused for frame in result.frames] == [False, True, True]
    assert np.isnan(result.frames[0].depth).all()
    _, front, right = room_views(room, 2, matrices=False)
    half = replace(front, image=front.image[::2, ::2].copy())
    result = pipeline.step([half, right], 2.0)
    assert [(problem.camera, problem.text) for problem in result.problems] == [
        ("front", "its images were 160x120 and are 80x60; taken for resized")
    ]
    # This source's disparity is of the whole image, so its own camera is left out, and no other.
    assert [frame.fused for frame in result.frames] == [False, True]
    assert result.cameras["front"].width == 80
    assert torch.isfinite(pipeline.map.surface().positions).all()
    for frame in pipeline.step(room_views(room, 3, ("front", "right"), matrices=False), 3.0).frames:
        assert frame.fused
        assert _error(room, frame, 3) <= 0.03


# -- metres by a metric depth network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("posed", [(), ("front",)])
def test_a_metric_network_gives_the_scale(room: Room, tmp_path: Path, posed: tuple[str, ...]) -> None:
    """And one pose, if there is one, the world; later poses are of use only then."""
    depth = RoomMetricDepth(room)
    pipeline = ReconstructionPipeline(RoomSource(room), depth)

    def views(step: int) -> list[View]:
        return [replace(view, pose=view.pose if view.name in posed else None) for view in room_views(room, step)]

    result = pipeline.step(views(0), 0.0)
    assert (result.bootstrapped, result.problems) == (CAMERAS, [])
    assert (result.scale.name, result.scale.anchored) == ("metric depth network metric.pt2", bool(posed))
    assert 1 / result.scale.factor == pytest.approx(0.37, rel=0.01)
    if posed:
        assert _surface_error(room, pipeline) < 0.02
        np.testing.assert_allclose(result.cameras["right"].pose, room.frames["T_wc"][room.index("right", 0)], atol=0.02)
    result = pipeline.step(views(0), 1.0)
    assert result.problems == []
    for frame in result.frames:
        assert frame.fused
        # The network's own noise, and no more.
        own = 1 / depth.disparity(frame.name, f"{frame.name}_00", frame.depth)
        assert _error(room, frame, 0) <= 1.05 * _error(room, replace(frame, depth=own), 0)
    problems = {problem.camera: problem.text for problem in pipeline.step(room_views(room, 0), 2.0).problems}
    if not posed:
        assert "its pose is of another world than the map" in problems["left"]
    pipeline.save_map(tmp_path / "map.npz")
    before = pipeline.scale
    pipeline.load_map(tmp_path / "map.npz")
    assert pipeline.scale == before


def test_poses_of_two_cameras_go_before_a_metric_network(room: Room) -> None:
    pipeline = ReconstructionPipeline(RoomSource(room), RoomMetricDepth(room, dict.fromkeys(CAMERAS, 2.0)))
    assert pipeline.step(room_views(room, 0), 0.0).scale.source == "baselines"


@pytest.mark.parametrize("arbitrary", [False, True])
def test_metric_depth_of_which_the_views_disagree_is_refused(room: Room, arbitrary: bool) -> None:
    depth = RoomMetricDepth(room, {"left": 2.0, "right": 0.6})
    pipeline = ReconstructionPipeline(RoomSource(room), depth, PipelineConfig(arbitrary_scale=arbitrary))
    result = pipeline.step(room_views(room, 0, poses=False), 0.0)
    assert (result.bootstrapped, pipeline.state) == ((), "empty")
    assert "expected ratios of metric to found depth that agree within 20%" in result.reason
    assert "(5.42 by left, 2.71 by front, 1.63 by right) with metric.pt2" in result.reason


def test_random_weights_give_no_metres(room: Room) -> None:
    depth = RoomMetricDepth(room, doubt="metric.pt2 is metric, but its weights are random")
    views = room_views(room, 0, poses=False)
    result = ReconstructionPipeline(RoomSource(room), depth).step(views, 0.0)
    assert "nor metric depth (metric.pt2 is metric, but its weights are random)" in result.reason
    result = ReconstructionPipeline(RoomSource(room), depth, PipelineConfig(arbitrary_scale=True)).step(views, 0.0)
    assert result.scale.source == "arbitrary"
    assert [problem.text for problem in result.problems] == [
        "metric.pt2 is metric, but its weights are random; not used for the scale, which is arbitrary"
    ]


# -- bootstraps again --------------------------------------------------------------------------------------------------


def _flipped(views: Bootstrap) -> Bootstrap:
    return replace(views, depth=views.depth[:, :, ::-1].copy())


def _swapped(views: Bootstrap) -> Bootstrap:
    return replace(views, depth=views.depth[::-1].copy())


def _half_as_deep(views: Bootstrap) -> Bootstrap:
    return replace(views, depth=0.5 * views.depth)


def _misplaced(views: Bootstrap) -> Bootstrap:
    poses = views.poses.copy()
    poses[1, :3, 3] += 0.5
    return replace(views, poses=poses)


def _surface_error(room: Room, pipeline: ReconstructionPipeline) -> float:
    return float(np.median(np.abs(room.distance(pipeline.map.surface().positions.numpy()))))


@pytest.mark.parametrize("fusion", ["surfel", "tsdf"])
def test_a_bootstrap_again_with_known_poses_keeps_the_map_metric(room: Room, fusion: str) -> None:
    """At step 2, in a unit 1.7 times as long and about another origin."""
    pipeline, source = _pipeline(room, fusion=fusion)
    for step in (0, 1):
        pipeline.step(room_views(room, step), float(step))
    scale, size = pipeline.scale, pipeline.map.size
    source.step = 2
    result = pipeline.step(room_views(room, 2), 2.0, force_bootstrap=True)
    assert (result.bootstrapped, result.reason) == (CAMERAS, "it was asked for")
    assert source.calls == 2
    assert pipeline.scale == scale  # the first one's
    assert 0.9 * size < pipeline.map.size < 1.5 * size  # it was kept, and the same surfaces met
    assert _surface_error(room, pipeline) < 0.005
    for frame in pipeline.step(room_views(room, 3), 3.0).frames:
        assert frame.fused
        assert _error(room, frame, 3) <= 0.03


@pytest.mark.parametrize("moved", [(), ("right",)])
def test_a_bootstrap_again_without_poses_finds_its_place_by_the_map(room: Room, moved: tuple[str, ...]) -> None:
    """A rig that stands still, or of which one camera was moved: the others tell its unit and its world."""
    pipeline, source = _pipeline(room)
    pipeline.step(room_views(room, 0), 0.0)
    size = pipeline.map.size
    source.steps = dict.fromkeys(moved, 3)
    views = [view for name in CAMERAS for view in room_views(room, source.steps.get(name, 0), (name,), poses=False)]
    result = pipeline.step(views, 1.0, force_bootstrap=True)
    assert result.bootstrapped == CAMERAS
    assert pipeline.scale.metric
    for name in CAMERAS:
        true = room.frames["T_wc"][room.index(name, source.steps.get(name, 0))]
        np.testing.assert_allclose(result.cameras[name].pose, true, atol=0.01)
    assert pipeline.map.size < 1.3 * size
    assert _surface_error(room, pipeline) < 0.005
    # From now on the moved camera streams from where the bootstrap found it.
    for frame in pipeline.step(views, 2.0).frames:
        assert frame.fused
        assert _error(room, frame, source.steps.get(frame.name, 0)) <= 0.03


@pytest.mark.parametrize("poses", [True, False])
@pytest.mark.parametrize("wrong", [_flipped, _swapped, _half_as_deep, _misplaced])
def test_a_wrong_bootstrap_is_refused_and_the_old_map_goes_on(
    room: Room, wrong: Callable[[Bootstrap], Bootstrap], poses: bool
) -> None:
    pipeline, source = _pipeline(room)
    pipeline.step(room_views(room, 0), 0.0)
    before = pipeline.map.surface().positions.clone()
    source.change = wrong
    views = room_views(room, 0, poses=poses)
    result = pipeline.step(views, 1.0, force_bootstrap=True)
    if wrong is _misplaced and not poses:
        # One camera of three lies elsewhere; the two that agree with the map are taken.
        assert result.bootstrapped == ("left", "right")
        assert [problem.camera for problem in result.problems] == ["front"]
        return
    assert result.bootstrapped == ()
    assert result.reason.startswith("a bootstrap was refused: expected ")
    assert all(frame.fused for frame in result.frames)
    still = np.abs(room.distance(before.numpy())) < 0.005
    now = pipeline.map.surface().positions
    apart = torch.cdist(before[torch.from_numpy(still)][::50], now).amin(1)
    assert float((apart < 0.05).float().mean()) > 0.97
    for frame in pipeline.step(room_views(room, 1), 2.0).frames:
        assert frame.fused
        assert _error(room, frame, 1) <= 0.03


def test_a_bootstrap_that_sees_nothing_of_the_map_needs_poses(room: Room) -> None:
    pipeline, source = _pipeline(room)
    pipeline.step(room_views(room, 0, ("left",)), 0.0)
    assert pipeline.state == "empty"  # one pose gives no scale
    pipeline, source = _pipeline(room, metric_depth={"left": room.frames["depth"][0]})
    assert pipeline.step(room_views(room, 0, ("left",)), 0.0).bootstrapped == ("left",)
    np.testing.assert_allclose(pipeline.map.surface().positions.mean(0), _mean_point(room), atol=0.05)
    # The right camera looks elsewhere and was never seen.
    result = pipeline.step(room_views(room, 0, ("right",), poses=False), 1.0, force_bootstrap=True)
    assert "expected a camera whose place is known among ['right'], found none" in result.reason
    source.calls = 0
    result = pipeline.step(room_views(room, 0, ("front", "right")), 2.0, force_bootstrap=True)
    assert result.bootstrapped == ("front", "right")
    assert _surface_error(room, pipeline) < 0.005


def _mean_point(room: Room) -> np.ndarray:
    camera = room.camera(0)
    points = camera.to_world(camera.rays() * torch.from_numpy(room.frames["depth"][0])[..., None])
    return points.reshape(-1, 3).mean(0).numpy()


def test_a_map_that_is_lost_bootstraps_by_itself_and_not_more_often_than_told(room: Room) -> None:
    pipeline, source = _pipeline(room, rebootstrap_pause_s=2.0)
    pipeline.step(room_views(room, 0), 0.0)
    turned = [replace(view, pose=view.pose @ np.diag([-1.0, 1, -1, 1])) for view in room_views(room, 0)]
    results = [pipeline.step(turned, float(second)) for second in range(1, 5)]
    # Three bad steps, then an attempt; it contradicts the poses, so it is refused.
    assert [source.calls, pipeline.state] == [2, "lost"]
    assert results[2].reason.startswith("a new bootstrap is due: ")
    assert results[3].reason.startswith("a bootstrap was refused: expected cameras turned as their poses say")
    assert pipeline.step(turned, 5.0).reason.startswith("a new bootstrap is due")
    assert source.calls == 2
    pipeline.step(turned, 6.0)
    assert source.calls == 3
    result = pipeline.step(room_views(room, 0), 8.0)
    assert result.bootstrapped == CAMERAS
    assert "cameras do not agree" in result.reason or "the map shows" in result.reason
    assert pipeline.state == "streaming"
    # A bag that starts again does not wait for the time that was.
    pipeline._whole.wants_bootstrap = "test"
    assert pipeline.step(room_views(room, 0), 0.5).bootstrapped == CAMERAS


def test_bootstraps_again_can_be_switched_off_and_asked_for_regularly(room: Room) -> None:
    pipeline, source = _pipeline(room, rebootstrap_period_s=2.0)
    for second in range(5):
        source.step = min(second, 3)
        pipeline.step(room_views(room, source.step), float(second))
    assert source.calls == 2  # at 0, and at 3, since the period was found over at 2
    pipeline, source = _pipeline(room, rebootstrap=False)
    pipeline.step(room_views(room, 0), 0.0)
    pipeline._whole.wants_bootstrap = "test"
    assert pipeline.step(room_views(room, 1), 5.0).bootstrapped == ()
    assert source.calls == 1


def test_a_map_without_metres_takes_no_poses_in_metres(room: Room) -> None:
    pipeline, _ = _pipeline(room, arbitrary_scale=True)
    pipeline.step(room_views(room, 0, poses=False), 0.0)
    assert not pipeline.scale.metric
    result = pipeline.step(room_views(room, 0), 1.0)
    assert {problem.text for problem in result.problems} == {
        "its pose is in metres, the map in arbitrary units; not used"
    }
    for frame in result.frames:
        assert frame.fused
        index = room.index(frame.name, 0)
        error = np.abs(frame.depth - 0.37 * room.frames["depth"][index])[room.still(index)]
        assert np.nanmedian(error) <= 0.37 * 0.03
    # Again in another unit: by the map, whatever the poses say.
    assert pipeline.step(room_views(room, 0), 2.0, force_bootstrap=True).bootstrapped == CAMERAS
    depth = pipeline.map.render(result.cameras["left"]).depth.numpy()
    assert np.nanmedian(np.abs(depth / room.frames["depth"][0] - 0.37)) < 0.01
