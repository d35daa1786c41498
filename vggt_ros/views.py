# SPDX-License-Identifier: Apache-2.0
"""Images of a `CameraSet` as the pipeline's views: undistorted, and posed by tf where that is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.camera import Camera, Size
from aot_runtime.errors import InputError
from aot_runtime.transforms import TransformBuffer
from aot_runtime.undistort import Undistorter
from vggt_ros.steps import View

if TYPE_CHECKING:
    from aot_runtime.ros.camera_set import CameraArrival


@dataclass(frozen=True)
class PosedViews:
    """The views of a set.

    Attributes:
        views: in the order of the cameras, with poses where they are known.
        cameras: the ideal camera of each view, None where it is unknown.
        problems: camera -> why it has no view.
        unposed: camera -> why its view has no pose, where one was looked for.
    """

    views: list[View]
    cameras: dict[str, Camera | None]
    problems: dict[str, str] = field(default_factory=dict)
    unposed: dict[str, str] = field(default_factory=dict)

    def without_poses(self) -> PosedViews:
        """The same images, as if no pose was known."""
        return replace(self, views=[replace(view, pose=None) for view in self.views])

    def posed(self) -> PosedViews:
        """Only the views with a pose; the lack of one is the others' problem."""
        return replace(
            self,
            views=[view for view in self.views if view.pose is not None],
            problems={**self.problems, **self.unposed},
        )


class ViewMaker:
    """Makes views; keeps each camera's undistortion while its calibration stays.

    Args:
        buffer: where transforms are; None: poses are not looked for.
        world: frame of the poses.
        timeout_s: how long all cameras of a set together wait for transforms that have not come yet.
    """

    def __init__(self, buffer: TransformBuffer | None, world: str, timeout_s: float) -> None:
        self._buffer = buffer
        self._world = world
        self._timeout_s = timeout_s
        self._undistorters: dict[str, tuple[Camera, Size, Undistorter]] = {}

    def views(self, items: Mapping[str, CameraArrival], *, posed: bool = True) -> PosedViews:
        """The views of a set of images.

        Args:
            posed: whether poses are of use; if not, nothing waits for them.
        """
        views, cameras = [], {}
        problems, unposed = {}, {}
        end = time.monotonic() + self._timeout_s
        for name, item in items.items():
            pose = None
            try:
                image, camera = self._undistorted(item)
            except InputError as error:
                problems[name] = str(error)
                continue
            if self._buffer is not None and posed:
                try:
                    left = max(0.0, end - time.monotonic())
                    pose = self._buffer.lookup(self._world, item.frame_id, item.stamp_ns, left)
                except InputError as error:
                    unposed[name] = f"no pose: {error}"
            matrix = None if camera is None else camera.intrinsics
            views.append(View(name, np.ascontiguousarray(image), matrix, pose, str(item.stamp_ns)))
            cameras[name] = camera
        return PosedViews(views, cameras, problems, unposed)

    def _undistorted(self, item: CameraArrival) -> tuple[np.ndarray, Camera | None]:
        if item.camera is None:
            return item.image, None
        known = self._undistorters.get(item.name)
        if known is None or known[0] is not item.camera or known[1] != item.size:
            known = (item.camera, item.size, Undistorter(item.camera, *item.size))
            self._undistorters[item.name] = known
        return known[2].image(item.image), known[2].camera
