# SPDX-License-Identifier: Apache-2.0
"""Help for tests that run nodes in this process: a small artifact, spinning, and messages caught from topics."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 20.0


@pytest.fixture(scope="session")
def micro_f3(artifact_cache: Path) -> Path:
    """A micro F3 on a 160x90 field with random weights, compiled once per torch version and source state."""
    import hashlib

    import f3_ros.deploy
    import f3_ros.model
    from aot_runtime.environment import this_host
    from aot_runtime.manifest import CheckpointInfo
    from aot_runtime.verdict import judge
    from f3_ros.config import from_name
    from f3_ros.export_f3 import export_f3, make_model

    host = this_host()
    digest = hashlib.sha256(repr((host.torch, sorted(host.cpu_flags))).encode())
    for module in (f3_ros.deploy, f3_ros.model):
        digest.update(Path(module.__file__).read_bytes())
    path = artifact_cache / f"node_micro_160x90_{digest.hexdigest()[:16]}.pt2"
    if not path.is_file() or not judge(path, "cpu").ok:
        import torch

        torch.manual_seed(0)
        model = make_model(from_name("1280x720x20_patchff_ds1_micro"))
        export_f3(
            model,
            path,
            checkpoint=CheckpointInfo.random(0),
            n_events=20_000,
            variable=True,
            downsample=(160, 90),
            progress=False,
        )
    return path


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


def parameters(**values: Any) -> list[Any]:
    """Parameter overrides for a node's constructor."""
    from rclpy.parameter import Parameter

    return [Parameter(name, value=value) for name, value in values.items()]


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """rclpy, initialised for this process only; other processes neither hear nor disturb it."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(args=[])
    session = Session(rclpy)
    yield session
    session.close()
    rclpy.try_shutdown()


@pytest.fixture
def f3(ros: Session, micro_f3: Path) -> Callable[..., Any]:
    """f3(**parameters): an F3Node with the small artifact, active unless it cannot be."""
    from f3_ros.node import F3Node

    def make(active: bool = True, **values: Any) -> Any:
        given = {"artifact": str(micro_f3), **values}
        node = ros.add(F3Node(parameter_overrides=parameters(**given)))
        if active:
            assert ros.until(lambda: node.health.state == "active")
        return node

    return make


@pytest.fixture
def replay(ros: Session) -> Callable[..., Any]:
    """replay(file, **parameters): a ReplayNode connected to the node /f3."""
    from f3_ros.replay_node import ReplayNode

    arguments = ["--ros-args", "-r", "~/events:=/f3/events", "-r", "~/processed_seq:=/f3/processed_seq"]

    def make(file: Path | str, **values: Any) -> Any:
        given = {"file": str(file), "progress": False, "rate": 0.0, "stamps": "recorded", **values}
        return ros.add(ReplayNode(cli_args=arguments, parameter_overrides=parameters(**given)))

    return make


@pytest.fixture(scope="session")
def tiny_heads(artifact_cache: Path) -> dict[str, str]:
    """FlowHead and Depth Anything V2 for the features of `micro_f3`, tiny, with random weights, as node parameters."""
    import hashlib
    import inspect

    from aot_runtime.environment import this_host
    from aot_runtime.manifest import CheckpointInfo
    from aot_runtime.verdict import judge
    from depth_ros import deploy as depth_deploy
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig
    from f3_ros import flow_head as flow_module
    from f3_ros.export_flowhead import export_flowhead

    host = this_host()
    digest = hashlib.sha256(repr((host.torch, sorted(host.cpu_flags))).encode())
    for source in (depth_deploy, flow_module, inspect.getmodule(DepthAnythingV2), export_dav2, export_flowhead):
        digest.update(inspect.getsource(source).encode())
    paths = {name: artifact_cache / f"tiny_{name}_{digest.hexdigest()[:16]}.pt2" for name in ("depth", "flow")}
    options: dict[str, Any] = {"checkpoint": CheckpointInfo.random(0), "progress": False}
    if not paths["depth"].is_file() or not judge(paths["depth"], "cpu").ok:
        config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 8, 16, 16), input_channels=8)
        export_dav2(DepthAnythingV2(config).eval().randomise(0), paths["depth"], height=28, width=42, **options)
    if not paths["flow"].is_file() or not judge(paths["flow"], "cpu").ok:
        flow_head = flow_module.FlowHead(8, (3, 3), (2, 2), (1, 1)).eval().randomise(0)
        export_flowhead(flow_head, paths["flow"], height=28, width=42, **options)
    return {f"{name}_artifact": str(path) for name, path in paths.items()}
