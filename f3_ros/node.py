# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Events in; F3 features, depth and optical flow out: command `f3_node`.

| topic | type | |
|---|---|---|
| `~/events` | event_camera_msgs/EventPacket | in; every encoding |
| `~/event_camera_info` | sensor_msgs/CameraInfo | in, optional; the event camera's calibration |
| `~/features` | sensor_msgs/Image, 32FC<C> | out; stamp = ROS time of the window's end |
| `~/relative_depth` or `~/depth` | sensor_msgs/Image, 32FC1 | out; up to scale and shift, larger is nearer; or metres |
| `~/camera_info` | sensor_msgs/CameraInfo | out, beside the depth; the calibration for its pixels |
| `~/flow` | sensor_msgs/Image, 32FC2 | out; pixels of this image over the interval that `~/window_info` tells |
| `~/event_image`, `~/feature_image`, `~/depth_image`, `~/flow_image` | sensor_msgs/Image, bgr8 | out, for people |
| `~/window_info` | diagnostic_msgs/DiagnosticStatus | out, only while subscribed; one per window |
| `~/processed_seq` | std_msgs/UInt64 | out; all packets up to this `seq` are done; for lock-step replay |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

Depth and flow need an artifact each; a head runs only while somebody subscribes to what it gives, and pictures are made
only then. Invalid values are NaN.

Three threads: the executor only takes messages, one worker decodes and cuts windows, one runs the models. While
somebody subscribes to `~/processed_seq` the decoder waits for the models, so that nothing is dropped.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from std_msgs.msg import UInt64

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.diagnostics import artifact_identity
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.node import run_node
from aot_runtime.ros.qos import events_qos, overridable
from aot_runtime.ros.worker import Policy, Worker
from f3_ros.event_messages import event_packet_type, packet_from_message
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindow
from f3_ros.head_outputs import describe_heads, finish_heads
from f3_ros.node_camera import CameraSource
from f3_ros.node_outputs import NodeOutputs
from f3_ros.parameters import declare_parameters, read_parameters
from f3_ros.perception import PerceptionPipeline
from f3_ros.replay_node import PROCESSED_QOS
from f3_ros.stream import EventStreamProcessor, StreamWindow

USAGE = """\
usage: f3_node --ros-args -p artifact:=MODEL.pt2 [-r "~/events:=/event_camera/events"] [--params-file f3.yaml] ...

Computes F3 features of event windows (sensor_msgs/Image 32FC<C> on ~/features) from event_camera_msgs/EventPacket
on ~/events; with -p depth_artifact:=HEAD.pt2 also depth (32FC1 on ~/relative_depth or ~/depth), and with
-p flow_artifact:=HEAD.pt2 optical flow (32FC2 on ~/flow).
All parameters with their meaning and range: config/f3.yaml, or: ros2 param describe /f3 NAME
"""
STAGES = ("receive", "decode", "infer", "publish")


@dataclass(frozen=True)
class _Arrival:
    packet: Packet
    receive_ns: int


class _Flush:
    """Asks the decoding thread to close the open window."""


class _Reset:
    """Asks the decoding thread to forget the stream."""


class F3Node(ModelNode):
    """The lifecycle node; see the module's docstring for its topics and config/f3.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("f3", STAGES, **kwargs)
        declare_parameters(self)
        self._lasting: set[str] = set()
        self._pipeline: PerceptionPipeline | None = None
        self._processor: EventStreamProcessor | None = None
        self._camera: CameraSource | None = None
        self._results: NodeOutputs | None = None
        self._subscription: Any = None
        self._flush_timer: Any = None
        self._decode_worker: Worker[_Arrival | _Flush | _Reset] | None = None
        self._infer_worker: Worker[StreamWindow] | None = None

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        event_packet_type()  # a missing interface package is an error of configuration
        self._settings = settings = read_parameters(self)
        limit_threads(settings.num_threads)
        self._pipeline = pipeline = PerceptionPipeline.load(
            settings.artifact,
            settings.device,
            depth=settings.depth_artifact,
            flow=settings.flow_artifact,
            cuda_graph=settings.cuda_graph,
            allow_list=settings.allow_list or None,
            self_test=False,
        )
        self._stream_config = stream = settings.stream(pipeline.f3)
        self._processor = EventStreamProcessor(stream)
        self._guard = StampGuard(max_age_ns=round(self.value("max_input_age") * 1e9))
        self.health.stall_s = max(3.0, 3e-6 * stream.window.duration_us)
        if self._diagnostics is not None:
            self._diagnostics.hardware_id = settings.device
        self._identify(pipeline)
        self._camera = CameraSource(self, settings.camera_info_url)
        self._results = NodeOutputs(self, pipeline, settings, self._camera)
        self.health.count_drops_of(self._processor.drops)
        self.health.count_drops_of(lambda: self._guard.counts)
        self.health.add_details(self._details)
        self.health.add_details(self._results.details)
        self.outputs["processed_seq"] = self.create_lifecycle_publisher(UInt64, "~/processed_seq", PROCESSED_QOS)

    def _identify(self, pipeline: PerceptionPipeline) -> None:
        """Says on the log and in every report which artifacts these are, and warns of those that mean nothing."""
        f3, infos = pipeline.f3, pipeline.head_infos
        channels, height, width = f3.feature_shape
        frame = f"events of {f3.width}x{f3.height} in {f3.window_us / 1000:g} ms"
        work = {"f3": f"{frame} -> features {width}x{height}x{channels}"}
        for family, info in infos.items():
            told = "; ".join(f"{key}: {value}" for key, value in describe_heads({family: info}).items())
            work[family] = f"features -> {family} {info.size[1]}x{info.size[0]} ({told})"
        self.health.identity = {}
        for family, model in pipeline.models.items():
            prefix, manifest = "" if family == "f3" else f"{family} ", model.manifest
            self.health.identity |= {f"{prefix}{key}": value for key, value in artifact_identity(model).items()}
            self.get_logger().info(
                f"{manifest.family} {manifest.variant} {manifest.precision} on {model.device}: {work[family]}"
            )
            if manifest.checkpoint.is_random:
                what = f"its {family} means" if prefix else "its features mean"
                self._warn_lasting(f"{prefix}weights", f"the {prefix}artifact has random weights: {what} nothing")
        for text in pipeline.warnings:
            self._warn_lasting("backbone", text)

    def _warn_lasting(self, key: str, text: str) -> None:
        """Warns now, and in every report until the node is cleaned up."""
        known = self.health.warnings.get(key)
        self.health.warnings[key] = f"{known}; {text}" if known else text
        self._lasting.add(key)
        self.get_logger().warning(text)

    def activate_family(self) -> None:
        assert self._pipeline is not None
        assert self._processor is not None
        assert self._results is not None
        assert self._camera is not None
        settings = self._settings
        self._pipeline.self_test()
        # The first window compiles or loads numba code and captures CUDA graphs, which would make it late.
        span_us = self._stream_config.window.duration_us
        empty = EventWindow(0, span_us, Events.empty(), complete=True, n_received=0)
        f3 = self._pipeline.f3
        finish_heads(self._pipeline, self._pipeline.process(empty), empty, f3.width, f3.height, settings.heads)
        self._results.restart()
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
        self._camera.start()
        self.watch_time(self._on_time_jump)

    def deactivate_family(self) -> None:
        self.unwatch_time()
        if self._camera is not None:
            self._camera.stop()
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
        self.remove_outputs()
        self._results = self._camera = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._processor = None
        self.health.identity = {}
        for key in self._lasting:
            self.health.warnings.pop(key, None)
        self._lasting.clear()

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

    def _on_time_jump(self) -> None:
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
        return self.wanted("processed_seq")

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
            self.outputs["processed_seq"].publish(UInt64(data=self._to_acknowledge))
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
        pipeline, results = self._pipeline, self._results
        if pipeline is None or results is None:
            return
        if not self._threads_set:
            limit_threads(self._settings.num_threads)
            self._threads_set = True
        f3 = pipeline.f3
        if item.width > f3.width or item.height > f3.height:
            raise InputError(
                f"expected a sensor of at most {f3.width}x{f3.height} for {f3.model.path.name}, "
                f"found packets of {item.width}x{item.height}",
                "export a configuration for this sensor",
            )
        result = pipeline.process(item.window, item.width, item.height, want=results.wanted())
        for warning in result.warnings:
            self.warn_throttled(warning.split()[0], warning)
        self.health.passed("infer")
        published = results.publish(item, result)
        self.health.published(
            latency_from_stamp_s=(self.now_ns() - item.input_stamp_ns) * 1e-9,
            latency_from_receive_s=(time.monotonic_ns() - item.receive_ns) * 1e-9,
            finite=published.finite,
        )
        results.publish_pictures(published)

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


def main(argv: Sequence[str] | None = None) -> int:
    """Command `f3_node`."""
    return run_node(F3Node, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
