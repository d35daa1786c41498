# SPDX-License-Identifier: Apache-2.0
"""From a set of images as a node gets them to the rig that took them: calibration, poses by tf, undistortion."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.transforms import TransformBuffer
from bev_ros.calibration import CameraCalibration, Rig
from bev_ros.lenses import Lenses
from bev_ros.moving_rig import AUTO, MovingRig, find_fixed_frame, placed

if TYPE_CHECKING:
    from aot_runtime.ros.camera_set import CameraArrival, CameraMatch


@dataclass(frozen=True)
class RigOptions:
    """How cameras are placed.

    Attributes:
        base_frame: of the vehicle; "" takes the calibration's, else base_link.
        fixed_frame: in which it moves, "auto" or "" for none; see `MovingRig` and `find_fixed_frame`.
        static: cameras do not move on the vehicle: their places are looked up once.
        undistort: images of lenses that bend are undistorted; else their camera is refused.
        timeout_s: a set waits so long for transforms of its time.
    """

    base_frame: str = ""
    fixed_frame: str = AUTO
    static: bool = False
    undistort: bool = True
    timeout_s: float = 0.0


@dataclass(frozen=True)
class PlacedSet:
    """A set of images that a network can take.

    Attributes:
        rig: the cameras at the set's reference time, ideal ones, in the order of the set; None if there is none.
        images: by camera, undistorted.
        problems: why a camera of the set is not in it, by camera.
    """

    rig: Rig | None
    images: dict[str, np.ndarray]
    problems: dict[str, str]


class RigSource:
    """Places the cameras of one set after the other. A camera that cannot be placed is left out, with the reason.

    Args:
        buffer: transforms.
        options: how.
        calibration: takes the place of camera_info and of the cameras' transforms; None for those.

    Attributes:
        fixed_frame: in which the vehicle's motion counts; "" as long as none is known. With "auto" the first that is
            found stays: a vehicle whose odometry falls silent must not count as one that stands still.
    """

    def __init__(self, buffer: TransformBuffer, options: RigOptions, calibration: Rig | None = None) -> None:
        self._buffer = buffer
        self._options = options
        self._calibration = calibration
        self._lenses = Lenses()
        self._moving = MovingRig(buffer, base_frame=options.base_frame, calibration=calibration)
        self.forget()

    @property
    def base_frame(self) -> str:
        """The vehicle's frame."""
        return self._moving.base_frame

    def forget(self) -> None:
        """Looks up places of cameras, and the fixed frame, anew (time went back)."""
        self._still: dict[tuple[str, str], np.ndarray] = {}
        self.fixed_frame = "" if self._options.fixed_frame == AUTO else self._options.fixed_frame

    def place(self, match: CameraMatch) -> PlacedSet:
        """The rig and the images of a set. Waits for transforms: not in the thread that feeds the buffer."""
        end = time.monotonic() + self._options.timeout_s
        if not self.fixed_frame and self._options.fixed_frame == AUTO:
            self.fixed_frame = find_fixed_frame(self._buffer, self.base_frame)
        self._moving.fixed_frame = self.fixed_frame
        cameras, images, problems = [], {}, {}
        for name, item in match.items.items():
            try:
                camera = self._camera(item, match.stamp_ns, max(0.0, end - time.monotonic()))
                if any(camera.distortion) and not self._options.undistort:
                    raise InputError(
                        f"expected undistorted images, found distortion {list(camera.distortion)}",
                        "publish rectified images (image_proc), or set distorted_images:=undistort",
                    )
                ideal = self._lenses.pinhole(camera)
                images[name] = self._lenses.undistorted(camera, item.image)
                cameras.append(ideal)
            except InputError as error:
                problems[name] = str(error)
        return PlacedSet(Rig(tuple(cameras), self.base_frame) if cameras else None, images, problems)

    def _camera(self, item: CameraArrival, reference_ns: int, timeout_s: float) -> CameraCalibration:
        """As the vehicle of the reference time has it; with its distortion.

        Raises:
            InputError: no transform, no frame, or a calibration for another size.
        """
        times = (item.stamp_ns, reference_ns)
        if self._calibration is not None:
            return self._moving.camera(item.name, item.size, *times, timeout_s=timeout_s)
        if not self._options.static or item.camera is None:
            return self._moving.camera(
                item.name, item.size, *times, camera=item.camera, frame_id=item.frame_id, timeout_s=timeout_s
            )
        place = self._still.get((item.name, item.frame_id))
        if place is None:
            place = self._buffer.lookup(self.base_frame, item.frame_id, None, timeout_s)
            self._still[item.name, item.frame_id] = place
        known = Rig((placed(item.name, item.size, item.camera, place),), self.base_frame)
        moving = MovingRig(self._buffer, fixed_frame=self.fixed_frame, calibration=known)
        return moving.camera(item.name, item.size, *times, timeout_s=timeout_s)
