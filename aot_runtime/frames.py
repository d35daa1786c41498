# SPDX-License-Identifier: Apache-2.0
"""Images from files, folders or a rosbag2, and to files, without ROS: what the offline commands run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.bags import BagGuard, bag_messages, is_bag, open_bag, standard_typestore
from aot_runtime.errors import InputError
from aot_runtime.ros.messages import image_to_array, stamp_to_ns

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        name: for the output files; unique.
        load: gives the image (H, W, 3) uint8 RGB; raises InputError if it is malformed.
        stamp_ns, frame_id: of a message.
        info: its CameraInfo, or None.
    """

    name: str
    load: Callable[[], np.ndarray]
    stamp_ns: int | None = None
    frame_id: str = ""
    info: Any = None


def open_frames(
    inputs: Sequence[Path], topic: str | None = None, info_topic: str | None = None, *, with_info: bool = True
) -> Iterator[Frame]:
    """The frames of image files, folders of them, and bags.

    Args:
        topic: image topic of a bag; None takes the only one.
        info_topic: its CameraInfo; None takes the one beside the image topic, or the only one of the bag.
        with_info: False leaves CameraInfos of bags unread, good or bad; `Frame.info` is None.

    Raises:
        InputError: nothing there, or no or several image topics; the message lists them.
    """
    taken: set[str] = set()
    for path in inputs:
        if is_bag(path):
            prefix = f"{path.stem}_" if len(inputs) > 1 else ""
            yield from _bag_frames(path, prefix, topic, info_topic, with_info)
            continue
        for file in _image_files(path):
            name = _free_name(file, taken)
            taken.add(name)
            yield Frame(name, lambda file=file: read_image(file))  # type: ignore[misc]


def _free_name(file: Path, taken: set[str]) -> str:
    candidates = chain((file.stem, file.name), (f"{file.name}_{n}" for n in count(2)))
    return next(name for name in candidates if name not in taken)


def _image_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"expected images or a bag, found nothing at {path}", "check the path")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) or a bag, found none in {path}")
    return files


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB; grey is repeated, 16 bits are reduced to 8.

    Raises:
        InputError: it cannot be read.
    """
    import cv2

    try:
        data = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise InputError(f"expected an image, found {error} for {path}") from error
    if pixels is None:
        raise InputError(f"expected an image that OpenCV reads, found something else in {path}")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def write_image(path: Path, picture: np.ndarray) -> None:
    """A PNG of a grey (uint8, uint16) or BGR picture.

    Raises:
        InputError: it cannot be written.
    """
    import cv2

    good, data = cv2.imencode(".png", picture)
    if not good:
        raise InputError(f"expected a picture that PNG can hold, found {picture.shape} {picture.dtype} for {path}")
    path.write_bytes(data.tobytes())


# -- bags --------------------------------------------------------------------------------------------------------------


class _Infos:
    """All CameraInfos of a topic: small, so they are read ahead, and the order within a stamp does not matter."""

    def __init__(self, messages: list[tuple[int, Any]]) -> None:
        self._in_order = messages
        self._by_stamp = {stamp_to_ns(info.header.stamp): info for _, info in messages}

    def of(self, stamp_ns: int, received_ns: int) -> Any | None:
        """That of the stamp, else the last one received before, else the first."""
        if stamp_ns in self._by_stamp:
            return self._by_stamp[stamp_ns]
        before = [info for received, info in self._in_order if received <= received_ns]
        return before[-1] if before else self._in_order[0][1] if self._in_order else None


def _bag_frames(path: Path, prefix: str, topic: str | None, info_topic: str | None, with_info: bool) -> Iterator[Frame]:
    store = standard_typestore()
    with open_bag(path) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        topic = _choose_topic(path, types, topic)
        info_topic = _choose_info_topic(path, types, topic, info_topic) if with_info else None
        infos = _Infos(
            [(received, _message(store, path, c, raw)) for c, received, raw in bag_messages(reader, path, {info_topic})]
            if info_topic
            else []
        )
        for index, (connection, received_ns, raw) in enumerate(bag_messages(reader, path, {topic})):
            name = f"{prefix}{index:06d}"
            try:
                msg = _message(store, path, connection, raw)
                stamp_ns = stamp_to_ns(msg.header.stamp)
            except InputError as error:
                yield Frame(name, _failing(error))
                continue
            yield Frame(
                name,
                lambda msg=msg: image_to_array(msg, "rgb8"),  # type: ignore[misc]
                stamp_ns,
                msg.header.frame_id,
                infos.of(stamp_ns, received_ns),
            )


def _failing(error: InputError) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        raise error

    return load


def _message(store: Any, path: Path, connection: Any, raw: bytes | memoryview) -> Any:
    with BagGuard(path):
        return store.deserialize_cdr(raw, connection.msgtype)


def _choose_topic(path: Path, types: dict[str, str], topic: str | None) -> str:
    listing = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "no topics"
    images = [name for name, kind in types.items() if kind in _IMAGES]
    if topic is None and len(images) == 1:
        return images[0]
    if topic is None:
        found = "several" if images else "none"
        raise InputError(f"expected one image topic, found {found} among {listing} in {path}", "name it with --topic")
    if topic not in images:
        raise InputError(f"expected an image topic {topic}, found {listing} in {path}", "choose another with --topic")
    return topic


def _choose_info_topic(path: Path, types: dict[str, str], topic: str, info_topic: str | None) -> str | None:
    infos = [name for name, kind in types.items() if kind == _CAMERA_INFO]
    if info_topic is not None:
        if info_topic not in infos:
            raise InputError(
                f"expected a CameraInfo topic {info_topic}, found {', '.join(infos) or 'none'} in {path}",
                "choose another with --camera-info-topic",
            )
        return info_topic
    # image_transport's rule: camera_info lies beside the image; a compressed topic lies below it.
    folder = topic.removesuffix("/compressed").rpartition("/")[0]
    beside = f"{folder}/camera_info"
    return beside if beside in infos else infos[0] if len(infos) == 1 else None
