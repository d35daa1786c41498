# SPDX-License-Identifier: Apache-2.0
"""Depth and points as files that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PNG_MAX = 65535


def depth_to_png16(depth: np.ndarray, kind: str) -> np.ndarray:
    """Depth as (H, W) uint16, 0 where it is invalid.

    metric: millimetres, as REP-118 has it (beyond 65.535 m: 0); disparity: 1/256 pixel, as KITTI has it; relative: the
    image's own range, smallest to largest, on 1 .. 65535.
    """
    known = np.isfinite(depth)
    out = np.zeros(depth.shape, np.uint16)
    if not known.any():
        return out
    values = depth[known].astype(np.float64)
    if kind == "relative":
        low, high = values.min(), values.max()
        values = 1 + (values - low) * ((_PNG_MAX - 1) / (high - low) if high > low else 0.0)
    else:
        values *= 1000.0 if kind == "metric" else 256.0
    values = np.rint(values)
    out[known] = np.where((values >= 0) & (values <= _PNG_MAX), values, 0).astype(np.uint16)
    return out


def write_ply(path: Path, cloud: np.ndarray) -> int:
    """The finite points of a cloud as binary PLY (little endian); returns how many.

    Args:
        cloud: (..., 3) or (..., 4) float32 as `PointMaker.points` makes it: x, y, z [, packed colour].
    """
    points = cloud.reshape(-1, cloud.shape[-1])
    points = points[np.isfinite(points[:, :3]).all(axis=1)]
    coloured = points.shape[1] == 4
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    if coloured:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.empty(len(points), fields)
    for i, name in enumerate("xyz"):
        rows[name] = points[:, i]
    if coloured:
        packed = np.ascontiguousarray(points[:, 3]).view(np.uint32)
        for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
            rows[name] = (packed >> shift) & 0xFF
    words = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {words[kind]} {name}" for name, kind in fields]
    path.write_bytes(("\n".join([*header, "end_header"]) + "\n").encode("ascii") + rows.tobytes())
    return len(rows)
