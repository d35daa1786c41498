# SPDX-License-Identifier: Apache-2.0
"""What bev_node bears: malformed input, absent transforms, overload, jumps in time, bad parameters; its life cycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from bev_vehicle import Vehicle
from node_checks import check_allow_list, check_out_of_range, check_unusable, check_yaml
from ros_images import PERIOD_NS, START_NS, SimulatedTime, malformed_images, rgb_message

from aot_runtime.ros.messages import stamp_to_ns
from bev_ros.calibration import Rig

Maker = Callable[..., Any]
Images = dict[str, np.ndarray]


def test_malformed_images_cost_only_their_camera(ros: Any, vehicle: Maker, images: Images) -> None:
    scene = vehicle()
    bad = malformed_images(images["left"])
    for index, msg in enumerate(bad):
        msg.header = rgb_message(images["left"], index, "left_optical").header
        before = scene.node.health.count("receive")
        scene.cameras.publish("left", msg)
        scene.cameras.send({name: images[name] for name in ("front", "right")}, index)
        assert ros.until(lambda n=before: scene.node.health.count("receive") == n + 3)
        assert ros.until(lambda n=index + 1: len(scene.features) == n)
        assert scene.node.health.report().values["missing in the last map"] == "left"
    assert scene.node.health.drops() == {"bad_image": len(bad)}
    assert scene.node.health.state == "active"
    scene.show(images, len(bad))
    assert ros.until(lambda: len(scene.features) == len(bad) + 1)
    assert scene.node.health.report().values["missing in the last map"] == "none"


def test_without_transforms_it_says_which_frame_and_recovers(
    ros: Any, vehicle: Maker, rig: Rig, images: Images, pipeline: Any
) -> None:
    scene = vehicle(tf=False, tf_timeout=0.0)
    scene.show(images)
    assert not scene.features
    text = scene.node.health.warnings["rig"]
    assert all(f"{name} (expected a transform of" in text for name in rig.names)
    assert scene.node.health.drops() == {"unplaced_camera": 3, "too_few_cameras": 1}
    scene.places(Rig((rig.camera("right"), rig.camera("left"))))
    scene.show(images, 1)
    assert ros.until(lambda: len(scene.features) == 1)
    text = scene.node.health.warnings["rig"]
    assert "front (expected a transform of 'front_optical', found frames base_link, left_optical, right_optical" in text
    values = scene.node.health.report().values
    assert values["missing in the last map"] == "front"
    scene.places(Rig((rig.camera("front"),)))
    scene.show(images, 2)
    assert ros.until(lambda: len(scene.features) == 2)
    assert "rig" not in scene.node.health.warnings
    assert np.array_equal(scene.map(), pipeline.process(images, rig).features)


def test_without_any_transform_diagnostics_name_the_stage(ros: Any, vehicle: Maker, images: Images) -> None:
    scene = vehicle(tf=False, tf_timeout=0.0)
    scene.node.health.stall_s = 0.3
    end = time.monotonic() + 30
    index = 0
    while "stuck at infer (cameras left out" not in (message := scene.node.health.report().message):
        assert time.monotonic() < end, message
        scene.show(images, index)
        index += 1


def test_a_transform_that_comes_a_little_later_is_waited_for(
    ros: Any, vehicle: Maker, rig: Rig, images: Images
) -> None:
    scene = vehicle(tf=False, tf_timeout=20.0)
    scene.cameras.send(images)
    assert ros.until(lambda: scene.node.health.count("match") == 1)
    ros.spin(0.1)
    assert not scene.features
    scene.places()
    assert ros.until(lambda: scene.features)
    assert scene.node.health.drops() == {}


def test_transforms_of_another_time_are_not_used(ros: Any, vehicle: Maker, rig: Rig, images: Images) -> None:
    scene = vehicle(tf=False, tf_timeout=0.0)
    for index in (0, 2):
        for camera in rig:
            scene.cameras.transform("base_link", f"{camera.name}_optical", camera.sensor_to_ego, index)
    scene.show(images, 3)
    assert "newest 0.050 s before it" in scene.node.health.warnings["rig"]
    scene.show(images, 4)
    assert not scene.features
    scene.cameras.transform("base_link", "left_optical", rig.camera("left").sensor_to_ego, 5)
    scene.show(images, 5)
    assert ros.until(lambda: scene.features)
    assert scene.node.health.report().values["cameras in the last map"] == "left"


def test_images_without_calibration(ros: Any, vehicle: Maker, rig: Rig, images: Images) -> None:
    scene = vehicle(info=False)
    scene.show(images)
    assert not scene.features
    assert "front (expected camera_info for 160x90 pixels, found none yet" in scene.node.health.warnings["cameras"]
    assert scene.node.health.drops() == {"no_camera_info": 3, "too_few_cameras": 1}
    front = rig.camera("front")
    scene.cameras.info("front", np.zeros((3, 3)), front.width, front.height)
    scene.infos(Rig((rig.camera("left"),)))
    scene.show(images, 1)
    assert ros.until(lambda: scene.features)
    assert scene.node.health.report().values["cameras in the last map"] == "left"
    assert "front (expected a calibrated camera, found K = 0" in scene.node.health.warnings["cameras"]


def test_a_bag_that_loops(ros: Any, vehicle: Maker, rig: Rig, images: Images) -> None:
    scene = vehicle()
    turned = np.eye(4)
    turned[0, 3] = 2.0
    for pass_ in range(2):
        for index in (20, 21):
            scene.cameras.transform("odom", "base_link", turned if pass_ else np.eye(4), index - 20 * pass_)
            scene.show(images, index - 20 * pass_)
    assert ros.until(lambda: len(scene.features) == 4)
    assert [(stamp_to_ns(m.header.stamp) - START_NS) // PERIOD_NS for m in scene.features] == [20, 21, 0, 1]
    assert all(msg.data == scene.features[0].data for msg in scene.features)
    drops = scene.node.health.drops()
    assert drops.pop("time_jump_back") == 1
    assert not drops


def test_ros_time_that_goes_back(ros: Any, vehicle: Maker, images: Images) -> None:
    scene = vehicle(use_sim_time=True)
    clock = SimulatedTime(ros, scene.node)
    clock.set(10)
    scene.show(images, 200)
    assert ros.until(lambda: len(scene.features) == 1)
    clock.set_back(1)
    scene.show(images, 20)
    assert ros.until(lambda: len(scene.features) == 2)
    assert scene.node.health.drops() == {"time_jump_ros": 1}


def test_overload_keeps_the_latest_set(
    ros: Any, vehicle: Maker, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = vehicle()
    process = scene.node._pipeline.process
    monkeypatch.setattr(scene.node._pipeline, "process", lambda *a: (time.sleep(0.3), process(*a))[1])
    n = 8
    for index in range(n):
        scene.cameras.send(images, index)
        assert ros.until(lambda k=3 * index + 3: scene.node.health.count("receive") == k)
    scene.cameras.done()
    ros.spin(0.1)
    dropped = scene.node.health.drops()["match_queue_full"]
    assert dropped >= n - 4
    assert len(scene.features) == n - dropped
    assert stamp_to_ns(scene.features[-1].header.stamp) == START_NS + (n - 1) * PERIOD_NS


def test_late_images(ros: Any, vehicle: Maker, images: Images) -> None:
    scene = vehicle(max_input_age=5.0)
    scene.show(images)
    assert scene.node.health.drops() == {"late": 3}
    assert not scene.features


def test_what_fails_in_a_set_does_not_end_the_node(
    ros: Any, vehicle: Maker, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = vehicle()
    with monkeypatch.context() as broken:
        broken.setattr(scene.node._pipeline.chain, "run", lambda *a: 1 / 0)
        scene.show(images)
    assert scene.node.health.drops() == {"match_failed": 1}
    assert "ZeroDivisionError" in scene.node.health.report().values["last error infer"]
    scene.show(images, 1)
    assert ros.until(lambda: scene.features)


def test_artifacts_it_cannot_run(
    ros: Any, make: Maker, bev_artifact: Path, bev_artifacts: Callable[..., Path], tmp_path: Path
) -> None:
    good = {"model": bev_artifact}
    absent = tmp_path / "none.pt2"
    node = check_unusable(ros, make, {"model": absent}, "none.pt2", good)
    ros.remove(node)
    damaged = tmp_path / "damaged.pt2"
    damaged.write_bytes(bev_artifact.read_bytes()[:-4000])
    ros.remove(check_unusable(ros, make, {"model": damaged}, "damaged.pt2", good))
    ros.remove(
        check_unusable(
            ros, make, {"model": bev_artifacts("pool")}, "expected a fused artifact, or the parts image", good
        )
    )
    empty = {"model": "", "image_model": bev_artifacts("image", ".onnx")}
    both = {"model": bev_artifact, "image_model": empty["image_model"]}
    ros.remove(check_unusable(ros, make, both, "found model and image_model", empty))
    ros.remove(check_unusable(ros, make, {"model": ""}, "found none of them", good))


def test_an_artifact_of_another_family(ros: Any, make: Maker, bev_artifact: Path, artifact_cache: Path) -> None:
    from small_artifacts import two_outputs

    other = two_outputs(artifact_cache)
    check_unusable(ros, make, {"model": other}, "expected an artifact of the family bev", {"model": bev_artifact})


def test_cameras_it_cannot_take(ros: Any, make: Maker, rig: Rig, tmp_path: Path) -> None:
    good = {"cameras": list(rig.names)}
    four = {"cameras": [*rig.names, "rear"]}
    ros.remove(check_unusable(ros, make, four, "expected at most 3 cameras, as many as the encoder takes", good))
    ros.remove(check_unusable(ros, make, {"cameras": ["front", "front"]}, "different camera names", good))
    rig_file = tmp_path / "rig.json"
    rig_file.write_text("{}")
    reason = "expected a calibration with a list `cameras`"
    ros.remove(check_unusable(ros, make, {"calibration_file": rig_file}, reason, {"calibration_file": ""}))
    from bev_ros.calibration import write_rig

    write_rig(rig.ordered(("front", "left")), rig_file)
    reason = "expected the camera right in"
    check_unusable(ros, make, {"calibration_file": rig_file}, reason, {"calibration_file": ""})


def test_parameters(ros: Any, make: Maker, bev_artifact: Path, tmp_path: Path) -> None:
    from bev_ros.node import BevNode

    node = ros.start(BevNode, False, autostart=False)
    check_yaml(node, "bev.yaml", autostart=False)
    ros.remove(node)
    check_out_of_range(make, "tf_timeout", -1.0)
    check_allow_list(ros, make, bev_artifact, tmp_path)


def test_synchronisation_is_that_of_recordings(ros: Any) -> None:
    """The extractor's sets of a bag are the node's, so their settings must not drift apart."""
    from bev_ros.node import BevNode
    from bev_ros.parameters import read_parameters
    from bev_ros.sources.matching import Matching

    node = ros.start(BevNode, False, autostart=False, model="x.pt2", cameras=["a", "b"], missing_cameras="skip")
    told, matching = read_parameters(node).set_options(), Matching()
    assert (told["slop_ns"], told["patience_ns"]) == (matching.slop_ns, matching.patience_ns)
    assert (told["depth"], told["least"]) == (matching.depth, matching.least)
    assert told["required"] == ("a", "b")
    assert matching.required is None


def test_the_life_cycle_twice(ros: Any, make: Maker, rig: Rig, images: Images) -> None:
    node = make(active=False, autostart=False)
    scene = None
    for round_ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active", node.health.warnings
        if scene is None:
            scene = Vehicle(ros, node, rig)
        else:
            assert ros.until(lambda: node.wanted("bev_features") and node.count_publishers("/bev/front/image"))
            ros.spin(0.3)
        scene.infos()
        scene.places()
        scene.show(images, round_)
        assert ros.until(lambda n=round_ + 1, made=scene: len(made.features) == n)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
        assert not node.outputs
    assert scene is not None
    assert scene.features[1].data == scene.features[0].data
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    node.trigger_configure()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    from bev_ros.node import main

    assert main(["--help"]) == 0
    assert "usage: bev_node" in capsys.readouterr().out
