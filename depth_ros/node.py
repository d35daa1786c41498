# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""RGB images in, depth out: command `depth_node`.

| topic | type | |
|---|---|---|
| `~/image` | sensor_msgs/Image, any encoding; or CompressedImage | in |
| `~/camera_info` | sensor_msgs/CameraInfo | in, optional; also one that is published once and latched |
| `~/depth` | sensor_msgs/Image, 32FC1, metres, NaN = invalid | out, if the artifact's depth is metric |
| `~/relative_depth` | sensor_msgs/Image, 32FC1, larger is nearer | out, if it is relative (or disparity in pixels) |
| `~/depth/camera_info` | sensor_msgs/CameraInfo of the published grid | out, of either, when the camera is known |
| `~/points` | sensor_msgs/PointCloud2, organised, x y z [rgb] | out, metric only; computed only while subscribed |
| `~/depth_image` | sensor_msgs/Image, bgr8 | out; computed only while subscribed |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

Stamp and frame of every output are those of the image. An image is paired with the camera_info of the same stamp if
that has come, else with the latest one: a camera's matrix is constant as a rule, and waiting would cost latency.

Two threads: the executor only takes messages, one worker decodes, infers and publishes. Only the newest image waits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.clouds import to_cloud
from aot_runtime.ros.diagnostics import count_finite
from aot_runtime.ros.messages import image_to_array, ns_to_stamp, stamp_to_ns, to_image
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.node import run_node
from aot_runtime.ros.qos import image_input_qos, latched_qos, no_complaints, overridable
from aot_runtime.ros.worker import Worker
from depth_ros.camera import Camera, camera_from_info
from depth_ros.camera_infos import CameraInfos, info_of_camera
from depth_ros.parameters import declare_parameters, read_parameters
from depth_ros.pictures import colour_depth
from depth_ros.pipeline import DepthResult, ImageDepthPipeline
from depth_ros.points import PointMaker

USAGE = """\
usage: depth_node --ros-args -p artifact:=MODEL.pt2 [-r ~/image:=/camera/image_rect]
                  [-r ~/camera_info:=/camera/camera_info] [--params-file depth.yaml] ...

Computes depth of RGB images: ~/depth (metres) or ~/relative_depth, ~/points, ~/depth_image.
All parameters with their meaning and range: config/depth.yaml, or: ros2 param describe /depth NAME
"""
STAGES = ("receive", "infer", "publish")


@dataclass(frozen=True)
class _Arrival:
    msg: Any
    stamp_ns: int
    receive_ns: int


class DepthNode(ModelNode):
    """The lifecycle node; see the module's docstring for its topics and config/depth.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("depth", STAGES, **kwargs)
        declare_parameters(self)
        self._pipeline: ImageDepthPipeline | None = None
        self._worker: Worker[_Arrival] | None = None
        self._inputs: list[Any] = []
        self._infos = CameraInfos()
        self._sizes = ""

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        self._settings = settings = read_parameters(self)
        limit_threads(settings.num_threads)
        self._pipeline = pipeline = ImageDepthPipeline(
            settings.artifact,
            settings.device,
            output_resolution=settings.output_resolution,
            focal_baseline=settings.focal_baseline,
            max_range=settings.max_range,
            cuda_graph=settings.cuda_graph,
            allow_list=settings.allow_list or None,
            self_test=False,
        )
        self._guard = StampGuard(max_age_ns=round(self.value("max_input_age") * 1e9))
        self._topic = "depth" if pipeline.kind == "metric" else "relative_depth"
        resize = "fitted into" if pipeline.keep_aspect else "stretched to"
        self.introduce(
            pipeline.model,
            f"images {resize} {pipeline.width}x{pipeline.height} -> {pipeline.kind} depth on ~/{self._topic}",
        )
        self.health.count_drops_of(lambda: self._guard.counts)
        self.health.add_details(self._details)
        self.add_output(self._topic, Image)
        self.add_output("camera_info", CameraInfo, "~/depth/camera_info")
        self.add_output("depth_image", Image)
        if settings.points != "off":
            if pipeline.kind == "metric":
                self.add_output("points", PointCloud2)
            else:
                self.get_logger().info(f"no ~/points: {pipeline.kind} depth has no metres")

    def activate_family(self) -> None:
        assert self._pipeline is not None
        pipeline = self._pipeline
        pipeline.model.self_test()
        begin = time.monotonic()
        pipeline.process(np.zeros((pipeline.height, pipeline.width, 3), np.uint8))
        self.health.stall_s = max(3.0, 5 * (time.monotonic() - begin))
        self._guard.reset()
        self._infos = CameraInfos()
        self._points = PointMaker()
        self._threads_set = False
        self._worker = Worker("infer", self._infer, capacity=1, policy="drop_oldest", on_error=self._failed)
        self.health.count_drops_of(self._worker_drops)
        self._worker.start()
        kind = CompressedImage if self._settings.image_transport == "compressed" else Image
        qos = image_input_qos()
        self._inputs = [
            self.create_subscription(
                CameraInfo, "~/camera_info", self._infos.add, qos, qos_overriding_options=overridable()
            ),
            # A publisher that latches has perhaps published already.
            self.create_subscription(
                CameraInfo, "~/camera_info", self._infos.add, latched_qos(), event_callbacks=no_complaints()
            ),
            self.create_subscription(kind, "~/image", self._on_image, qos, qos_overriding_options=overridable()),
        ]
        self.watch_time(self._restart_input)

    def deactivate_family(self) -> None:
        self.unwatch_time()
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._worker is not None:
            if not self._worker.stop():
                self.get_logger().error("the thread 'infer' did not end within 10 s")
            self.health.remove_drops_of(self._worker_drops)
            self._worker = None
        self.health.warnings.pop("camera", None)

    def cleanup_family(self) -> None:
        self.health.forget_sources()
        self.remove_outputs()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self.forget_model()

    def _worker_drops(self) -> dict[str, int]:
        worker = self._worker
        return {f"image_{cause}": n for cause, n in worker.drops.items()} if worker is not None else {}

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _on_image(self, msg: Any) -> None:
        receive_ns, now_ns = time.monotonic_ns(), self.now_ns()
        try:
            stamp_ns = stamp_to_ns(msg.header.stamp)
        except InputError as error:
            self.health.received()
            self.reject("bad_stamp", error)
            return
        age_s = (now_ns - stamp_ns) * 1e-9
        self.health.received(age_s)
        if self._guard.late(stamp_ns, now_ns):
            self.warn_throttled("late", f"input is {age_s:.3f} s old: dropped")
            return
        if self._guard.jumped_back(stamp_ns):
            self._infos.forget_stamps()
        if self._worker is not None:
            self._worker.submit(_Arrival(msg, stamp_ns, receive_ns))

    def _restart_input(self) -> None:
        self._guard.reset()
        self._infos.forget_stamps()
        if self._worker is not None:
            self._worker.clear("time_jump")

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _infer(self, item: _Arrival) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        if not self._threads_set:
            limit_threads(self._settings.num_threads)
            self._threads_set = True
        image = image_to_array(item.msg, "rgb8")
        result = pipeline.process(image)
        for warning in result.warnings:
            self.warn_throttled(warning.split(":")[0], warning)
        self.health.passed("infer")
        header = Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=self._settings.frame_id or item.msg.header.frame_id)
        self.outputs[self._topic].publish(to_image(result.depth, "32FC1", header))
        self.health.published(
            latency_from_stamp_s=(self.now_ns() - item.stamp_ns) * 1e-9,
            latency_from_receive_s=(time.monotonic_ns() - item.receive_ns) * 1e-9,
            finite=count_finite(result.depth),
        )
        self._sizes = f"{image.shape[1]}x{image.shape[0]} -> {result.depth.shape[1]}x{result.depth.shape[0]}"
        camera = self._camera(item.stamp_ns, image.shape[1], image.shape[0])
        if camera is not None:
            self._publish_geometry(result, camera.on(result.grid), image, header)
        if self.wanted("depth_image"):
            picture = colour_depth(result.depth, result.valid, result.kind)
            self.outputs["depth_image"].publish(to_image(picture, "bgr8", header))

    def _camera(self, stamp_ns: int, width: int, height: int) -> Camera | None:
        """The image's camera, or None with a warning where a warning is due."""
        info = self._infos.of(stamp_ns)
        if info is None:
            if self.wanted("points") or self.wanted("camera_info"):
                self._complain("no camera_info yet: neither points nor camera_info are published")
            return None
        try:
            camera = camera_from_info(info, width, height, rectified=self._settings.rectified)
        except InputError as error:
            self._complain(f"camera_info is of no use: {error}")
            return None
        self.health.warnings.pop("camera", None)
        return camera

    def _complain(self, text: str) -> None:
        self.health.warnings["camera"] = text
        self.warn_throttled("camera", text)

    def _publish_geometry(self, result: DepthResult, camera: Camera, image: np.ndarray, header: Header) -> None:
        """The published grid's camera_info, and the points."""
        height, width = result.depth.shape
        self.outputs["camera_info"].publish(info_of_camera(camera, width, height, header))
        if not self.wanted("points"):
            return
        coloured = self._settings.points == "xyzrgb"
        try:
            cloud = self._points.points(result.depth, camera, image if coloured else None)
        except InputError as error:
            self._complain(f"no points: {error}")
            return
        fields = ("x", "y", "z", "rgb") if coloured else ("x", "y", "z")
        dense = bool(result.valid.all())
        self.outputs["points"].publish(to_cloud(cloud, fields, header, dense=dense))

    def _failed(self, item: _Arrival, error: Exception) -> None:
        if isinstance(error, InputError):
            self.reject("bad_image", error)
            return
        reason = f"{type(error).__name__}: {error}"
        self.health.dropped("image_failed")
        self.health.failed("infer", reason)
        self.warn_throttled("infer", f"image dropped: {reason}")

    def _details(self) -> dict[str, str]:
        return {"image -> depth [px]": self._sizes or "none yet", "camera_info": self._infos.source}


def main(argv: Sequence[str] | None = None) -> int:
    """Command `depth_node`."""
    return run_node(DepthNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
