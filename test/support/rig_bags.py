# SPDX-License-Identifier: Apache-2.0
"""Recordings of several cameras on a vehicle that drives a curve, with their calibrations and transforms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes_folder import START_US, camera_to_ego, ego_to_world

from aot_runtime.transforms import to_parts

START_NS = START_US * 1000
YAWS = {"front": 0.0, "left": 90.0, "rear": 180.0, "right": -90.0}
_TF_NS = 20_000_000
_LATE_NS = 30_000_000


@dataclass(frozen=True)
class RigBag:
    """What was written.

    Attributes:
        path: of the bag.
        matrix: (3, 3) of every camera.
        images: (camera, number) -> (H, W, 3) uint8 RGB.
        stamps_ns: (camera, number) -> stamp.
    """

    path: Path
    matrix: np.ndarray
    images: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    stamps_ns: dict[tuple[str, int], int] = field(default_factory=dict)


class _Messages:
    """Builds messages of rosbag1 or rosbag2."""

    def __init__(self, ros1: bool) -> None:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self.ros1 = ros1
        self.store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
        if ros1:
            text = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(get_types_from_msg(text, "tf2_msgs/msg/TFMessage"))
        self.types = self.store.types

    def raw(self, msg: Any, kind: str) -> Any:
        return self.store.serialize_ros1(msg, kind) if self.ros1 else self.store.serialize_cdr(msg, kind)

    def header(self, ns: int, frame: str) -> Any:
        stamp = self.types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
        header = self.types["std_msgs/msg/Header"]
        return header(seq=7, stamp=stamp, frame_id=frame) if self.ros1 else header(stamp=stamp, frame_id=frame)

    def image(self, ns: int, frame: str, pixels: np.ndarray, compressed: bool) -> tuple[Any, str]:
        height, width = pixels.shape[:2]
        if compressed:
            import cv2

            data = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))[1].reshape(-1)
            kind = "sensor_msgs/msg/CompressedImage"
            return self.types[kind](self.header(ns, frame), "png", data), kind
        kind = "sensor_msgs/msg/Image"
        data = np.ascontiguousarray(pixels).reshape(-1)
        return self.types[kind](self.header(ns, frame), height, width, "rgb8", 0, 3 * width, data), kind

    def info(
        self, ns: int, frame: str, size: tuple[int, int], matrix: np.ndarray, distortion: Sequence[float]
    ) -> tuple[Any, str]:
        kind = "sensor_msgs/msg/CameraInfo"
        region = self.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        parts = (
            np.array(distortion, np.float64),
            matrix.ravel(),
            np.eye(3).ravel(),
            np.hstack([matrix, np.zeros((3, 1))]).ravel(),
        )
        told = (self.header(ns, frame), size[1], size[0], "plumb_bob", *parts, 0, 0, region)
        return self.types[kind](*told), kind

    def transforms(self, ns: int, entries: Sequence[tuple[str, str, np.ndarray]]) -> tuple[Any, str]:
        kind = "tf2_msgs/msg/TFMessage"
        found = []
        for parent, child, pose in entries:
            shift, turn = to_parts(pose)
            transform = self.types["geometry_msgs/msg/Transform"](
                self.types["geometry_msgs/msg/Vector3"](*shift.tolist()),
                self.types["geometry_msgs/msg/Quaternion"](*turn.tolist()),
            )
            found.append(self.types["geometry_msgs/msg/TransformStamped"](self.header(ns, parent), child, transform))
        return self.types[kind](found), kind


def write_rig_bag(
    path: Path,
    *,
    storage: str = "mcap",
    cameras: Sequence[str] = ("front", "left", "rear"),
    count: int = 5,
    period_ns: int = 100_000_000,
    stagger_ns: int = 8_000_000,
    size: tuple[int, int] = (64, 36),
    topic: str = "image_rect",
    compressed: bool = False,
    distortion: Sequence[float] = (0.0,) * 5,
    odom: bool = True,
    static: bool = True,
    infos: Collection[str] | None = None,
    without: Collection[tuple[str, int]] = (),
    seed: int = 0,
) -> RigBag:
    """Writes one. Camera c's picture number i is stamped START_NS + i * period + c * stagger and received 30 ms later.

    Args:
        path: folder of the bag, or with the storage "rosbag1" a file named .bag.
        storage: "mcap", "sqlite3" or "rosbag1".
        cameras: names out of `YAWS`; topics are /sensors/NAME/`topic`, /sensors/NAME/camera_info.
        odom: writes odom <- base_link on /tf every 20 ms.
        static: writes base_link <- NAME_optical on /tf_static.
        infos: cameras with a CameraInfo beside each image; None: all.
        without: (camera, number) of pictures that are not in the bag.
    """
    import cv2

    width, height = size
    matrix = np.array([[0.8 * width, 0, width / 2 - 0.5], [0, 0.8 * width, height / 2 - 0.5], [0, 0, 1.0]])
    told = RigBag(path, matrix)
    make = _Messages(storage == "rosbag1")
    rng = np.random.default_rng(seed)
    entries: list[tuple[int, str, tuple[Any, str]]] = []
    end_ns = START_NS + count * period_ns
    if static:
        poses = [("base_link", f"{name}_optical", camera_to_ego(YAWS[name])) for name in cameras]
        entries.append((START_NS - 2 * _TF_NS, "/tf_static", make.transforms(START_NS, poses)))
    if odom:
        for ns in range(START_NS - _TF_NS, end_ns + 2 * _TF_NS, _TF_NS):
            pose = ego_to_world(ns // 1000)
            entries.append((ns, "/tf", make.transforms(ns, [("odom", "base_link", pose)])))
    for number in range(count):
        for place, name in enumerate(cameras):
            if (name, number) in without:
                continue
            ns = START_NS + number * period_ns + place * stagger_ns
            coarse = rng.integers(0, 256, (5, 8, 3), np.uint8)
            image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            told.images[name, number], told.stamps_ns[name, number] = image, ns
            frame, folder = f"{name}_optical", f"/sensors/{name}"
            if infos is None or name in infos:
                info = make.info(ns, frame, size, matrix, distortion)
                entries.append((ns + _LATE_NS, f"{folder}/camera_info", info))
            below = f"{folder}/{topic}{'/compressed' if compressed else ''}"
            entries.append((ns + _LATE_NS, below, make.image(ns, frame, image, compressed)))
    _write(path, storage, make, sorted(entries, key=lambda entry: entry[0]))
    return told


def _write(path: Path, storage: str, make: _Messages, entries: Sequence[tuple[int, str, tuple[Any, str]]]) -> None:
    from rosbags import rosbag1, rosbag2

    writer: Any
    if make.ros1:
        writer = rosbag1.Writer(path)
    else:
        writer = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[storage.upper()])
    with writer:
        connections: dict[str, Any] = {}
        for ns, topic, (msg, kind) in entries:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=make.store)
            writer.write(connections[topic], ns, make.raw(msg, kind))
