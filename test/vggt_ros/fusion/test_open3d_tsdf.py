# SPDX-License-Identifier: Apache-2.0
"""Open3D's field, where it is installed; and what is said where it is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_room import Room

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import depth_view
from vggt_ros.fusion.maps import load_map, make_map
from vggt_ros.fusion.tsdf import TsdfConfig

needs_open3d = pytest.mark.skipif(importlib.util.find_spec("open3d") is None, reason="open3d is not installed")


def test_without_open3d_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(InputError, match=r"expected Open3D .*; pip install open3d"):
        make_map("tsdf", backend="open3d")


@pytest.mark.parametrize(("kind", "backend"), [("surfel", "open3d"), ("tsdf", "vdb")])
def test_other_backends_are_refused(kind: str, backend: str) -> None:
    with pytest.raises(InputError, match=f"found '{backend}' of a {kind}"):
        make_map(kind, backend=backend)
    with pytest.raises(InputError, match="found cuda"):
        make_map("tsdf", backend="open3d", device=torch.device("cuda"))


@needs_open3d
def test_the_surface_is_the_rooms_with_half_a_pixel(room: Room, tmp_path: Path) -> None:
    """Without it the median distance is 8 mm."""
    fused = make_map("tsdf", backend="open3d", tsdf=TsdfConfig(0.02))
    assert fused.size == 0
    assert len(fused.surface().positions) == 0
    for frame in range(12):
        fused.fuse(depth_view(room.camera(frame), room.static_depth[frame], colour=room.colour(frame)))
    found = fused.surface()
    assert len(found.positions) > 10_000
    assert np.median(np.abs(room.distance(found.positions.numpy()))) < 0.0015
    assert 20 < float(found.colours.mean()) < 235
    shown = fused.render(room.camera(1)).depth.numpy()
    assert np.isfinite(shown).mean() > 0.9
    assert np.nanmedian(np.abs(shown - room.static_depth[1])) < 0.005
    fused.save(tmp_path / "points.npz")
    with pytest.raises(InputError):
        load_map(tmp_path / "points.npz")
