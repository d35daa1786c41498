# SPDX-License-Identifier: Apache-2.0
"""What vggt_node bears: cameras, sizes, poses, depth and time that fail. One fault costs one camera, never the map."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from geometry_msgs.msg import PoseArray
from ros_cameras import CameraRig
from ros_images import PERIOD_NS, START_NS, malformed_images
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from synthetic_room import CAMERAS, Room

from aot_runtime.ros.messages import image_view
from aot_runtime.ros.qos import image_input_qos, latched_qos

BOUND_M = 0.03


class Depths:
    """Depth of all cameras as it is published."""

    def __init__(self, ros: Any, scene: Any, kind: str = "depth") -> None:
        self.ros, self.room = ros, scene.room
        self.got = {name: ros.listen(Image, f"/vggt/{kind}/{name}") for name in scene.cameras}
        assert ros.until(lambda: all(scene.node.wanted(f"{kind}/{name}") for name in scene.cameras))

    def counts(self) -> list[int]:
        self.ros.spin(0.1)
        return [len(got) for got in self.got.values()]

    def good(self, name: str, step: int) -> bool:
        """Whether the last depth of a camera is within the bound."""
        frame = self.room.index(name, step)
        error = np.abs(image_view(self.got[name][-1]) - self.room.static_depth[frame])
        return bool(np.nanmedian(error[self.room.still(frame)]) <= BOUND_M)


def test_a_camera_that_drops_out_and_comes_back(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt()
    depths = Depths(ros, scene)
    scene.show(0)
    size = scene.node._shared.pipeline.map.size
    scene.show(1, ("left", "right"))
    assert depths.counts() == [2, 1, 2]
    assert "missing cameras: front (no image in time)" in scene.node.health.warnings["cameras"]
    assert scene.node._shared.pipeline.map.size >= 0.9 * size
    scene.show(2)
    assert depths.counts() == [3, 2, 3]
    assert all(depths.good(name, 2) for name in CAMERAS)
    assert "cameras" not in scene.node.health.warnings


def test_malformed_images_cost_their_camera_alone(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    scene = vggt()
    depths = Depths(ros, scene)
    scene.show(0)
    bad = malformed_images(room.colour(0))[0]
    bad.header.stamp.nanosec = PERIOD_NS
    scene.poses(1)
    scene.rig.publish("front", bad)
    scene.show(1, ("left", "right"), tf=False)
    assert depths.counts() == [2, 1, 2]
    assert scene.node.health.drops() == {"bad_image": 1}
    assert "front: expected an encoding" in scene.node.health.report().values["last error receive"]


def test_images_that_change_their_size(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    scene = vggt()
    depths = Depths(ros, scene)
    scene.show(0)

    def show_half(index: int) -> None:
        scene.poses(index)
        images = {name: room.colour(room.index(name, index % 4)) for name in CAMERAS}
        images["front"] = images["front"][::2, ::2]
        scene.rig.send(images, index)
        scene.rig.done()

    show_half(1)
    assert depths.counts() == [2, 1, 2]
    assert "for 80x60 pixels, found one for 160x120" in scene.node.health.warnings["cameras"]
    scene.rig.info("front", np.diag([0.5, 0.5, 1]) @ room.frames["K"][room.index("front", 0)], 80, 60)
    show_half(2)
    # The disparity in the file has the old size: again this camera alone is left out.
    assert depths.counts() == [3, 1, 3]
    assert "front: expected floating-point disparity (60, 80)" in scene.node.health.warnings["views"]
    scene.show(3)
    assert depths.counts() == [4, 2, 4]
    assert all(depths.good(name, 3) for name in CAMERAS)


def test_a_pose_that_jumps(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    scene = vggt()
    depths = Depths(ros, scene)
    scene.show(0)
    scene.show(1)
    wrong = np.array(room.frames["T_wc"][room.index("front", 2)], np.float64)
    wrong[:3, 3] += (3, 0, 0)
    scene.poses(2, {"front": wrong})
    scene.show(2, tf=False)
    assert "front: expected a camera that moves at most 1" in scene.node.health.warnings["views"]
    assert scene.node.health.report().values["depth left"].startswith("fused")
    scene.show(3)
    assert depths.good("front", 3)
    assert "views" not in scene.node.health.warnings
    points = scene.node._shared.pipeline.map.surface().positions.numpy()
    assert (room.distance(points) < -0.3).mean() < 1e-3  # nothing lies outside of the room, where it was said to be


def test_depth_of_nothing(ros: Any, vggt: Callable[..., Any], disparities: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disparities"
    shutil.copytree(disparities, folder)
    np.save(folder / "front" / f"{START_NS + PERIOD_NS}.npy", np.full((120, 160), np.nan, np.float32))
    (folder / "left" / f"{START_NS + PERIOD_NS}.npy").write_bytes(b"no array")
    scene = vggt(depth_folder=folder)
    depths = Depths(ros, scene)
    scene.show(0)
    scene.show(1)
    assert depths.counts() == [1, 1, 2]
    assert "front: " in scene.node.health.warnings["views"]
    assert "left: expected a disparity image" in scene.node.health.warnings["views"]
    scene.show(2)
    assert depths.counts() == [2, 2, 3]
    assert all(depths.good(name, 2) for name in CAMERAS)


def test_without_tf_nothing_is_metric_and_diagnostics_say_why(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt(pose_source="tf", start_patience=0.0, diagnostics_period=0.0)
    scene.node.health.stall_s = 0.2
    metric, unscaled = Depths(ros, scene), Depths(ros, scene, "unscaled_depth")
    poses = ros.listen(PoseArray, "/vggt/poses")
    for index in range(4):
        scene.show(index, tf=False)
    report = scene.node.health.report()
    assert "stuck at infer" in report.message
    assert "expected tf of at least 2 cameras for the scale, found 0" in report.message
    assert "expected a transform of 'map', found frames none" in report.message
    assert report.values["reconstruction"] == "empty"
    assert metric.counts() == unscaled.counts() == [0, 0, 0]
    assert not poses
    for index in (4, 5):
        scene.show(index)
    assert metric.counts() == [2, 2, 2]
    assert scene.node.health.report().values["scale"] == "m by baselines"


def test_the_first_bootstrap_waits_for_tf(ros: Any, vggt: Callable[..., Any]) -> None:
    scene = vggt(start_patience=20.0)
    depths = Depths(ros, scene)
    scene.show(0, tf=False)
    assert "the first bootstrap waits for left: no pose: " in scene.node.health.warnings["views"]
    scene.show(1)
    assert depths.counts() == [1, 1, 1]
    assert scene.node._shared.pipeline.scale.metric


def test_without_tf_the_scale_is_arbitrary_and_says_so(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    scene = vggt(start_patience=0.0)
    metric, unscaled = Depths(ros, scene), Depths(ros, scene, "unscaled_depth")
    poses = ros.listen(PoseArray, "/vggt/poses")
    clouds = ros.listen(PointCloud2, "/vggt/points", latched_qos())
    scene.show(0, tf=False)
    scene.show(0 + 4, tf=False)  # the same step: a rig without tf is taken to stand still
    assert metric.counts() == [0, 0, 0]
    assert unscaled.counts() == [2, 2, 2]
    assert "the scale is arbitrary for want of tf" in scene.node.health.warnings["scale"]
    assert scene.node.health.report().values["scale"] == "arbitrary units by arbitrary"
    assert poses[-1].header.frame_id == "vggt"
    assert ros.until(lambda: clouds and clouds[-1].width)
    assert clouds[-1].header.frame_id == "vggt"
    frame = room.index("left", 0)
    error = np.abs(image_view(unscaled.got["left"][-1]) / 0.37 - room.static_depth[frame])[room.still(frame)]
    assert np.nanmedian(error) <= BOUND_M
    lookup, asked = scene.node._buffer.lookup, []
    scene.node._buffer.lookup = lambda *a: (asked.append(a), lookup(*a))[1]
    scene.show(5)  # tf has come, but a map does not change its unit
    assert not asked  # nor does anything wait for poses that are of no use
    assert metric.counts() == [0, 0, 0]
    assert scene.call("reset").success
    scene.show(6)
    assert metric.counts() == [1, 1, 1]
    assert "scale" not in scene.node.health.warnings


def test_a_camera_without_tf_is_left_out_of_a_metric_map(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    scene = vggt(tf_timeout=0.0)
    depths = Depths(ros, scene)
    scene.show(0)
    for name in ("left", "right"):
        scene.rig.transform("map", f"{name}_optical", room.frames["T_wc"][room.index(name, 1)], 1)
    scene.show(1, tf=False)
    assert depths.counts() == [2, 1, 2]
    assert "front: no pose: expected 'map' <- 'front_optical' at " in scene.node.health.warnings["views"]
    assert "found the newest 0.050 s before it" in scene.node.health.warnings["views"]


@pytest.mark.parametrize("reset", [True, False])
def test_time_that_jumps_back(ros: Any, vggt: Callable[..., Any], reset: bool) -> None:
    scene = vggt(reset_on_time_jump=reset)
    depths = Depths(ros, scene)
    for index in (100, 101):
        scene.show(index)
    before = scene.node.health.report().values["last bootstrap"]
    scene.show(0)  # tf goes back with the images
    scene.show(1)
    assert depths.counts() == [4, 4, 4]
    assert all(depths.good(name, 1) for name in CAMERAS)
    assert scene.node.health.drops()["time_jump_back"] >= 1
    after = scene.node.health.report().values["last bootstrap"]
    assert (before != after) == reset
    assert "there was no bootstrap yet" in after


def test_another_type_of_topic_is_told(ros: Any, room: Room) -> None:
    from vggt_ros.node import VggtNode

    publisher = ros.listener.create_publisher(CompressedImage, "/vggt/left/image", image_input_qos())
    node = ros.start(VggtNode, False, bootstrap_file=room.folder / "vggt_like.npz", cameras=list(CAMERAS))
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "inactive"
    assert "cannot activate: RCLError" in node.health.warnings["lifecycle"]
    ros.listener.destroy_publisher(publisher)
    assert node.trigger_activate().name == "SUCCESS", node.health.warnings
    assert "nobody publishes /vggt/left/image" in node.health.report().values["camera left"]


def test_a_lens_that_bends_is_undone_before_anything_else(ros: Any, vggt: Callable[..., Any], room: Room) -> None:
    """The room seen through a lens: its images are made by undoing the opposite, and come back nearly as they were."""
    import cv2

    scene = vggt(info=False, rectified=False, pose_source="tf")
    bend = np.array([0.08, -0.02, 0.001, -0.001, 0.0])
    matrix = room.frames["K"][0].astype(np.float64)
    seen: list[np.ndarray] = []
    step = scene.node._shared.pipeline.step
    scene.node._shared.pipeline.step = lambda views, *a, **k: (
        seen.extend(v.image for v in views),
        step(views, *a, **k),
    )[1]
    grid = np.stack(np.meshgrid(np.arange(160.0), np.arange(120.0)), -1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(grid, matrix, bend, P=matrix).reshape(120, 160, 2).astype(np.float32)
    scene.poses(0)
    images = {}
    for name in CAMERAS:
        scene.rig.info(name, matrix, 160, 120, d=bend.tolist())
        images[name] = cv2.remap(room.colour(room.index(name, 0)), ideal, None, cv2.INTER_LINEAR)
    scene.rig.send(images, 0)
    scene.rig.done()
    assert len(seen) == 3
    inside = np.s_[15:-15, 20:-20]
    for name, image in zip(CAMERAS, seen):
        truth = room.colour(room.index(name, 0)).astype(int)
        after, before = np.abs(image - truth)[inside].mean(), np.abs(images[name] - truth)[inside].mean()
        assert after < 0.6 * before
    scene.rig.info("front", matrix, 160, 120, d=bend.tolist(), distortion_model="fun_house")
    scene.poses(1)
    scene.rig.send(images, 1)
    scene.rig.done()
    assert "front: expected a distortion model" in scene.node.health.warnings["views"]


def test_the_newest_set_waits_while_a_step_runs(ros: Any, vggt: Callable[..., Any]) -> None:
    import time

    scene = vggt()
    scene.show(0)
    step = scene.node._shared.pipeline.step
    scene.node._shared.pipeline.step = lambda *a, **k: (time.sleep(0.3), step(*a, **k))[1]
    scene.poses(3)
    rig: CameraRig = scene.rig
    for index in (1, 2, 3):
        rig.send({name: scene.room.colour(scene.room.index(name, index)) for name in CAMERAS}, index)
        ros.spin(0.05)
    rig.done()
    assert scene.node.health.drops()["match_queue_full"] >= 1
