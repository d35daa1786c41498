# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What nodes fed by one image topic have in common: stamps, age, one worker, and what is dropped on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.model_node import ModelNode
from aot_runtime.ros.model_worker import ModelWorker
from aot_runtime.ros.qos import image_input_qos, overridable

STAGES = ("receive", "infer", "publish")


@dataclass(frozen=True)
class ImageArrival:
    """An image message that waits for its turn.

    Attributes:
        msg: sensor_msgs/Image or CompressedImage, not looked at so far except for its stamp.
        stamp_ns: its stamp.
        receive_ns: when it came, by the monotonic clock.
        epoch: grows whenever time jumps back; images of different epochs have nothing to do with each other.
        partner: the message of another topic that belongs to it, for nodes that wait for one.
    """

    msg: Any
    stamp_ns: int
    receive_ns: int
    epoch: int
    partner: Any = None


class ImageNode(ModelNode, ABC):
    """A `ModelNode` with `~/image` and a worker in front of the model, in which only the newest image waits.

    A subclass implements `process_image`, and perhaps `time_went_back` and `image_arrived`. It makes `_pipeline` and
    calls `prepare_images` when it configures, and `open_images` and `close_images` when it activates and deactivates.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, STAGES, **kwargs)
        self._pipeline: Any = None
        self._worker: ModelWorker[ImageArrival] | None = None
        self._subscription: Any = None
        self._epoch = 0

    @abstractmethod
    def process_image(self, item: ImageArrival) -> None:
        """Decodes, infers and publishes; in the worker's thread. An InputError rejects the image as "bad_image"."""

    def time_went_back(self) -> None:
        """Forgets what belongs to the images so far; in the executor's thread, before the first image after it."""

    def image_arrived(self, item: ImageArrival) -> None:
        """Takes an image whose stamp is good; in the executor's thread. Unless overridden, the worker gets it."""
        self.submit(item)

    def cleanup_family(self) -> None:
        """Undoes `configure_family`, which made `_pipeline` and the outputs."""
        self.health.forget_sources()
        self.remove_outputs()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self.forget_model()

    # -- for the subclass ----------------------------------------------------------------------------------------------

    def prepare_images(self) -> None:
        """Reads `max_input_age`, and counts late images and jumps in time; undone by `health.forget_sources`."""
        self._guard = StampGuard(max_age_ns=round(self.value("max_input_age") * 1e9))
        self.health.count_drops_of(lambda: self._guard.counts)

    def open_images(self, transport: str, num_threads: int) -> None:
        """Starts the worker and subscribes.

        Args:
            transport: "raw" or "compressed".
            num_threads: of the model on a CPU; 0 leaves them.
        """
        self._guard.reset()
        self._worker = ModelWorker(self, self.process_image, num_threads=num_threads)
        kind = CompressedImage if transport == "compressed" else Image
        self._subscription = self.create_subscription(
            kind, "~/image", self._on_image, image_input_qos(), qos_overriding_options=overridable()
        )
        self.watch_time(self._start_anew)

    def close_images(self) -> None:
        """Undoes `open_images`, also a half-done one."""
        self.unwatch_time()
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def submit(self, item: ImageArrival) -> None:
        """Gives an image to the worker, in whose queue it takes the place of the one that waits."""
        if self._worker is not None:
            self._worker.submit(item)

    def header_of(self, item: ImageArrival, frame_id: str = "") -> Header:
        """The image's stamp and frame, or the frame given."""
        return Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=frame_id or item.msg.header.frame_id)

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _on_image(self, msg: Any) -> None:
        arrival = self.admit(self._guard, msg)
        if arrival is None:
            return
        if arrival.jumped:
            self._epoch += 1
            self.time_went_back()
        self.image_arrived(ImageArrival(msg, arrival.stamp_ns, arrival.receive_ns, self._epoch))

    def _start_anew(self) -> None:
        self._guard.reset()
        self._epoch += 1
        self.time_went_back()
        if self._worker is not None:
            self._worker.clear("time_jump")
