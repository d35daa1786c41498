# SPDX-License-Identifier: Apache-2.0
"""Depth and flow of f3_node: real recordings, exact values, calibration, pictures, and heads that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image

from aot_runtime.ros.messages import image_view, stamp_to_ns
from aot_runtime.ros.qos import latched_qos
from f3_ros.head_outputs import HeadOptions
from f3_ros.offline import main, published_arrays, run_file
from f3_ros.parameters import stream_config
from f3_ros.perception import PerceptionPipeline

Head = Callable[..., Path]
CHANNELS = 8
FRAME = (1280, 720)
DEPTH_GRID, FLOW_GRID = (42, 28), (30, 20)
K = (1000.0, 0.0, 640.0, 0.0, 900.0, 360.0, 0.0, 0.0, 1.0)
RAW = "evt3_gen41_1280x720.raw"
RECORDINGS = {
    # name: sensor size
    RAW: (1280, 720),
    "dsec_layout_gen31_640x480/events.h5": (640, 480),
    "bag_evt3_gen41_sqlite3": (1280, 720),
    "bag_libcaer_cmp_davis346_mcap": (346, 260),
}


@pytest.fixture
def depth_head(stand_in_head: Head) -> Path:
    return stand_in_head("depth", CHANNELS, DEPTH_GRID[1], DEPTH_GRID[0])


@pytest.fixture
def flow_head(stand_in_head: Head) -> Path:
    return stand_in_head("flow", CHANNELS, FLOW_GRID[1], FLOW_GRID[0])


@pytest.fixture
def heads(depth_head: Path, flow_head: Path) -> dict[str, str]:
    """Parameters that name both stand-in heads."""
    return {"depth_artifact": str(depth_head), "flow_artifact": str(flow_head)}


def calibration(sensor: tuple[int, int], k: tuple[float, ...] = K) -> CameraInfo:
    info = CameraInfo(width=sensor[0], height=sensor[1], distortion_model="plumb_bob", k=k)
    info.d = [0.1, -0.05, 0.001, 0.002, 0.0]
    info.r = np.eye(3).ravel()
    info.p = (k[0], 0.0, k[2], -50.0, 0.0, k[4], k[5], 0.0, 0.0, 0.0, 1.0, 0.0)
    return info


def expected_of(
    file: Path, artifact: Path, heads: dict[str, str], options: HeadOptions | None = None
) -> list[tuple[Any, dict[str, np.ndarray]]]:
    """(window, what is published of it), without a node."""
    pipeline = PerceptionPipeline.load(artifact, depth=heads.get("depth_artifact"), flow=heads.get("flow_artifact"))
    found = [
        (item, published_arrays(pipeline, item, result, options or HeadOptions()))
        for item, result in run_file(file, pipeline, stream_config(pipeline.f3, {}))
    ]
    pipeline.close()
    return found


def play(ros: Any, replay: Callable[..., Any], file: Path, *streams: list[Any], count: int) -> None:
    """Replays a file in lock-step until each stream holds `count` messages."""
    player = replay(file)
    assert ros.until(lambda: player.exit_code is not None, 60)
    assert player.exit_code == 0
    ros.remove(player)
    assert ros.until(lambda: all(len(stream) >= count for stream in streams), 30), [len(s) for s in streams]
    ros.spin(0.1)


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


# -- what runs, and when -----------------------------------------------------------------------------------------------


def count_runs(node: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ran: list[str] = []
    for name, model in node._pipeline.models.items():
        run = model.run
        monkeypatch.setattr(model, "run", lambda name=name, run=run, **inputs: (ran.append(name), run(**inputs))[1])
    return ran


@pytest.mark.parametrize(
    ("topics", "values", "runs", "published"),
    [
        ((), {}, set(), set()),
        (("features",), {}, {"f3"}, {"features"}),
        (("flow",), {}, {"f3", "flow"}, {"flow"}),
        (("depth_image",), {}, {"f3", "depth"}, set()),
        ((), {"publish_features": "always"}, {"f3"}, {"features"}),
        ((), {"heads_always": True}, {"f3", "depth", "flow"}, {"relative_depth", "flow"}),
    ],
    ids=["nobody", "features", "flow", "depth_image", "features_always", "heads_always"],
)
def test_only_what_somebody_subscribes_to_is_computed(
    topics: tuple[str, ...],
    values: dict[str, Any],
    runs: set[str],
    published: set[str],
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    heads: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = f3(**heads, **values)
    ran = count_runs(node, monkeypatch)
    sent: list[str] = []
    for name, publisher in node.outputs.items():
        send = publisher.publish
        monkeypatch.setattr(publisher, "publish", lambda msg, name=name, send=send: (sent.append(name), send(msg)))
    for topic in topics:
        ros.listen(Image, f"/f3/{topic}")
    assert ros.until(lambda: all(node.wanted(topic) for topic in topics))
    player = replay(shared / "data" / "events" / RAW)
    assert ros.until(lambda: player.exit_code is not None)
    assert player.exit_code == 0
    assert node.health.count("publish") == node.health.count("infer") > 0, "a window that nobody wants is no failure"
    assert set(ran) == runs
    assert set(sent) - {"processed_seq"} == published | (set(topics) - {"features", "flow"})


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


# -- models that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("family", "expected an artifact of the family depth, found flow"),
        ("f3_as_depth", "expected an artifact of the family depth, found f3"),
        ("channels", "expected a flow head for the 8 channels of"),
        ("rgb", "expected a depth head that runs on F3 features, found input 'rgb_image'"),
        ("missing", "none.pt2"),
        ("allow_list", "allow"),
        ("calibration", "expected a camera calibration in ROS's YAML form"),
        ("resolution", "expected output_resolution to be grid or sensor, found 'full'"),
        ("mask", "expected flow_mask to be events or dense, found 'some'"),
    ],
)
def test_heads_that_do_not_fit_leave_the_node_alive_with_a_reason(
    case: str,
    reason: str,
    ros: Any,
    f3: Callable[..., Any],
    micro_f3: Path,
    heads: dict[str, str],
    stand_in_head: Head,
    tmp_path: Path,
) -> None:
    from rclpy.parameter import Parameter

    from aot_runtime.files import sha256_file

    (tmp_path / "allowed").write_text(f"{sha256_file(micro_f3)}  {micro_f3.name}\n")
    (tmp_path / "camera.yaml").write_text("image_width: 3\n")
    wrong = {
        "family": {"depth_artifact": heads["flow_artifact"]},
        "f3_as_depth": {"depth_artifact": str(micro_f3)},
        "channels": {"flow_artifact": str(stand_in_head("flow", 16, 20, 30))},
        "rgb": {"depth_artifact": str(stand_in_head("depth", CHANNELS, 28, 42, input="rgb_image"))},
        "missing": {"flow_artifact": str(tmp_path / "none.pt2")},
        "allow_list": {"depth_artifact": heads["depth_artifact"], "allow_list": str(tmp_path / "allowed")},
        "calibration": {"camera_info_url": str(tmp_path / "camera.yaml")},
        "resolution": {"output_resolution": "full"},
        "mask": {"flow_mask": "some"},
    }[case]
    node = f3(active=False, **wrong)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    assert "cannot configure" in node.health.warnings["lifecycle"]
    assert reason in node.health.warnings["lifecycle"]
    good = {**heads, "allow_list": "", "camera_info_url": "", "output_resolution": "grid", "flow_mask": "events"}
    assert all(r.successful for r in node.set_parameters([Parameter(k, value=good[k]) for k in wrong]))
    node.trigger_configure()
    node.trigger_activate()
    assert node.health.state == "active"


def test_a_head_that_computes_something_else_is_refused_on_activation(
    ros: Any, f3: Callable[..., Any], heads: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = f3(autostart=False, active=False, **heads)
    node.trigger_configure()
    model = node._pipeline.flow.model
    run = model.run
    monkeypatch.setattr(model, "run", lambda **inputs: {"flow": run(**inputs)["flow"] + 1.0})
    node.trigger_activate()
    assert node.health.state == "inactive"
    assert "cannot activate" in node.health.warnings["lifecycle"]
    assert "flow" in node.health.warnings["lifecycle"]
    monkeypatch.undo()
    node.trigger_activate()
    assert node.health.state == "active"


def test_diagnostics_tell_of_every_artifact(
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    heads: dict[str, str],
    stand_in_head: Head,
) -> None:
    strange = stand_in_head("depth", CHANNELS, 28, 42, backbone_digest="ab" * 32)
    node = f3(depth_artifact=str(strange), flow_artifact=heads["flow_artifact"], diagnostics_period=0.2)
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    depths, flows = ros.listen(Image, "/f3/relative_depth"), ros.listen(Image, "/f3/flow")
    assert ros.until(lambda: node.wanted("relative_depth") and node.wanted("flow") and node.wanted("window_info"))
    play(ros, replay, shared / "data" / "events" / RAW, depths, flows, infos, count=1)
    ros.spin(0.3)
    status = reports[-1].status[0]
    told = {pair.key: pair.value for pair in status.values}
    assert told["depth artifact"] == strange.name
    assert told["flow artifact"] == Path(heads["flow_artifact"]).name
    assert told["flow weights"] == "stand_in.pth (000000000000)"
    assert told["finite depth [%]"] == told["finite flow [%]"] == "100"
    assert "finite features [%]" not in told
    assert told["depth_meaning"] == "relative, larger is nearer"
    assert told["flow_interval_us"] == "100000"
    assert "trained on other F3 weights (abababababab)" in status.message
    window = {pair.key: pair.value for pair in infos[0].values}
    assert window["flow_interval_us"] == "100000"
    assert window["flow_unit"] == "pixels of the published image over flow_interval_us"
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert "backbone" not in node.health.warnings
    assert node.health.identity == {}


def test_every_transition_twice_with_heads(
    shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any], heads: dict[str, str]
) -> None:
    node = f3(autostart=False, active=False, **heads)
    flows = ros.listen(Image, "/f3/flow")
    for _ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        assert ros.until(lambda: node.wanted("flow"))
        before = len(flows)
        play(ros, replay, shared / "data" / "events" / RAW, flows, count=before + 1)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.outputs == {}


# -- without a node ----------------------------------------------------------------------------------------------------


def test_the_command_writes_depth_and_flow(
    shared: Path,
    micro_f3: Path,
    heads: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = shared / "data" / "events" / RAW
    expected = expected_of(file, micro_f3, heads, HeadOptions("sensor"))
    arguments = [str(file), "--artifact", str(micro_f3), "--depth", heads["depth_artifact"]]
    arguments += ["--flow", heads["flow_artifact"], "-p", "output_resolution:=sensor"]
    assert main([*arguments, "--output", str(tmp_path / "all.npz"), "--no-features"]) == 0
    assert "the f3 artifact has random weights" in capsys.readouterr().err
    with np.load(tmp_path / "all.npz") as archive:
        assert "features" not in archive
        assert str(archive["flow_interval_us"]) == "100000"
        for name in ("relative_depth", "flow"):
            np.testing.assert_array_equal(archive[name], np.stack([arrays[name] for _, arrays in expected]))
    assert main([*arguments, "--output", str(tmp_path / "folder")]) == 0
    for index, (_, arrays) in enumerate(expected):
        for name in ("features", "relative_depth", "flow"):
            np.testing.assert_array_equal(np.load(tmp_path / "folder" / f"{name}_{index:06d}.npy"), arrays[name])

    assert main([*arguments, "--output", str(tmp_path / "out.mcap"), "--no-features"]) == 0
    from rosbags.rosbag2 import Reader

    from f3_ros.events.readers.bag_types import event_typestore

    store, found = event_typestore(), []
    with Reader(tmp_path / "out.mcap") as reader:
        for connection, _, raw in reader.messages():
            found.append((connection.topic, store.deserialize_cdr(raw, connection.msgtype)))
    topics = [topic for topic, _ in found]
    assert topics == ["/f3/relative_depth", "/f3/flow"] * len(expected)
    (_, depth), (_, flow) = found[:2]
    assert (depth.encoding, depth.width, depth.height) == ("32FC1", 1280, 720)
    assert (flow.encoding, flow.step) == ("32FC2", 1280 * 8)
    assert bytes(flow.data) == np.ascontiguousarray(expected[0][1]["flow"].transpose(1, 2, 0)).tobytes()


def test_nothing_to_write_is_said(micro_f3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["x.raw", "--artifact", str(micro_f3), "--output", str(tmp_path / "o"), "--no-features"])
    assert code == 2
    assert "expected something to write, found --no-features without --depth and --flow" in capsys.readouterr().err
