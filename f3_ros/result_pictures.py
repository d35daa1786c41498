# SPDX-License-Identifier: Apache-2.0
"""The pictures of `run_exported`: the official five, exactly (reference f3.md section 9), and better ones beside them.

| official | shows |
|---|---|
| events_plot | where events fell on the model's frame |
| f3_feat_pca | the first three principal components of the features |
| depth_colored | the head's output, grey despite the name |
| flow_viz | the flow on the head's grid: hue is direction, value is speed |
| flow_viz_overlay | the same where events fell |

Ours are on the sensor's pixels: `depth_magma` (relative depth and disparity) or `depth_jet` (metres), `flow_sensor` (in
sensor pixels, with the wheel that explains the colours), and `overview`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.pca import PcaBasis
from f3_ros.pictures import event_picture
from f3_ros.sensor_grid import resize_depth_to_sensor, resize_flow_to_sensor

if TYPE_CHECKING:
    from f3_ros.events.windows import EventWindow
    from f3_ros.heads import HeadInfo
    from f3_ros.perception import PerceptionPipeline, PerceptionResult

Size = tuple[int, int]
OVERVIEW_WIDTH = 640
_BAR = 24


class Painter:
    """Paints the results of one pipeline and one sensor.

    From one window to the next, components of features keep their sign, and the flow its scale.

    Args:
        pipeline: tells the frame and what the heads compute.
        sensor: (W, H) of the sensor.
    """

    def __init__(self, pipeline: PerceptionPipeline, sensor: Size) -> None:
        self.pipeline = pipeline
        self.frame = (pipeline.f3.width, pipeline.f3.height)
        self.sensor = sensor
        self._basis: PcaBasis | None = None
        self._flow_scale: float | None = None

    def rows(self, window: EventWindow) -> np.ndarray:
        """All events of a window on the model's frame, before any thinning: (N, 4) as `F3Pipeline.tensor`."""
        return self.pipeline.f3.tensor(window, *self.sensor)

    def paint(self, window: EventWindow, result: PerceptionResult) -> dict[str, np.ndarray]:
        """Pictures by name, uint8: BGR (H, W, 3) or grey (H, W)."""
        from depth_ros.pictures import colour_depth, grey_depth
        from f3_ros.flow_pictures import draw_flow, flow_overlay, flow_picture, flow_scale

        pictures = {"events_plot": self._events(window)}
        events = window.events
        tiles = {"events: blue is brighter, red darker": event_picture(events.x, events.y, events.p, *self.sensor)}
        if result.features is not None:
            self._basis = PcaBasis.fit(result.features, self._basis)
            pictures["f3_feat_pca"] = self._basis.paint(result.features)
            tiles["F3 features: principal components"] = self._on_sensor(pictures["f3_feat_pca"])
        if result.depth is not None and self.pipeline.depth is not None:
            info = self.pipeline.depth.info
            pictures["depth_colored"] = grey_depth(result.depth)
            values = resize_depth_to_sensor(result.depth, self.frame, self.sensor)
            name = "depth_jet" if info.kind == "metric" else "depth_magma"
            pictures[name] = tiles[depth_title(info)] = colour_depth(values, kind=info.kind)
        if result.flow is not None and self.pipeline.flow is not None:
            pictures["flow_viz"] = flow_picture(result.flow)
            pictures["flow_viz_overlay"] = flow_overlay(pictures["flow_viz"], pictures["events_plot"].max(axis=2))
            flow = resize_flow_to_sensor(result.flow, self.frame, self.sensor)
            interval_ms = (self.pipeline.flow.info.interval_us or 0) / 1e3
            self._flow_scale = self._flow_scale or flow_scale(flow)
            pictures["flow_sensor"] = draw_flow(flow, self._flow_scale, legend=True)
            tiles[f"flow: pixels in {interval_ms:g} ms"] = pictures["flow_sensor"]
        pictures["overview"] = overview(tiles)
        return pictures

    def _events(self, window: EventWindow) -> np.ndarray:
        """Where events fell on the model's frame."""
        rows, (width, height) = self.rows(window), self.frame
        x, y = np.rint(rows[:, 0] * np.float32(width)), np.rint(rows[:, 1] * np.float32(height))
        return event_picture(x, y, rows[:, 3], width, height)

    def _on_sensor(self, picture: np.ndarray) -> np.ndarray:
        """A BGR picture of the features' grid at the sensor's pixels."""
        channels = [
            resize_depth_to_sensor(picture[..., k].astype(np.float32), self.frame, self.sensor) for k in range(3)
        ]
        return np.nan_to_num(np.stack(channels, axis=2), nan=0.0).astype(np.uint8)


def depth_title(info: HeadInfo) -> str:
    """What the colours of a depth picture mean."""
    return {"relative": "relative depth: bright is near", "disparity": "disparity: bright is near"}.get(
        info.kind, "depth: blue is near, red is far"
    )


def overview(tiles: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures of one size with their titles, two in a row: uint8 BGR."""
    import cv2

    shown = []
    for title, picture in tiles.items():
        height = max(round(OVERVIEW_WIDTH * picture.shape[0] / picture.shape[1]), 1)
        shrinks = picture.shape[1] > OVERVIEW_WIDTH
        how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
        tile = cv2.resize(picture, (OVERVIEW_WIDTH, height), interpolation=how)
        bar = np.full((_BAR, OVERVIEW_WIDTH, 3), 32, np.uint8)
        cv2.putText(bar, title, (6, _BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        shown.append(np.vstack([bar, tile]))
    if len(shown) > 1 and len(shown) % 2:
        shown.append(np.zeros_like(shown[0]))
    pairs = [np.hstack(shown[k : k + 2]) for k in range(0, len(shown), 2)]
    return np.vstack(pairs)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """A PNG, whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    import cv2

    done, data = cv2.imencode(".png", np.ascontiguousarray(picture))
    try:
        if not done:
            raise OSError("OpenCV cannot encode the picture")
        with atomic_write(path) as temporary:
            temporary.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(
            f"expected to write {path}, found {error.strerror or error}", "choose another --output"
        ) from error
