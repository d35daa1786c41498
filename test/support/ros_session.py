# SPDX-License-Identifier: Apache-2.0
"""Nodes that spin in the test's own process, which no other process hears: class `Session`, fixture `ros`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 30.0


def parameters(**values: Any) -> list[Any]:
    """Parameter overrides for a node's constructor; paths become text."""
    from rclpy.parameter import Parameter

    return [Parameter(name, value=str(v) if isinstance(v, Path) else v) for name, v in values.items()]


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

    def start(self, kind: Any, active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        """Adds a node of this package with these parameters, and waits until it is active unless it cannot be."""
        node = self.add(kind(parameter_overrides=parameters(**values), cli_args=cli_args))
        if active:
            assert self.until(lambda: node.health.state == "active"), node.health.warnings
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
