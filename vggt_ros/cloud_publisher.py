# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Publishes a map as point clouds, in a thread of its own, at a bounded rate and only while somebody subscribes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from aot_runtime.ros.clouds import to_cloud
from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.qos import latched_qos
from aot_runtime.ros.worker import Worker
from vggt_ros.point_stream import FIELDS, PointStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from aot_runtime.ros.model_node import ModelNode
    from vggt_ros.parameters import VggtSettings
    from vggt_ros.shared_map import SharedMap


class CloudPublisher:
    """Works from construction until `close`.

    Args:
        node: has the output "points".
        shared: the map.
        frame: the frame of points, by whether the world is tf's.
    """

    def __init__(
        self, node: ModelNode, shared: SharedMap, settings: VggtSettings, frame: Callable[[bool], str]
    ) -> None:
        self._node, self._shared, self._frame = node, shared, frame
        self._deltas = settings.points_mode == "deltas"
        self._stream = PointStream(settings.voxel_size, settings.min_confidence, settings.max_points)
        self._version = self._generation = -1
        # Counts, not flags: the executor's thread raises one while the other one may be at work.
        self._subscribers = self._joined = self._served = 0
        self._sent = 0
        self._worker: Worker[None] = Worker("points", self._publish, on_error=self._failed)
        self._worker.start()
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(1 / settings.points_rate, self._ask, clock=clock)

    def close(self) -> None:
        """Ends the thread after the cloud in work."""
        self._node.destroy_timer(self._timer)
        if not self._worker.stop():
            self._node.get_logger().error("the thread 'points' did not end within 10 s")

    @property
    def up_to_date(self) -> bool:
        """Whether the last cloud shows the map as it is."""
        return self._version == self._shared.version

    def details(self) -> dict[str, str]:
        """What diagnostics say."""
        return {"points": f"{self._sent} in the last cloud, {self._stream.left_out} left out"}

    def _ask(self) -> None:
        """A cloud is due if the map has changed, or somebody has come who has not seen it. Executor's thread."""
        subscribers = self._node.outputs["points"].get_subscription_count()
        self._joined += subscribers > self._subscribers
        self._subscribers = subscribers
        if subscribers and (self._joined != self._served or not self.up_to_date):
            self._worker.submit(None)

    def _publish(self, _: None) -> None:
        shared, joined = self._shared, self._joined
        with shared.alone() as pipeline:
            version, generation, stamp_ns = shared.version, shared.generation, shared.stamp_ns
            anchored, surface = pipeline.scale.anchored, pipeline.map.surface()
        whole = not self._deltas or generation != self._generation or joined != self._served
        points = self._stream.whole(surface) if whole else self._stream.new(surface)
        self._version, self._generation, self._served = version, generation, joined
        if not len(points) and (not whole or not self._sent):
            return  # an empty cloud only tells that the points of the last one are gone
        header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=self._frame(anchored))
        self._node.outputs["points"].publish(to_cloud(points, FIELDS, header, dense=True))
        self._sent = len(points)

    def _failed(self, _: None, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._node.health.dropped("points_failed")
        self._node.health.failed("publish", reason)
        self._node.warn_throttled("points", f"no cloud: {reason}")


def add_points_output(node: ModelNode) -> None:
    """Makes the output "points": latched, so that who comes later sees the last cloud."""
    node.add_output("points", PointCloud2, qos=latched_qos())
