# SPDX-License-Identifier: Apache-2.0
"""Where the cameras of a moving vehicle are at an instant, from transforms: what node and extractor do alike.

Cameras do not take their pictures at the same moment. An image's pose counts at its own stamp; with a frame that stands
still (odom) the way that the vehicle went between that and the set's reference stamp is taken into account:

    ego(reference) <- camera(stamp)  =  [ego <- fixed](reference) . [fixed <- camera](stamp)
"""

from __future__ import annotations

import numpy as np

from aot_runtime.camera import Camera, Size
from aot_runtime.errors import InputError
from aot_runtime.transforms import TransformBuffer, inverse
from bev_ros.calibration import DEFAULT_FRAME, CameraCalibration, Rig

AUTO = "auto"
"""In place of a fixed frame's name: the first of `FIXED_FRAMES` that is connected to the vehicle."""
FIXED_FRAMES = ("odom", "map", "world")


class MovingRig:
    """Cameras by name, at the times of their images.

    Args:
        buffer: transforms.
        base_frame: of the vehicle; "" takes the calibration's, else base_link.
        fixed_frame: in which the vehicle moves smoothly, such as odom; "" takes no account of its motion.
        calibration: intrinsics and poses of the cameras; None takes them from camera_info and transforms.
    """

    def __init__(
        self,
        buffer: TransformBuffer,
        *,
        base_frame: str = "",
        fixed_frame: str = "",
        calibration: Rig | None = None,
    ) -> None:
        self.base_frame = base_frame or (calibration.frame if calibration else DEFAULT_FRAME)
        self.fixed_frame = fixed_frame
        self._buffer = buffer
        self._calibration = calibration

    def ego_pose(self, stamp_ns: int, timeout_s: float = 0.0) -> np.ndarray | None:
        """(4, 4): fixed frame <- vehicle at a time; None if there is no fixed frame.

        Raises:
            InputError: it is not known for this time; `timeout_s` as for `TransformBuffer.lookup`.
        """
        if not self.fixed_frame:
            return None
        return self._buffer.lookup(self.fixed_frame, self.base_frame, stamp_ns, timeout_s)

    def camera(
        self,
        name: str,
        size: Size,
        stamp_ns: int,
        reference_ns: int,
        *,
        camera: Camera | None = None,
        frame_id: str = "",
        timeout_s: float = 0.0,
    ) -> CameraCalibration:
        """A camera as the vehicle of the reference time has it; still with its distortion, see `Lenses`.

        Args:
            size: (width, height) of its image.
            stamp_ns: of its image.
            reference_ns: of the set of images.
            camera, frame_id: from camera_info and image; not needed with a calibration.

        Raises:
            InputError: the camera is not calibrated for this size, or a transform is not known.
        """
        if self._calibration is not None:
            return self._known(self._calibration.camera(name), size, stamp_ns, reference_ns, timeout_s)
        if camera is None:
            raise InputError(
                f"expected camera_info of the camera '{name}', found none", "publish it, or give a calibration"
            )
        return placed(name, size, camera, self._pose(frame_id, stamp_ns, reference_ns, timeout_s))

    def _known(
        self, told: CameraCalibration, size: Size, stamp_ns: int, reference_ns: int, timeout_s: float
    ) -> CameraCalibration:
        if (told.width, told.height) != size:
            raise InputError(
                f"expected images of {told.width}x{told.height} pixels of the camera '{told.name}' as its calibration "
                f"says, found {size[0]}x{size[1]}",
                "give the calibration of these images",
            )
        if not self.fixed_frame or stamp_ns == reference_ns:
            return told
        motion = self._pose(self.base_frame, stamp_ns, reference_ns, timeout_s)
        return Rig((told,)).moved({told.name: motion @ told.sensor_to_ego}).cameras[0]

    def _pose(self, frame_id: str, stamp_ns: int, reference_ns: int, timeout_s: float) -> np.ndarray:
        """(4, 4): vehicle(reference) <- frame(stamp)."""
        if not self.fixed_frame or stamp_ns == reference_ns:
            return self._buffer.lookup(self.base_frame, frame_id, stamp_ns, timeout_s)
        then = self._buffer.lookup(self.fixed_frame, frame_id, stamp_ns, timeout_s)
        now = self._buffer.lookup(self.fixed_frame, self.base_frame, reference_ns, timeout_s)
        return np.asarray(inverse(now) @ then)


def placed(name: str, size: Size, camera: Camera, sensor_to_ego: np.ndarray) -> CameraCalibration:
    """A camera of camera_info at a place, with the distortion that its images of (width, height) have.

    Raises:
        InputError: it cannot be a camera of a rig, see `CameraCalibration`.
    """
    bent = () if camera.rectified else camera.distortion
    return CameraCalibration(name, *size, camera.intrinsics, sensor_to_ego, bent, camera.model if bent else "")


def find_fixed_frame(buffer: TransformBuffer, base_frame: str) -> str:
    """The first of `FIXED_FRAMES` that is connected to the vehicle's frame; "" if none is (yet)."""
    for frame in FIXED_FRAMES:
        try:
            buffer.lookup(frame, base_frame, None)
        except InputError:
            continue
        return frame
    return ""
