# SPDX-License-Identifier: Apache-2.0
"""Small rosbag2 recordings of several cameras, good and malformed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

START_NS = 1_700_000_000_000_000_000


def write_cameras(
    folder: Path, focal_lengths: dict[str, float], image: np.ndarray | None = None, info_nanosec: int = 0
) -> Path:
    """A bag with one image and one CameraInfo of each camera: /NAME/image, /NAME/camera_info.

    Args:
        folder: in which the bag is written.
        focal_lengths: in pixels, by the camera's name.
        image: (H, W, 3) uint8 RGB; default: one black pixel.
        info_nanosec: nanoseconds of the CameraInfos' stamps; from 1e9 on they are malformed.
    """
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    image = np.zeros((1, 1, 3), np.uint8) if image is None else np.ascontiguousarray(image)
    height, width = image.shape[:2]

    def header(nanosec: int) -> object:
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, nanosec), "eye")

    picture = types["sensor_msgs/msg/Image"](header(0), height, width, "rgb8", 0, 3 * width, image.reshape(-1))
    region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    with Writer(folder / "cameras", version=9) as writer:
        for name, focal in focal_lengths.items():
            k = np.array([focal, 0, 0, 0, focal, 0, 0, 0, 1.0])
            info = types["sensor_msgs/msg/CameraInfo"](
                header(info_nanosec),
                height,
                width,
                "plumb_bob",
                np.zeros(5),
                k,
                np.eye(3).ravel(),
                np.zeros(12),
                0,
                0,
                region,
            )
            for topic, msg, kind in (("image", picture, "Image"), ("camera_info", info, "CameraInfo")):
                kind = f"sensor_msgs/msg/{kind}"
                connection = writer.add_connection(f"/{name}/{topic}", kind, typestore=store)
                writer.write(connection, START_NS, store.serialize_cdr(msg, kind))
    return folder / "cameras"
