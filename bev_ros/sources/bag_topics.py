# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are cameras, and their CameraInfos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aot_runtime.errors import InputError

_IMAGE = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_INFO = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class CameraTopics:
    """A camera of a bag.

    Attributes:
        name: of the camera.
        image: topic of its images, plain or compressed.
        info: topic of its CameraInfos; "" if there is none.
    """

    name: str
    image: str
    info: str

    @property
    def rectified(self) -> bool:
        """Whether the topic's name says so, as those of image_proc do: image_rect, image_rect_color."""
        return "rect" in self.image.removesuffix("/compressed").rpartition("/")[2]


def camera_topics(
    types: Iterable[tuple[str, str]], wanted: Sequence[str], known: Sequence[str], path: Path
) -> list[CameraTopics]:
    """The cameras to use, in order.

    A camera is called like the folder of its topic: "/sensors/front/image_rect" is "front". Of several image topics in
    a folder the rectified one counts, and a plain one before a compressed one.

    Args:
        types: (topic, message type) of everything in the bag.
        wanted: "name" or "name=topic" of each camera, in order; none: those of `known`, else every camera that has
            CameraInfos, by name.
        known: cameras of a calibration, which then need no CameraInfo.
        path: of the bag, for messages.

    Raises:
        InputError: there are no cameras, or one that is wanted is not there; the message lists those that are.
    """
    kinds = dict(types)
    infos = {topic for topic, kind in kinds.items() if kind == _INFO}
    found = _by_folder(kinds)
    told = dict(entry.partition("=")[::2] for entry in wanted)
    if len(told) != len(wanted) or "" in told:
        raise InputError(
            f"expected different cameras as NAME or NAME=TOPIC, found {', '.join(wanted)}", "check --cameras"
        )
    if not told:
        told = dict.fromkeys(known or sorted(name for name, topic in found.items() if _info(topic, infos)), "")
    if not told:
        raise InputError(
            f"expected image topics with camera_info beside them, found {_listing(kinds)} in {path}",
            "name the cameras with --cameras NAME=TOPIC, or give --calibration",
        )
    cameras = []
    for name, topic in told.items():
        topic = topic or found.get(name, "")
        if kinds.get(topic) not in (_IMAGE, _COMPRESSED):
            raise InputError(
                f"expected an image topic {topic or f'of the camera {name!r}'}, found {_listing(kinds)} in {path}",
                "name it with --cameras NAME=TOPIC",
            )
        cameras.append(CameraTopics(name, topic, _info(topic, infos)))
    twice = [topic for topic, count in Counter(camera.image for camera in cameras).items() if count > 1]
    if twice:
        raise InputError(f"expected a topic of its own for each camera, found {twice[0]} twice", "check --cameras")
    return cameras


def _by_folder(kinds: dict[str, str]) -> dict[str, str]:
    """Name -> image topic; folders of the same name are told apart by their whole path."""
    folders: dict[str, list[str]] = {}
    for topic, kind in kinds.items():
        if kind in (_IMAGE, _COMPRESSED):
            folders.setdefault(_folder(topic), []).append(topic)
    names = Counter(folder.rpartition("/")[2] for folder in folders)
    found = {}
    for folder, topics in folders.items():
        short = folder.rpartition("/")[2]
        name = short if names[short] == 1 and short else folder.strip("/").replace("/", "_")
        found[name or "camera"] = min(
            topics, key=lambda topic: (not CameraTopics("", topic, "").rectified, kinds[topic] == _COMPRESSED, topic)
        )
    return found


def _folder(topic: str) -> str:
    """image_transport's rule: a compressed topic lies below the plain one."""
    return topic.removesuffix("/compressed").rpartition("/")[0]


def _info(topic: str, infos: set[str]) -> str:
    beside = f"{_folder(topic)}/camera_info"
    return beside if beside in infos else ""


def _listing(kinds: dict[str, str]) -> str:
    images = [topic for topic, kind in kinds.items() if kind in (_IMAGE, _COMPRESSED)]
    return f"image topics {', '.join(sorted(images))}" if images else "no image topic"
