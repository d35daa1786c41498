# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Events in, F3 features out: command `f3_node`.

| topic | type | |
|---|---|---|
| `~/events` | event_camera_msgs/EventPacket | in; every encoding |
| `~/features` | sensor_msgs/Image, 32FC<C> | out; stamp = ROS time of the window's end |
| `~/event_image`, `~/feature_image` | sensor_msgs/Image, bgr8 | out; computed only while subscribed |
| `~/window_info` | diagnostic_msgs/DiagnosticStatus | out, only while subscribed; one per window |
| `~/processed_seq` | std_msgs/UInt64 | out; all packets up to this `seq` are done; for lock-step replay |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

Three threads: the executor only takes messages, one worker decodes and cuts windows, one runs the model. While
somebody subscribes to `~/processed_seq` the decoder waits for the model, so that nothing is dropped.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from sensor_msgs.msg import Image
from std_msgs.msg import Header, UInt64

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.diagnostics import artifact_identity, count_finite
from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.node import PerceptionNode, run_node
from aot_runtime.ros.qos import events_qos, output_qos, overridable
from aot_runtime.ros.worker import Policy, Worker
from f3_ros.event_messages import event_packet_type, packet_from_message
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindow
from f3_ros.parameters import declare_parameters, read_parameters
from f3_ros.pictures import PcaBasis, event_picture
from f3_ros.pipeline import F3Pipeline
from f3_ros.replay_node import PROCESSED_QOS
from f3_ros.stream import EventStreamProcessor, StreamWindow

USAGE = """\
usage: f3_node --ros-args -p artifact:=MODEL.pt2 [-r ~/events:=/event_camera/events] [--params-file f3.yaml] ...

Computes F3 features of event windows (sensor_msgs/Image 32FC<C> on ~/features) from event_camera_msgs/EventPacket
on ~/events. All parameters with their meaning and range: config/f3.yaml, or: ros2 param describe /f3 NAME
"""
STAGES = ("receive", "decode", "infer", "publish")
_BACKWARD_JUMP = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)


@dataclass(frozen=True)
class _Arrival:
    packet: Packet
    receive_ns: int


class _Flush:
    """Asks the decoding thread to close the open window."""


class _Reset:
    """Asks the decoding thread to forget the stream."""


class F3Node(PerceptionNode):
    """The lifecycle node; see the module's docstring for its topics and config/f3.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("f3", STAGES, **kwargs)
        declare_parameters(self)
        self._pipeline: F3Pipeline | None = None
        self._processor: EventStreamProcessor | None = None
        self._publishers_out: dict[str, Any] = {}
        self._subscription: Any = None
        self._flush_timer: Any = None
        self._jump_handle: Any = None
        self._decode_worker: Worker[_Arrival | _Flush | _Reset] | None = None
        self._infer_worker: Worker[StreamWindow] | None = None

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        event_packet_type()  # a missing interface package is an error of configuration
        self._settings = settings = read_parameters(self)
        self._set_threads(settings.num_threads)
        self._pipeline = pipeline = F3Pipeline(
            settings.artifact, settings.device, allow_list=settings.allow_list or None, self_test=False
        )
        self._stream_config = stream = settings.stream(pipeline)
        self._processor = EventStreamProcessor(stream)
        self._guard = StampGuard(max_age_ns=round(self.value("max_input_age") * 1e9))
        self.health.stall_s = max(3.0, 3e-6 * stream.window.duration_us)
        if self._diagnostics is not None:
            self._diagnostics.hardware_id = settings.device
        self._identify(pipeline)
        self.health.count_drops_of(self._processor.drops)
        self.health.count_drops_of(lambda: self._guard.counts)
        self.health.add_details(self._details)
        for name, kind in (
            ("features", Image),
            ("event_image", Image),
            ("feature_image", Image),
            ("window_info", DiagnosticStatus),
        ):
            self._publishers_out[name] = self.create_lifecycle_publisher(
                kind, f"~/{name}", output_qos(), qos_overriding_options=overridable()
            )
        self._publishers_out["processed_seq"] = self.create_lifecycle_publisher(
            UInt64, "~/processed_seq", PROCESSED_QOS
        )

    def _identify(self, pipeline: F3Pipeline) -> None:
        """Says on the log and in every report which artifact this is."""
        manifest, (channels, height, width) = pipeline.model.manifest, pipeline.feature_shape
        self.health.identity = artifact_identity(pipeline.model)
        self.get_logger().info(
            f"{manifest.family} {manifest.variant} {manifest.precision} on {pipeline.model.device}: "
            f"events of {pipeline.width}x{pipeline.height} in {pipeline.window_us / 1000:g} ms -> "
            f"features {width}x{height}x{channels}"
        )
        if manifest.checkpoint.is_random:
            text = "the artifact has random weights: its features mean nothing"
            self.health.warnings["weights"] = text
            self.get_logger().warning(text)

    def _set_threads(self, n: int) -> None:
        """OpenMP keeps the count per calling thread, so each thread that runs the model calls this."""
        if n:
            import torch

            torch.set_num_threads(n)

    def activate_family(self) -> None:
        assert self._pipeline is not None
        assert self._processor is not None
        settings = self._settings
        self._pipeline.model.self_test()
        # The first use of a window compiles or loads the numba code, which would make the first window late.
        span_us = self._stream_config.window.duration_us
        self._pipeline.process(EventWindow(0, span_us, Events.empty(), complete=True, n_received=0))
        self._basis: PcaBasis | None = None
        self._threads_set = False
        self._processor.reset()
        self._guard.reset()
        self._period_s = 0.0
        self._last_receive = 0.0
        self._flushed = True
        self._acknowledge_lock = threading.Lock()
        self._outstanding = 0
        self._to_acknowledge: int | None = None
        self._drops_told = sum(self._processor.drops().values())
        self._infer_worker = Worker(
            "infer",
            self._infer,
            capacity=settings.window_queue,
            policy="block" if settings.overload == "block" else "drop_oldest",
            on_error=self._infer_failed,
            on_drop=lambda window, cause: self._window_done(),
        )
        self._decode_worker = Worker(
            "decode",
            self._decode,
            capacity=settings.packet_queue,
            policy="drop_oldest",
            on_error=lambda item, error: self.health.failed("decode", f"{type(error).__name__}: {error}"),
        )
        self.health.count_drops_of(self._decode_drops)
        self.health.count_drops_of(self._infer_drops)
        self._infer_worker.start()
        self._decode_worker.start()
        self._subscription = self.create_subscription(
            event_packet_type(), "~/events", self._on_events, events_qos(), qos_overriding_options=overridable()
        )
        if settings.stream_timeout >= 0 and self._stream_config.window.mode != "count":
            self._flush_timer = self.create_timer(0.01, self._flush_if_silent, clock=self._steady)
        self._jump_handle = self.get_clock().create_jump_callback(_BACKWARD_JUMP, post_callback=self._on_time_jump)

    def deactivate_family(self) -> None:
        if self._jump_handle is not None:
            self._jump_handle.unregister()
            self._jump_handle = None
        if self._flush_timer is not None:
            self.destroy_timer(self._flush_timer)
            self._flush_timer = None
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        # The model's worker first: the decoder may be waiting for room in its queue.
        for worker in (self._infer_worker, self._decode_worker):
            if worker is not None and not worker.stop():
                self.get_logger().error(f"the thread '{worker.name}' did not end within 10 s")
        self._keep_worker_drops()

    def cleanup_family(self) -> None:
        self.health.forget_sources()
        for publisher in self._publishers_out.values():
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_out.clear()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._processor = None
        self.health.identity = {}
        self.health.warnings.pop("weights", None)

    def _decode_drops(self) -> dict[str, int]:
        worker = self._decode_worker
        return {f"packet_{cause}": n for cause, n in worker.drops.items()} if worker is not None else {}

    def _infer_drops(self) -> dict[str, int]:
        worker = self._infer_worker
        return {f"window_{cause}": n for cause, n in worker.drops.items()} if worker is not None else {}

    def _keep_worker_drops(self) -> None:
        """Moves the workers' counts into the monitor before the next activation makes new workers."""
        self.health.remove_drops_of(self._decode_drops, self._infer_drops)
        self._decode_worker = self._infer_worker = None

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _on_events(self, msg: Any) -> None:
        arrival_ns = time.monotonic_ns()
        now_ns = self.now_ns()
        try:
            packet = packet_from_message(msg)
        except InputError as error:
            self.health.received()
            self.reject("bad_stamp", error)
            return
        self.health.received(age_s=(now_ns - packet.stamp_ns) * 1e-9)
        if self._guard.late(packet.stamp_ns, now_ns):
            self.warn_throttled("late", f"input is {(now_ns - packet.stamp_ns) * 1e-9:.3f} s old: dropped")
            return
        now = arrival_ns * 1e-9
        if self._last_receive:
            gap = now - self._last_receive
            self._period_s = gap if not self._period_s else 0.9 * self._period_s + 0.1 * gap
        self._last_receive = now
        self._flushed = False
        if self._settings.frame_id:
            packet.frame_id = self._settings.frame_id
        if self._decode_worker is not None:
            self._decode_worker.submit(_Arrival(packet, arrival_ns))

    def _flush_if_silent(self) -> None:
        """Closes the open window by wall time when the stream has stopped, since no time word will."""
        decoder, model = self._decode_worker, self._infer_worker
        if self._flushed or decoder is None or model is None or self._in_lock_step():
            return
        limit = self._settings.stream_timeout
        if limit == 0.0:
            # Generous: a packet that a busy machine delivers late would find its window closed and lose its events,
            # while a stream that really stopped can wait. Capped, since a long pause enters the mean as well.
            limit = self._stream_config.window.duration_us * 1e-6 + min(max(5 * self._period_s, 0.1), 0.5)
        silent = time.monotonic() - self._last_receive
        if silent > limit and decoder.idle and model.idle:
            self._flushed = True
            decoder.submit(_Flush())

    def _on_time_jump(self, jump: Any) -> None:
        self.health.dropped("time_jump_ros", 1)
        self.warn_throttled("time_jump", "ROS time went back or changed its source: the event stream starts anew")
        if self._decode_worker is not None:
            self._decode_worker.clear("time_jump")
            self._decode_worker.submit(_Reset())

    # -- decoding thread -----------------------------------------------------------------------------------------------

    def _decode(self, item: _Arrival | _Flush | _Reset) -> None:
        processor, model = self._processor, self._infer_worker
        if processor is None or model is None:
            return
        if isinstance(item, _Reset):
            processor.reset()
            return
        if isinstance(item, _Flush):
            windows = processor.flush()
        else:
            windows = processor.push(item.packet, item.receive_ns)
            self._tell_new_drops(processor)
            self.health.passed("decode")
        policy: Policy | None = "block" if self._in_lock_step() else None
        with self._acknowledge_lock:
            self._outstanding += len(windows)
        for window in windows:
            model.submit(window, policy=policy)
        if isinstance(item, _Arrival):
            self._acknowledge(item.packet.seq)

    def _in_lock_step(self) -> bool:
        """Whether somebody waits for our acknowledgements."""
        publisher = self._publishers_out.get("processed_seq")
        return publisher is not None and publisher.get_subscription_count() > 0

    def _acknowledge(self, seq: int) -> None:
        """Acknowledges a packet now or, if windows are still in work, when the last of them is done."""
        with self._acknowledge_lock:
            self._to_acknowledge = seq
            self._acknowledge_if_done()

    def _window_done(self) -> None:
        with self._acknowledge_lock:
            self._outstanding -= 1
            self._acknowledge_if_done()

    def _acknowledge_if_done(self) -> None:
        if self._outstanding == 0 and self._to_acknowledge is not None:
            self._publishers_out["processed_seq"].publish(UInt64(data=self._to_acknowledge))
            self._to_acknowledge = None

    def _tell_new_drops(self, processor: EventStreamProcessor) -> None:
        drops = processor.drops()
        total = sum(drops.values())
        if total > self._drops_told:
            self._drops_told = total
            text = ", ".join(f"{n} {cause}" for cause, n in sorted(drops.items()))
            self.health.failed("decode", f"lost so far: {text}")
            self.warn_throttled("decode", f"the event stream loses data; so far: {text}")

    # -- inference thread ----------------------------------------------------------------------------------------------

    def _infer(self, item: StreamWindow) -> None:
        try:
            self._process(item)
        finally:
            self._window_done()

    def _process(self, item: StreamWindow) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        if not self._threads_set:
            self._set_threads(self._settings.num_threads)
            self._threads_set = True
        if item.width > pipeline.width or item.height > pipeline.height:
            raise InputError(
                f"expected a sensor of at most {pipeline.width}x{pipeline.height} for {pipeline.model.path.name}, "
                f"found packets of {item.width}x{item.height}",
                "export a configuration for this sensor",
            )
        result = pipeline.process(item.window, item.width, item.height)
        for warning in result.warnings:
            self.warn_throttled(warning.split()[0], warning)
        self.health.passed("infer")
        header = Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=item.frame_id)
        features = result.features
        image = to_image(features.transpose(1, 2, 0), f"32FC{len(features)}", header)
        self._publishers_out["features"].publish(image)
        self.health.published(
            latency_from_stamp_s=(self.now_ns() - item.input_stamp_ns) * 1e-9,
            latency_from_receive_s=(time.monotonic_ns() - item.receive_ns) * 1e-9,
            finite=count_finite(features),
        )
        if self._wanted("event_image"):
            events = item.window.events
            picture = event_picture(events.x, events.y, events.p, item.width, item.height)
            self._publishers_out["event_image"].publish(to_image(picture, "bgr8", header))
        if self._wanted("feature_image"):
            self._basis = PcaBasis.fit(features, self._basis)
            self._publishers_out["feature_image"].publish(to_image(self._basis.paint(features), "bgr8", header))
        if self._wanted("window_info"):
            self._publishers_out["window_info"].publish(window_status(item, result.n_events_used))

    def _wanted(self, name: str) -> bool:
        return bool(self._publishers_out[name].get_subscription_count() > 0)

    def _infer_failed(self, item: StreamWindow, error: Exception) -> None:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.health.dropped("window_refused" if isinstance(error, InputError) else "window_failed")
        self.health.failed("infer", reason)
        self.warn_throttled("infer", f"window dropped: {reason}")

    def _details(self) -> dict[str, str]:
        processor = self._processor
        if processor is None:
            return {}
        offset = processor.clock.offset_ns
        return {
            "windows closed": str(processor.windows),
            "sensor clock offset [s]": "unknown" if offset is None else f"{offset * 1e-9:.6f}",
            "sensor clock jumps": str(processor.clock.jumps),
            **{f"removed {cause}": str(n) for cause, n in processor.removed().items()},
        }


def window_status(item: StreamWindow, n_used: int) -> DiagnosticStatus:
    """What `~/window_info` carries: sensor times, event counts and whether the window is complete."""
    window = item.window
    values = {
        "stamp_ns": item.stamp_ns,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "n_received": window.n_received,
        "n_used": n_used,
        "complete": str(window.complete).lower(),
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.OK if window.complete else DiagnosticStatus.WARN,
        name="event window",
        message="complete" if window.complete else "incomplete",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command `f3_node`."""
    return run_node(F3Node, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
