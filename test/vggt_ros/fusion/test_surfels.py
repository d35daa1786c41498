# SPDX-License-Identifier: Apache-2.0
"""Surfels: merging, removal, memory, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_room import MOVER, Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import PosedCamera, depth_view
from vggt_ros.fusion.maps import SurfelFusion, TsdfFusion, load_map, make_map
from vggt_ros.fusion.scale import Scale
from vggt_ros.fusion.surfels import SurfelConfig, SurfelMap, segment_sums

_CAMERA = PosedCamera(np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]]), np.eye(4), 64, 48)


def _wall(depth: float) -> np.ndarray:
    return np.full((48, 64), depth, np.float32)


def test_seeing_the_same_again_adds_weight_and_no_surfels(room: Room) -> None:
    surfels = SurfelMap()
    view = depth_view(room.camera(0), room.static_depth[0])
    surfels.fuse(view)
    count, weight = len(surfels), float(surfels.weights.sum())
    assert count == int((view.weight > 0).sum())
    surfels.fuse(view)
    assert len(surfels) < 1.02 * count
    assert float(surfels.weights.sum()) == pytest.approx(2 * weight, rel=0.05)
    assert np.median(np.abs(room.distance(surfels.positions.numpy()))) < 1e-5


def test_views_of_the_room_become_its_surface(room: Room) -> None:
    surfels = SurfelMap()
    pixels = 0
    for frame in range(12):
        view = depth_view(room.camera(frame), room.static_depth[frame], colour=room.colour(frame))
        surfels.fuse(view)
        pixels += int((view.weight > 0).sum())
    error = np.abs(room.distance(surfels.positions.numpy()))
    assert np.median(error) < 1e-4
    assert np.quantile(error, 0.95) < 0.01
    assert len(surfels) < 0.5 * pixels
    norm = surfels.normals.norm(dim=1)
    assert torch.allclose(norm, torch.ones_like(norm), atol=1e-5)
    assert float(surfels.colours.min()) >= 0
    assert float(surfels.colours.max()) <= 255


def test_noise_averages_out() -> None:
    random = np.random.default_rng(2)
    surfels = SurfelMap()
    for _ in range(16):
        noisy = _wall(2.0) * (1 + 0.005 * random.standard_normal((48, 64)).astype(np.float32))
        surfels.fuse(depth_view(_CAMERA, noisy, window=3, noise=0.005))
    often = surfels.weights > 8 * 0.25 * 0.8
    assert int(often.sum()) > 1500
    assert float((surfels.positions[often, 2] - 2.0).std()) < 0.005  # one view: 0.010
    assert float((surfels.positions[often, 2] - 2.0).mean().abs()) < 0.002


def _block(depth: float = 1.2) -> np.ndarray:
    block = _wall(2.0)
    block[16:32, 24:40] = depth
    return block


def _near(surfels: SurfelMap) -> tuple[int, int]:
    """How many surfels of the block there are, and are shown."""
    near = surfels.positions[:, 2] < 1.9
    return int(near.sum()), int((near & surfels.shown).sum())


def test_what_a_view_clearly_sees_past_is_hidden_until_it_is_confirmed_and_removed_by_two() -> None:
    surfels = SurfelMap()
    for _ in range(5):
        surfels.fuse(depth_view(_CAMERA, _block()))
    near, shown = _near(surfels)
    assert near == shown > 100
    surfels.fuse(depth_view(_CAMERA, _wall(2.0)))
    # All but the outline: there the pixels around still show the block's side of it.
    assert _near(surfels) == (near, 0)
    assert float(SurfelFusion(surfels).render(_CAMERA).depth[24, 32]) == 2.0
    assert float(SurfelFusion(surfels).surface().positions[:, 2].min()) > 1.9
    surfels.fuse(depth_view(_CAMERA, _block()))
    assert _near(surfels) == (near, shown)
    for _ in range(2):
        surfels.fuse(depth_view(_CAMERA, _wall(2.0)))
    assert _near(surfels) == (0, 0)


def test_a_view_that_is_not_sure_and_a_gross_error_hide_nothing() -> None:
    surfels = SurfelMap()
    for _ in range(5):
        surfels.fuse(depth_view(_CAMERA, _block(1.6)))
    near, _ = _near(surfels)
    surfels.fuse(depth_view(_CAMERA, _wall(2.0)))  # 20 % further
    assert _near(surfels) == (near, near)
    surfels.fuse(depth_view(_CAMERA, _wall(2.0)))
    assert _near(surfels) == (0, 0)
    surfels = SurfelMap()
    surfels.fuse(depth_view(_CAMERA, _block()))
    wrong = _block()
    wrong[24, 32] = 8.0
    wrong[20:23, 26:30] = 8.0  # smaller than what is looked at around a pixel
    surfels.fuse(depth_view(_CAMERA, wrong))
    assert bool(surfels.shown.all())


def test_a_view_that_was_aligned_to_the_map_does_not_move_it() -> None:
    surfels = SurfelMap()
    surfels.fuse(depth_view(_CAMERA, _wall(2.0), colour=np.full((48, 64, 3), 100, np.uint8)))
    before = surfels.positions.clone()
    assert bool(surfels.anchored.all())
    other = np.full((48, 64, 3), 200, np.uint8)
    for _ in range(10):
        surfels.fuse(depth_view(_CAMERA, _wall(2.04), 1.0, other, anchor=False))
    assert torch.equal(surfels.positions, before)
    assert float(surfels.colours.mean()) > 120
    # It fills in what is not there, and gives way to one that knows.
    surfels = SurfelMap()
    surfels.fuse(depth_view(_CAMERA, _wall(2.04), anchor=False))
    assert not bool(surfels.anchored.any())
    surfels.fuse(depth_view(_CAMERA, _wall(2.0)))
    assert bool(surfels.anchored.all())
    assert float((surfels.positions[:, 2] - 2.0).abs().max()) < 1e-3
    # What was aligned never hides from alignment what it was aligned to.
    surfels.fuse(depth_view(_CAMERA, _block(), anchor=False))
    assert float((SurfelFusion(surfels).render(_CAMERA).depth[24, 32] - 2.0).abs()) < 1e-3


def test_the_moving_sphere_is_gone_where_two_views_saw_past_it(room: Room) -> None:
    surfels = SurfelMap()
    for frame in range(12):
        surfels.fuse(depth_view(room.camera(frame), room.frames["depth"][frame]))
    start = depth_view(room.camera(0), room.frames["depth"][0])
    points = start.points[torch.from_numpy(room.frames["label"][0] == MOVER) & (start.weight > 0)]
    times = torch.zeros(len(points), dtype=torch.int64)
    for frame in range(3, 12):
        view = depth_view(room.camera(frame), room.frames["depth"][frame])
        own = view.camera.to_camera(points)
        u, v = torch.round(view.camera.pixels(own)).to(torch.int64).unbind(-1)
        inside = (own[:, 2] > 0) & (u >= 0) & (u < 160) & (v >= 0) & (v < 120)
        pixel = torch.where(inside, v * 160 + u, 0)
        past = view.depth.view(-1)[pixel] > 1.15 * own[:, 2]
        times += (inside & past & (view.weight.view(-1)[pixel] > 0)).to(torch.int64)
    seen_past = points[times >= 2]
    assert len(seen_past) > 300
    apart = torch.cdist(seen_past, surfels.positions).amin(1)
    assert float((apart > 1e-3).float().mean()) > 0.98
    still = points[times == 0]
    assert float((torch.cdist(still, surfels.positions).amin(1) < 1e-3).float().mean()) > 0.9


def test_memory_is_bounded_by_weight_and_age_not_by_order(room: Room) -> None:
    surfels = SurfelMap(SurfelConfig(max_surfels=6000))
    surfels.fuse(depth_view(room.camera(0), room.static_depth[0], 2.0))
    kept = surfels.weights.sort(descending=True)[0]
    assert len(surfels) == 6000
    surfels.fuse(depth_view(room.camera(2), room.static_depth[2], 1e-3))
    assert len(surfels) == 6000
    assert surfels.evicted > 0
    # The second view is later and weighs little: the first one's surfels stay.
    assert float(surfels.weights.min()) >= float(kept[-1])


def test_two_runs_give_the_same_bits(room: Room) -> None:
    def run(threads: int) -> SurfelMap:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            surfels = SurfelMap()
            for frame in range(5):
                surfels.fuse(depth_view(room.camera(frame), room.frames["depth"][frame], colour=room.colour(frame)))
            return surfels
        finally:
            torch.set_num_threads(before)

    one, other = run(1), run(2)
    for name in ("positions", "normals", "radii", "colours", "weights"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_maps_of_both_kinds_survive_a_file(room: Room, tmp_path: Path) -> None:
    for kind, type_ in (("surfel", SurfelFusion), ("tsdf", TsdfFusion)):
        one = make_map(kind)
        one.fuse(depth_view(room.camera(1), room.static_depth[1]))
        scale = Scale("baselines", 2.7, 0.01, 0.5, 0.02)
        one.save(tmp_path / "map.npz", scale)
        again, told = load_map(tmp_path / "map.npz")
        assert told == scale
        assert isinstance(again, type_)
        assert again.size == one.size
        for a, b in zip(vars(one.surface()).values(), vars(again.surface()).values()):
            assert torch.equal(a, b)
        shown, true = again.render(room.camera(4)), one.render(room.camera(4))
        assert torch.equal(shown.index, true.index)
        one.save(tmp_path / "map.npz")
        assert not load_map(tmp_path / "map.npz")[1].metric
        assert one.device.type == "cpu"
    with pytest.raises(InputError, match="surfel or tsdf"):
        make_map("octree")


def test_files_that_are_no_surfels_are_refused(room: Room, tmp_path: Path) -> None:
    surfels = SurfelMap()
    surfels.fuse(depth_view(_CAMERA, _wall(2.0)))
    path = tmp_path / "map.npz"
    surfels.save(path)
    data = dict(np.load(path))
    for name, array in (("normal", data["normal"][:, :2]), ("weight", data["weight"][1:])):
        np.savez(path, **{**data, name: array})
        with pytest.raises(InputError, match=f"expected finite {name}"):
            load_map(path)
    np.savez(path, **{**data, "scale_source": np.array("guess")})
    with pytest.raises(InputError, match="found 'guess'"):
        load_map(path)
    np.savez(path, position=data["position"])
    with pytest.raises(InputError, match="expected saved surfels with"):
        load_map(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="expected a saved map"):
        load_map(path)


def test_sums_of_segments() -> None:
    values = torch.tensor([[1.0, 10], [2, 20], [4, 40], [8, 80]])
    found = segment_sums(values, torch.tensor([2, 0, 2, 0]), 4)
    assert found.tolist() == [[10, 100], [0, 0], [5, 50], [0, 0]]
