# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What `vggt_node` publishes of a step: depth, poses, transforms. What is not metric never goes out as if it were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from aot_runtime.camera import Camera
from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.tf import TransformBroadcaster
from aot_runtime.transforms import TransformBuffer, to_parts
from depth_ros.camera_infos import info_of_camera

if TYPE_CHECKING:
    from aot_runtime.ros.camera_set import CameraMatch
    from aot_runtime.ros.model_node import ModelNode
    from vggt_ros.fusion.cameras import PosedCamera
    from vggt_ros.parameters import VggtSettings


class StepOutputs:
    """The publishers of a configured node, all but that of points.

    Args:
        node: makes them; `ModelNode.remove_outputs` destroys them.
        settings: names of cameras and frames.
    """

    def __init__(self, node: ModelNode, settings: VggtSettings) -> None:
        self._node = node
        self._settings = settings
        for name in settings.cameras:
            for kind in ("depth", "unscaled_depth"):
                node.add_output(f"{kind}/{name}", Image)
                node.add_output(f"{kind}/{name}/camera_info", CameraInfo)
            node.add_output(f"pose/{name}", PoseStamped)
        node.add_output("poses", PoseArray)

    def frame(self, anchored: bool) -> str:
        """The frame of points and poses, which given poses placed in the world or not."""
        return self._settings.world_frame if anchored else self._settings.unscaled_frame

    def depths(
        self,
        match: CameraMatch,
        depths: Mapping[str, np.ndarray],
        known: Mapping[str, Camera | None],
        found: Mapping[str, PosedCamera],
        *,
        metric: bool,
    ) -> tuple[int, int]:
        """Publishes depth (H, W) of the images' size, each with its camera.

        Args:
            depths: camera -> float32, NaN where unknown.
            known: what camera_info says of each.
            found: what the bootstrap says, for cameras without.
            metric: whether it is metres.

        Returns:
            (finite pixels, all pixels).
        """
        finite = pixels = 0
        kind = "depth" if metric else "unscaled_depth"
        for name, depth in depths.items():
            there = int(np.isfinite(depth).sum())
            finite, pixels = finite + there, pixels + depth.size
            if not there:
                continue
            item = match.items[name]
            header = Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=item.frame_id)
            outputs, height, width = self._node.outputs, depth.shape[0], depth.shape[1]
            camera = known[name] or _pinhole(found[name].matrix)
            info = info_of_camera(camera, width, height, header)
            outputs[f"{kind}/{name}/camera_info"].publish(info)
            outputs[f"{kind}/{name}"].publish(to_image(np.ascontiguousarray(depth, np.float32), "32FC1", header))
        return finite, pixels

    def poses(self, match: CameraMatch, found: Mapping[str, PosedCamera], *, anchored: bool) -> None:
        """Publishes where the cameras are, in the order of the parameter `cameras`."""
        frame = self.frame(anchored)
        poses = []
        for name in self._settings.cameras:
            if name not in found:
                continue
            pose = _pose(found[name].pose)
            stamp = ns_to_stamp(match.items[name].stamp_ns)
            self._node.outputs[f"pose/{name}"].publish(
                PoseStamped(header=Header(stamp=stamp, frame_id=frame), pose=pose)
            )
            poses.append(pose)
        header = Header(stamp=ns_to_stamp(match.stamp_ns), frame_id=frame)
        self._node.outputs["poses"].publish(PoseArray(header=header, poses=poses))


class CameraBroadcaster:
    """Publishes poses that are not of tf's world as transforms from the unscaled frame.

    A frame has one parent, so a camera whose frame already has one is left out: it has its place on a robot, and
    metric offsets there do not go with an arbitrary unit.

    Args:
        buffer: knows which frames have parents.
    """

    def __init__(self, node: ModelNode, buffer: TransformBuffer | None, frame: str) -> None:
        self._node = node
        self._buffer = buffer
        self._frame = frame
        self._own: set[str] = set()
        self._broadcaster = TransformBroadcaster(node)

    def close(self) -> None:
        """Destroys the publisher."""
        self._broadcaster.close()

    def send(self, match: CameraMatch, found: Mapping[str, PosedCamera]) -> None:
        """Publishes those that may be."""
        transforms = []
        for name, camera in found.items():
            child = match.items[name].frame_id.lstrip("/")
            problem = self._problem(child, name)
            if problem:
                self._node.warn_throttled(f"tf {name}", f"no transform of {name}: {problem}")
                continue
            self._own.add(child)
            transforms.append((self._frame, child, camera.pose))
        if transforms:
            self._broadcaster.send(transforms, match.stamp_ns)

    def _problem(self, child: str, name: str) -> str:
        if not child:
            return "its images have no frame_id"
        if child in self._own:
            return ""
        way = self._buffer.ancestors(child) if self._buffer is not None else (child,)
        if len(way) > 1:
            return f"its frame '{child}' has the parent '{way[1]}' already"
        return ""


def _pinhole(matrix: np.ndarray) -> Camera:
    return Camera.pinhole(*(float(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))))


def _pose(matrix: np.ndarray) -> Pose:
    pose = Pose()
    shift, turn = to_parts(matrix)
    pose.position.x, pose.position.y, pose.position.z = shift.tolist()
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = turn.tolist()
    return pose
