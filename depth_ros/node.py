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
from collections.abc import Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from aot_runtime.camera import Camera, camera_from_info
from aot_runtime.errors import InputError
from aot_runtime.licences import is_noncommercial
from aot_runtime.ros.clouds import to_cloud
from aot_runtime.ros.diagnostics import count_finite
from aot_runtime.ros.image_node import ImageArrival, ImageNode
from aot_runtime.ros.messages import image_to_array, to_image
from aot_runtime.ros.model_node import limit_threads
from aot_runtime.ros.node import run_node
from aot_runtime.ros.parameters import declare_table
from aot_runtime.ros.qos import image_input_qos, latched_qos, no_complaints, overridable
from depth_ros.camera_infos import CameraInfos, info_of_camera
from depth_ros.parameters import TABLE, read_parameters
from depth_ros.pictures import colour_depth
from depth_ros.pipeline import DepthResult, ImageDepthPipeline
from depth_ros.points import PointMaker

USAGE = """\
usage: depth_node --ros-args -p artifact:=MODEL.pt2 [-r "~/image:=/camera/image_rect"]
                  [-r "~/camera_info:=/camera/camera_info"] [--params-file depth.yaml] ...

Computes depth of RGB images: ~/depth (metres) or ~/relative_depth, ~/points, ~/depth_image.
All parameters with their meaning and range: config/depth.yaml, or: ros2 param describe /depth NAME
"""


class DepthNode(ImageNode):
    """The lifecycle node; see the module's docstring for its topics and config/depth.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("depth", **kwargs)
        declare_table(self, TABLE)
        self._pipeline: ImageDepthPipeline | None = None
        self._info_inputs: list[Any] = []
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
        self._topic = "depth" if pipeline.kind == "metric" else "relative_depth"
        resize = "fitted into" if pipeline.keep_aspect else "stretched to"
        licence = pipeline.model.manifest.checkpoint.licence
        if is_noncommercial(licence):
            # No more than said: this node loaded them before there was a parameter to accept them.
            self.get_logger().warning(f"the weights are for non-commercial use only ({licence})")
        self.introduce(
            pipeline.model,
            f"images {resize} {pipeline.width}x{pipeline.height} -> {pipeline.kind} depth on ~/{self._topic}",
        )
        self.prepare_images()
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
        self.warm_up(lambda: pipeline.process(np.zeros((pipeline.height, pipeline.width, 3), np.uint8)))
        self._infos = CameraInfos()
        self._points = PointMaker()
        self._info_inputs = [
            self.create_subscription(
                CameraInfo, "~/camera_info", self._infos.add, image_input_qos(), qos_overriding_options=overridable()
            ),
            # A publisher that latches has perhaps published already.
            self.create_subscription(
                CameraInfo, "~/camera_info", self._infos.add, latched_qos(), event_callbacks=no_complaints()
            ),
        ]
        self.open_images(self._settings.image_transport, self._settings.num_threads)

    def deactivate_family(self) -> None:
        self.close_images()
        for subscription in self._info_inputs:
            self.destroy_subscription(subscription)
        self._info_inputs = []
        self.health.warnings.pop("camera", None)

    def time_went_back(self) -> None:
        self._infos.forget_stamps()

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def process_image(self, item: ImageArrival) -> None:
        """One image: depth first, then what is only for those who listen."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        image = image_to_array(item.msg, "rgb8")
        result = pipeline.process(image)
        for warning in result.warnings:
            self.warn_throttled(warning.split(":")[0], warning)
        self.health.passed("infer")
        header = self.header_of(item, self._settings.frame_id)
        self.outputs[self._topic].publish(to_image(result.depth, "32FC1", header))
        self.told_published(item, count_finite(result.depth))
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

    def _details(self) -> dict[str, str]:
        return {"image -> depth [px]": self._sizes or "none yet", "camera_info": self._infos.source}


def main(argv: Sequence[str] | None = None) -> int:
    """Command `depth_node`."""
    return run_node(DepthNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
