# SPDX-License-Identifier: Apache-2.0
"""Keypoints and tracks as rows of bytes, and those as `sensor_msgs/PointCloud2`.

A row is a numpy structured type; each of its fields becomes a PointField of the same name, offset and count, so that
`numpy.frombuffer(msg.data, row_type)` reads it back.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from aliked_ros.pipeline import AlikedResult
from aliked_ros.tracking import Tracks
from aot_runtime.errors import InputError

if TYPE_CHECKING:  # rows are made without ROS too
    from sensor_msgs.msg import PointCloud2
    from std_msgs.msg import Header

TRACK_ROW = np.dtype(
    [
        ("x", "f4"),
        ("y", "f4"),
        ("previous_x", "f4"),
        ("previous_y", "f4"),
        ("similarity", "f4"),
        ("index", "u4"),
        ("id", "u4"),
        ("length", "u4"),
    ]
)
"""Where a keypoint is and was, pixels; its row in the keypoints of the same frame; number and frames of its track."""


def keypoint_row(descriptor_dim: int) -> np.dtype:
    """x, y (pixels), score, descriptor[D]: all float32."""
    return np.dtype([("x", "f4"), ("y", "f4"), ("score", "f4"), ("descriptor", "f4", (descriptor_dim,))])


def keypoint_rows(result: AlikedResult) -> np.ndarray:
    """The keypoints of an image as (N,) rows of `keypoint_row(D)`."""
    rows = np.empty(len(result), keypoint_row(result.descriptors.shape[1]))
    rows["x"], rows["y"] = result.keypoints.T
    rows["score"] = result.scores
    rows["descriptor"] = result.descriptors
    return rows


def track_rows(tracks: Tracks) -> np.ndarray:
    """Tracks as (M,) rows of `TRACK_ROW`; numbers of tracks start anew after 2^32."""
    rows = np.empty(len(tracks), TRACK_ROW)
    rows["x"], rows["y"] = tracks.keypoints.T
    rows["previous_x"], rows["previous_y"] = tracks.previous.T
    rows["similarity"] = tracks.similarity
    rows["index"] = tracks.index
    rows["id"] = tracks.ids & 0xFFFFFFFF
    rows["length"] = tracks.lengths
    return rows


def rows_to_cloud(rows: np.ndarray, header: Header | None = None) -> PointCloud2:
    """An unorganised cloud message with a copy of the rows; empty rows make an empty cloud with the same fields.

    Args:
        rows: (N,) of a structured type with fields of float32 or uint32, or arrays of these.
        header: stamp and frame; shared, not copied.

    Raises:
        InputError: the type is another.
    """
    from sensor_msgs.msg import PointCloud2, PointField

    kinds = {np.dtype("f4"): PointField.FLOAT32, np.dtype("u4"): PointField.UINT32}
    if rows.ndim != 1 or not rows.dtype.fields:
        raise InputError(f"expected rows (N,) of named fields, found {rows.shape} {rows.dtype}")
    msg = PointCloud2()
    if header is not None:
        msg.header = header
    for name in rows.dtype.names or ():
        kind, offset = rows.dtype.fields[name][:2]
        if kind.base not in kinds:
            raise InputError(f"expected fields of float32 or uint32, found {name} of {kind.base}")
        count = int(np.prod(kind.shape, dtype=int))
        msg.fields.append(PointField(name=name, offset=offset, datatype=kinds[kind.base], count=count))
    msg.height, msg.width = 1, len(rows)
    msg.is_bigendian = sys.byteorder == "big"
    msg.point_step = rows.dtype.itemsize
    msg.row_step = msg.point_step * msg.width
    places = [rows[name] for name in ("x", "y") if name in rows.dtype.fields]
    msg.is_dense = all(bool(np.isfinite(place).all()) for place in places)
    if rows.size:
        # frombytes on the existing array.array is one memcpy; assigning an ndarray goes element by element.
        msg.data.frombytes(np.ascontiguousarray(rows).view(np.uint8).data)
    return msg
