# SPDX-License-Identifier: Apache-2.0
"""The lifecycle base: failures leave the node alive, every transition can be tried again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from std_msgs.msg import UInt64

from aot_runtime.errors import ArtifactError
from aot_runtime.ros.node import FAILURE, SUCCESS, PerceptionNode, run_node
from aot_runtime.ros.qos import output_qos, overridable


class Toy(PerceptionNode):
    """Records its hooks and fails where told to."""

    def __init__(self, fail: dict[str, Exception] | None = None, **parameters: object) -> None:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        super().__init__("toy", ["receive", "publish"], parameter_overrides=overrides)
        self.calls: list[str] = []
        self.fail = fail or {}
        self.declare("size", 3, "How big.", low=1, high=10)

    def _hook(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def configure_family(self) -> None:
        self._hook("configure")
        self.publisher = self.create_lifecycle_publisher(
            UInt64, "~/out", output_qos(), qos_overriding_options=overridable()
        )

    def activate_family(self) -> None:
        self._hook("activate")

    def deactivate_family(self) -> None:
        self._hook("deactivate")

    def cleanup_family(self) -> None:
        self._hook("cleanup")
        if hasattr(self, "publisher"):
            self.destroy_lifecycle_publisher(self.publisher)
            del self.publisher


@pytest.fixture
def make(ros: object) -> Iterator[Callable[..., Toy]]:
    nodes: list[Toy] = []

    def make(*args: object, **kwargs: object) -> Toy:
        nodes.append(Toy(*args, **kwargs))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def test_autostart_goes_to_active(make: Callable[..., Toy], spin_until: Callable[..., bool]) -> None:
    node = make()
    assert spin_until([node], lambda: node.health.state == "active")
    assert node.calls == ["configure", "activate"]
    node.destroy_node()
    assert node.calls == ["configure", "activate", "deactivate", "cleanup"]


def test_every_transition_twice(make: Callable[..., Toy]) -> None:
    node = make(autostart=False)
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert node.health.state == "finalized"


@pytest.mark.parametrize("error", [ArtifactError("expected a file, found none", "export one"), ZeroDivisionError("x")])
def test_failed_configure_is_undone_logged_and_can_be_repeated(
    make: Callable[..., Toy], spin_until: Callable[..., bool], error: Exception
) -> None:
    node = make({"configure": error})
    assert spin_until([node], lambda: "configure" in node.calls)
    assert node.calls == ["configure", "cleanup"]
    assert node.health.state == "unconfigured"
    assert str(error) in node.health.report().message
    node.fail.clear()
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert "lifecycle" not in node.health.warnings


def test_failed_activate_stays_inactive(make: Callable[..., Toy]) -> None:
    node = make({"activate": ArtifactError("self-test differs")}, autostart=False)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == FAILURE
    assert node.calls == ["configure", "activate", "deactivate"]
    assert node.health.state == "inactive"
    node.fail.clear()
    assert node.trigger_activate() == SUCCESS


def test_failing_undo_and_shutdown_never_raise(make: Callable[..., Toy]) -> None:
    node = make(
        {"configure": ValueError("a"), "cleanup": ValueError("b"), "deactivate": ValueError("c")}, autostart=False
    )
    assert node.trigger_configure() == FAILURE
    assert node.trigger_shutdown() == SUCCESS


def test_impossible_transition_over_the_service_is_refused_and_the_node_lives(
    make: Callable[..., Toy], ros: object, spin_until: Callable[..., bool]
) -> None:
    node = make(autostart=False)
    client_node = ros.create_node("client")
    client = client_node.create_client(ChangeState, "/toy/change_state")
    assert spin_until([node, client_node], client.service_is_ready)
    for transition, success in ((Transition.TRANSITION_ACTIVATE, False), (Transition.TRANSITION_CONFIGURE, True)):
        request = ChangeState.Request()
        request.transition.id = transition
        future = client.call_async(request)
        assert spin_until([node, client_node], future.done)
        assert future.result().success is success
    client_node.destroy_node()


def test_parameters_have_ranges_and_are_locked_while_configured(make: Callable[..., Toy]) -> None:
    node = make(autostart=False)
    assert node.set_parameters([Parameter("size", value=4)])[0].successful
    assert not node.set_parameters([Parameter("size", value=11)])[0].successful
    node.trigger_configure()
    result = node.set_parameters([Parameter("size", value=5)])[0]
    assert not result.successful
    assert "clean it up" in result.reason
    assert node.describe_parameter("size").description == "How big."


def test_diagnostics_arrive_in_every_state(
    make: Callable[..., Toy], ros: object, spin_until: Callable[..., bool]
) -> None:
    node = make(autostart=False, diagnostics_period=0.05)
    seen: list[DiagnosticArray] = []
    listener = ros.create_node("listener")
    listener.create_subscription(DiagnosticArray, "/diagnostics", seen.append, 10)
    assert spin_until([node, listener], lambda: len(seen) >= 2)
    status = seen[-1].status[0]
    assert (status.name, status.level, status.message) == ("toy", b"\x01", "the node is unconfigured")
    assert {v.key: v.value for v in status.values}["state"] == "unconfigured"
    listener.destroy_node()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_spinning_with_exit_code_0(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    before = signal.getsignal(number)
    nodes: list[Toy] = []

    def make() -> Toy:
        nodes.append(Toy())
        threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
        return nodes[0]

    assert run_node(make, []) == 0
    assert nodes[0].calls == ["configure", "activate", "deactivate", "cleanup"]
    assert signal.getsignal(number) == before


def test_error_while_making_the_node_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")

    def make() -> Toy:
        raise ArtifactError("expected A, found B", "do C")

    assert run_node(make, []) == 2
    assert capsys.readouterr().err == "error: expected A, found B; do C\n"
    assert run_node(make, ["--help"], usage="usage: toy") == 0
    assert capsys.readouterr().out == "usage: toy\n"
