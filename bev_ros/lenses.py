# SPDX-License-Identifier: Apache-2.0
"""Undistortion of the cameras of a rig: a lift-splat network knows straight rays only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from aot_runtime.undistort import Undistorter
from bev_ros.calibration import CameraCalibration

_KEPT = 32


class Lenses:
    """Undistorters by calibration, made once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], Undistorter] = OrderedDict()

    def pinhole(self, calibration: CameraCalibration) -> CameraCalibration:
        """The camera that the undistorted image obeys; the camera itself if nothing bends.

        Raises:
            InputError: the distortion model is unknown, or its number of coefficients is wrong.
        """
        if not any(calibration.distortion):
            return calibration
        camera = self._undistorter(calibration).camera
        return replace(calibration, matrix=camera.intrinsics, distortion=(), model="")

    def undistorted(self, calibration: CameraCalibration, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) of the distorted camera as `pinhole` would see it.

        Raises:
            InputError: as `pinhole`.
        """
        return self._undistorter(calibration).image(image) if any(calibration.distortion) else image

    def _undistorter(self, calibration: CameraCalibration) -> Undistorter:
        size = (calibration.width, calibration.height)
        key = (*size, calibration.matrix.tobytes(), calibration.distortion, calibration.model)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = Undistorter(calibration.camera, *size)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return found
