# SPDX-License-Identifier: Apache-2.0
"""PLY files of clouds, meshes and Gaussians, read back byte by byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aot_runtime.errors import InputError
from vggt_ros.fusion.ply import to_gaussians, write_cloud, write_mesh
from vggt_ros.fusion.surface import Mesh, SurfacePoints


def _points() -> SurfacePoints:
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0.6, 0, 0.8]])
    colours = torch.tensor([[255.0, 0, 128], [0, 255, 1], [10, 20, 30], [127.5, 127.5, 127.5]])
    return SurfacePoints(torch.arange(12).view(4, 3).float(), normals, colours, torch.tensor([1.0, 1, 9, 0.01]))


def _parts(path: Path) -> tuple[list[str], bytes]:
    head, _, body = path.read_bytes().partition(b"end_header\n")
    return head.decode("ascii").splitlines(), body


def test_a_cloud_keeps_places_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    assert write_cloud(path, _points()) == 4
    head, body = _parts(path)
    assert head[2] == "element vertex 4"
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    np.testing.assert_array_equal(rows["xyz"], np.arange(12).reshape(4, 3))
    assert rows["rgb"].tolist() == [[255, 0, 128], [0, 255, 1], [10, 20, 30], [128, 128, 128]]


def test_a_mesh_keeps_its_triangles(tmp_path: Path) -> None:
    path = tmp_path / "mesh.ply"
    points = _points()
    triangles = torch.tensor([[0, 1, 2], [2, 1, 3]])
    assert write_mesh(path, Mesh(points.positions, points.colours, triangles)) == 2
    head, body = _parts(path)
    assert "element face 2" in head
    faces = np.frombuffer(body[4 * 15 :], [("n", "u1"), ("i", "<i4", 3)])
    assert faces["n"].tolist() == [3, 3]
    assert faces["i"].tolist() == triangles.tolist()


def test_gaussians_have_the_usual_fields_and_lie_flat_on_the_surface(tmp_path: Path) -> None:
    path = tmp_path / "gaussians.ply"
    points = _points()
    assert to_gaussians(path, points, 0.02) == 4
    head, body = _parts(path)
    names = [line.split()[2] for line in head if line.startswith("property float")]
    assert len(names) == 62
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:54] == [f"f_rest_{i}" for i in range(45)]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    row = dict(zip(names, np.frombuffer(body, "<f4").reshape(4, 62).T))
    colour = 0.5 + 0.28209479 * np.stack([row[f"f_dc_{i}"] for i in range(3)], 1)
    np.testing.assert_allclose(255 * colour, points.colours, atol=1e-3)
    assert not any(row[f"f_rest_{i}"].any() for i in range(45))
    np.testing.assert_allclose(np.exp(row["scale_0"]), 0.02, rtol=1e-5)
    np.testing.assert_allclose(np.exp(row["scale_2"]), 0.002, rtol=1e-5)
    opacity = 1 / (1 + np.exp(-row["opacity"]))
    np.testing.assert_allclose(opacity, [0.5, 0.5, 0.9, 0.05], atol=1e-4)
    w, x, y, z = (row[f"rot_{i}"].astype(np.float64) for i in range(4))
    np.testing.assert_allclose(w * w + x * x + y * y + z * z, 1, atol=1e-6)
    axis = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)
    np.testing.assert_allclose(axis, points.normals, atol=1e-6)


def test_nothing_to_write_and_radii_of_zero_are_refused(tmp_path: Path) -> None:
    points = _points()
    with pytest.raises(InputError, match="radii above 0"):
        to_gaussians(tmp_path / "g.ply", points, 0.0)
    none = SurfacePoints(*(array[:0] for array in vars(points).values()))
    with pytest.raises(InputError, match="found 0 points"):
        to_gaussians(tmp_path / "g.ply", none, 0.1)
    assert not (tmp_path / "g.ply").exists()
