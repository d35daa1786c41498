# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Images in, keypoints with descriptors out: command `aliked_node`.

| topic | type | |
|---|---|---|
| `~/image` | sensor_msgs/Image, any encoding and size; or CompressedImage | in |
| `~/keypoints` | sensor_msgs/PointCloud2: x, y [px of the image], score, descriptor[D]; falling peak score | out |
| `~/image_keypoints` | sensor_msgs/Image, bgr8: keypoints drawn, green strong, red weak | out |
| `~/tracks` | sensor_msgs/PointCloud2, its fields: `aliked_ros.clouds.TRACK_ROW` | out, with `track` |
| `~/image_tracks` | sensor_msgs/Image, bgr8: the way since the image before | out, with `track` |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

Stamp and frame of every output are those of the image. An image without keypoints gives an empty cloud, not silence.
Pictures and tracks are computed only while somebody subscribes. Tracks are matches with the image processed before; a
jump in time or another image size starts them anew.

One node serves one camera; more cameras are more nodes with names and remappings of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from aliked_ros.clouds import keypoint_rows, rows_to_cloud, track_rows
from aliked_ros.parameters import TABLE, read_parameters
from aliked_ros.pictures import keypoints_picture, tracks_picture
from aliked_ros.pipeline import AlikedPipeline, AlikedResult
from aliked_ros.tracking import Tracker
from aot_runtime.ros.image_node import ImageArrival, ImageNode
from aot_runtime.ros.messages import image_to_array, to_image
from aot_runtime.ros.node import run_node
from aot_runtime.ros.parameters import declare_table

USAGE = """\
usage: aliked_node --ros-args -p artifact:=MODEL.pt2 [-r "~/image:=/camera/image_raw"] [-p track:=true]
                   [--params-file aliked.yaml] ...

Finds keypoints in images: ~/keypoints, ~/image_keypoints, and with track ~/tracks, ~/image_tracks.
All parameters with their meaning and range: config/aliked.yaml, or: ros2 param describe /aliked NAME
"""


class AlikedNode(ImageNode):
    """The lifecycle node; see the module's docstring for its topics and config/aliked.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("aliked", **kwargs)
        declare_table(self, TABLE)
        self._pipeline: AlikedPipeline | None = None
        self._seen: dict[str, str] = {}

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        self._settings = settings = read_parameters(self)
        self._tracker = Tracker(
            min_similarity=settings.min_similarity,
            ratio=settings.ratio if settings.ratio < 1 else None,
            max_step=settings.max_step,
        )
        self._pipeline = pipeline = AlikedPipeline(
            settings.artifact,
            settings.device,
            threshold=settings.threshold,
            max_keypoints=settings.max_keypoints,
            resize=settings.resize == "fit",
            cuda_graph=settings.cuda_graph,
            allow_list=settings.allow_list or None,
            self_test=False,
        )
        count = settings.max_keypoints or pipeline.top_k
        self.introduce(
            pipeline.model,
            f"images of {pipeline.width}x{pipeline.height} -> up to {count} keypoints with descriptors of "
            f"{pipeline.descriptor_dim} on ~/keypoints",
        )
        self.prepare_images()
        self.health.add_details(lambda: self._seen)
        self.add_output("keypoints", PointCloud2)
        self.add_output("image_keypoints", Image)
        if settings.track:
            self.add_output("tracks", PointCloud2)
            self.add_output("image_tracks", Image)

    def activate_family(self) -> None:
        assert self._pipeline is not None
        pipeline = self._pipeline
        pipeline.model.self_test()
        self.warm_up(lambda: pipeline.process(np.zeros((pipeline.height, pipeline.width, 3), np.uint8)))
        self._tracker.reset()
        self._tracked_epoch = -1
        self._seen = {"image -> network [px]": "none yet"}
        self.open_images(self._settings.image_transport, self._settings.num_threads)

    def deactivate_family(self) -> None:
        self.close_images()

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def process_image(self, item: ImageArrival) -> None:
        """One image: keypoints first, then what is only for those who listen."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        image = image_to_array(item.msg, "rgb8")
        result = pipeline.process(image)
        for warning in result.warnings:
            self.warn_throttled(warning.split(":")[0], warning)
        self.health.passed("infer")
        header = self.header_of(item, self._settings.frame_id)
        self.outputs["keypoints"].publish(rows_to_cloud(keypoint_rows(result), header))
        self.told_published(item, (len(result), len(result) + result.not_finite))
        seen = {
            "image -> network [px]": f"{image.shape[1]}x{image.shape[0]} -> {pipeline.width}x{pipeline.height}",
            "keypoints": str(len(result)),
        }
        if self.wanted("image_keypoints"):
            picture = keypoints_picture(image[:, :, ::-1], result.keypoints, result.scores)
            self.outputs["image_keypoints"].publish(to_image(picture, "bgr8", header))
        if self._settings.track:
            seen["tracks"] = self._track(item, image, result, header)
        self._seen = seen

    def _track(self, item: ImageArrival, image: np.ndarray, result: AlikedResult, header: Header) -> str:
        """Publishes tracks and their picture; returns how many there are, for diagnostics."""
        if not (self.wanted("tracks") or self.wanted("image_tracks")):
            self._tracker.reset()  # the image before would not be the one before
            return "nobody subscribes"
        if item.epoch != self._tracked_epoch:
            self._tracker.reset()
            self._tracked_epoch = item.epoch
        tracks = self._tracker.update(result, image.shape[:2])
        if self.wanted("tracks"):
            self.outputs["tracks"].publish(rows_to_cloud(track_rows(tracks), header))
        if self.wanted("image_tracks"):
            picture = tracks_picture(image[:, :, ::-1], tracks.previous, tracks.keypoints)
            self.outputs["image_tracks"].publish(to_image(picture, "bgr8", header))
        return str(len(tracks))


def main(argv: Sequence[str] | None = None) -> int:
    """Command `aliked_node`."""
    return run_node(AlikedNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
