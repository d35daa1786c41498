# SPDX-License-Identifier: Apache-2.0
"""Reads the clouds of aliked_node."""

from __future__ import annotations

from typing import Any

import numpy as np

from aliked_ros.clouds import TRACK_ROW, keypoint_row

DIM = 64  # of t16's descriptors


def rows_of(cloud: Any, dim: int = DIM) -> np.ndarray:
    """The rows of a cloud of keypoints."""
    return np.frombuffer(cloud.data, keypoint_row(dim))


def tracks_of(cloud: Any) -> np.ndarray:
    """The rows of a cloud of tracks."""
    return np.frombuffer(cloud.data, TRACK_ROW)
