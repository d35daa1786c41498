# SPDX-License-Identifier: Apache-2.0
"""What goes into a step of `ReconstructionPipeline` and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import PosedCamera, checked_pose
from vggt_ros.fusion.scale import Scale
from vggt_ros.fusion.streaming import FrameResult


@dataclass(frozen=True)
class View:
    """One camera's image at one instant.

    Attributes:
        name: of the camera.
        image: (H, W, 3) uint8 RGB, rectified.
        matrix: (3, 3) of this image, pixel centres at integers; None: the bootstrap's.
        pose: (4, 4) world <- camera in metres; None: not known.
        image_name: of the image, for sources that read files.
    """

    name: str
    image: np.ndarray
    matrix: np.ndarray | None = None
    pose: np.ndarray | None = None
    image_name: str = ""


@dataclass(frozen=True)
class Problem:
    """Something about a camera that did not go as it should; its text is a sentence for a log."""

    camera: str
    text: str


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Attributes:
        stamp_s: of the step.
        frames: of the cameras that were streamed; empty at a bootstrap.
        bootstrapped: cameras that a bootstrap brought into the map; empty if there was none.
        reason: why there was a bootstrap; or, if one is due, why there was none, or why it was refused; else "".
        problems: cameras that could not take part, and what was assumed about others.
        scale: the map's.
        timings_ms: "bootstrap", "depth" (of all cameras), "depth/CAMERA", "update" and "total", those that took place.
        cameras: where each camera was taken to be, in the map's world, on its image's grid.
    """

    stamp_s: float
    frames: list[FrameResult]
    bootstrapped: tuple[str, ...]
    reason: str
    problems: list[Problem]
    scale: Scale
    timings_ms: dict[str, float]
    cameras: dict[str, PosedCamera]


class Step:
    """A result while it is made."""

    def __init__(self, stamp_s: float) -> None:
        self.stamp_s = stamp_s
        self.frames: list[FrameResult] = []
        self.bootstrapped: tuple[str, ...] = ()
        self.reason = ""
        self.problems: list[Problem] = []
        self.timings: dict[str, float] = {}
        self.cameras: dict[str, PosedCamera] = {}

    def result(self, scale: Scale) -> StepResult:
        """What it is at last."""
        return StepResult(
            self.stamp_s,
            self.frames,
            self.bootstrapped,
            self.reason,
            self.problems,
            scale,
            self.timings,
            self.cameras,
        )

    def accepts(self, view: View) -> bool:
        """Whether a view is well formed; if not, this is a problem."""
        image = view.image
        try:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(f"expected an RGB image (height, width, 3) uint8, found {image.shape} {image.dtype}")
            if view.pose is not None:
                checked_pose(view.pose, view.name)
            if view.matrix is not None:
                PosedCamera(view.matrix, np.eye(4), image.shape[1], image.shape[0])
        except InputError as error:
            self.problems.append(Problem(view.name, str(error)))
            return False
        return True
