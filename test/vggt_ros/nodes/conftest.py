# SPDX-License-Identifier: Apache-2.0
"""A vggt_node in the synthetic room: its images, cameras and transforms as topics, its depth network as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_room import CAMERAS, Room


@pytest.fixture(scope="session")
def room(shared: Path) -> Room:
    """Frames, exact depth, poses and distances."""
    return Room(shared / "data" / "synthetic_room")


@pytest.fixture(scope="session")
def disparities(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CAMERA/STAMP.npy for the instants of `NodeRoom.show`: step s at instants s, s + 100 and so on."""
    from ros_images import PERIOD_NS, START_NS

    root = tmp_path_factory.mktemp("disparities")
    for name in CAMERAS:
        (root / name).mkdir()
        for index in (*range(8), *range(100, 104)):
            relative = room.relative["rel_disparity"][room.index(name, index % 4)].astype(np.float32)
            np.save(root / name / f"{START_NS + index * PERIOD_NS}.npy", relative)
    return root


class NodeRoom:
    """A node that stands in the room.

    Args:
        ros: the session.
        node: active.
        room: the data.
    """

    def __init__(self, ros: Any, node: Any, room: Room, cameras: tuple[str, ...] = CAMERAS) -> None:
        from ros_cameras import CameraRig

        self.ros, self.node, self.room, self.cameras = ros, node, room, cameras
        self.rig = CameraRig(ros, node, cameras)

    def infos(self) -> None:
        """Publishes the cameras' matrices."""
        for name in self.cameras:
            self.rig.info(name, self.room.frames["K"][self.room.index(name, 0)], 160, 120)

    def poses(self, index: int, moved: dict[str, np.ndarray] | None = None) -> None:
        """Publishes where the cameras are at an instant."""
        for name in self.cameras:
            pose = (moved or {}).get(name, self.room.frames["T_wc"][self.room.index(name, index % 4)])
            self.rig.transform("map", f"{name}_optical", pose, index)

    def show(self, index: int, cameras: tuple[str, ...] | None = None, tf: bool = True) -> None:
        """Publishes the images of an instant, which shows step index % 4, and waits until the node is done."""
        if tf:
            self.poses(index)
        images = {name: self.room.colour(self.room.index(name, index % 4)) for name in cameras or self.cameras}
        before = self.node.health.count("receive")
        self.rig.send(images, index)
        assert self.ros.until(lambda: self.node.health.count("receive") == before + len(images))
        self.rig.done()

    def call(self, service: str, kind: Any = None, **fields: Any) -> Any:
        """The response of one of the node's services."""
        from std_srvs.srv import Trigger

        kind = kind or Trigger
        client = self.ros.listener.create_client(kind, f"/vggt/{service}")
        assert self.ros.until(client.service_is_ready)
        future = client.call_async(kind.Request(**fields))
        assert self.ros.until(future.done)
        self.ros.listener.destroy_client(client)
        return future.result()


@pytest.fixture
def vggt(ros: Any, room: Room, disparities: Path) -> Iterator[Callable[..., NodeRoom]]:
    """vggt(**parameters): an active node in the room, with bootstraps and depth from files, and its camera_info."""
    from vggt_ros.node import VggtNode

    def make(
        info: bool = True, cameras: tuple[str, ...] = CAMERAS, cli_args: list[str] | None = None, **values: Any
    ) -> NodeRoom:
        defaults = {
            "cameras": list(cameras),
            "bootstrap_file": room.folder / "vggt_like.npz",
            "depth_folder": disparities,
            "start_patience": 20.0,
            "sync_patience": 0.3,
            "num_threads": 1,
        }
        told = {name: value for name, value in {**defaults, **values}.items() if value is not None}
        scene = NodeRoom(ros, ros.start(VggtNode, True, cli_args, **told), room, cameras)
        if info:
            scene.infos()
        return scene

    return make
