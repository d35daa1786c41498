# SPDX-License-Identifier: Apache-2.0
"""Recordings with ground truth: files, and simulations that are computed on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.readers import EventReader
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow
from f3_ros.ground_truth import Truth, read_truth

_SLACK_US = 1000
SCENES = ("room",)


class LabelledRecording(Protocol):
    """Events and what was true while they happened.

    Attributes:
        name: for people.
        width, height: of the sensor, pixels.
        rows: rows of the truth that count, from the top; None for all.
    """

    name: str
    width: int
    height: int
    rows: int | None

    def labels(self) -> Iterator[Truth]: ...

    def window(self, end_us: int, length_us: int) -> EventWindow | None:
        """The events of [end - length, end), with times from 0 to length; None if the recording does not cover it.

        The end counts as a whole millisecond, wherever the recording's clock stands.
        """
        ...


class LabelledFile:
    """A recording and the files or folders with its truth; see `f3_ros.ground_truth`.

    Args:
        reader: the events, open as long as this is used.
        truth: where the truth is; the recording itself if empty.
        camera: of files with two.
        focal_baseline: see `read_truth`.
    """

    def __init__(
        self,
        reader: EventReader,
        truth: Sequence[Path] = (),
        camera: str = "left",
        focal_baseline: float | None = None,
    ) -> None:
        from f3_ros.flow_metrics import MVSEC_ROWS

        self._reader, self._camera, self._focal_baseline = reader, camera, focal_baseline
        self._truth = list(truth) or [reader.path]
        self.name = reader.path.name
        self.width, self.height = reader.width, reader.height
        self.rows = MVSEC_ROWS if str(reader.metadata.get("layout", "")).startswith("mvsec") else None

    def labels(self) -> Iterator[Truth]:
        """The labels of every file, one file after the other."""
        for path in self._truth:
            yield from read_truth(path, self._reader, self._camera, self._focal_baseline)

    def window(self, end_us: int, length_us: int) -> EventWindow | None:
        """See `LabelledRecording`."""
        first, last = self._reader.t_first_us, self._reader.t_last_us
        start_us = end_us - length_us
        if first is None or start_us < first - _SLACK_US or (last is not None and end_us > last + _SLACK_US):
            return None
        skip_us = max(start_us - first, 0)
        parts = list(self._reader.chunks(skip_us, end_us - first - skip_us)) if end_us > first else []
        return _window(Events.concatenate(parts), start_us, length_us)


class SimulatedRecording:
    """A simulated camera in one of SCENES, with exact labels at regular times.

    Args:
        scene: member of SCENES.
        size: (W, H) of the sensor.
        duration_s: seconds to simulate.
        seed: textures, motion, thresholds and noise.
        label_us: time between labels.
        flow_us: time that the true flow spans.
        progress: called with the shares of the work done, 0..1.

    Raises:
        InputError: the scene is unknown, or a number is not positive.
    """

    def __init__(
        self,
        scene: str,
        size: tuple[int, int],
        *,
        duration_s: float = 1.0,
        seed: int = 1,
        label_us: int = 100_000,
        flow_us: int = 100_000,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        from f3_ros.events.simulator import demo_scene, simulate

        if scene not in SCENES:
            raise InputError(f"expected a scene out of {', '.join(SCENES)}, found {scene!r}")
        if not (duration_s > 0 and label_us > 0 and flow_us > 0 and min(size) > 1):
            raise InputError(f"expected positive times and a size, found {duration_s} s and {size}")
        self.width, self.height = size
        self.name = f"{scene}, seed {seed}, {size[0]}x{size[1]}, {duration_s:g} s"
        self.rows: int | None = None
        self._scene = demo_scene(*size, seed)
        self._end_us = round(duration_s * 1e6)
        self._label_us, self._flow_us = label_us, flow_us
        simulation = simulate(self._scene, duration_s, seed=seed)
        parts = []
        for step, (events, _) in enumerate(simulation.steps(), 1):
            parts.append(events)
            if progress is not None:
                progress(step / simulation.n_steps)
        self._events = Events.concatenate(parts)

    def labels(self) -> Iterator[Truth]:
        """Labels from `label_us` on to the end."""
        for time_us in range(self._label_us, self._end_us + 1, self._label_us):
            now = time_us * 1e-6
            flow = np.stack(self._scene.flow(now, now + self._flow_us * 1e-6))
            yield Truth(time_us, self._scene.depth(now), flow, self._flow_us)

    def window(self, end_us: int, length_us: int) -> EventWindow | None:
        """See `LabelledRecording`."""
        if end_us < length_us or end_us > self._end_us:
            return None
        first, last = np.searchsorted(self._events.t, (end_us - length_us, end_us))
        return _window(self._events[first:last].copy(), end_us - length_us, length_us)


def _window(events: Events, start_us: int, length_us: int) -> EventWindow | None:
    if len(events) == 0:
        return None
    events.t = events.t - start_us
    return EventWindow(0, length_us, events, True, len(events))
