# SPDX-License-Identifier: Apache-2.0
"""Depth and flow at the sensor's resolution, to be compared with truth: from models, or from files of `f3_offline`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.sensor_grid import resize_depth_to_sensor, resize_flow_to_sensor

if TYPE_CHECKING:
    from f3_ros.events.windows import EventWindow
    from f3_ros.perception import PerceptionPipeline


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one moment, at the sensor's resolution; None where nothing was.

    Attributes:
        depth: (H, W): what `depth_kind` says.
        depth_kind: "metric" (metres), "relative" (larger is nearer, up to scale and shift) or "disparity" (pixels).
        focal_baseline: pixel metres, of a disparity.
        flow: (2, H, W) sensor pixels over `flow_us`; NaN where there is none.
        flow_us: microseconds.
    """

    depth: np.ndarray | None = None
    depth_kind: str = "relative"
    focal_baseline: float | None = None
    flow: np.ndarray | None = None
    flow_us: int = 0


class Predictor(Protocol):
    """Predicts from the events before a moment.

    Attributes:
        window_us: length of the windows that it wants to see.
    """

    window_us: int

    def predict(self, end_us: int, window: EventWindow, width: int, height: int) -> Prediction | None: ...


class ModelPredictor:
    """Runs F3 and its heads."""

    def __init__(self, pipeline: PerceptionPipeline) -> None:
        self.pipeline = pipeline
        self.window_us: int = pipeline.f3.window_us

    def predict(self, end_us: int, window: EventWindow, width: int, height: int) -> Prediction:
        """What the heads say, resized to the sensor; the window's end is the moment."""
        pipeline, sensor = self.pipeline, (width, height)
        frame = (pipeline.f3.width, pipeline.f3.height)
        result = pipeline.process(window, width, height, want=tuple(pipeline.head_infos))
        depth, flow = pipeline.head_infos.get("depth"), pipeline.head_infos.get("flow")
        return Prediction(
            depth=None if result.depth is None else resize_depth_to_sensor(result.depth, frame, sensor),
            depth_kind="relative" if depth is None or not depth.is_metric else depth.kind,
            focal_baseline=None if depth is None else depth.focal_baseline,
            flow=None if result.flow is None else resize_flow_to_sensor(result.flow, frame, sensor),
            flow_us=0 if flow is None else flow.interval_us or 0,
        )


class StoredPredictor:
    """What `f3_offline` wrote into a folder (or one .npz): the window that ends nearest to a moment.

    Args:
        path: the folder or the file.
        window_us: the events before a moment that count where flow is only compared at events.
        frame: (W, H) of F3's frame, for results on the heads' own grid; the sensor's size by default.
        tolerance_us: how far the end of a window may be from the moment.

    Raises:
        InputError: there are no results of f3_offline.
    """

    def __init__(
        self, path: Path, window_us: int = 20_000, frame: tuple[int, int] | None = None, tolerance_us: int = 1000
    ) -> None:
        file = path / "windows.npz" if path.is_dir() else path
        try:
            with np.load(file) as archive:
                self._columns = {name: archive[name] for name in archive.files}
            self._ends = self._columns["end_us"].astype(np.int64)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"expected results of f3_offline (a folder with windows.npz, or one .npz), found {error} for {path}",
                "write them with f3_offline --output",
            ) from error
        self.window_us, self._frame, self._tolerance_us = window_us, frame, tolerance_us
        self._folder = path if path.is_dir() else None

    def predict(self, end_us: int, window: EventWindow, width: int, height: int) -> Prediction | None:
        """The stored results of that moment, None if there are none."""
        if not len(self._ends):
            return None
        index = int(np.abs(self._ends - end_us).argmin())
        if abs(int(self._ends[index]) - end_us) > self._tolerance_us:
            return None
        frame, sensor = self._frame or (width, height), (width, height)
        metric, relative, flow = (self._array(name, index) for name in ("depth", "relative_depth", "flow"))
        depth = relative if metric is None else metric
        if depth is not None and depth.shape != (height, width):
            depth = resize_depth_to_sensor(depth, frame, sensor)
        if flow is not None and flow.shape[1:] != (height, width):
            flow = resize_flow_to_sensor(flow, frame, sensor)
        span = int(str(self._columns.get("flow_interval_us", 0)))
        if flow is not None and span <= 0:
            raise InputError("expected flow_interval_us beside the flow, found none", "write it again with f3_offline")
        kind = "relative" if metric is None else "metric"
        return Prediction(depth=depth, depth_kind=kind, flow=flow, flow_us=span)

    def _array(self, name: str, index: int) -> np.ndarray | None:
        if self._folder is None:
            return self._columns[name][index] if name in self._columns else None
        file = self._folder / f"{name}_{index:06d}.npy"
        return np.load(file) if file.is_file() else None
