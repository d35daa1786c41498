# SPDX-License-Identifier: Apache-2.0
"""Depth and flow of f3_node from real recordings: exact values, pictures, calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from f3_heads import CHANNELS, DEPTH_GRID, FLOW_GRID, FRAME, RAW, K, calibration, expected_of, play
from sensor_msgs.msg import CameraInfo, Image

from aot_runtime.ros.messages import image_view, stamp_to_ns
from aot_runtime.ros.qos import latched_qos
from f3_ros.head_outputs import HeadOptions
from f3_ros.perception import PerceptionPipeline

Head = Callable[..., Path]
RECORDINGS = {
    # name: sensor size
    RAW: (1280, 720),
    "dsec_layout_gen31_640x480/events.h5": (640, 480),
    "bag_evt3_gen41_sqlite3": (1280, 720),
    "bag_libcaer_cmp_davis346_mcap": (346, 260),
}


# -- real recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDINGS)
def test_live_depth_and_flow_equal_offline_byte_by_byte(
    name: str,
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    micro_f3: Path,
    heads: dict[str, str],
) -> None:
    file, sensor = shared / "data" / "events" / name, RECORDINGS[name]
    expected = expected_of(file, micro_f3, heads)
    node = f3(**heads)
    depths = ros.listen(Image, "/f3/relative_depth")
    flows = ros.listen(Image, "/f3/flow")
    features = ros.listen(Image, "/f3/features")
    infos = ros.listen(CameraInfo, "/f3/camera_info")
    camera = ros.listener.create_publisher(CameraInfo, "/f3/event_camera_info", 5)
    assert ros.until(lambda: camera.get_subscription_count() > 0 and node.wanted("flow") and node.wanted("camera_info"))
    camera.publish(calibration(sensor))
    assert ros.until(lambda: node._camera._info is not None)
    play(ros, replay, file, depths, flows, features, infos, count=len(expected))
    assert len(depths) == len(flows) == len(features) == len(infos) == len(expected) > 0
    for depth, flow, field, info, (item, arrays) in zip(depths, flows, features, infos, expected):
        assert (depth.width, depth.height, depth.encoding, depth.step) == (*DEPTH_GRID, "32FC1", 42 * 4)
        assert (flow.width, flow.height, flow.encoding, flow.step) == (*FLOW_GRID, "32FC2", 30 * 8)
        for message in (depth, flow, field, info):
            assert stamp_to_ns(message.header.stamp) == item.stamp_ns
            assert message.header.frame_id == item.frame_id
        assert depth.data.tobytes() == arrays["relative_depth"].tobytes()
        assert flow.data.tobytes() == np.ascontiguousarray(arrays["flow"].transpose(1, 2, 0)).tobytes()
        assert field.data.tobytes() == np.ascontiguousarray(arrays["features"].transpose(1, 2, 0)).tobytes()
        assert np.isfinite(image_view(depth)).any()
        check_flow_mask(image_view(flow), item, sensor)
    # u' = (u + offset) * (W' - 1) / (W - 1), f3.md's align_corners.
    scale = (np.array(DEPTH_GRID) - 1) / (np.array(FRAME) - 1)
    offset = (np.array(FRAME) - sensor) // 2
    fx, fy, cx, cy = K[0] * scale[0], K[4] * scale[1], *((np.array([K[2], K[5]]) + offset) * scale)
    info = infos[-1]
    assert (info.width, info.height) == DEPTH_GRID
    np.testing.assert_allclose(info.k, [fx, 0, cx, 0, fy, cy, 0, 0, 1], rtol=1e-12)
    np.testing.assert_allclose(info.p, [fx, 0, cx, -50.0 * scale[0], 0, fy, cy, 0, 0, 0, 1, 0], rtol=1e-12)
    assert (info.distortion_model, list(info.d)) == ("plumb_bob", [0.1, -0.05, 0.001, 0.002, 0.0])
    assert info.r.tolist() == np.eye(3).ravel().tolist()
    assert node.health.drops() == {} or not any("window" in cause for cause in node.health.drops())


def check_flow_mask(flow: np.ndarray, item: Any, sensor: tuple[int, int]) -> None:
    """Finite exactly at the pixels nearest to the window's events, found one event at a time."""
    events = item.window.events
    offset = [(FRAME[axis] - sensor[axis]) // 2 for axis in (0, 1)]
    expected = np.zeros((FLOW_GRID[1], FLOW_GRID[0]), bool)
    for x, y in zip(events.x.tolist(), events.y.tolist()):
        column = round((x + offset[0]) * (FLOW_GRID[0] - 1) / (FRAME[0] - 1))
        expected[round((y + offset[1]) * (FLOW_GRID[1] - 1) / (FRAME[1] - 1)), column] = True
    finite = np.isfinite(flow)
    np.testing.assert_array_equal(finite[..., 0], expected)
    np.testing.assert_array_equal(finite[..., 1], expected)


def test_sensor_resolution_rescales_units_and_keeps_the_calibration(
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    micro_f3: Path,
    heads: dict[str, str],
) -> None:
    file = shared / "data" / "events" / "bag_libcaer_cmp_davis346_mcap"
    sensor = (346, 260)
    expected = expected_of(file, micro_f3, heads, HeadOptions("sensor", "dense"))
    raw = expected_of(file, micro_f3, heads, HeadOptions("grid", "dense"))
    node = f3(**heads, output_resolution="sensor", flow_mask="dense")
    depths, flows = ros.listen(Image, "/f3/relative_depth"), ros.listen(Image, "/f3/flow")
    infos = ros.listen(CameraInfo, "/f3/camera_info")
    camera = ros.listener.create_publisher(CameraInfo, "/f3/event_camera_info", latched_qos())
    camera.publish(calibration(sensor))
    assert ros.until(lambda: node._camera._info is not None and node.wanted("flow"))
    play(ros, replay, file, depths, flows, infos, count=len(expected))
    for depth, flow, (_, arrays) in zip(depths, flows, expected):
        assert (depth.width, depth.height, flow.width, flow.height) == (*sensor, *sensor)
        assert depth.data.tobytes() == arrays["relative_depth"].tobytes()
        assert flow.data.tobytes() == np.ascontiguousarray(arrays["flow"].transpose(1, 2, 0)).tobytes()
        assert np.isfinite(image_view(flow)).all(), "dense"
    np.testing.assert_allclose(infos[0].k, K)
    assert (infos[0].width, infos[0].height) == sensor
    # A grid point of the sensor's middle, by hand: (640, 360) of the frame is the sensor's (640 - 467, 360 - 230).
    u, v = 15 * 1279 / 29 - 467, 10 * 719 / 19 - 230
    column, row = round(u), round(v)
    scale = np.array([1279 / 29, 719 / 19])
    on_grid = raw[0][1]["flow"][:, 10, 15] * scale
    np.testing.assert_allclose(image_view(flows[0])[row, column], on_grid, atol=0.05 * np.abs(on_grid).max())


def test_disparity_is_published_in_metres_on_a_topic_of_its_own(
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    micro_f3: Path,
    stand_in_head: Head,
) -> None:
    file = shared / "data" / "events" / RAW
    head = stand_in_head("depth", CHANNELS, 28, 42, kind="disparity", focal_baseline=123.78)
    heads = {"depth_artifact": str(head)}
    expected = expected_of(file, micro_f3, heads)
    node = f3(**heads)
    assert "relative_depth" not in node.outputs
    assert "flow" not in node.outputs
    depths = ros.listen(Image, "/f3/depth")
    assert ros.until(lambda: node.wanted("depth"))
    play(ros, replay, file, depths, count=len(expected))
    pipeline = PerceptionPipeline.load(micro_f3, depth=head)
    item, arrays = expected[0]
    disparity = pipeline.process(item.window, *FRAME).depth
    assert disparity is not None
    metres = image_view(depths[0])
    np.testing.assert_array_equal(metres, np.float32(123.78) / disparity)
    assert (metres > 0).all()
    assert depths[0].data.tobytes() == arrays["depth"].tobytes()


def test_tiny_networks_of_the_real_kinds(
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    micro_f3: Path,
    tiny_heads: dict[str, str],
) -> None:
    """FlowHead and Depth Anything V2, with random weights and tiny, from their own exporters."""
    file = shared / "data" / "events" / RAW
    expected = expected_of(file, micro_f3, tiny_heads)
    node = f3(**tiny_heads)
    depths, flows = ros.listen(Image, "/f3/relative_depth"), ros.listen(Image, "/f3/flow")
    assert ros.until(lambda: node.wanted("flow") and node.wanted("relative_depth"))
    play(ros, replay, file, depths, flows, count=len(expected))
    for depth, flow, (item, arrays) in zip(depths, flows, expected):
        assert depth.data.tobytes() == arrays["relative_depth"].tobytes()
        assert flow.data.tobytes() == np.ascontiguousarray(arrays["flow"].transpose(1, 2, 0)).tobytes()
        assert np.isfinite(image_view(depth)).all()
        assert np.isfinite(image_view(flow)).any() == bool(len(item.window.events))
    warnings = node.health.warnings
    assert warnings["depth weights"] == "the depth artifact has random weights: its depth means nothing"
    assert warnings["flow weights"] == "the flow artifact has random weights: its flow means nothing"


def test_pictures_show_depth_and_flow(
    shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any], micro_f3: Path, heads: dict[str, str]
) -> None:
    from depth_ros.pictures import colour_depth
    from f3_ros.flow_pictures import flow_overlay, flow_picture

    file = shared / "data" / "events" / RAW
    expected = expected_of(file, micro_f3, heads)
    dense = expected_of(file, micro_f3, heads, HeadOptions(flow_mask="dense"))
    node = f3(**heads)
    depths, flows = ros.listen(Image, "/f3/depth_image"), ros.listen(Image, "/f3/flow_image")
    assert ros.until(lambda: node.wanted("depth_image") and node.wanted("flow_image"))
    play(ros, replay, file, depths, flows, count=len(expected))
    for depth, flow, (item, arrays), (_, unmasked) in zip(depths, flows, expected, dense):
        assert (depth.encoding, depth.width, depth.height) == ("bgr8", *DEPTH_GRID)
        assert (flow.encoding, flow.width, flow.height) == ("bgr8", *FLOW_GRID)
        np.testing.assert_array_equal(image_view(depth), colour_depth(arrays["relative_depth"], kind="relative"))
        valid = np.isfinite(arrays["flow"]).all(axis=0)
        np.testing.assert_array_equal(image_view(flow), flow_overlay(flow_picture(unmasked["flow"]), valid))
        assert not image_view(flow)[~valid].any()
        assert stamp_to_ns(depth.header.stamp) == stamp_to_ns(flow.header.stamp) == item.stamp_ns


# -- calibration -------------------------------------------------------------------------------------------------------


def test_a_calibration_that_does_not_fit_is_not_published(
    shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any], heads: dict[str, str]
) -> None:
    node = f3(**heads)
    depths, infos = ros.listen(Image, "/f3/relative_depth"), ros.listen(CameraInfo, "/f3/camera_info")
    camera = ros.listener.create_publisher(CameraInfo, "/f3/event_camera_info", 5)
    assert ros.until(lambda: camera.get_subscription_count() > 0 and node.wanted("relative_depth"))
    camera.publish(calibration((640, 480)))
    assert ros.until(lambda: node._camera._info is not None)
    play(ros, replay, shared / "data" / "events" / RAW, depths, count=1)
    assert not infos
    assert node.health.state == "active"
    camera.publish(CameraInfo(width=1280, height=720))  # not calibrated: K is 0
    assert ros.until(lambda: node._camera._info.width == 1280)
    before = len(depths)
    play(ros, replay, shared / "data" / "events" / RAW, depths, count=before + 1)
    assert not infos


def test_a_calibration_file_serves_until_a_message_comes(
    shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any], heads: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "camera.yaml"
    matrix = {"rows": 3, "cols": 3, "data": list(K)}
    told = {
        "image_width": 1280,
        "image_height": 720,
        "camera_name": "eye",
        "camera_matrix": matrix,
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0, 0, 0, 0, 0]},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
        "projection_matrix": {"rows": 3, "cols": 4, "data": [*K[:3], 0, *K[3:6], 0, *K[6:], 0]},
    }
    file.write_text(yaml.safe_dump(told))
    node = f3(**heads, camera_info_url=f"file://{file}")
    depths, infos = ros.listen(Image, "/f3/relative_depth"), ros.listen(CameraInfo, "/f3/camera_info")
    assert ros.until(lambda: node.wanted("relative_depth") and node.wanted("camera_info"))
    play(ros, replay, shared / "data" / "events" / RAW, depths, infos, count=1)
    np.testing.assert_allclose(infos[0].k[0], K[0] * 41 / 1279, rtol=1e-12)
    np.testing.assert_allclose(infos[0].p[6], K[5] * 27 / 719, rtol=1e-12)
