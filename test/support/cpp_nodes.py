# SPDX-License-Identifier: Apache-2.0
"""C++ components as processes beside Python nodes in the test's own: fixture `shared_ros`, class `CppNode`.

The components exist only where the C++ package was built with rclcpp, which is in no wheel: tests skip elsewhere, in CI
too.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cpp_programs import ROOT
from ros_session import Session

FOLDER = Path(os.environ.get("AOT_PERCEPTION_CPP_BUILD", ROOT / ".cache" / "cpp")) / "src" / "components"


NEEDS_COMPONENTS = pytest.mark.skipif(
    not (FOLDER / "f3_node").is_file(), reason=f"no components in {FOLDER}: the C++ package was built without rclcpp"
)


class SharedSession(Session):
    """A session that other processes of its domain hear."""

    def __init__(self, rclpy: Any, logs: Path) -> None:
        super().__init__(rclpy)
        self._logs = logs
        self._subscriptions: list[Any] = []
        self._running: list[CppNode] = []

    def listen(self, kind: Any, topic: str, qos: Any = 1000) -> list[Any]:
        """As in `Session`; `all_connected` waits for the publishers."""
        kept = self.messages[topic].append
        self._subscriptions.append(self.listener.create_subscription(kind, topic, kept, qos))
        return self.messages[topic]

    def all_connected(self) -> bool:
        """Waits until every topic that is listened to has a publisher, and that one has had time to see us."""
        connected = self.until(lambda: all(one.get_publisher_count() for one in self._subscriptions))
        self.spin(0.5)
        return connected

    def start_cpp(self, kind: str, name: str, active: bool = True, *arguments: str, **values: Any) -> CppNode:
        """Starts the C++ executable `kind` as node `name`, and waits until it is active unless it cannot be."""
        node = CppNode(self, kind, name, self._logs / f"{name}.log", arguments, values)
        self._running.append(node)
        if active:
            assert self.until(lambda: node.told.get("state") == "active", 60), node.log()
        return node

    def close(self) -> None:
        """Ends all processes and destroys all nodes."""
        for node in self._running:
            node.kill()
        super().close()


class CppNode:
    """A component's executable.

    Attributes:
        status: its latest DiagnosticStatus, or None.
        told: the pairs of that.
    """

    def __init__(
        self, ros: Session, kind: str, name: str, log: Path, arguments: tuple[str, ...], values: dict[str, Any]
    ) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        self.status: Any = None
        self._ros, self._name, self._log = ros, name, log
        ros.listener.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        values = {"diagnostics_period": 0.1, **values}
        given = [part for key, value in values.items() for part in ("-p", f"{key}:={_text(value)}")]
        command = [str(FOLDER / kind), "--ros-args", "-r", f"__node:={name}", *given, *arguments]
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def _on_report(self, array: Any) -> None:
        for status in array.status:
            if status.name == self._name:
                self.status = status

    @property
    def told(self) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.status.values} if self.status is not None else {}

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause, as the latest report tells them."""
        return {key[8:]: int(value) for key, value in self.told.items() if key.startswith("dropped ")}

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def end_status(self) -> int | None:
        """The exit status, once it has ended."""
        return self._process.poll()

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The answer of one of the node's services."""
        client = self._ros.listener.create_client(kind, f"/{self._name}/{service}")
        assert self._ros.until(client.service_is_ready)
        future = client.call_async(request)
        assert self._ros.until(future.done), self.log()
        self._ros.listener.destroy_client(client)
        return future.result()

    def transition(self, label: str) -> bool:
        """Asks for a transition of the life cycle; whether it succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request(transition=Transition(label=label))
        return bool(self.call(ChangeState, "change_state", request).success)

    def set(self, name: str, value: Any) -> Any:
        """Sets a parameter; the result says whether and why not."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        parameter = Parameter(name, value=str(value) if isinstance(value, Path) else value)
        return self.call(
            SetParameters, "set_parameters", SetParameters.Request(parameters=[parameter.to_parameter_msg()])
        ).results[0]

    def end(self) -> int:
        """Sends SIGINT; the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(30)

    def kill(self) -> None:
        """Ends it in any case."""
        if self.alive:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()


def _text(value: Any) -> str:
    """A value as a command line's YAML: text keeps its quotes, so that "" stays text."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, (str, Path)) else repr(value)


@pytest.fixture
def shared_ros(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SharedSession]:
    """rclpy in a ROS domain of this test's own, which its child processes share."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    coordinator = pytest.importorskip("domain_coordinator", reason="domain_coordinator is not installed")
    with coordinator.domain_id() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        rclpy.init(args=[])
        session = SharedSession(rclpy, tmp_path)
        yield session
        session.close()
        rclpy.try_shutdown()
