# SPDX-License-Identifier: Apache-2.0
"""What the CameraInfos of one camera say about its images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from aot_runtime.camera import Camera, Size, camera_from_info, info_key, info_size
from aot_runtime.errors import InputError

_SIZES_KEPT = 4


class Calibrations:
    """What a camera's CameraInfos say, by image size: the newest one of a size counts, whatever its stamp.

    Attributes:
        newest: the message that came last; None before the first.
    """

    def __init__(self) -> None:
        self.newest: Any = None
        self._infos: OrderedDict[Size, tuple[bytes, Any]] = OrderedDict()
        self._cameras: dict[tuple[Size, bool], tuple[bytes, Camera]] = {}

    def add(self, info: Any) -> None:
        """Takes a message."""
        size = info_size(info)
        self._infos[size] = (info_key(info), info)
        self._infos.move_to_end(size)
        while len(self._infos) > _SIZES_KEPT:
            self._infos.popitem(last=False)
        self.newest = info

    def camera(self, size: Size, *, rectified: bool) -> Camera:
        """The camera of images of (width, height) pixels.

        Raises:
            InputError: none came, none for this size, or it is of no use; see `camera_from_info`.
        """
        found = self._infos.get(size)
        if found is None:
            told = "one for " + " and ".join(f"{w}x{h}" for w, h in self.sizes) if self._infos else "none yet"
            raise InputError(
                f"expected camera_info for {size[0]}x{size[1]} pixels, found {told}",
                "publish it beside the images, or correct the remapping",
            )
        key, info = found
        known = self._cameras.get((size, rectified))
        if known is None or known[0] != key:
            known = self._cameras[(size, rectified)] = (key, camera_from_info(info, *size, rectified=rectified))
        return known[1]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes that are known, the newest last."""
        return tuple(self._infos)
