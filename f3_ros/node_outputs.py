# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""What `f3_node` publishes of a window: which outputs somebody wants, their messages, their share of finite values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from aot_runtime.pca import PcaBasis
from aot_runtime.ros.diagnostics import count_finite
from aot_runtime.ros.messages import ns_to_stamp, to_image
from depth_ros.pictures import colour_depth
from f3_ros.flow_pictures import flow_overlay, flow_picture
from f3_ros.head_outputs import HeadOutputs, depth_topic, describe_heads, finish_heads
from f3_ros.node_camera import CameraSource
from f3_ros.pictures import event_picture

if TYPE_CHECKING:
    from aot_runtime.ros.model_node import ModelNode
    from f3_ros.heads import HeadInfo
    from f3_ros.parameters import F3Settings
    from f3_ros.perception import PerceptionPipeline, PerceptionResult
    from f3_ros.stream import StreamWindow


@dataclass(frozen=True)
class PublishedWindow:
    """A window whose results are out; `finite` is (finite, all) of their values as the networks gave them."""

    item: StreamWindow
    result: PerceptionResult
    heads: HeadOutputs
    header: Header
    finite: tuple[int, int]


class NodeOutputs:
    """The publishers of results and pictures; a picture, and by default a head, is computed only while subscribed.

    Args:
        node: owns the publishers; they live from configure to cleanup.
        pipeline: what computes.
        settings: what to publish, and how.
        camera: the event camera's calibration.
    """

    def __init__(
        self, node: ModelNode, pipeline: PerceptionPipeline, settings: F3Settings, camera: CameraSource
    ) -> None:
        self._node = node
        self._pipeline = pipeline
        self._settings = settings
        self._camera = camera
        heads = pipeline.head_infos
        depth = heads.get("depth")
        self._depth_topic = "" if depth is None else depth_topic(depth)
        kinds: dict[str, Any] = {"features": Image, "event_image": Image, "feature_image": Image}
        kinds["window_info"] = DiagnosticStatus
        if depth is not None:
            kinds |= {self._depth_topic: Image, "camera_info": CameraInfo, "depth_image": Image}
        if "flow" in heads:
            kinds |= {"flow": Image, "flow_image": Image}
        for name, kind in kinds.items():
            node.add_output(name, kind)
        # The outputs of a head: one of them with a subscriber is reason to run it.
        self._of_head = {"depth": (self._depth_topic, "depth_image"), "flow": ("flow", "flow_image")}
        always = settings.publish_features == "always" or (settings.publish_features == "auto" and not heads)
        self._always = {name for name in ("features",) if always}
        if settings.heads_always:
            self._always |= set(heads)
        self.restart()

    def restart(self) -> None:
        """Forgets what earlier windows left (an activation)."""
        self._basis: PcaBasis | None = None
        self._finite: dict[str, tuple[int, int]] = {}

    def wanted(self) -> frozenset[str]:
        """What the pipeline has to compute for the next window."""
        want = set(self._always)
        if self._subscribed("features", "feature_image"):
            want.add("features")
        want |= {head for head in self._pipeline.heads if self._subscribed(*self._of_head[head])}
        return frozenset(want)

    def publish(self, item: StreamWindow, result: PerceptionResult) -> PublishedWindow:
        """Publishes the results of one window."""
        header = Header(stamp=ns_to_stamp(item.stamp_ns), frame_id=item.frame_id)
        finite = self._count(result)
        features = result.features
        if features is not None and ("features" in self._always or self._node.wanted("features")):
            self._send("features", to_image(features.transpose(1, 2, 0), f"32FC{len(features)}", header))
        heads = finish_heads(self._pipeline, result, item.window, item.width, item.height, self._settings.heads)
        if heads.depth is not None and self._shown("depth"):
            self._send(self._depth_topic, to_image(heads.depth, "32FC1", header))
            self._publish_camera(item, heads.depth, header)
        if self._shown("flow") and (flow := heads.flow) is not None:
            self._send("flow", to_image(flow, "32FC2", header))
        return PublishedWindow(item, result, heads, header, finite)

    def publish_pictures(self, window: PublishedWindow) -> None:
        """Publishes what people look at, while they do."""
        item, features, heads, depth = window.item, window.result.features, window.heads, window.heads.depth
        pictures: dict[str, Callable[[], np.ndarray]] = {}
        events = item.window.events
        pictures["event_image"] = lambda: event_picture(events.x, events.y, events.p, item.width, item.height)
        if features is not None:
            pictures["feature_image"] = lambda: self._paint_features(features)
        if depth is not None:
            kind = "relative" if self._depth_topic == "relative_depth" else "metric"
            pictures["depth_image"] = lambda: colour_depth(depth, kind=kind)
        if heads.dense_flow is not None:
            pictures["flow_image"] = lambda: paint_flow(heads)
        for name, paint in pictures.items():
            if self._node.wanted(name):
                self._send(name, to_image(paint(), "bgr8", window.header))
        if self._node.wanted("window_info"):
            status = window_status(item, window.result.n_events_used, self._pipeline.head_infos)
            self._send("window_info", status)

    def _paint_features(self, features: np.ndarray) -> np.ndarray:
        self._basis = PcaBasis.fit(features, self._basis)
        return self._basis.paint(features)

    def details(self) -> dict[str, str]:
        """For /diagnostics: what the heads' values mean, the share of finite ones of each output, CUDA graphs."""
        told = {
            f"finite {name} [%]": f"{100 * finite / max(total, 1):.6g}"
            for name, (finite, total) in self._finite.copy().items()
        }
        if (graphs := self._pipeline.cuda_graphs) is not None:
            told["CUDA graphs"] = str(graphs)
        return {**describe_heads(self._pipeline.head_infos), **told}

    def _count(self, result: PerceptionResult) -> tuple[int, int]:
        """Adds to the shares of finite values; returns those of this window together."""
        finite = total = 0
        for name in ("features", "depth", "flow"):
            values: np.ndarray | None = getattr(result, name)
            if values is None:
                continue
            good, count = count_finite(values)
            before = self._finite.get(name, (0, 0))
            self._finite[name] = (before[0] + good, before[1] + count)
            finite, total = finite + good, total + count
        return finite, total

    def _publish_camera(self, item: StreamWindow, depth: np.ndarray, header: Header) -> None:
        f3 = self._pipeline.f3
        grid = (depth.shape[1], depth.shape[0])
        on_sensor = self._settings.heads.resolution == "sensor"
        info = self._camera.info(header, (item.width, item.height), (f3.width, f3.height), grid, on_sensor)
        if info is not None:
            self._send("camera_info", info)

    def _shown(self, head: str) -> bool:
        """Whether the head's message goes out: it may run for its picture alone."""
        return head in self._always or self._node.wanted(self._of_head[head][0])

    def _subscribed(self, *names: str) -> bool:
        return any(self._node.wanted(name) for name in names)

    def _send(self, name: str, message: Any) -> None:
        self._node.outputs[name].publish(message)


def paint_flow(outputs: HeadOutputs) -> np.ndarray:
    """The colour wheel's picture of the dense flow, black where none is published: uint8 BGR (H, W, 3)."""
    assert outputs.dense_flow is not None
    assert outputs.flow_valid is not None
    dense = np.nan_to_num(outputs.dense_flow, nan=0.0, posinf=0.0, neginf=0.0)
    return flow_overlay(flow_picture(dense), outputs.flow_valid)


def window_status(item: StreamWindow, n_used: int, heads: dict[str, HeadInfo]) -> DiagnosticStatus:
    """What `~/window_info` carries: sensor times, event counts, whether the window is complete, units of the heads."""
    window = item.window
    values = {
        "stamp_ns": item.stamp_ns,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "n_received": window.n_received,
        "n_used": n_used,
        "complete": str(window.complete).lower(),
        **describe_heads(heads),
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.OK if window.complete else DiagnosticStatus.WARN,
        name="event window",
        message="complete" if window.complete else "incomplete",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
