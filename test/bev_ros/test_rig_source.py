# SPDX-License-Identifier: Apache-2.0
"""The rig of a set of images: which transforms count, what stays, and what costs only its own camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bev_artifacts import tiny_images, tiny_rig

from aot_runtime.camera import Camera
from aot_runtime.ros.camera_set import CameraArrival, CameraMatch
from aot_runtime.transforms import TransformBuffer, inverse
from bev_ros.calibration import Rig
from bev_ros.rig_source import RigOptions, RigSource

MS = 1_000_000
T0 = 10**9


def drive(ns: int) -> np.ndarray:
    """odom <- base_link."""
    pose = np.eye(4)
    pose[0, 3] = 5.0 * (ns - T0) * 1e-9
    return pose


def buffer_of(rig: Rig, *, static: bool = True, frame: str = "odom") -> TransformBuffer:
    buffer = TransformBuffer()
    for camera in rig:
        buffer.set("base_link", f"{camera.name}_optical", camera.sensor_to_ego, T0, static=static)
    if frame:
        for ns in range(T0, T0 + 1000 * MS, 100 * MS):
            buffer.set(frame, "base_link", drive(ns), ns)
    return buffer


def match_of(rig: Rig, offsets_ms: dict[str, int] | None = None, **changes: Any) -> CameraMatch:
    items = {}
    for camera in rig:
        matrix = camera.matrix
        ideal = Camera.pinhole(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        stamp = T0 + 200 * MS + (offsets_ms or {}).get(camera.name, 0) * MS
        image = tiny_images(rig)[camera.name]
        items[camera.name] = CameraArrival(camera.name, image, ideal, f"{camera.name}_optical", stamp)
    items.update(changes)
    return CameraMatch(max(item.stamp_ns for item in items.values()), 0, 0, items, (), {})


def test_the_first_fixed_frame_that_is_found_stays() -> None:
    rig = tiny_rig()
    buffer = buffer_of(rig, frame="")
    source = RigSource(buffer, RigOptions())
    still = source.place(match_of(rig, {"left": 50}))
    assert still.rig is not None
    assert source.fixed_frame == ""
    np.testing.assert_array_equal(still.rig.camera("front").sensor_to_ego, rig.camera("front").sensor_to_ego)
    for ns in (T0, T0 + 500 * MS):
        buffer.set("odom", "base_link", drive(ns), ns)
    moving = source.place(match_of(rig, {"left": 50}))
    assert source.fixed_frame == "odom"
    assert moving.rig is not None
    expected = inverse(drive(T0 + 250 * MS)) @ drive(T0 + 200 * MS) @ rig.camera("front").sensor_to_ego
    np.testing.assert_allclose(moving.rig.camera("front").sensor_to_ego, expected, atol=1e-12)
    np.testing.assert_array_equal(moving.rig.camera("left").sensor_to_ego, rig.camera("left").sensor_to_ego)
    # Odometry that falls silent: not as if the vehicle had stopped.
    buffer.clear()
    silent = source.place(match_of(rig, {"left": 50}))
    assert set(silent.problems) == {"front", "right"}
    source.forget()
    assert not source.place(match_of(rig, {"left": 50})).problems


def test_places_of_a_static_rig_go_with_the_motion_and_the_newest_camera_info() -> None:
    rig = tiny_rig()
    buffer = buffer_of(rig, static=False)
    source = RigSource(buffer, RigOptions(static=True))
    first = source.place(match_of(rig, {"left": 50}))
    assert first.rig is not None
    expected = inverse(drive(T0 + 250 * MS)) @ drive(T0 + 200 * MS) @ rig.camera("right").sensor_to_ego
    np.testing.assert_allclose(first.rig.camera("right").sensor_to_ego, expected, atol=1e-12)
    other = tiny_rig(("right", "front", "left"))
    buffer.set("base_link", "front_optical", other.camera("right").sensor_to_ego, T0 + 1 * MS)
    again = source.place(match_of(rig, {"left": 50}))
    assert again.rig is not None
    assert again.rig.hash == first.rig.hash
    matrix = rig.camera("front").matrix
    wider = Camera.pinhole(0.5 * matrix[0, 0], 0.5 * matrix[1, 1], matrix[0, 2], matrix[1, 2])
    item = match_of(rig).items["front"]
    changed = source.place(match_of(rig, front=CameraArrival("front", item.image, wider, item.frame_id, item.stamp_ns)))
    assert changed.rig is not None
    assert changed.rig.camera("front").matrix[0, 0] == 0.5 * matrix[0, 0]


def test_what_is_wrong_with_a_camera_costs_only_it() -> None:
    rig = tiny_rig()
    source = RigSource(buffer_of(rig), RigOptions())
    item = match_of(rig).items["left"]
    nameless = CameraArrival("left", item.image, item.camera, "", item.stamp_ns)
    placed = source.place(match_of(rig, left=nameless))
    assert placed.rig is not None
    assert placed.rig.names == ("front", "right")
    assert list(placed.images) == ["front", "right"]
    assert "expected the name of a frame" in placed.problems["left"]
    unknown = CameraArrival("left", item.image, None, "left_optical", item.stamp_ns)
    assert "expected camera_info of the camera 'left'" in source.place(match_of(rig, left=unknown)).problems["left"]


def test_no_camera_at_all() -> None:
    rig = tiny_rig()
    placed = RigSource(TransformBuffer(), RigOptions()).place(match_of(rig))
    assert placed.rig is None
    assert not placed.images
    assert set(placed.problems) == set(rig.names)
