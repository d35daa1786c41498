# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Plays folders of images, or videos, of several cameras as topics: command `play_rig`.

| topic | type | |
|---|---|---|
| `/NAME/image_rect` | sensor_msgs/Image, rgb8; frame `NAME_optical` | out |
| `/NAME/camera_info` | sensor_msgs/CameraInfo, latched | out, with --intrinsics |
| `/tf`, or `/tf_static` if it stands still | tf2_msgs/TFMessage: world -> `NAME_optical` | out, with --poses |

Files are those of `reconstruct`: the n-th images of all cameras are one instant. An image that cannot be read is not
published, and said so.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from aot_runtime.camera import Camera
from aot_runtime.errors import AotError, InputError
from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.node import run_node
from aot_runtime.ros.qos import latched_qos, output_qos
from aot_runtime.ros.tf import TransformBroadcaster
from depth_ros.camera_infos import info_of_camera
from vggt_ros.feeds import Batch, chosen, image_batches, image_folders, video_batches, video_files
from vggt_ros.rig import Rig, read_intrinsics, read_poses

_SETTLE_S = 1.0


@dataclass(frozen=True)
class PlayOptions:
    """What to play, and how.

    Attributes:
        images, videos: a folder; one of both.
        views: cameras to play; empty: all.
        intrinsics, poses: files of `vggt_ros.rig`.
        rate: instants per second.
        frame_step: play every so many frames.
        loop: start again at the end; stamps go on, unless they are counted.
        start_s: stamp of the first instant, the others follow by the rate; None: the time of publishing.
        world_frame: parent of the cameras.
        subscribers: wait until so many subscribe to each camera's images; 0: do not wait.

    Raises:
        InputError: a value makes no sense.
    """

    images: Path | None = None
    videos: Path | None = None
    views: tuple[str, ...] = ()
    intrinsics: Path | None = None
    poses: Path | None = None
    rate: float = 10.0
    frame_step: int = 1
    loop: bool = False
    start_s: float | None = None
    world_frame: str = "map"
    subscribers: int = 1

    def __post_init__(self) -> None:
        if (self.images is None) == (self.videos is None):
            raise InputError("expected --images or --videos, found both or neither")
        if not self.rate > 0 or self.frame_step < 1:
            raise InputError(f"expected a rate above 0 and a step from 1, found {self.rate} and {self.frame_step}")
        if (self.start_s or 0) < 0 or self.subscribers < 0:
            raise InputError(f"expected a stamp and a count from 0, found {self.start_s} and {self.subscribers}")


class RigPlayer(Node):
    """Publishes from a thread of its own; `exit_code` is set when it has finished.

    Attributes:
        played: instants published.

    Raises:
        InputError: a file or folder is of no use.
    """

    def __init__(self, options: PlayOptions, **kwargs: Any) -> None:
        super().__init__("play_rig", **kwargs)
        self.exit_code: int | None = None
        self.played = 0
        self._options = options
        self._rig = Rig(
            read_intrinsics(options.intrinsics) if options.intrinsics else {},
            read_poses(options.poses) if options.poses else {},
        )
        root = options.images or options.videos
        assert root is not None
        found = image_folders(root) if options.images else video_files(root)
        names = chosen(list(found), options.views, 0, 0, 0)
        self._files = {name: found[name] for name in names}
        self._images = {name: self.create_publisher(Image, f"/{name}/image_rect", output_qos()) for name in names}
        self._infos = {
            name: self.create_publisher(CameraInfo, f"/{name}/camera_info", latched_qos())
            for name in names
            if name in self._rig.intrinsics
        }
        still = {name for name in names if set(self._rig.poses.get(name, {})) == {None}}
        self._moving = TransformBroadcaster(self) if set(self._rig.poses) - still else None
        self._static = TransformBroadcaster(self, static=True) if still else None
        self._still = still
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        """Ends the playing thread first."""
        self._stop.set()
        self._thread.join(5.0)
        super().destroy_node()

    def _run(self) -> None:
        code = 0
        try:
            if self._options.subscribers:
                self._wait_for_subscribers()
            self._play()
            for publisher in self._images.values():  # one that vanishes at once takes its last messages with it
                publisher.wait_for_all_acked(Duration(seconds=2))
            self._stop.wait(_SETTLE_S)
        except AotError as error:
            self.get_logger().error(str(error))
            code = 2
        except Exception as error:
            if not self._stop.is_set():  # at shutdown the publishers vanish under the thread
                self.get_logger().error(f"playing failed: {type(error).__name__}: {error}")
                code = 2
        self.exit_code = code

    def _wait_for_subscribers(self) -> None:
        told = time.monotonic()
        while not self._stop.wait(0.02):
            wanted = self._options.subscribers
            silent = [name for name, out in self._images.items() if out.get_subscription_count() < wanted]
            if not silent:
                self._stop.wait(_SETTLE_S)  # discovery of the other topics
                return
            if time.monotonic() - told > 5:
                told = time.monotonic()
                self.get_logger().info(f"waiting for {wanted} subscriber(s) of /{silent[0]}/image_rect")

    def _play(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            batches = image_batches if self._options.images else video_batches
            before = self.played
            for number, batch in enumerate(batches(self._files, self._options.frame_step)):
                if self._stop.wait(max(0.0, begin + number / self._options.rate - time.monotonic())):
                    return
                start = self._options.start_s
                now_ns = int(self.get_clock().now().nanoseconds)
                stamp_ns = now_ns if start is None else round(start * 1e9) + round(number * 1e9 / self._options.rate)
                self._publish(batch, stamp_ns)
                self.played += 1
            if self.played == before:
                raise InputError(f"expected images of {', '.join(self._files)}, found none")
            if not self._options.loop:
                self.get_logger().info(f"done: {self.played} instants of {', '.join(self._files)}")
                return

    def _publish(self, batch: Batch, stamp_ns: int) -> None:
        for name, problem in batch.problems.items():
            self.get_logger().warning(f"{name} is not published: {problem}")
        transforms = {name: self._rig.pose(name, batch.frame) for name in self._files}
        for broadcaster, names in ((self._static, self._still), (self._moving, set(self._files) - self._still)):
            known = [(name, transforms[name]) for name in sorted(names)]
            told = [(self._options.world_frame, f"{name}_optical", pose) for name, pose in known if pose is not None]
            if broadcaster is not None and told:
                broadcaster.send(told, stamp_ns)
        for name, image in batch.images.items():
            header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=f"{name}_optical")
            if name in self._infos:
                self._infos[name].publish(self._info(name, image, header))
            self._images[name].publish(to_image(np.ascontiguousarray(image), "rgb8", header))

    def _info(self, name: str, image: np.ndarray, header: Header) -> CameraInfo:
        matrix = self._rig.intrinsics[name]
        camera = Camera(matrix, np.hstack([matrix, np.zeros((3, 1))]))
        return info_of_camera(camera, image.shape[1], image.shape[0], header)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="play_rig",
        description="Plays folders of images, or videos, of several cameras as topics.",
        epilog="Topics are remapped as for any node: play_rig ... --ros-args -r /left/image_rect:=/left/image",
    )
    add = parser.add_argument
    add("--images", type=Path, help="folder with a subfolder of images for each camera")
    add("--videos", type=Path, help="folder with a video for each camera, or a subfolder with one")
    add("--views", default="", help="comma-separated cameras to play")
    add("--intrinsics", type=Path, help="JSON or NPZ: {camera: 3x3}, as for reconstruct")
    add("--poses", type=Path, help="JSON or NPZ: camera-to-world 4x4 in metres, fixed or by frame, as for reconstruct")
    add("--rate", type=float, default=10.0, help="instants per second")
    add("--frame_step", type=int, default=1, help="play every so many frames")
    add("--loop", action="store_true", help="start again at the end, until stopped")
    add("--start_stamp", type=float, help="stamp of the first instant [s]; default: the time of publishing")
    add("--world_frame", default="map", help="parent of the cameras")
    add("--subscribers", type=int, default=1, help="wait until so many subscribe to each camera; 0: do not wait")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command `play_rig`: exit status 0 done, 2 a file or an argument is of no use."""
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--ros-args") if "--ros-args" in given else len(given)
    told = _parser().parse_args(given[:split])

    def make() -> RigPlayer:
        return RigPlayer(
            PlayOptions(
                images=told.images,
                videos=told.videos,
                views=tuple(name for name in told.views.split(",") if name),
                intrinsics=told.intrinsics,
                poses=told.poses,
                rate=told.rate,
                frame_step=told.frame_step,
                loop=told.loop,
                start_s=told.start_stamp,
                world_frame=told.world_frame,
                subscribers=told.subscribers,
            )
        )

    return run_node(make, given[split:])


if __name__ == "__main__":
    sys.exit(main())
