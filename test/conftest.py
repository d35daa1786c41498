# SPDX-License-Identifier: Apache-2.0
"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Fixtures of test/support, and helpers there whose assertions shall say what they compared.
pytest_plugins = ["ros_session", "ros_processes"]
pytest.register_assert_rewrite("event_driver", "f3_heads", "node_checks", "ros_images")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests marked `slow` go first: a long file that began last would leave the other workers idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data: `$AOT_PERCEPTION_SHARED`, else `../shared` beside the repository."""
    folder = Path(os.environ.get("AOT_PERCEPTION_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        message = f"reference data folder {folder} is absent; set AOT_PERCEPTION_SHARED"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def artifact_cache() -> Path:
    """A folder that outlives the test session, for artifacts that take long to compile (`.cache/`)."""
    folder = Path(os.environ.get("AOT_PERCEPTION_TEST_CACHE", ROOT / ".cache" / "test_artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def image_bag(tmp_path: Path) -> Callable[..., Path]:
    """image_bag(images, ...) -> a rosbag2 of RGB images (H, W, 3) uint8 and, with `camera`, their CameraInfo."""

    def write(
        images: Sequence[np.ndarray],
        *,
        name: str = "bag",
        storage: str = "mcap",
        topic: str = "/camera/image_rect",
        camera: tuple[float, float, float, float] | None = None,
        latched_info: bool = False,
        compressed: bool = False,
        start_ns: int = 1_700_000_000_000_000_000,
        period_ns: int = 50_000_000,
        other_topics: bool = False,
    ) -> Path:
        """`latched_info`: one CameraInfo at the start instead of one an image."""
        rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
        from rosbags.typesys import Stores, get_typestore

        store = get_typestore(Stores.ROS2_JAZZY)
        types = store.types
        folder = tmp_path / name

        def header(ns: int) -> Any:
            stamp = types["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)
            return types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_optical")

        def image(ns: int, pixels: np.ndarray) -> Any:
            if compressed:
                import cv2

                data = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))[1].reshape(-1)
                return types["sensor_msgs/msg/CompressedImage"](header=header(ns), format="png", data=data)
            return types["sensor_msgs/msg/Image"](
                header=header(ns),
                height=pixels.shape[0],
                width=pixels.shape[1],
                encoding="rgb8",
                is_bigendian=0,
                step=pixels.shape[1] * 3,
                data=np.ascontiguousarray(pixels).reshape(-1),
            )

        def info(ns: int, pixels: np.ndarray) -> Any:
            fx, fy, cx, cy = camera or (0.0, 0.0, 0.0, 0.0)
            matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
            return types["sensor_msgs/msg/CameraInfo"](
                header=header(ns),
                height=pixels.shape[0],
                width=pixels.shape[1],
                distortion_model="plumb_bob",
                d=np.zeros(5),
                k=matrix.ravel(),
                r=np.eye(3).ravel(),
                p=np.hstack([matrix, np.zeros((3, 1))]).ravel(),
                binning_x=0,
                binning_y=0,
                roi=types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
            )

        with rosbag2.Writer(folder, version=9, storage_plugin=rosbag2.StoragePlugin[storage.upper()]) as writer:
            image_type = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
            connections = {image_type: writer.add_connection(topic, image_type, typestore=store)}
            if camera is not None:
                kind, qos = "sensor_msgs/msg/CameraInfo", [_latched_qos()] if latched_info else []
                beside = topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
                connections[kind] = writer.add_connection(beside, kind, typestore=store, offered_qos_profiles=qos)
            if other_topics:
                string = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
                raw = store.serialize_cdr(types["std_msgs/msg/String"]("hello"), "std_msgs/msg/String")
                writer.write(string, start_ns, raw)

            def add(kind: str, ns: int, msg: Any) -> None:
                writer.write(connections[kind], ns, store.serialize_cdr(msg, kind))

            for index, pixels in enumerate(images):
                ns = start_ns + index * period_ns
                if camera is not None and (index == 0 or not latched_info):
                    add("sensor_msgs/msg/CameraInfo", ns, info(ns, pixels))
                add(image_type, ns, image(ns, pixels))
        return folder

    return write


def _latched_qos() -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
