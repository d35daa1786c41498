# SPDX-License-Identifier: Apache-2.0
"""For tests of nodes that take images: a camera, messages good and malformed, and what every such node must bear."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from aot_runtime.ros.messages import ns_to_stamp, stamp_to_ns, to_image
from aot_runtime.ros.qos import image_input_qos

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000


def rgb_message(image: np.ndarray, index: int = 0, frame: str = "camera_optical", encoding: str = "rgb8") -> Image:
    """The image (H, W, 3) uint8 RGB as the `index`-th message of a camera, in encoding rgb8 or bgr8."""
    header = Header(stamp=ns_to_stamp(START_NS + index * PERIOD_NS), frame_id=frame)
    return to_image(image if encoding == "rgb8" else np.ascontiguousarray(image[:, :, ::-1]), encoding, header)


def png_message(image: np.ndarray) -> CompressedImage:
    """The image (H, W, 3) uint8 RGB, compressed."""
    import cv2

    msg = CompressedImage(header=rgb_message(image).header, format="png")
    msg.data.frombytes(cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes())
    return msg


def malformed_pngs(header: Header) -> list[CompressedImage]:
    """Compressed images that cannot be decoded."""
    broken = CompressedImage(header=header, format="jpeg")
    broken.data.frombytes(b"\xff\xd8 no picture")
    return [broken, CompressedImage(header=header, format="jpeg")]


def info_message(width: int, height: int, focal: float = 500.0, index: int = 0) -> CameraInfo:
    """A pinhole camera; focal length in pixels."""
    matrix = [focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        header=Header(stamp=ns_to_stamp(START_NS + index * PERIOD_NS), frame_id="camera_optical"),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=matrix,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
    )


class Camera:
    """Publishes to an `ImageNode`, each image only once the one before is done.

    Args:
        ros: the session.
        node: the node; its topics are those of its name.
        kind: Image or CompressedImage.
        topic: of the images, if remapped.
    """

    def __init__(self, ros: Any, node: Any, kind: Any = Image, topic: str | None = None) -> None:
        self._ros = ros
        self._node = node
        self._images = ros.publisher(kind, topic or f"/{node.get_name()}/image", image_input_qos(10))
        self._infos: Any = None

    def info(self, msg: CameraInfo) -> None:
        """Publishes a CameraInfo, and waits until the node has it."""
        if self._infos is None:
            self._infos = self._ros.publisher(CameraInfo, f"/{self._node.get_name()}/camera_info", image_input_qos(10))
        before = self._node._infos._latest
        self._infos.publish(msg)
        assert self._ros.until(lambda: self._node._infos._latest is not before)

    def send(self, msg: Any) -> None:
        """Publishes an image, and waits until the node is done with it."""
        before = self._node.health.count("receive")
        self._images.publish(msg)
        assert self._ros.until(lambda: self._node.health.count("receive") > before and self._node._worker.idle)
        self._ros.spin(0.05)


def malformed_images(good: np.ndarray) -> list[Image]:
    """Messages about the image (H, 160, 3) with one field that cannot be."""

    def changed(**fields: Any) -> Image:
        msg = rgb_message(good)
        for name, value in fields.items():
            setattr(msg, name, value)
        return msg

    assert good.shape[1] == 160
    return [
        changed(encoding="rgb9"),
        changed(encoding=""),
        changed(width=0),
        changed(height=0),
        changed(height=2**32 - 1),
        changed(step=1),
        changed(step=2**32 - 1),
        changed(encoding="32FC1", step=160 * 4),
        changed(encoding="bayer_rggb8", width=159),
        changed(encoding="yuv422", step=300),
        Image(header=changed().header),
    ]


def check_malformed_images(ros: Any, node: Any, outputs: list[Any], good: np.ndarray) -> None:
    """Malformed images and stamps are counted and nothing else; then a good image comes out."""
    camera, bad = Camera(ros, node), malformed_images(good)
    for msg in bad:
        camera.send(msg)
    assert node.health.drops() == {"bad_image": len(bad)}
    stamp = rgb_message(good)
    stamp.header.stamp.nanosec = 2 * 10**9
    camera.send(stamp)
    assert node.health.drops()["bad_stamp"] == 1
    assert not outputs
    assert node.health.state == "active"
    camera.send(rgb_message(good))
    assert ros.until(lambda: outputs)
    assert node.health.count("receive") == len(bad) + 2


def check_overload(ros: Any, node: Any, outputs: list[Any], image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that come faster than the model runs the newest is kept, and the others are counted."""
    process = node._pipeline.process
    monkeypatch.setattr(node._pipeline, "process", lambda *a: (time.sleep(0.3), process(*a))[1])
    images = ros.publisher(Image, f"/{node.get_name()}/image", image_input_qos(20))
    n = 10
    for index in range(n):
        images.publish(rgb_message(image, index))
        ros.until(lambda k=index + 1: node.health.count("receive") == k)
    assert node.health.count("receive") == n
    assert ros.until(lambda: node._worker.idle)
    ros.spin(0.1)
    drops = node.health.drops()["image_queue_full"]
    assert drops >= n - 4
    assert len(outputs) == n - drops
    assert stamp_to_ns(outputs[-1].header.stamp) == START_NS + (n - 1) * PERIOD_NS


def check_late_images(ros: Any, node: Any, outputs: list[Any], image: np.ndarray) -> None:
    """A node with `max_input_age` of some seconds drops an image that is older, and takes a fresh one."""
    camera = Camera(ros, node)
    camera.send(rgb_message(image))  # stamped in 2023
    assert node.health.drops() == {"late": 1}
    fresh = rgb_message(image)
    fresh.header.stamp = ns_to_stamp(node.now_ns())
    camera.send(fresh)
    assert ros.until(lambda: len(outputs) == 1)


def check_transitions(ros: Any, node: Any, image: np.ndarray, outputs: dict[str, list[Any]]) -> None:
    """Every transition twice with an image in between, then to the end; no thread or publisher stays.

    Args:
        ros: the session.
        node: unconfigured, without autostart.
        image: to send each time.
        outputs: what is collected by the name of the output; each image gives one message of each.
    """
    camera, images = None, f"/{node.get_name()}/image"
    for round_ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        camera = camera or Camera(ros, node)
        assert ros.until(lambda: all(node.wanted(name) for name in outputs) and node.count_publishers(images))
        ros.spin(0.3)
        camera.send(rgb_message(image, round_))
        assert ros.until(lambda n=round_ + 1: all(len(messages) == n for messages in outputs.values()))
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
        assert not node.outputs
    assert not any(thread.name == "infer" for thread in threading.enumerate())
    node.trigger_configure()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


class SimulatedTime:
    """Publishes /clock for a node with `use_sim_time`, in seconds after `START_NS`."""

    def __init__(self, ros: Any, node: Any) -> None:
        from rosgraph_msgs.msg import Clock

        self._ros, self._node, self._kind = ros, node, Clock
        self._clock = ros.publisher(Clock, "/clock")

    def set(self, second: int) -> None:
        """The node's time, from now on."""
        self._clock.publish(self._kind(clock=ns_to_stamp(START_NS + second * 10**9)))
        assert self._ros.until(lambda: self._node.now_ns() == START_NS + second * 10**9)

    def set_back(self, second: int) -> None:
        """As `set`, to an earlier time, which the node must count as a jump."""
        before = self._node.health.drops().get("time_jump_ros", 0)
        self.set(second)
        assert self._ros.until(lambda: self._node.health.drops().get("time_jump_ros", 0) == before + 1)
