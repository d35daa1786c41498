# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Several cameras as one input: images that belong together, each with its calibration, in a thread of their own.

For every camera NAME the node subscribes to `~/NAME/image` (sensor_msgs/Image, or CompressedImage) and to
`~/NAME/camera_info`. Images are put together by their stamps (`sync.Synchronizer`); one that is late, malformed,
without camera_info or of another size than its camera_info is missing from the set, with the reason, and the others go
on without it. Nothing ever takes its place.

Two threads: the executor's takes messages, looks at what costs nothing (stamps, sizes) and puts sets together; the
worker's decodes and calls `on_match`. Only the newest set waits for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from aot_runtime.camera import Camera, Size
from aot_runtime.errors import InputError
from aot_runtime.ros.calibrations import Calibrations
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.messages import image_to_array, image_view, pixel_format
from aot_runtime.ros.model_node import ModelNode
from aot_runtime.ros.model_worker import ModelWorker
from aot_runtime.ros.qos import image_input_qos, latched_qos, no_complaints, overridable
from aot_runtime.ros.sync import Match, Synchronizer

CAMERA_STAGES = ("receive", "match", "infer", "publish")
"""Stages of a node with a `CameraSet`, which counts the first two; see `HealthMonitor`."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SILENT_S = 1.0


@dataclass(frozen=True)
class CameraArrival:
    """One camera's part of a set.

    Attributes:
        name: of the camera.
        image: (H, W, 3) uint8 RGB, perhaps a view of the message.
        camera: its calibration on the image's pixels; the same object as before while camera_info says the same. None
            if it is unknown and needs not be known.
        frame_id: of the image.
        stamp_ns: of the image; those of a set differ by up to the slop.
    """

    name: str
    image: np.ndarray
    camera: Camera | None
    frame_id: str
    stamp_ns: int

    @property
    def size(self) -> Size:
        """(width, height) of the image."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class CameraMatch:
    """Images that belong together.

    Attributes:
        stamp_ns: of the image that the others were compared with.
        receive_ns: when the last of them came, by the monotonic clock.
        epoch: grows whenever time jumps back; sets of different epochs have nothing to do with each other.
        items: by camera, in the order of the node's cameras.
        missing: cameras without an image in this set.
        reasons: why, by camera.
        resized: cameras whose images are of another size than their last one.
    """

    stamp_ns: int
    receive_ns: int
    epoch: int
    items: dict[str, CameraArrival]
    missing: tuple[str, ...]
    reasons: dict[str, str]
    resized: tuple[str, ...] = ()


@dataclass
class _Source:
    """A camera's subscriptions and what was seen of it."""

    guard: StampGuard
    calibrations: Calibrations
    subscriptions: list[Any]
    received: float = float("-inf")
    stamp_ns: int = 0
    size: Size | None = None
    matched: int = 0
    missed: int = 0
    malformed: str = ""
    missing: str = ""


class CameraSet:
    """The cameras of an active node; made when it activates, closed when it deactivates.

    Args:
        node: has the stages `CAMERA_STAGES` and the parameter `max_input_age`.
        names: of the cameras, as in topics.
        on_match: called with each set, in the worker's thread. An InputError rejects the set as "bad_match".
        slop_ns: largest distance between stamps of a set; below half the period of the slowest camera.
        patience_ns: how long an image waits for other cameras' before the set goes out without them.
        required: cameras without which there is no set.
        least: so many cameras are needed at least, of whatever name.
        transport: "raw" or "compressed".
        rectified: whether images are rectified, see `Camera`.
        calibrated: whether an image without camera_info is missing; else its camera is None.
        num_threads: of the model on a CPU in the worker's thread; 0 leaves them.
        depth: images that may wait per camera.
        on_jump: called in the executor's thread when time has gone back, with the stamp of the first image after it, or
            None if ROS time itself jumped.

    Raises:
        InputError: a name is no topic's name or occurs twice, or a number makes no sense.
    """

    def __init__(
        self,
        node: ModelNode,
        names: Sequence[str],
        on_match: Callable[[CameraMatch], None],
        *,
        slop_ns: int,
        patience_ns: int,
        required: Collection[str] = (),
        least: int = 1,
        transport: str = "raw",
        rectified: bool = True,
        calibrated: bool = True,
        num_threads: int = 0,
        depth: int = 10,
        on_jump: Callable[[int | None], None] | None = None,
    ) -> None:
        check_names(names)
        if not 1 <= least <= len(names):
            raise InputError(f"expected to need 1 to {len(names)} cameras, found {least}")
        if patience_ns <= 0:
            raise InputError(f"expected to wait more than 0 s for a camera, found {patience_ns * 1e-9} s")
        self._node = node
        self._on_match = on_match
        self._required = frozenset(required)
        self._least = least
        self._rectified = rectified
        self._calibrated = calibrated
        self._on_jump = on_jump
        self._epoch = 0
        self._began = self._together = self._resumed = time.monotonic()
        self._sync: Synchronizer[Any] = Synchronizer(
            names, slop_ns, depth=depth, required=required, patience_ns=patience_ns
        )
        self._worker: ModelWorker[tuple[int, Match[Any]]] = ModelWorker(
            node, self._work, num_threads=num_threads, noun="match"
        )
        age_ns = round(node.value("max_input_age") * 1e9)
        self._kind = CompressedImage if transport == "compressed" else Image
        self._sources = {name: _Source(StampGuard(max_age_ns=age_ns), Calibrations(), []) for name in names}
        node.health.count_drops_of(self._drops)
        node.watch_time(lambda: self._start_anew(None))
        self._timer = node.create_timer(
            max(0.005, patience_ns * 1e-9 / 4), self._poll, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        try:
            for name, source in self._sources.items():
                self._subscribe(name, source)
        except BaseException:  # a topic of another type in this process
            self.close()
            raise

    def _subscribe(self, name: str, source: _Source) -> None:
        node, infos = self._node, source.calibrations

        def on_image(msg: Any) -> None:
            self._image(name, msg)

        topic = f"~/{name}/camera_info"
        add = source.subscriptions.append
        options: dict[str, Any] = {"qos_profile": image_input_qos(), "qos_overriding_options": overridable()}
        add(node.create_subscription(self._kind, f"~/{name}/image", on_image, **options))
        add(node.create_subscription(CameraInfo, topic, infos.add, **options))
        # A publisher that latches has perhaps published already.
        add(node.create_subscription(CameraInfo, topic, infos.add, latched_qos(), event_callbacks=no_complaints()))

    def close(self) -> None:
        """Unsubscribes and ends the worker after the set in work; what was counted stays."""
        self._node.unwatch_time()
        self._node.destroy_timer(self._timer)
        for source in self._sources.values():
            for subscription in source.subscriptions:
                self._node.destroy_subscription(subscription)
            source.subscriptions.clear()
        self._worker.close()
        self._node.health.remove_drops_of(self._drops)
        self._node.health.warnings.pop("cameras", None)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        return self._worker.idle and not any(self._sync.pending.values())

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until the worker has nothing to do; False if that took longer than the timeout."""
        return self._worker.wait_idle(timeout_s)

    @property
    def calibrations(self) -> Mapping[str, Calibrations]:
        """What is known of each camera."""
        return {name: source.calibrations for name, source in self._sources.items()}

    def details(self) -> dict[str, str]:
        """What diagnostics say of each camera."""
        now, newest = time.monotonic(), max(source.stamp_ns for source in self._sources.values())
        found = {}
        for name, source in self._sources.items():
            parts = [f"missing: {source.missing}"] if source.missing else []
            if source.received < self._began:
                parts.append(self._why_silent(source))
            elif now - source.received > _SILENT_S:
                parts.append(f"silent for {now - source.received:.1f} s")
            else:
                parts.append(f"{(newest - source.stamp_ns) * 1e-6:.0f} ms behind the newest")
            if source.size:
                parts.append(f"{source.size[0]}x{source.size[1]}")
            parts.append(f"{source.matched} used, {source.missed} missed")
            found[f"camera {name}"] = "; ".join(parts)
        return found

    def _why_silent(self, source: _Source) -> str:
        if not source.subscriptions:
            return "closed"
        topic, wanted = source.subscriptions[0].topic_name, f"sensor_msgs/msg/{self._kind.__name__}"
        found = sorted({info.topic_type for info in self._node.get_publishers_info_by_topic(topic)})
        if not found:
            return f"nobody publishes {topic}"
        if wanted not in found:
            return f"{topic} carries {' and '.join(found)}, not {wanted}"
        return f"no image on {topic} yet"

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _image(self, name: str, msg: Any) -> None:
        source = self._sources[name]
        arrival = self._node.admit(source.guard, msg)
        if arrival is None:
            return
        if arrival.jumped:
            self._start_anew(arrival.stamp_ns)
            source.guard.jumped_back(arrival.stamp_ns)
        now = time.monotonic()
        if now - max(one.received for one in self._sources.values()) > _SILENT_S:
            self._resumed = now  # the others' images are on their way, too
        source.received, source.stamp_ns, source.malformed = now, arrival.stamp_ns, ""
        try:
            if pixel_format(getattr(msg, "encoding", "")) is not None:
                image_view(msg)  # a malformed one must not make the others wait for the worker to find out
        except InputError as error:
            self._reject(name, error)
            return
        self._submit(self._sync.add(name, arrival.stamp_ns, msg, arrival.receive_ns))

    def _poll(self) -> None:
        """Sets that have waited long enough; and says so if images come and never a set."""
        self._submit(self._sync.poll(time.monotonic_ns()))
        now = time.monotonic()
        if now - max(self._together, self._resumed) < _SILENT_S:
            return
        absent = [name for name, source in self._sources.items() if now - source.received > _SILENT_S]
        if not absent:
            stamps = [source.stamp_ns for source in self._sources.values()]
            apart = (max(stamps) - min(stamps)) * 1e-6
            self._tell(f"all cameras send, but nothing fits together: newest stamps lie {apart:.0f} ms apart")
        elif len(absent) < len(self._sources):
            self._complain({name: self._sources[name].malformed or "no image" for name in absent})

    def _submit(self, matches: Sequence[Match[Any]]) -> None:
        for match in matches:
            self._together = time.monotonic()
            self._worker.submit((self._epoch, match))

    def _start_anew(self, stamp_ns: int | None) -> None:
        """Time went back: nothing of before belongs to what comes."""
        self._epoch += 1
        self._sync.clear()
        self._worker.clear("time_jump")
        for source in self._sources.values():
            source.guard.reset()
            source.stamp_ns = 0
        if self._on_jump is not None:
            self._on_jump(stamp_ns)

    def _drops(self) -> dict[str, int]:
        found = {f"sync_{cause}": n for cause, n in self._sync.drops.items()}
        for source in self._sources.values():
            for cause, n in source.guard.counts.items():
                found[cause] = found.get(cause, 0) + n
        return found

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _work(self, waiting: tuple[int, Match[Any]]) -> None:
        epoch, match = waiting
        items, reasons, resized = {}, {}, []
        for name, source in self._sources.items():
            stamped = match.items.get(name)
            try:
                if stamped is None:
                    raise InputError(source.malformed or "no image in time")
                item = self._decoded(name, stamped.stamp_ns, stamped.item)
            except InputError as error:
                reasons[name] = source.missing = str(error)
                source.missed += 1
                continue
            if source.size not in (None, item.size):
                resized.append(name)
                self._tell_resized(name, source.size, item.size)
            source.size, source.missing = item.size, ""
            source.matched += 1
            items[name] = item
        self._complain(reasons)
        needed = sorted(self._required - set(items))
        if needed or len(items) < self._least:
            self._node.health.dropped("too_few_cameras")
            return
        self._node.health.passed("match")
        received = max(stamped.arrival_ns for stamped in match.items.values())
        self._on_match(CameraMatch(match.stamp_ns, received, epoch, items, tuple(reasons), reasons, tuple(resized)))

    def _decoded(self, name: str, stamp_ns: int, msg: Any) -> CameraArrival:
        """An image with its camera.

        Raises:
            InputError: either cannot be had; what is malformed is rejected.
        """
        source = self._sources[name]
        try:
            image = image_to_array(msg, "rgb8")
        except InputError as error:
            self._reject(name, error)
            raise
        camera = None
        size = (image.shape[1], image.shape[0])
        if self._calibrated or size in source.calibrations.sizes:
            try:
                camera = source.calibrations.camera(size, rectified=self._rectified)
            except InputError:
                if self._calibrated:
                    self._node.health.dropped("no_camera_info")
                    raise
        return CameraArrival(name, image, camera, msg.header.frame_id, stamp_ns)

    def _tell_resized(self, name: str, before: Size | None, after: Size) -> None:
        if before is not None:
            text = f"images of {name} changed from {before[0]}x{before[1]} to {after[0]}x{after[1]} pixels"
            self._node.get_logger().warning(text)

    # -- both ----------------------------------------------------------------------------------------------------------

    def _reject(self, name: str, error: InputError) -> None:
        self._sources[name].malformed = str(error)
        self._node.reject("bad_image", InputError(f"{name}: {error.reason}", error.remedy))

    def _complain(self, reasons: Mapping[str, str]) -> None:
        """Says in diagnostics and on the log which cameras are missing, and why."""
        if not reasons:
            self._node.health.warnings.pop("cameras", None)
            return
        self._tell("missing cameras: " + "; ".join(f"{name} ({reason})" for name, reason in reasons.items()))

    def _tell(self, text: str) -> None:
        self._node.health.warnings["cameras"] = text
        self._node.health.failed("match", text)
        self._node.warn_throttled("cameras", text)


def check_names(names: Sequence[str]) -> None:
    """Whether these can be cameras' names in topics.

    Raises:
        InputError: one cannot, there is none, or one occurs twice.
    """
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if not names or wrong or len(set(names)) != len(names):
        raise InputError(
            f"expected different camera names of letters, digits and _, found {list(names)}",
            "correct the parameter 'cameras'",
        )
