# SPDX-License-Identifier: Apache-2.0
"""Which CameraInfo belongs to an image, and the CameraInfo of a camera."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from aot_runtime.camera import Camera

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo
    from std_msgs.msg import Header

_KEPT = 10


class CameraInfos:
    """The latest CameraInfo and a few before it, by stamp. Thread-safe."""

    def __init__(self) -> None:
        self.source = "none"
        self._lock = threading.Lock()
        self._latest: Any = None
        self._by_stamp: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def add(self, info: Any) -> None:
        """Takes a message."""
        with self._lock:
            self._latest = info
            self._by_stamp[(info.header.stamp.sec, info.header.stamp.nanosec)] = info
            while len(self._by_stamp) > _KEPT:
                self._by_stamp.popitem(last=False)

    def of(self, stamp_ns: int) -> Any | None:
        """The message of this stamp, else the latest, else None; `source` tells which."""
        with self._lock:
            info = self._by_stamp.get(divmod(stamp_ns, 1_000_000_000))
            if info is not None:
                self.source = "of the image's stamp"
                return info
            self.source = "latest" if self._latest is not None else "none"
            return self._latest

    def forget_stamps(self) -> None:
        """Time went back: the same stamps may come again with other content. The latest stays."""
        with self._lock:
            self._by_stamp.clear()


def info_of_camera(camera: Camera, width: int, height: int, header: Header) -> CameraInfo:
    """The message of a camera with a grid of width x height pixels, without region of interest or binning."""
    from sensor_msgs.msg import CameraInfo

    msg = CameraInfo(header=header, width=width, height=height, distortion_model=camera.model)
    msg.d = list(camera.distortion)
    msg.k = camera.matrix.ravel().tolist()
    msg.r = camera.rectification.ravel().tolist()
    msg.p = camera.projection.ravel().tolist()
    return msg
