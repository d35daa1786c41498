# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Images and something that tells the object apart in, mattes out: command `vitmatte_node`.

| topic | type | |
|---|---|---|
| `~/image` | sensor_msgs/Image, any encoding and size; or CompressedImage | in |
| `~/trimap`, `~/mask`, `~/probability` or `~/depth` | sensor_msgs/Image of one channel; which one: `guidance` | in |
| `~/alpha` | sensor_msgs/Image, mono8 (0 .. 255) or 32FC1 (0 .. 1) | out |
| `~/foreground` | sensor_msgs/Image, bgra8: the object with its own colours, cut out | out, while subscribed |
| `~/used_trimap` | sensor_msgs/Image, mono8: 0 background, 128 unknown, 255 foreground | out, while subscribed |
| `~/composite` | sensor_msgs/Image, bgr8: the object on green, for people | out, while subscribed |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

Stamp and frame of every output are those of the image. With `sync` "approximate" an image waits for the guidance whose
stamp is nearest within `sync_slop`; with "latest" it takes the newest guidance at once, whose unknown band grows with
its age, up to `max_guidance_age`: for segmentation that is slower than the camera.

An image whose trimap leaves nothing unknown needs no network: its alpha is the trimap.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.image_node import ImageArrival, ImageNode
from aot_runtime.ros.messages import image_to_array, stamp_to_ns, to_image
from aot_runtime.ros.node import run_node
from aot_runtime.ros.parameters import declare_table
from aot_runtime.ros.qos import image_input_qos, overridable
from aot_runtime.ros.sync import Synchronizer
from vitmatte_ros.foreground import alpha_to_bytes, composite, cut_out, estimate_foreground
from vitmatte_ros.guidance import Guide
from vitmatte_ros.parameters import TABLE, read_parameters
from vitmatte_ros.pipeline import MattePipeline, MatteResult
from vitmatte_ros.trimap import UNKNOWN

USAGE = """\
usage: vitmatte_node --ros-args -p artifact:=MODEL.pt2 [-p guidance:=mask] [-r "~/image:=/camera/image_raw"]
                     [-r "~/mask:=/segmentation/mask"] [--params-file vitmatte.yaml] ...

Mattes of images: ~/alpha, ~/foreground. Guidance is a trimap, a mask, a probability or a depth image.
All parameters with their meaning and range: config/vitmatte.yaml, or: ros2 param describe /vitmatte NAME
"""
GREEN = np.array([64, 177, 0], np.uint8)
"""BGR of what lies behind `~/composite`."""
GUIDANCE_PATIENCE_S = 2.0
"""Without guidance for so long, images that arrive are worth a warning."""


class VitMatteNode(ImageNode):
    """The lifecycle node; see the module's docstring for its topics and config/vitmatte.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("vitmatte", **kwargs)
        declare_table(self, TABLE)
        self._pipeline: MattePipeline | None = None
        self._guidance_input: Any = None
        self._seen: dict[str, str] = {}

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        self._settings = settings = read_parameters(self)
        self._guide = Guide(settings.options)
        self._pipeline = pipeline = MattePipeline(
            settings.artifact,
            settings.device,
            clamp_known=settings.clamp_known,
            max_pixels=settings.max_pixels,
            overlap=settings.overlap,
            margin=settings.margin,
            cuda_graph=settings.cuda_graph,
            allow_list=settings.allow_list or None,
            self_test=False,
        )
        height, width = pipeline.largest
        size = f"of up to {width}x{height}" if pipeline.size is None else f"of {width}x{height}, or tiles of that size"
        self.introduce(pipeline.model, f"images {size} and ~/{settings.options.kind} -> ~/alpha")
        self.prepare_images()
        self.health.add_details(lambda: self._seen)
        for name in ("alpha", "foreground", "used_trimap", "composite"):
            self.add_output(name, Image)

    def activate_family(self) -> None:
        assert self._pipeline is not None
        pipeline, settings = self._pipeline, self._settings
        pipeline.model.self_test()
        height, width = pipeline.size or (256, 256)
        blank, unknown = np.zeros((height, width, 3), np.uint8), np.full((height, width), UNKNOWN, np.uint8)
        self.warm_up(lambda: pipeline.process(blank, unknown))
        self._guide.reset()
        self._guide_epoch = -1
        self._skipped = 0
        self._seen = {"guidance": "none yet"}
        self._sync: Synchronizer[Any] = Synchronizer(
            ("image", "guidance"), round(settings.sync_slop * 1e9), depth=settings.sync_depth
        )
        self._latest: tuple[int, Any] | None = None
        self._guided = time.monotonic()
        self.health.count_drops_of(self._sync_drops)
        self._guidance_input = self.create_subscription(
            Image,
            f"~/{settings.options.kind}",
            self._on_guidance,
            image_input_qos(),
            qos_overriding_options=overridable(),
        )
        self.open_images(settings.image_transport, settings.num_threads)

    def deactivate_family(self) -> None:
        self.close_images()
        if self._guidance_input is not None:
            self.destroy_subscription(self._guidance_input)
            self._guidance_input = None
            self.health.remove_drops_of(self._sync_drops)
        self.health.warnings.pop("guidance", None)

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def time_went_back(self) -> None:
        self._sync.clear()
        self._latest = None

    def image_arrived(self, item: ImageArrival) -> None:
        """An image meets its guidance, or waits for it."""
        self._tell_missing(time.monotonic() - self._guided > GUIDANCE_PATIENCE_S)
        if self._settings.sync == "approximate":
            self._meet("image", item.stamp_ns, item)
            return
        if self._latest is None:
            self.health.dropped("no_guidance")
            return
        stamp_ns, guidance = self._latest
        age_s = (item.stamp_ns - stamp_ns) * 1e-9
        if age_s > self._settings.max_guidance_age:
            self.health.dropped("old_guidance")
            self.warn_throttled("old_guidance", f"~/{self._settings.options.kind} is {age_s:.2f} s old: image dropped")
            return
        self.submit(replace(item, partner=(stamp_ns, guidance)))

    def _on_guidance(self, msg: Any) -> None:
        try:
            stamp_ns = stamp_to_ns(msg.header.stamp)
        except InputError as error:
            self.reject("bad_stamp", error)
            return
        self._guided = time.monotonic()
        if self._settings.sync == "approximate":
            self._meet("guidance", stamp_ns, msg)
        elif self._latest is None or stamp_ns >= self._latest[0]:
            self._latest = (stamp_ns, msg)
        else:
            self.health.dropped("guidance_out_of_order")

    def _meet(self, name: str, stamp_ns: int, item: Any) -> None:
        for match in self._sync.add(name, stamp_ns, item, time.monotonic_ns()):
            image, guidance = match.items["image"], match.items["guidance"]
            self.submit(replace(image.item, partner=(guidance.stamp_ns, guidance.item)))

    def _tell_missing(self, missing: bool) -> None:
        """Says in diagnostics and on the log that images come without guidance."""
        if not missing:
            self.health.warnings.pop("guidance", None)
            return
        text = f"images arrive, but no ~/{self._settings.options.kind}: check its topic, and the parameter 'guidance'"
        self.health.warnings["guidance"] = text
        self.health.failed("infer", text)
        self.warn_throttled("guidance", text)

    def _sync_drops(self) -> dict[str, int]:
        return {f"sync_{cause}": n for cause, n in self._sync.drops.items()}

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def process_image(self, item: ImageArrival) -> None:
        """One image: alpha first, then what is only for those who listen."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        image = image_to_array(item.msg, "rgb8")
        try:
            trimap = self._trimap(item, (image.shape[0], image.shape[1]))
        except InputError as error:
            self.reject("bad_guidance", error)
            return
        result = pipeline.process(image, trimap)
        for warning in result.warnings if result.windows else ():
            self.warn_throttled(warning.split(":")[0], warning)
        self.health.passed("infer")
        header = self.header_of(item, self._settings.frame_id)
        alpha = result.alpha if self._settings.alpha_encoding == "32FC1" else alpha_to_bytes(result.alpha)
        self.outputs["alpha"].publish(to_image(alpha, self._settings.alpha_encoding, header))
        self.told_published(item, (alpha.size, alpha.size))
        self._skipped += not result.windows
        self._seen = {
            "image [px]": f"{image.shape[1]}x{image.shape[0]}",
            "guidance": f"{(item.stamp_ns - item.partner[0]) * 1e-6:.1f} ms before the image",
            "windows": str(len(result.windows)),
            "images with nothing unknown": str(self._skipped),
        }
        self._publish_extras(image, result, header)

    def _trimap(self, item: ImageArrival, size: tuple[int, int]) -> np.ndarray:
        if item.epoch != self._guide_epoch:
            self._guide.reset()
            self._guide_epoch = item.epoch
        stamp_ns, msg = item.partner
        guidance = image_to_array(msg)
        guidance = np.ascontiguousarray(guidance, guidance.dtype.newbyteorder("="))
        age_s = max(0, item.stamp_ns - stamp_ns) * 1e-9 if self._settings.sync == "latest" else 0.0
        return self._guide.trimap(guidance, size, extra_width=round(age_s * self._settings.age_widening))

    def _publish_extras(self, image: np.ndarray, result: MatteResult, header: Header) -> None:
        if self.wanted("used_trimap"):
            self.outputs["used_trimap"].publish(to_image(result.trimap, "mono8", header))
        if not (self.wanted("foreground") or self.wanted("composite")):
            return
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        colours = estimate_foreground(bgr, result.alpha, self._settings.foreground)
        if self.wanted("foreground"):
            cut = cut_out(colours, result.alpha, premultiplied=self._settings.premultiplied)
            self.outputs["foreground"].publish(to_image(cut, "bgra8", header))
        if self.wanted("composite"):
            self.outputs["composite"].publish(to_image(composite(colours, result.alpha, GREEN), "bgr8", header))


def main(argv: Sequence[str] | None = None) -> int:
    """Command `vitmatte_node`."""
    return run_node(VitMatteNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
