# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""The event camera's calibration for `f3_node`: received or read from a file, and carried over to the depth's grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import CameraInfo

from aot_runtime.camera import Camera, PixelMap, camera_from_info
from aot_runtime.errors import InputError
from aot_runtime.ros.qos import image_input_qos, latched_qos, no_complaints, overridable
from f3_ros.events.binning import centring_offset

if TYPE_CHECKING:
    from std_msgs.msg import Header

    from aot_runtime.ros.node import PerceptionNode

Size = tuple[int, int]


class CameraSource:
    """Keeps the newest calibration of the event camera.

    Args:
        node: subscribes to `~/event_camera_info`, which wins over the file once a message came.
        url: calibration file in ROS's YAML form, as a path or file:// URL; empty for none.

    Raises:
        InputError: the file cannot be read, or is no calibration.
    """

    def __init__(self, node: PerceptionNode, url: str) -> None:
        self._node = node
        self._info: CameraInfo | None = read_calibration(url) if url else None
        self._subscriptions: list[Any] = []
        self._made: tuple[Any, ...] = ()
        self._made_from: CameraInfo | None = None
        self._grid_info: CameraInfo | None = None

    def start(self) -> None:
        """Subscribes: once as images are, and once for a publisher that speaks only at its start and latches."""
        topic = "~/event_camera_info"
        self._subscriptions = [
            self._node.create_subscription(
                CameraInfo, topic, self._on_info, image_input_qos(), qos_overriding_options=overridable()
            ),
            self._node.create_subscription(
                CameraInfo, topic, self._on_info, latched_qos(), event_callbacks=no_complaints()
            ),
        ]

    def stop(self) -> None:
        """Unsubscribes; what was received is kept."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _on_info(self, msg: CameraInfo) -> None:
        self._info = msg

    def info(self, header: Header, sensor: Size, frame: Size, grid: Size, on_sensor: bool) -> CameraInfo | None:
        """The calibration of a published image, or None if there is none that fits; says why, throttled.

        Args:
            header: of the image.
            sensor, frame, grid: (W, H) of the sensor, of F3's frame that it is centred on, and of the image.
            on_sensor: the image has the sensor's pixels; otherwise it is a grid over the frame.
        """
        source = self._info
        if source is None:
            return None
        made = (sensor, frame, grid, on_sensor)
        if source is not self._made_from or made != self._made:
            try:
                camera = camera_from_info(source, *sensor)
            except InputError as error:
                self._node.health.failed("publish", str(error))
                self._node.warn_throttled("camera_info", f"no ~/camera_info is published: {error}")
                return None
            self._grid_info = to_info(camera if on_sensor else camera.on(grid_map(sensor, frame, grid)), grid)
            self._made, self._made_from = made, source
        info = self._grid_info
        assert info is not None
        info.header = header
        return info


def grid_map(sensor: Size, frame: Size, grid: Size) -> PixelMap:
    """From sensor pixels to a grid over the whole frame: the centring offset, then align_corners=True."""
    x, y = centring_offset(sensor, frame)
    return PixelMap.moved(x, y).then(PixelMap.align_corners(frame, grid))


def to_info(camera: Camera, size: Size) -> CameraInfo:
    """A message without region of interest or binning."""
    return CameraInfo(
        width=size[0],
        height=size[1],
        distortion_model=camera.model,
        d=list(camera.distortion),
        k=camera.matrix.ravel(),
        r=camera.rectification.ravel(),
        p=camera.projection.ravel(),
    )


def read_calibration(url: str) -> CameraInfo:
    """A calibration in the YAML form of ROS's camera_calibration.

    Raises:
        InputError: the file cannot be read, or is no calibration.
    """
    import yaml

    path = Path(url.removeprefix("file://")).expanduser()
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))

        def numbers(name: str, count: int | None) -> np.ndarray:
            values = np.asarray(told[name]["data"], np.float64)
            if values.ndim != 1 or (count is not None and len(values) != count):
                raise ValueError(f"{name} has shape {values.shape}")
            return values

        return CameraInfo(
            width=int(told["image_width"]),
            height=int(told["image_height"]),
            distortion_model=str(told.get("distortion_model", "plumb_bob")),
            d=numbers("distortion_coefficients", None).tolist(),
            k=numbers("camera_matrix", 9),
            r=numbers("rectification_matrix", 9) if "rectification_matrix" in told else np.eye(3).ravel(),
            p=numbers("projection_matrix", 12) if "projection_matrix" in told else np.zeros(12),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, yaml.YAMLError) as error:
        raise InputError(
            f"expected a camera calibration in ROS's YAML form, found something else in {path} "
            f"({type(error).__name__}: {error})",
            "give the file that camera_calibration wrote, as a path or file:// URL, in camera_info_url",
        ) from error
