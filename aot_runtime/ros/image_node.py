# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What nodes fed by one image topic have in common: stamps, age, one worker, and what is dropped on the way."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.messages import ns_to_stamp, stamp_to_ns
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.qos import image_input_qos, overridable
from aot_runtime.ros.worker import Worker

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
        self._worker: Worker[ImageArrival] | None = None
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

    def warm_up(self, run: Callable[[], object]) -> None:
        """Runs the model once, and learns from the time that took how long silence may last before it is an error."""
        begin = time.monotonic()
        run()
        self.health.stall_s = max(3.0, 5 * (time.monotonic() - begin))

    def open_images(self, transport: str, num_threads: int) -> None:
        """Starts the worker and subscribes.

        Args:
            transport: "raw" or "compressed".
            num_threads: of the model on a CPU; 0 leaves them.
        """
        self._guard.reset()
        self._num_threads = num_threads
        self._threads_set = False
        self._worker = Worker("infer", self._work, capacity=1, policy="drop_oldest", on_error=self._failed)
        self.health.count_drops_of(self._worker_drops)
        self._worker.start()
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
            if not self._worker.stop():
                self.get_logger().error("the thread 'infer' did not end within 10 s")
            self.health.remove_drops_of(self._worker_drops)
            self._worker = None

    def submit(self, item: ImageArrival) -> None:
        """Gives an image to the worker, in whose queue it takes the place of the one that waits."""
        if self._worker is not None:
            self._worker.submit(item)

    def header_of(self, item: ImageArrival, frame_id: str = "") -> Header:
        """The image's stamp and frame, or the frame given."""
        return Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=frame_id or item.msg.header.frame_id)

    def told_published(self, item: ImageArrival, finite: tuple[int, int]) -> None:
        """Counts a published output; see `HealthMonitor.published`."""
        self.health.published(
            latency_from_stamp_s=(self.now_ns() - item.stamp_ns) * 1e-9,
            latency_from_receive_s=(time.monotonic_ns() - item.receive_ns) * 1e-9,
            finite=finite,
        )

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
            self._epoch += 1
            self.time_went_back()
        self.image_arrived(ImageArrival(msg, stamp_ns, receive_ns, self._epoch))

    def _start_anew(self) -> None:
        self._guard.reset()
        self._epoch += 1
        self.time_went_back()
        if self._worker is not None:
            self._worker.clear("time_jump")

    def _worker_drops(self) -> dict[str, int]:
        worker = self._worker
        return {f"image_{cause}": n for cause, n in worker.drops.items()} if worker is not None else {}

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _work(self, item: ImageArrival) -> None:
        if not self._threads_set:
            limit_threads(self._num_threads)
            self._threads_set = True
        self.process_image(item)

    def _failed(self, item: ImageArrival, error: Exception) -> None:
        if isinstance(error, InputError):
            self.reject("bad_image", error)
            return
        reason = f"{type(error).__name__}: {error}"
        self.health.dropped("image_failed")
        self.health.failed("infer", reason)
        self.warn_throttled("infer", f"image dropped: {reason}")
