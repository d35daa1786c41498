# SPDX-License-Identifier: Apache-2.0
"""Float arrays as `sensor_msgs/PointCloud2`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from aot_runtime.errors import InputError


def to_cloud(
    points: np.ndarray, fields: Sequence[str], header: Header | None = None, *, dense: bool | None = None
) -> PointCloud2:
    """A cloud message with a copy of an array; each field is one float32.

    Args:
        points: (height, width, len(fields)) float32 for an organised cloud, (n, len(fields)) for any other; NaN marks
            points that are unknown.
        fields: names, e.g. "x", "y", "z"; a field "rgb" holds the bits 0x00RRGGBB, as PCL and RViz read it.
        header: stamp and frame; shared, not copied.
        dense: whether all coordinates are finite; None looks at each (of the first three fields).

    Raises:
        InputError: shape or dtype is another.
    """
    if points.ndim not in (2, 3) or points.shape[-1] != len(fields) or points.dtype != np.float32:
        raise InputError(
            f"expected points (H, W, {len(fields)}) or (N, {len(fields)}) float32 for the fields {', '.join(fields)}, "
            f"found {points.shape} {points.dtype}"
        )
    data = np.ascontiguousarray(points)
    msg = PointCloud2()
    if header is not None:
        msg.header = header
    msg.height, msg.width = data.shape[:2] if data.ndim == 3 else (1, data.shape[0])
    msg.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(fields)
    ]
    msg.is_bigendian = sys.byteorder == "big"
    msg.point_step = 4 * len(fields)
    msg.row_step = msg.point_step * msg.width
    msg.is_dense = bool(np.isfinite(data[..., :3]).all()) if dense is None else dense
    if data.size:
        # frombytes on the existing array.array is one memcpy; assigning an ndarray goes element by element.
        msg.data.frombytes(data.reshape(-1).view(np.uint8).data)
    return msg
