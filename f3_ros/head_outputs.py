# SPDX-License-Identifier: Apache-2.0
"""From what the heads compute to what is published: units, validity and resolution. The node and `f3_offline` share it.

All grids here follow align_corners=True: the centres of the corner pixels of F3's frame and of a head's grid coincide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.binning import centring_offset
from f3_ros.sensor_grid import resize_depth_to_sensor, resize_flow_to_sensor

if TYPE_CHECKING:
    from f3_ros.events.types import Events
    from f3_ros.events.windows import EventWindow
    from f3_ros.heads import HeadInfo
    from f3_ros.perception import PerceptionPipeline, PerceptionResult

RESOLUTIONS = ("grid", "sensor")
FLOW_MASKS = ("events", "dense")
DEPTH_MEANING = {
    "relative": "relative, larger is nearer",
    "metric": "metres",
    "disparity": "metres, focal_baseline / disparity",
}
Size = tuple[int, int]


@dataclass(frozen=True)
class HeadOptions:
    """What is done with the heads' outputs.

    Attributes:
        resolution: "grid" keeps the head's own grid, which covers F3's frame; "sensor" resizes to the sensor's pixels.
        flow_mask: "events" makes flow NaN in pixels where no event of the window fell; "dense" keeps all.
    """

    resolution: Literal["grid", "sensor"] = "grid"
    flow_mask: Literal["events", "dense"] = "events"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("output_resolution", self.resolution, RESOLUTIONS),
            ("flow_mask", self.flow_mask, FLOW_MASKS),
        ):
            if value not in allowed:
                raise InputError(f"expected {name} to be {' or '.join(allowed)}, found '{value}'")


@dataclass(frozen=True)
class HeadOutputs:
    """What is published of one window; what was not computed is None.

    Attributes:
        depth: (H, W) float32: metres, or relative or disparity (larger is nearer) as the head is; NaN where invalid.
        dense_flow: (2, H, W) float32: dx, dy in pixels of this grid over the head's interval, everywhere.
        flow_valid: (H, W) bool: where flow is published.
    """

    depth: np.ndarray | None = None
    dense_flow: np.ndarray | None = None
    flow_valid: np.ndarray | None = None

    @property
    def flow(self) -> np.ndarray | None:
        """(H, W, 2) float32, as the message holds it: NaN where invalid."""
        if self.dense_flow is None or self.flow_valid is None:
            return None
        return np.where(self.flow_valid[..., None], self.dense_flow.transpose(1, 2, 0), np.float32(np.nan))


def depth_topic(info: HeadInfo) -> str:
    """The name under which a depth is published: metres and what is only relative never share one."""
    return "depth" if info.is_metric else "relative_depth"


def describe_heads(heads: Mapping[str, HeadInfo]) -> dict[str, str]:
    """What the values of depth and flow mean."""
    told: dict[str, str] = {}
    if (depth := heads.get("depth")) is not None:
        unscaled = depth.kind == "disparity" and not depth.is_metric
        told["depth_meaning"] = "disparity in pixels, larger is nearer" if unscaled else DEPTH_MEANING[depth.kind]
    if (flow := heads.get("flow")) is not None:
        told["flow_unit"] = "pixels of the published image over flow_interval_us"
        told["flow_interval_us"] = str(flow.interval_us)
    return told


def finish_heads(
    pipeline: PerceptionPipeline,
    result: PerceptionResult,
    window: EventWindow,
    width: int,
    height: int,
    options: HeadOptions,
) -> HeadOutputs:
    """What is published of a window's result.

    Args:
        window: the events that the result was made from.
        width, height: the sensor's size, pixels.
    """
    frame, sensor = (pipeline.f3.width, pipeline.f3.height), (width, height)
    depth = flow = valid = None
    if result.depth is not None and pipeline.depth is not None:
        depth = finish_depth(result.depth, pipeline.depth.info, frame, sensor, options)
    if result.flow is not None:
        flow, valid = finish_flow(result.flow, window.events, frame, sensor, options)
    return HeadOutputs(depth, flow, valid)


def finish_depth(raw: np.ndarray, info: HeadInfo, frame: Size, sensor: Size, options: HeadOptions) -> np.ndarray:
    """A head's (H, W) output as it is published, (H, W) float32 with NaN where invalid.

    A disparity becomes metres after the resize, as in the official evaluation: focal_baseline / disparity; without a
    focal_baseline it stays as it is. Invalid are pixels that the sensor does not see, what is not finite, and metres
    that would not be above 0.

    Args:
        frame: (W, H) of F3's frame; the grid covers it.
        sensor: (W, H) of the sensor, centred on the frame.
    """
    if options.resolution == "sensor":
        values = resize_depth_to_sensor(raw, frame, sensor)
        valid = np.isfinite(values)
    else:
        values = raw
        valid = np.isfinite(values) & seen_by_sensor((raw.shape[1], raw.shape[0]), frame, sensor)
    if info.is_metric:
        valid &= values > 0
    if info.kind == "disparity" and info.focal_baseline is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.float32(info.focal_baseline) / values
        valid &= np.isfinite(values)
    return np.where(valid, values, np.float32(np.nan))


def finish_flow(
    raw: np.ndarray, events: Events, frame: Size, sensor: Size, options: HeadOptions
) -> tuple[np.ndarray, np.ndarray]:
    """A head's (2, H, W) output at the published resolution, in its pixels, and where it is valid, (H, W) bool."""
    if options.resolution == "sensor":
        flow = resize_flow_to_sensor(raw, frame, sensor)
        seen = np.ones((sensor[1], sensor[0]), bool)
    else:
        flow = raw
        seen = seen_by_sensor((raw.shape[2], raw.shape[1]), frame, sensor)
    if options.flow_mask == "events":
        grid = (flow.shape[2], flow.shape[1])
        seen = event_mask(events, grid, frame, sensor, options.resolution)
    return flow, seen & np.isfinite(flow).all(axis=0)


def event_mask(events: Events, grid: Size, frame: Size, sensor: Size, resolution: str = "grid") -> np.ndarray:
    """Where events fell: bool (H, W). On a head's grid, each event marks the pixel nearest to it."""
    mask = np.zeros((grid[1], grid[0]), bool)
    _mark(events.x, events.y, *_pixels_of(grid, frame, sensor, resolution), mask)
    return mask


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _mark(x, y, across, down, mask):
    """Mark the pixel of every event; those outside the sensor or the frame have none."""
    height, width = mask.shape
    for i in range(len(x)):
        if x[i] >= len(across) or y[i] >= len(down):
            continue
        column, row = across[x[i]], down[y[i]]
        if 0 <= column < width and 0 <= row < height:
            mask[row, column] = True


@lru_cache(maxsize=8)
def _pixels_of(grid: Size, frame: Size, sensor: Size, resolution: str) -> tuple[np.ndarray, np.ndarray]:
    """The published column nearest to each sensor column, and the row nearest to each sensor row."""
    if resolution == "sensor":
        return np.arange(sensor[0]), np.arange(sensor[1])
    tables = []
    for axis, offset in enumerate(centring_offset(sensor, frame)):
        scale = (grid[axis] - 1) / (frame[axis] - 1) if frame[axis] > 1 else 0.0
        tables.append(np.rint((np.arange(sensor[axis]) + offset) * scale).astype(np.int64))
    return tables[0], tables[1]


@lru_cache(maxsize=8)
def seen_by_sensor(grid: Size, frame: Size, sensor: Size) -> np.ndarray:
    """Pixels of a grid over the frame whose centres lie on a pixel of the centred sensor: bool (H, W)."""
    lines = []
    for axis, offset in enumerate(centring_offset(sensor, frame)):
        scale = (frame[axis] - 1) / (grid[axis] - 1) if grid[axis] > 1 else 0.0
        place = np.arange(grid[axis]) * scale - offset
        lines.append((place >= -0.5) & (place <= sensor[axis] - 0.5))
    mask = lines[1][:, None] & lines[0][None, :]
    mask.setflags(write=False)
    return mask
