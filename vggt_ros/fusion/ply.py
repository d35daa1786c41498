# SPDX-License-Identifier: Apache-2.0
"""Clouds as PLY files, and as a start for 3D Gaussian splatting (Kerbl et al. 2023) in its usual PLY fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from depth_ros.files import write_ply
from vggt_ros.fusion.surface import Mesh, SurfacePoints

_SH0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)): colour = 1/2 + _SH0 * f_dc."""
_REST = 45
_FLATNESS = 0.1
"""Thickness of a surface's Gaussian over its width."""
_OPACITY = (0.05, 0.95)


def write_cloud(path: Path, points: SurfacePoints) -> int:
    """Points with colours as binary PLY; returns how many."""
    colour = np.rint(np.clip(points.colours.cpu().numpy(), 0, 255)).astype(np.uint32)
    packed = (colour[:, 0] << 16 | colour[:, 1] << 8 | colour[:, 2]).view(np.float32)
    with atomic_write(path) as temporary:
        return write_ply(temporary, np.column_stack([points.positions.cpu().numpy(), packed]).astype(np.float32))


def write_mesh(path: Path, mesh: Mesh) -> int:
    """Triangles with coloured vertices as binary PLY; returns how many."""
    vertices = np.empty(
        len(mesh.vertices),
        [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")],
    )
    for i, name in enumerate("xyz"):
        vertices[name] = mesh.vertices[:, i].cpu().numpy()
    colour = np.rint(np.clip(mesh.colours.cpu().numpy(), 0, 255)).astype(np.uint8)
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = colour[:, i]
    faces = np.empty(len(mesh.triangles), [("count", "u1"), ("index", "<i4", 3)])
    faces["count"] = 3
    faces["index"] = mesh.triangles.cpu().numpy()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in "xyz"]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    with atomic_write(path) as temporary:
        temporary.write_bytes(("\n".join(header) + "\n").encode("ascii") + vertices.tobytes() + faces.tobytes())
    return len(faces)


def gaussian_fields() -> list[str]:
    """The properties of a 3DGS file in their order."""
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(_REST)]
    return [*names, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def to_gaussians(path: Path, points: SurfacePoints, radius: np.ndarray | float) -> int:
    """Flat Gaussians on the surface, one a point, as binary PLY that 3DGS trainers and viewers read.

    Scales are logarithms, opacity is a logit of the weight over its median, rotations are quaternions w, x, y, z that
    take z to the normal, colours are spherical harmonics of degree 0 (those above are 0).

    Args:
        radius: (N,) or one number: a point's extent along the surface, as standard deviation, in the map's unit.

    Returns:
        how many.

    Raises:
        InputError: there is no point, or a radius is not above 0.
    """
    count = len(points.positions)
    extent = np.broadcast_to(np.asarray(radius, np.float32), (count,))
    if not count or not (np.isfinite(extent) & (extent > 0)).all():
        raise InputError(f"expected points with radii above 0, found {count} points", "fuse some views first")
    weight = points.weights.cpu().numpy().astype(np.float64)
    share = weight / max(float(np.median(weight)), 1e-12)
    opacity = np.clip(share / (1 + share), *_OPACITY)
    normals = points.normals.cpu().numpy()
    table = np.zeros((count, len(gaussian_fields())), "<f4")
    table[:, 0:3] = points.positions.cpu().numpy()
    table[:, 3:6] = normals
    table[:, 6:9] = (np.clip(points.colours.cpu().numpy() / 255.0, 0, 1) - 0.5) / _SH0
    last = 9 + _REST
    table[:, last] = np.log(opacity / (1 - opacity))
    table[:, last + 1 : last + 3] = np.log(extent)[:, None]
    table[:, last + 3] = np.log(extent * _FLATNESS)
    table[:, last + 4 :] = _turn_z_to(normals)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in gaussian_fields()]
    with atomic_write(path) as temporary:
        temporary.write_bytes(("\n".join([*header, "end_header"]) + "\n").encode("ascii") + table.tobytes())
    return count


def _turn_z_to(normals: np.ndarray) -> np.ndarray:
    """(N, 4) unit quaternions w, x, y, z of the shortest turn from z to each unit normal."""
    x, y, z = normals.astype(np.float64).T
    # Half-way between the vectors: (1 + z . n, z x n); opposite vectors turn about x.
    turns = np.stack([1 + z, -y, x, np.zeros_like(x)], 1)
    turns[1 + z < 1e-9] = (0, 1, 0, 0)
    return np.asarray(turns / np.linalg.norm(turns, axis=1, keepdims=True))
