# SPDX-License-Identifier: Apache-2.0
"""From the grid of a depth or flow head back to the sensor's pixels: values, units and the camera matrix. numpy only.

F3's frame (W_f x H_f pixels) is resized to a head's grid (W_g x H_g) with align_corners=True, once or, where F3 runs on
a downsampled field, twice; either way the centres of the corner pixels coincide, so that

    u_grid = u_frame * (W_g - 1) / (W_f - 1),    v_grid = v_frame * (H_g - 1) / (H_f - 1)

holds exactly between the centres of pixels (for F3 networks whose features have one cell per pixel of their field; with
strides the cells lie within a patch of it). A smaller sensor is centred on the frame, u_frame = u_sensor + offset.
A displacement scales with the same ratio, without the offset.

Sizes are (W, H).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.binning import centring_offset

Size = tuple[int, int]


def grid_scale(frame: Size, grid: Size) -> tuple[float, float]:
    """Grid pixels per pixel of the frame, along W and H.

    Raises:
        InputError: a side of either is below two pixels, where the corners cannot be aligned.
    """
    if min(*frame, *grid) < 2:
        raise InputError(f"expected a frame and a grid of 2 x 2 pixels or more, found {frame} and {grid}")
    return (grid[0] - 1) / (frame[0] - 1), (grid[1] - 1) / (frame[1] - 1)


def resize_flow_to_sensor(flow: np.ndarray, frame: Size, sensor: Size) -> np.ndarray:
    """A flow of a head's grid at the sensor's resolution, in the sensor's pixels.

    Args:
        flow: (2, H_g, W_g) dx, dy in pixels of the grid.
        frame: (W, H) of F3's frame, which the grid covers.
        sensor: (W, H) of the sensor, centred on the frame.

    Returns:
        (2, H, W) float32 in pixels of the sensor; NaN where the sensor exceeds the frame.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise InputError(f"expected a flow (2, H, W), found {flow.shape}")
    scale = grid_scale(frame, (flow.shape[2], flow.shape[1]))
    resized = _resize(flow, frame, sensor)
    resized /= np.array(scale, np.float32)[:, None, None]
    return resized


def resize_depth_to_sensor(depth: np.ndarray, frame: Size, sensor: Size) -> np.ndarray:
    """A depth (H_g, W_g) of a head's grid at the sensor's resolution, (H, W) float32; see `resize_flow_to_sensor`."""
    if depth.ndim != 2:
        raise InputError(f"expected a depth (H, W), found {depth.shape}")
    return _resize(depth[None], frame, sensor)[0]


def grid_camera_matrix(k: np.ndarray, frame: Size, sensor: Size, grid: Size) -> np.ndarray:
    """The pinhole matrix of a head's grid, from the sensor's.

    Args:
        k: (3, 3) of the sensor, pixels; the principal point is measured from the centre of pixel (0, 0).
        frame, sensor: as in `resize_flow_to_sensor`.
        grid: (W, H) of the head's grid.

    Returns:
        (3, 3) float64.
    """
    scale_x, scale_y = grid_scale(frame, grid)
    offset_x, offset_y = centring_offset(sensor, frame)
    to_grid = np.array([[scale_x, 0.0, scale_x * offset_x], [0.0, scale_y, scale_y * offset_y], [0.0, 0.0, 1.0]])
    matrix: np.ndarray = to_grid @ np.asarray(k, np.float64).reshape(3, 3)
    return matrix


def _resize(field: np.ndarray, frame: Size, sensor: Size) -> np.ndarray:
    """Channels (C, H_g, W_g) sampled bilinearly at the sensor's pixels: (C, H, W) float32."""
    grid = (field.shape[2], field.shape[1])
    across = _weights(frame[0], sensor[0], centring_offset(sensor, frame)[0], grid_scale(frame, grid)[0])
    down = _weights(frame[1], sensor[1], centring_offset(sensor, frame)[1], grid_scale(frame, grid)[1])
    # Columns first: there are fewer rows to gather from, and rows are then gathered whole.
    left, weight = across
    wide = np.take(field, left, axis=2) * (1 - weight) + np.take(field, left + 1, axis=2) * weight
    top, weight = down
    weight = weight[:, None]
    return np.asarray(wide[:, top] * (1 - weight) + wide[:, top + 1] * weight, np.float32)


@lru_cache(maxsize=32)
def _weights(frame: int, sensor: int, offset: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """For each sensor pixel along one axis: the grid pixel at or before it, and the share of the one after that.

    The share is NaN outside the frame.
    """
    place = np.arange(sensor) + offset
    inside = (place >= 0) & (place < frame)
    last = round((frame - 1) * scale)
    exact = np.clip(place * scale, 0.0, last)
    before = np.minimum(exact.astype(np.int64), last - 1)
    share = np.where(inside, exact - before, np.nan).astype(np.float32)
    share.setflags(write=False)
    before.setflags(write=False)
    return before, share
