# SPDX-License-Identifier: Apache-2.0
"""rclpy in one process, invisible to every other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An initialised default context that no other process hears."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(args=[])
    yield rclpy
    rclpy.try_shutdown()


@pytest.fixture
def spin_until(ros: object) -> Callable[..., bool]:
    """spin_until(nodes, condition, timeout_s=10): spins the nodes until the condition holds; returns whether it did."""
    import time

    from rclpy.executors import SingleThreadedExecutor

    def spin(nodes: list, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
        end = time.monotonic() + timeout_s
        try:
            while time.monotonic() < end:
                if condition():
                    return True
                executor.spin_once(timeout_sec=0.02)
            return condition()
        finally:
            for node in nodes:
                executor.remove_node(node)
            executor.shutdown()

    return spin
