# SPDX-License-Identifier: Apache-2.0
"""Sets of images of a recording: rosbag2 (mcap, sqlite3) or rosbag1, with the calibrations and transforms in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.bags import open_bag
from aot_runtime.camera import Size
from aot_runtime.errors import InputError
from aot_runtime.ros.messages import image_to_array
from bev_ros.calibration import CameraCalibration, Rig, read_rig
from bev_ros.lenses import Lenses
from bev_ros.moving_rig import AUTO, MovingRig, find_fixed_frame
from bev_ros.samples import ALL, Sample, checked_name, unknown_split, unknown_token
from bev_ros.sources.bag_cursor import BagCursor
from bev_ros.sources.bag_index import ImageSet, MessageKey, index_bag
from bev_ros.sources.bag_topics import CameraTopics, camera_topics
from bev_ros.sources.matching import Matching

_SPARE_SETS = 2


@dataclass(frozen=True)
class BagFrames:
    """Frames and calibration of a bag's cameras.

    Attributes:
        base: of the vehicle; "" takes the calibration's, else base_link.
        fixed: in which it moves; "auto" takes the first of `FIXED_FRAMES` that is connected to it, "" none.
        calibration: a file that takes the place of camera_info and of the cameras' transforms.
        rectified: whether images are rectified; None goes by the topics' names.
    """

    base: str = ""
    fixed: str = AUTO
    calibration: Path | None = None
    rectified: bool | None = None


class BagSource:
    """The sets of images of one bag, named by their stamps.

    Args:
        path: folder or file of a rosbag2, or a .bag file.
        cameras: "name" or "name=topic" each, in order; see `camera_topics`.
        matching: how images are put together; the same as the live node's give the same sets.
        frames: frames and calibration.

    Raises:
        InputError: the bag is damaged, has no such cameras, or the calibration is malformed. What a single set lacks,
            such as a transform, is said when one asks for it.
    """

    def __init__(
        self,
        path: Path,
        *,
        cameras: Sequence[str] = (),
        matching: Matching | None = None,
        frames: BagFrames | None = None,
    ) -> None:
        self._path = path
        self._matching = matching or Matching()
        frames = frames or BagFrames()
        self._calibration = frames.calibration
        self._rig = read_rig(frames.calibration) if frames.calibration else None
        with open_bag(path, rosbag1=True) as reader:
            types = [(connection.topic, connection.msgtype) for connection in reader.connections]
        known = self._rig.names if self._rig else ()
        self._cameras = camera_topics(types, cameras, known, path)
        unknown = [camera.name for camera in self._cameras if self._rig and camera.name not in known]
        if unknown:
            raise InputError(
                f"expected the camera {unknown[0]}, found {', '.join(known)} in {frames.calibration}",
                "check --cameras",
            )
        self._name = checked_name(path.name if path.is_dir() else path.stem, "name of a bag", str(path))
        self._index = index_bag(path, self._cameras, self._matching)
        self._sets = _named(self._index.sets)
        self._rectified = {
            camera.name: camera.rectified if frames.rectified is None else frames.rectified for camera in self._cameras
        }
        self._moving = MovingRig(self._index.transforms, base_frame=frames.base, fixed_frame="", calibration=self._rig)
        if frames.fixed == AUTO:
            self._moving.fixed_frame = find_fixed_frame(self._index.transforms, self._moving.base_frame)
        else:
            self._moving.fixed_frame = frames.fixed
        self._lenses = Lenses()
        keys = [key for found in self._sets.values() for key in found.images.values()]
        self._cursor = BagCursor(path, keys, (self._matching.depth + _SPARE_SETS) * len(self._cameras))

    @property
    def identity(self) -> str:
        """Bag, cameras and how they were put together."""
        cameras = ", ".join(
            f"{camera.name}={camera.image}{' (rectified)' if self._rectified[camera.name] else ''}"
            for camera in self._cameras
        )
        moving = self._moving
        rig = f", calibration {self._rig.hash}" if self._rig else ""
        return (
            f"bag {self._name}, {cameras}, {self._matching}, frame {moving.base_frame}, fixed frame "
            f"{moving.fixed_frame or 'none'}{rig}"
        )

    @property
    def calibration(self) -> str:
        """A file by name, or the bag."""
        return self._calibration.name if self._calibration else "camera_info and tf of the bag"

    @property
    def warnings(self) -> Sequence[str]:
        """What belongs to no set, and why; whether the vehicle's motion is unknown."""
        counts = self._index.counts
        found = [f"{number} {cause}" for cause, number in sorted(counts.items()) if cause != "images"]
        told = [f"of {counts['images']} images and their transforms: {', '.join(found)}"] if found else []
        if not self._moving.fixed_frame:
            told.append("the vehicle's motion between images of a set is not known: poses count as if it stood still")
        return told

    def splits(self) -> tuple[str, ...]:
        """`ALL`, and the bag's name, which is all of it too."""
        return (ALL, self._name) if self._name != ALL else (ALL,)

    def tokens(self, split: str) -> list[str]:
        """See `SampleSource`; the stamps in nanoseconds, so their order is that of time."""
        if split not in self.splits():
            raise unknown_split(split, self.splits(), self._path)
        return sorted(self._sets)

    def sample(self, split: str, token: str) -> Sample:
        """See `SampleSource`. Cheap in the order of `tokens`, forward; jumps read the bag anew from there."""
        if split not in self.splits():
            raise unknown_split(split, self.splits(), self._path)
        if token not in self._sets:
            raise unknown_token(split, token, self._path)
        found = self._sets[token]
        messages = self._cursor.fetch(found.images.values())
        cameras, images = [], {}
        for topics in self._cameras:
            key = found.images.get(topics.name)
            if key is None:
                continue
            try:
                camera = self._camera(topics, key, messages[key], found.stamp_ns)
                cameras.append(self._lenses.pinhole(camera))
            except InputError as error:
                raise InputError(
                    f"{error.reason}, for the camera '{topics.name}' of the set {token}", error.remedy
                ) from error
            images[topics.name] = self._loader(camera, messages[key], token)
        pose = self._moving.ego_pose(found.stamp_ns)
        rig = Rig(tuple(cameras), self._moving.base_frame)
        return Sample(token, split, found.stamp_ns, images, rig, pose, self._name)

    def close(self) -> None:
        """Closes the bag; the next sample opens it again."""
        self._cursor.close()

    def _camera(self, topics: CameraTopics, key: MessageKey, msg: Any, reference_ns: int) -> CameraCalibration:
        """The camera at the set's reference time, with its distortion."""
        size: Size | None = (int(msg.width), int(msg.height)) if hasattr(msg, "width") else None
        if self._rig is not None:
            told = self._rig.camera(topics.name)
            return self._moving.camera(topics.name, size or (told.width, told.height), key.stamp_ns, reference_ns)
        infos, rectified = self._index.infos[topics.name], self._rectified[topics.name]
        camera, size = infos.camera(size, key.received_ns, rectified=rectified)
        return self._moving.camera(
            topics.name, size, key.stamp_ns, reference_ns, camera=camera, frame_id=str(msg.header.frame_id)
        )

    def _loader(self, camera: CameraCalibration, msg: Any, token: str) -> Callable[[], np.ndarray]:
        def load() -> np.ndarray:
            image = np.ascontiguousarray(image_to_array(msg, "rgb8"))
            if image.shape[1::-1] != (camera.width, camera.height):
                raise InputError(
                    f"expected {camera.width}x{camera.height} pixels as its calibration says, found {image.shape[1]}x"
                    f"{image.shape[0]} for the camera '{camera.name}' of the set {token} in {self._path}"
                )
            return self._lenses.undistorted(camera, image)

        return load


def _named(sets: Sequence[ImageSet]) -> dict[str, ImageSet]:
    """Token -> set. A stamp that comes again (a recording of a loop) gets a number: "STAMP-2"."""
    found: dict[str, ImageSet] = {}
    for one in sets:
        token, number = f"{one.stamp_ns:019d}", 2
        while token in found:
            token, number = f"{one.stamp_ns:019d}-{number}", number + 1
        found[token] = one
    return found
