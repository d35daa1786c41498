# SPDX-License-Identifier: Apache-2.0
"""A recording through the node and through the extractor: the same sets, the same features, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")
pytest.importorskip("rosbags", reason="rosbags is not installed")

from bev_vehicle import map_of
from rig_bags import write_rig_bag
from ros_session import Session
from sensor_msgs.msg import Image

from aot_runtime.bags import bag_messages, open_bag
from aot_runtime.ros.messages import stamp_to_ns
from aot_runtime.ros.qos import image_input_qos, latched_qos, output_qos

CAMERAS = ("front", "left", "rear")
SPLIT = "all"
BENT = (-0.2, 0.05, 0.001, 0.0, 0.0)


def remappings(cameras: tuple[str, ...], image: str) -> list[str]:
    """The node's topics -> the bag's."""
    pairs = [(f"~/{name}/{end}", f"/sensors/{name}/{end}") for name in cameras for end in ("camera_info",)]
    pairs += [(f"~/{name}/image", f"/sensors/{name}/{image}") for name in cameras]
    return ["--ros-args", *(word for ours, theirs in pairs for word in ("-r", f"{ours}:={theirs}"))]


class LockStep:
    """Publishes a bag's messages as they were recorded; each one once the node is done with the one before."""

    def __init__(self, ros: Session, node: Any) -> None:
        self._ros, self._node = ros, node
        self._publishers: dict[str, Any] = {}

    def play(self, bag: Path) -> None:
        node = self._node
        with open_bag(bag) as reader:
            for connection in reader.connections:
                package, _, kind = connection.msgtype.partition("/msg/")
                kind_of = getattr(import_module(f"{package}.msg"), kind)
                qos = image_input_qos(10) if kind.endswith("Image") else output_qos(100)
                if connection.topic == "/tf_static":
                    qos = latched_qos(100)
                self._publishers[connection.topic] = self._ros.publisher(kind_of, connection.topic, qos)
            for connection, _, raw in bag_messages(reader, bag, list(self._publishers)):
                before = self._seen(connection.topic)
                self._publishers[connection.topic].publish(bytes(raw))
                assert self._ros.until(lambda topic=connection.topic, n=before: self._seen(topic) != n)
                assert node._cameras.wait_idle(30)
        self._ros.spin(2 * node.value("sync_patience"))
        assert self._ros.until(lambda: node._cameras.idle)

    def _seen(self, topic: str) -> Any:
        if topic in ("/tf", "/tf_static"):
            return self._node._listener.received
        if topic.endswith("camera_info"):
            return id(self._node._cameras.calibrations[topic.split("/")[2]].newest)
        return self._node.health.count("receive")


def live(ros: Session, make: Callable[..., Any], bag: Path, image: str = "image_rect", **values: Any) -> dict[str, Any]:
    """What the node makes of the bag: token -> (map, frame, cameras)."""
    from diagnostic_msgs.msg import DiagnosticArray

    node = make(cli_args=remappings(CAMERAS, image), cameras=list(CAMERAS), tf_timeout=0.0, **values)
    features = ros.listen(Image, "/bev/bev_features")
    infos = ros.listen(DiagnosticArray, "/bev/bev_info")
    assert ros.until(lambda: node.wanted("bev_features") and node.wanted("bev_info"))
    LockStep(ros, node).play(bag)
    assert ros.until(lambda: len(infos) == len(features) == node.health.count("publish"))
    told = {f"{stamp_to_ns(msg.header.stamp):019d}": (map_of(msg), msg.header.frame_id) for msg in features}
    for array in infos:
        values_ = {pair.key: pair.value for pair in array.status[0].values}
        token = f"{stamp_to_ns(array.header.stamp):019d}"
        told[token] = (*told[token], tuple(values_["cameras"].split(",")), values_["calibration"])
    return told


def precomputed(bag: Path, artifact: Path, out: Path, *options: str) -> dict[str, Any]:
    """What the command stores of it, in float32: token -> (map, frame, cameras, calibration)."""
    from bev_ros.precompute_bev_features import main
    from bev_ros.store.store import BevStore

    arguments = ["--source", str(bag), "--encoder", str(artifact), "--output_dir", str(out), "--cameras"]
    arguments += [",".join(CAMERAS), "--dtype", "float32", "--gpu", "cpu", "--allow-random-weights", "--quiet"]
    assert main([*arguments, *options]) == 0
    store = BevStore.open(out)
    records, problems = store.records(SPLIT)
    assert not problems
    return {
        token: (
            store.read(SPLIT, token).dense().numpy(),
            store.manifest.frame,
            tuple(record.cameras),
            record.calibration,
        )
        for token, record in records.items()
    }


def check_equal(found: dict[str, Any], stored: dict[str, Any], count: int) -> None:
    assert sorted(found) == sorted(stored)
    assert len(found) == count
    for token, (ours, frame, cameras, calibration) in found.items():
        assert (frame, cameras, calibration) == stored[token][1:]
        theirs = np.asarray(stored[token][0], np.float32).reshape(ours.shape)
        assert ours.tobytes() == theirs.tobytes(), f"{token}: {np.abs(ours - theirs).max()}"
        assert np.abs(ours).max() > 0


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_node_and_extractor_agree(
    ros: Session, make: Callable[..., Any], bev_artifact: Path, tmp_path: Path, storage: str
) -> None:
    """A drive in a curve with staggered cameras, so that motion compensation matters."""
    recording = write_rig_bag(tmp_path / "bag", storage=storage, cameras=CAMERAS, size=(160, 90))
    found = live(ros, make, recording.path, missing_cameras="skip")
    stored = precomputed(recording.path, bev_artifact, tmp_path / "out")
    check_equal(found, stored, 5)
    assert len({entry[3] for entry in found.values()}) > 1  # every set has poses of its own


@pytest.mark.parametrize("policy", ["publish", "skip"])
def test_with_pictures_missing(
    ros: Session, make: Callable[..., Any], bev_artifact: Path, tmp_path: Path, policy: str
) -> None:
    recording = write_rig_bag(tmp_path / "bag", cameras=CAMERAS, size=(160, 90), without=(("left", 1), ("front", 3)))
    options = ("--required", "") if policy == "publish" else ()
    found = live(ros, make, recording.path, missing_cameras=policy, sync_patience=0.2)
    stored = precomputed(recording.path, bev_artifact, tmp_path / "out", *options)
    check_equal(found, stored, 5 if policy == "publish" else 3)
    if policy == "publish":
        cameras = [stored[token][2] for token in sorted(stored)]
        assert cameras == [CAMERAS, ("front", "rear"), CAMERAS, ("left", "rear"), CAMERAS]


def test_raw_images_of_lenses_that_bend(
    ros: Session, make: Callable[..., Any], bev_artifact: Path, tmp_path: Path
) -> None:
    recording = write_rig_bag(
        tmp_path / "bag",
        cameras=CAMERAS,
        size=(160, 90),
        topic="image_raw",
        distortion=(-0.2, 0.05, 0.001, 0, 0),
        count=2,
    )
    found = live(ros, make, recording.path, "image_raw", rectified=False)
    check_equal(found, precomputed(recording.path, bev_artifact, tmp_path / "out"), 2)


def test_with_a_calibration_file(ros: Session, make: Callable[..., Any], bev_artifact: Path, tmp_path: Path) -> None:
    from bev_ros.calibration import write_rig
    from bev_ros.sources import open_source

    recording = write_rig_bag(tmp_path / "bag", cameras=CAMERAS, size=(160, 90), count=2)
    source: Any = open_source(recording.path)
    write_rig(source.sample(SPLIT, source.tokens(SPLIT)[0]).rig, tmp_path / "rig.yaml")
    bare = write_rig_bag(tmp_path / "bare", cameras=CAMERAS, size=(160, 90), count=2, infos=(), static=False)
    found = live(ros, make, bare.path, calibration_file=tmp_path / "rig.yaml")
    options = ("--calibration", str(tmp_path / "rig.yaml"))
    check_equal(found, precomputed(bare.path, bev_artifact, tmp_path / "out", *options), 2)
