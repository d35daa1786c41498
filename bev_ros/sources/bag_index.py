# SPDX-License-Identifier: Apache-2.0
"""What a bag of cameras holds, from one pass over it that looks at stamps only: sets of images, calibrations, poses.

Images are put together by the same `Synchronizer` as in the live node. Its clock is the stamps' here, so that a bag
gives the same sets at any speed of reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aot_runtime.bags import MessageReader, bag_messages, open_bag
from aot_runtime.camera import Camera, Size, camera_from_info, info_key, info_size
from aot_runtime.errors import InputError
from aot_runtime.ros.clock import StampGuard
from aot_runtime.ros.messages import transform_entries
from aot_runtime.ros.sync import Match, Synchronizer
from aot_runtime.transforms import TransformBuffer
from bev_ros.sources.bag_topics import CameraTopics
from bev_ros.sources.matching import Matching

_STATIC = "/tf_static"
_MOVING = "/tf"
_WHOLE_BAG_S = 1e9


class MessageKey(NamedTuple):
    """Where an image message is in its bag."""

    topic: str
    received_ns: int
    stamp_ns: int


@dataclass(frozen=True)
class ImageSet:
    """Images that belong together: camera -> message, in the cameras' order, and their reference stamp."""

    stamp_ns: int
    images: dict[str, MessageKey]


class RecordedInfos:
    """The CameraInfos of a camera: one entry for each time that they change."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, Size, bytes, Any]] = []
        self._cameras: dict[tuple[bytes, bool], Camera] = {}

    def add(self, received_ns: int, info: Any) -> None:
        """Takes one, in recorded order."""
        key = info_key(info)
        size = info_size(info)
        same = [entry for entry in self._entries if entry[1] == size]
        if not same or same[-1][2] != key:
            self._entries.append((received_ns, size, key, info))

    def camera(self, size: Size | None, received_ns: int, *, rectified: bool) -> tuple[Camera, Size]:
        """The calibration of an image: the newest before it of its size, else the first after it, and its size.

        Args:
            size: (width, height); None for a compressed image, whose size is taken to be the calibration's.

        Raises:
            InputError: there is none for this size, or it is of no use; see `camera_from_info`.
        """
        fitting = [entry for entry in self._entries if size in (None, entry[1])]
        if not fitting:
            sizes = " and ".join(sorted({f"{w}x{h}" for _, (w, h), *_ in self._entries}))
            raise InputError(
                f"expected camera_info for {f'{size[0]}x{size[1]} pixels' if size else 'the images'}, found "
                f"{f'one for {sizes}' if sizes else 'none'}",
                "record it too, or give --calibration",
            )
        before = [entry for entry in fitting if entry[0] <= received_ns]
        _, found, key, info = before[-1] if before else fitting[0]
        camera = self._cameras.get((key, rectified))
        if camera is None:
            camera = self._cameras[key, rectified] = camera_from_info(info, *found, rectified=rectified)
        return camera, found


@dataclass
class BagIndex:
    """What the pass found.

    Attributes:
        sets: in order of time as recorded.
        infos: by camera.
        transforms: all of the bag.
        counts: images that came ("images"), and what became of those that are in no set, by cause.
    """

    sets: list[ImageSet] = field(default_factory=list)
    infos: dict[str, RecordedInfos] = field(default_factory=dict)
    transforms: TransformBuffer = field(default_factory=lambda: TransformBuffer(_WHOLE_BAG_S))
    counts: Counter[str] = field(default_factory=Counter)


class _Matcher:
    """The synchroniser, fed in recorded order."""

    def __init__(self, cameras: Sequence[CameraTopics], matching: Matching, index: BagIndex) -> None:
        names = [camera.name for camera in cameras]
        if not 1 <= matching.least <= len(names):
            raise InputError(f"expected to need 1 to {len(names)} cameras, found {matching.least}", "check --least")
        if matching.patience_ns <= 0 or matching.interval_ns < 0:
            raise InputError("expected a patience above 0 s and an interval of at least 0 s", "check the options")
        self._names, self._matching, self._index = names, matching, index
        self._sync: Synchronizer[MessageKey] = Synchronizer(
            names,
            matching.slop_ns,
            depth=matching.depth,
            required=matching.required,
            patience_ns=matching.patience_ns,
        )
        self._guards = {name: StampGuard() for name in names}
        self._clock_ns = 0
        self._newest_ns: int | None = None
        self._last_ns: int | None = None

    def add(self, name: str, key: MessageKey) -> None:
        self._index.counts["images"] += 1
        if self._guards[name].jumped_back(key.stamp_ns):
            self._start_anew(name, key.stamp_ns)
        if self._newest_ns is not None:
            self._clock_ns += max(0, key.stamp_ns - self._newest_ns)
        self._newest_ns = key.stamp_ns if self._newest_ns is None else max(self._newest_ns, key.stamp_ns)
        self._take(self._sync.poll(self._clock_ns))
        self._take(self._sync.add(name, key.stamp_ns, key, self._clock_ns))

    def finish(self) -> None:
        self._take(self._sync.poll(self._clock_ns + self._matching.patience_ns))
        for cause, number in self._sync.drops.items():
            if number:
                self._index.counts[cause] += number
        pending = sum(self._sync.pending.values())
        if pending:
            self._index.counts["unmatched"] += pending

    def _start_anew(self, name: str, stamp_ns: int) -> None:
        """Time went back, as in a recording of a bag that was played in a loop."""
        self._index.counts["time_jump_back"] += 1
        self._sync.clear()
        for guard in self._guards.values():
            guard.reset()
        self._guards[name].jumped_back(stamp_ns)
        self._newest_ns = self._last_ns = None

    def _take(self, matches: list[Match[MessageKey]]) -> None:
        for match in matches:
            if len(match.items) < self._matching.least:
                self._index.counts["too_few_cameras"] += len(match.items)
                continue
            if self._last_ns is not None and match.stamp_ns - self._last_ns < self._matching.interval_ns:
                continue
            self._last_ns = match.stamp_ns
            images = {name: match.items[name].item for name in self._names if name in match.items}
            self._index.sets.append(ImageSet(match.stamp_ns, images))


def index_bag(path: Path, cameras: Sequence[CameraTopics], matching: Matching) -> BagIndex:
    """Reads a bag once.

    Raises:
        InputError: it is damaged, or `matching` makes no sense. A malformed message is counted, not an error.
    """
    index = BagIndex(infos={camera.name: RecordedInfos() for camera in cameras})
    matcher = _Matcher(cameras, matching, index)
    by_image = {camera.image: camera.name for camera in cameras}
    by_info = {camera.info: camera.name for camera in cameras if camera.info}
    topics: Collection[str] = {*by_image, *by_info, _STATIC, _MOVING}
    with open_bag(path, rosbag1=True) as reader:
        messages = MessageReader(reader, path)
        for connection, received_ns, raw in bag_messages(reader, path, topics):
            topic = connection.topic
            try:
                if topic in by_image:
                    matcher.add(by_image[topic], MessageKey(topic, received_ns, messages.stamp_ns(raw)))
                elif topic in by_info:
                    index.infos[by_info[topic]].add(received_ns, messages.message(connection, raw))
                else:
                    _add_transforms(index, messages.message(connection, raw), topic == _STATIC)
            except InputError:
                index.counts[f"malformed messages on {topic}"] += 1
    matcher.finish()
    return index


def _add_transforms(index: BagIndex, msg: Any, static: bool) -> None:
    """Each by itself, so that a malformed one does not spoil those behind it."""
    for one in msg.transforms:
        try:
            for parent, child, matrix, stamp_ns in transform_entries(type(msg)([one])):
                index.transforms.set(parent, child, matrix, stamp_ns, static=static)
        except InputError:
            index.counts["malformed transforms"] += 1
