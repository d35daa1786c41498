# SPDX-License-Identifier: Apache-2.0
"""The synthetic room as what a pipeline asks: a bootstrap source and a disparity source that know the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.depth_sources import MetricClaim
from vggt_ros.fusion.bootstrap import Bootstrap
from vggt_ros.steps import View


class RoomSource:
    """What VGGT would say of a step, in a unit and a world that change with every call.

    Attributes:
        step: of the images.
        steps: camera -> another step, for cameras that move while others stand still.
        change: makes the answer wrong.
    """

    def __init__(self, room: Room) -> None:
        self.room, self.step, self.calls = room, 0, 0
        self.steps: dict[str, int] = {}
        self.change: Callable[[Bootstrap], Bootstrap] = lambda views: views

    def bootstrap(
        self, images: Mapping[str, np.ndarray], matrices: Mapping[str, np.ndarray] | None = None
    ) -> Bootstrap:
        self.calls += 1
        scale, turn = 0.37 * 1.7 ** (self.calls - 1), 0.4 * self.calls
        steps = tuple(self.steps.get(name, self.step) for name in images)
        return self.change(self.room.seen(steps, scale, turn, tuple(images)))


class RoomDisparity:
    """The room's relative disparity, by images named CAMERA_STEP."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        names = list(self.room.frames["names"])
        if name not in names:
            raise InputError(f"expected an image of the room, found {name!r}")
        return np.asarray(self.room.relative["rel_disparity"][names.index(name)], np.float32)


class RoomMetricDepth(RoomDisparity):
    """The room's depth as a metric network would give it, with 3 % noise and 5 % gross errors, as disparity.

    Attributes:
        metric: what it says of its unit.
        factors: camera -> what its depth is multiplied with.
    """

    def __init__(self, room: Room, factors: Mapping[str, float] | None = None, doubt: str = "") -> None:
        super().__init__(room)
        self.metric = MetricClaim("metric.pt2", doubt)
        self.factors = dict(factors or {})

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        super().disparity(camera, name, image)
        index = list(self.room.frames["names"]).index(name)
        random = np.random.default_rng(index)
        depth = self.room.frames["depth"][index] * self.factors.get(camera, 1.0)
        depth = depth * (1 + 0.03 * random.standard_normal(depth.shape))
        depth[random.random(depth.shape) < 0.05] *= 3
        return np.asarray(1 / depth, np.float32)


def room_views(
    room: Room, step: int, cameras: tuple[str, ...] = CAMERAS, *, poses: bool = True, matrices: bool = True
) -> list[View]:
    """The views of a step, with what is known of the cameras."""
    views = []
    for name in cameras:
        frame = room.index(name, step)
        matrix, pose = (room.frames[key][frame].astype(np.float64) for key in ("K", "T_wc"))
        views.append(
            View(name, room.colour(frame), matrix if matrices else None, pose if poses else None, f"{name}_{step:02d}")
        )
    return views
