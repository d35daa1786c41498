# SPDX-License-Identifier: Apache-2.0
"""Help for tests of aliked_node: compiled official networks, real images, and nodes that spin in this process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATIENCE_S = 30.0
# As in test_golden.py, so that the same compiled artifacts serve.
OPTIONS = {
    "crop_th02": {"height": 120, "width": 160, "top_k": 300, "score_map": True},
    "tum_k1000": {"height": 480, "width": 640, "top_k": 1000, "score_map": True},
}


@pytest.fixture(scope="session")
def network(aliked_artifact: Callable[..., Path]) -> Callable[..., Path]:
    """network(variant, case, suffix): the artifact of an official network for the images of a golden case."""
    return lambda variant="t16", case="crop_th02", suffix=".pt2": aliked_artifact(
        variant, suffix=suffix, **OPTIONS[case]
    )


@pytest.fixture
def altered(network: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """altered(family=..., random=..., **preprocessing): the small artifact with another manifest."""
    from dataclasses import replace

    from aot_runtime.backends.package import read_manifest_json, write_with_manifest
    from aot_runtime.manifest import CheckpointInfo, Manifest

    def get(*, family: str = "aliked", random: bool = False, **preprocessing: Any) -> Path:
        manifest = Manifest.from_json(read_manifest_json(network()))
        changed = replace(
            manifest,
            family=family,
            preprocessing={**manifest.preprocessing, **preprocessing},
            checkpoint=CheckpointInfo.random(0) if random else manifest.checkpoint,
        )
        write_with_manifest(network(), tmp_path / "altered.pt2", changed.to_json())
        return tmp_path / "altered.pt2"

    return get


@pytest.fixture(scope="session")
def crops(read_image: Callable[[str], np.ndarray]) -> list[np.ndarray]:
    """Views 160x120 of a real image that move right by 8 and down by 5 pixels each: points move left and up."""
    image = read_image("tum_1311868169.163498.png")
    corners = [(240 + 8 * n, 180 + 5 * n) for n in range(4)]
    return [np.ascontiguousarray(image[y : y + 120, x : x + 160]) for x, y in corners]


class Session:
    """Nodes of one context that spin in the test's thread, and the messages of topics."""

    def __init__(self, rclpy: Any) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.messages: dict[str, list[Any]] = defaultdict(list)
        self._nodes: list[Any] = []
        self._executor = SingleThreadedExecutor()
        self.listener = self.add(rclpy.create_node("listener"))

    def add(self, node: Any) -> Any:
        """Spins this node from now on; it is destroyed at the end."""
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def remove(self, node: Any) -> None:
        """Destroys the node now."""
        self._nodes.remove(node)
        self._executor.remove_node(node)
        node.destroy_node()

    def listen(self, kind: Any, topic: str, qos: Any = 1000) -> list[Any]:
        """Collects what arrives on a topic."""
        self.listener.create_subscription(kind, topic, self.messages[topic].append, qos)
        return self.messages[topic]

    def publisher(self, kind: Any, topic: str, qos: Any = 10) -> Any:
        """A publisher of the listener's node, once somebody subscribes to it."""
        publisher = self.listener.create_publisher(kind, topic, qos)
        assert self.until(publisher.get_subscription_count)
        return publisher

    def until(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> bool:
        """Spins until the condition holds; whether it did."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if condition():
                return True
            self._executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def spin(self, seconds: float) -> None:
        """Spins for a while."""
        self.until(lambda: False, seconds)

    def close(self) -> None:
        """Destroys all nodes."""
        for node in list(self._nodes):
            self.remove(node)
        self._executor.shutdown()


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """rclpy, initialised for this process only; other processes neither hear nor disturb it."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(args=[])
    session = Session(rclpy)
    yield session
    session.close()
    rclpy.try_shutdown()


@pytest.fixture
def aliked(ros: Session, network: Callable[..., Path]) -> Callable[..., Any]:
    """aliked(**parameters): an AlikedNode with the network t16 for 160x120, active unless it cannot be."""
    from rclpy.parameter import Parameter

    from aliked_ros.node import AlikedNode

    def make(active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        if "artifact" not in values:
            values["artifact"] = network()
        given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        node = ros.add(AlikedNode(parameter_overrides=overrides, cli_args=cli_args))
        if active:
            assert ros.until(lambda: node.health.state == "active"), node.health.warnings
        return node

    return make
