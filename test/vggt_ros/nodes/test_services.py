# SPDX-License-Identifier: Apache-2.0
"""Services of vggt_node, its lifecycle, and what it refuses to be configured with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from node_checks import check_out_of_range, check_yaml
from ros_session import parameters
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import SetBool
from synthetic_room import CAMERAS, Room

from aot_runtime.ros.qos import latched_qos
from vggt_ros.node import VggtNode


def set_path(scene: Any, path: Path) -> None:
    (result,) = scene.node.set_parameters(parameters(map_path=path))
    assert result.successful


def test_a_map_is_saved_reset_and_loaded(ros: Any, vggt: Callable[..., Any], tmp_path: Path) -> None:
    scene = vggt(points_rate=20.0)
    clouds = ros.listen(PointCloud2, "/vggt/points", latched_qos())
    depths = ros.listen(Image, "/vggt/depth/left")
    assert not scene.call("save_map").success
    assert "map_path" in scene.call("save_map").message
    set_path(scene, tmp_path / "none" / "map.npz")
    assert "expected a folder for the map" in scene.call("save_map").message
    set_path(scene, tmp_path / "map.npz")
    assert "found an empty one" in scene.call("save_map").message
    scene.show(0)
    scene.show(1)
    size = scene.node._shared.pipeline.map.size
    response = scene.call("save_map")
    assert response.success
    assert f"{size} elements in m written to {tmp_path / 'map.npz'}" in response.message
    for suffix in (".ply", ".gaussians.ply"):
        set_path(scene, tmp_path / f"map{suffix}")
        assert scene.call("save_map").success
        assert (tmp_path / f"map{suffix}").stat().st_size > 10_000
    set_path(scene, tmp_path / "map.pcd")
    assert not scene.call("save_map").success
    response = scene.call("reset")
    assert (response.success, response.message) == (True, "the map has 0 elements")
    assert ros.until(lambda: clouds and clouds[-1].width == 0)  # what is shown is gone too
    set_path(scene, tmp_path / "other.npz")
    assert "found nothing at" in scene.call("load_map").message
    (tmp_path / "other.npz").write_bytes(b"no map")
    assert not scene.call("load_map").success
    set_path(scene, tmp_path / "map.npz")
    assert scene.call("load_map").success
    assert scene.node._shared.pipeline.map.size == size
    everything = len(scene.node._shared.pipeline.map.surface().weights)
    assert ros.until(lambda: clouds[-1].width == everything)
    count = len(depths)
    scene.show(2)
    assert len(depths) == count + 1
    assert scene.node.health.report().values["last bootstrap"].startswith(f"at {1_700_000_000}")


def test_a_map_of_before_is_gone_on_with(ros: Any, vggt: Callable[..., Any], tmp_path: Path) -> None:
    scene = vggt(per_camera_calibration=tmp_path / "calibration.json")
    scene.show(0)
    scene.show(1)
    set_path(scene, tmp_path / "map.npz")
    assert scene.call("save_map").success
    ros.remove(scene.node)
    told = json.loads((tmp_path / "calibration.json").read_text())
    assert set(told["cameras"]) == {"left", "front", "right"}
    again = vggt(
        bootstrap_file=None,
        initial_map=tmp_path / "map.npz",
        per_camera_calibration=tmp_path / "calibration.json",
    )
    assert again.node._shared.pipeline.state == "streaming"
    depths = ros.listen(Image, "/vggt/depth/front")
    assert ros.until(lambda: again.node.wanted("depth/front"))
    again.show(2)
    assert len(depths) == 1
    response = again.call("bootstrap")
    assert not response.success
    assert "found neither vggt_model nor bootstrap_file" in response.message
    assert again.call("reset").message.startswith("the map has ")
    assert again.node._shared.pipeline.map.size  # the initial one again


def test_a_bootstrap_that_is_asked_for(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt()
    scene.show(0)
    size = scene.node._shared.pipeline.map.size
    response = scene.call("bootstrap")
    assert response.success
    assert "the next images bootstrap" in response.message
    scene.show(4)  # shows step 0, as the file does
    told = scene.node.health.report().values["last bootstrap"]
    assert told.startswith("at 1700000000.200 s")
    assert "it was asked for" in told
    assert scene.node._shared.pipeline.map.size < 1.5 * size


def test_a_pause_keeps_the_map_and_is_no_error(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt(diagnostics_period=0.0)
    scene.node.health.stall_s = 0.1
    depths = ros.listen(Image, "/vggt/depth/left")
    assert ros.until(lambda: scene.node.wanted("depth/left"))
    scene.show(0)
    size = scene.node._shared.pipeline.map.size
    assert scene.call("pause", SetBool, data=True).message == "paused"
    assert "paused" in scene.call("bootstrap").message
    for index in (1, 2):
        scene.show(index)
        ros.spin(0.1)
    assert len(depths) == 1
    assert scene.node.health.drops() == {"paused": 2}
    report = scene.node.health.report()
    assert "stuck" not in report.message
    assert scene.node.health.warnings["pause"] == "paused"
    assert scene.call("pause", SetBool, data=False).success
    scene.show(3)
    assert len(depths) == 2
    assert scene.node._shared.pipeline.map.size >= 0.9 * size
    assert "pause" not in scene.node.health.warnings


def test_services_do_not_wait_for_a_long_step(ros: Any, vggt: Callable[..., Any], monkeypatch: Any) -> None:
    from vggt_ros import services

    monkeypatch.setattr(services, "_PATIENCE_S", 0.2)
    scene = vggt()
    step, go = scene.node._shared.pipeline.step, threading.Event()
    scene.node._shared.pipeline.step = lambda *a, **k: (go.wait(20), step(*a, **k))[1]
    scene.poses(0)
    scene.rig.send({name: scene.room.colour(scene.room.index(name, 0)) for name in scene.cameras}, 0)
    assert ros.until(lambda: scene.node.health.count("match"))
    begin = time.monotonic()
    response = scene.call("reset")
    assert not response.success
    assert "expected a step to end within 0.2 s" in response.message
    assert time.monotonic() - begin < 10
    assert scene.call("pause", SetBool, data=True).success
    go.set()
    scene.rig.done()
    assert scene.call("reset").success


def test_services_of_an_inactive_node_say_so(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt()
    scene.node.trigger_deactivate()
    for service in ("bootstrap", "reset", "save_map", "load_map"):
        response = scene.call(service)
        assert (response.success, "found it inactive" in response.message) == (False, True)
    scene.node.trigger_activate()
    assert scene.call("reset").success


def test_deltas_have_what_is_new_and_everything_for_who_comes(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt(points_mode="deltas", points_rate=50.0)
    clouds = ros.listen(PointCloud2, "/vggt/points", latched_qos())
    assert ros.until(lambda: scene.node.wanted("points"))
    ros.spin(0.2)
    assert not clouds  # there is nothing yet
    scene.show(0)
    assert ros.until(lambda: len(clouds) == 1)
    whole = clouds[0].width
    assert whole > 5000
    scene.show(1)
    assert ros.until(lambda: len(clouds) == 2)
    assert 0 < clouds[1].width < 0.5 * whole
    late = ros.listener.create_subscription(PointCloud2, "/vggt/points", lambda msg: clouds.append(msg), latched_qos())
    everything = len(scene.node._shared.pipeline.map.surface().weights)
    assert ros.until(lambda: clouds[-1].width == everything)
    ros.listener.destroy_subscription(late)


def test_every_transition_twice_leaves_nothing_behind(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt()
    node = scene.node
    for _ in range(2):
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
        assert not node.outputs
        assert not any(thread.name in ("infer", "points") for thread in threading.enumerate())
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active", node.health.warnings
    assert ros.until(lambda: node.count_publishers("/vggt/left/camera_info"))
    ros.spin(0.3)
    scene.infos()
    scene.show(0)
    assert node._shared.pipeline.map.size
    node.trigger_deactivate()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"bootstrap_file": ""}, "vggt_model, bootstrap_file and initial_map empty"),
        ({"bootstrap_file": "/none.npz"}, "expected a file for the parameter 'bootstrap_file'"),
        ({"vggt_model": "/none.pt2"}, "expected vggt_model or bootstrap_file, found both"),
        ({"vggt_model": "/none.pt2", "bootstrap_file": ""}, "'vggt_model', found nothing at /none.pt2"),
        ({"depth_model": "/none.pt2"}, "expected depth_model or depth_folder, found both"),
        ({"depth_folder": "/none"}, "'depth_folder'"),
        ({"initial_map": "/none.npz"}, "'initial_map'"),
        ({"pose_source": "stars"}, "expected pose_source to be auto or tf or network, found 'stars'"),
        ({"fusion": "atomic"}, "expected fusion to be surfel or tsdf"),
        ({"world_frame": ""}, "expected a world_frame"),
        ({"unscaled_frame": "map"}, "expected an unscaled_frame other than the world_frame"),
        ({"cameras": ["a", "a"]}, "different camera names"),
        ({"cameras": ["front left"]}, "different camera names"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    wrong: dict[str, Any], reason: str, ros: Any, room: Room, disparities: Path
) -> None:
    good = {"bootstrap_file": room.folder / "vggt_like.npz", "depth_folder": disparities, "cameras": list(CAMERAS)}
    node = ros.start(VggtNode, False, **{**good, **wrong})
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    assert reason in node.health.warnings["lifecycle"]
    assert not node.outputs


def test_a_bootstrap_file_that_is_none(ros: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", nothing=np.zeros(3))
    node = ros.start(VggtNode, False, bootstrap_file=tmp_path / "file.npz")
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert "expected an array 'depth'" in node.health.warnings["lifecycle"]


def test_vggt_yaml_holds_every_parameter_with_its_default(ros: Any) -> None:
    check_yaml(ros.start(VggtNode, False, autostart=False), "vggt.yaml", autostart=False)


@pytest.mark.parametrize(("name", "value"), [("sync_patience", 0.0), ("points_rate", 0.0), ("max_turn", 181.0)])
def test_out_of_range(ros: Any, name: str, value: float) -> None:
    check_out_of_range(lambda active, **values: ros.start(VggtNode, active, **values), name, value)
