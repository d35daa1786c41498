# SPDX-License-Identifier: Apache-2.0
"""Float arrays as PointCloud2 messages."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from sensor_msgs.msg import PointField
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.clouds import to_cloud


def test_an_organised_cloud_reads_back() -> None:
    points = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    header = Header(frame_id="eye")
    msg = to_cloud(points, ("x", "y", "z", "rgb"), header)
    assert msg.header is header
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (3, 5, 16, 80)
    assert msg.is_dense
    assert msg.is_bigendian == (sys.byteorder == "big")
    fields = [(f.name, f.offset, f.datatype, f.count) for f in msg.fields]
    assert fields == [(name, 4 * i, PointField.FLOAT32, 1) for i, name in enumerate(("x", "y", "z", "rgb"))]
    np.testing.assert_array_equal(np.frombuffer(msg.data, np.float32).reshape(points.shape), points)


def test_strides_do_not_matter_and_a_list_of_points_is_one_row() -> None:
    points = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    msg = to_cloud(points, ("x", "y", "z"))
    assert (msg.height, msg.width) == (1, 4)
    np.testing.assert_array_equal(np.frombuffer(msg.data, np.float32).reshape(4, 3), points)
    empty = to_cloud(np.zeros((0, 3), np.float32), ("x", "y", "z"))
    assert (empty.width, len(empty.data), empty.is_dense) == (0, 0, True)


def test_dense_is_about_coordinates_only() -> None:
    points = np.zeros((2, 4), np.float32)
    points[1, 3] = np.nan
    assert to_cloud(points, ("x", "y", "z", "score")).is_dense
    points[1, 2] = np.inf
    assert not to_cloud(points, ("x", "y", "z", "score")).is_dense


@pytest.mark.parametrize(
    "points",
    [np.zeros((2, 3)), np.zeros((2, 4), np.float32), np.zeros(3, np.float32), np.zeros((1, 2, 2, 3), np.float32)],
    ids=["float64", "four_fields", "one_axis", "four_axes"],
)
def test_other_arrays_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected points .* for the fields x, y, z"):
        to_cloud(points, ("x", "y", "z"))
