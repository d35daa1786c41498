# SPDX-License-Identifier: Apache-2.0
"""vggt_node in the synthetic room: depth within the bound, the map kept, poses and points where they belong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from geometry_msgs.msg import PoseArray, PoseStamped
from ros_images import PERIOD_NS, START_NS
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from synthetic_room import CAMERAS, Room

from aot_runtime.ros.messages import image_view, stamp_to_ns
from aot_runtime.ros.qos import latched_qos
from aot_runtime.transforms import to_matrix

BOUND_M = 0.03


def pose_matrix(pose: Any) -> np.ndarray:
    place, turn = pose.position, pose.orientation
    return to_matrix((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))


def cloud_points(cloud: PointCloud2) -> np.ndarray:
    """(N, 5) float32."""
    return np.frombuffer(cloud.data.tobytes(), np.float32).reshape(-1, 5)


def depth_error(room: Room, name: str, step: int, msg: Image) -> float:
    """Median over the static pixels, metres."""
    frame = room.index(name, step)
    error = np.abs(image_view(msg) - room.static_depth[frame])
    return float(np.nanmedian(error[room.still(frame)]))


@pytest.mark.parametrize("fusion", ["surfel", "tsdf"])
def test_the_room_within_the_bound(ros: Any, vggt: Callable[..., Any], room: Room, fusion: str) -> None:
    scene = vggt(fusion=fusion, points_rate=20.0)
    depths = {name: ros.listen(Image, f"/vggt/depth/{name}") for name in CAMERAS}
    unscaled = ros.listen(Image, "/vggt/unscaled_depth/left")
    infos = ros.listen(CameraInfo, "/vggt/depth/front/camera_info")
    poses, pose = ros.listen(PoseArray, "/vggt/poses"), ros.listen(PoseStamped, "/vggt/pose/right")
    clouds = ros.listen(PointCloud2, "/vggt/points", latched_qos())
    assert ros.until(lambda: scene.node.wanted("points") and scene.node.wanted("depth/right"))
    scene.show(0)
    assert ros.until(lambda: len(depths["right"]) == 1 and clouds and clouds[-1].width)
    boot = cloud_points(clouds[-1])
    for index in (1, 2, 3):
        scene.show(index)
    assert ros.until(lambda: all(len(got) == 4 for got in depths.values()) and len(poses) == 4)
    errors = [depth_error(room, name, step, depths[name][step]) for name in CAMERAS for step in (1, 2, 3)]
    assert np.mean(errors) <= BOUND_M
    # At a bootstrap it is the map's own, which has the network's error.
    assert depth_error(room, "front", 0, depths["front"][0]) <= BOUND_M
    assert not unscaled
    for step, (msg, info) in enumerate(zip(depths["front"], infos)):
        assert stamp_to_ns(msg.header.stamp) == START_NS + step * PERIOD_NS
        assert (msg.header, msg.header.frame_id) == (info.header, "front_optical")
        assert (msg.width, msg.height, msg.encoding, info.width, info.height) == (160, 120, "32FC1", 160, 120)
        assert info.k.reshape(3, 3) == pytest.approx(room.frames["K"][room.index("front", 0)])
    assert poses[3].header.frame_id == "map"
    assert stamp_to_ns(poses[3].header.stamp) == START_NS + 3 * PERIOD_NS
    for name, found in zip(CAMERAS, poses[3].poses):
        assert pose_matrix(found) == pytest.approx(room.frames["T_wc"][room.index(name, 3)], abs=1e-6)
    assert pose[3].pose == poses[3].poses[2]
    before = len(clouds)
    assert ros.until(lambda: len(clouds) > before or scene.node._clouds.up_to_date)
    ros.spin(0.2)
    last = clouds[-1]
    assert last.header.frame_id == "map"
    assert [field.name for field in last.fields] == ["x", "y", "z", "rgb", "confidence"]
    points = cloud_points(last)
    assert np.isfinite(points).all()
    assert len(points) > 5000
    assert np.median(np.abs(room.distance(points[:, :3]))) < 0.02
    # The map of the bootstrap is still there: nearly all of its points have one near them.
    some = boot[:: len(boot) // 200, :3]
    apart = [np.linalg.norm(points[:, :3] - place, axis=1).min() for place in some]
    assert np.quantile(apart, 0.9) < 0.05
    assert scene.node.health.drops() == {}
    assert "views" not in scene.node.health.warnings
    values = scene.node.health.report().values
    assert values["reconstruction"] == "streaming"
    assert values["scale"] == "m by baselines"
    assert float(values["scale factor"].split()[0]) == pytest.approx(1 / 0.37, rel=5e-3)
    assert "of left, front, right: there was no bootstrap yet" in values["last bootstrap"]
    assert values["depth left"].startswith("fused; scale ")
    assert "inliers" in values["depth left"]
