# SPDX-License-Identifier: Apache-2.0
"""A pipeline that a node's threads share: one at a time, with a count of changes for those who publish it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.errors import InputError
from vggt_ros.parameters import existing

if TYPE_CHECKING:
    from vggt_ros.parameters import VggtSettings
    from vggt_ros.pipeline import ReconstructionPipeline


class SharedMap:
    """The pipeline of a configured node. Its methods are called by who is `alone` with it.

    Attributes:
        pipeline: see there.
        version: grows with every change of the map.
        generation: grows when the map is replaced by another one.
        stamp_ns: of the last step.

    Raises:
        InputError: the initial map or the calibration is of no use.
    """

    def __init__(self, pipeline: ReconstructionPipeline, settings: VggtSettings) -> None:
        self.pipeline = pipeline
        self.version = self.generation = self.stamp_ns = 0
        self._settings = settings
        self._busy = threading.Lock()
        self.begin()

    @contextmanager
    def alone(self, patience_s: float = -1) -> Iterator[ReconstructionPipeline]:
        """Nobody else touches the pipeline meanwhile.

        Raises:
            InputError: somebody did for longer than the patience; by default it has no end.
        """
        if not self._busy.acquire(timeout=patience_s):
            raise InputError(
                f"expected a step to end within {patience_s:g} s, found one that takes longer",
                "ask again, or pause the node first",
            )
        try:
            yield self.pipeline
        finally:
            self._busy.release()

    def begin(self) -> None:
        """An empty map, or the initial one; and what was known of the cameras before."""
        self.pipeline.reset()
        if self._settings.initial_map:
            self.pipeline.load_map(existing(self._settings.initial_map, "initial_map"))
        known = self._calibration
        if known is not None and known.exists():
            self.pipeline.load_calibration(known)
        self._replaced()

    def load(self, path: Path) -> None:
        """Go on with a map of a file; see `ReconstructionPipeline.load_map`."""
        self.pipeline.load_map(path)
        self._replaced()

    def save_calibration(self) -> None:
        """Writes what was learnt of the cameras, if the parameters name a file."""
        if self._calibration is not None:
            self.pipeline.save_calibration(self._calibration)

    @property
    def _calibration(self) -> Path | None:
        told = self._settings.per_camera_calibration
        return Path(told).expanduser() if told else None

    def _replaced(self) -> None:
        self.version += 1
        self.generation += 1
