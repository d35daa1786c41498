# SPDX-License-Identifier: Apache-2.0
"""Commands as separate processes over real DDS, or without ROS: fixtures `environment` and `start`, and helpers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs the main() of a module where importing any ROS package fails.
_WITHOUT_ROS = """
import importlib, sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        first = name.split('.')[0]
        if first in ('rclpy', 'rcl_interfaces', 'builtin_interfaces') or first.endswith('_msgs'):
            raise ImportError(f'no ROS here: {name}')
sys.meta_path.insert(0, NoRos())
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment variables with a ROS domain of their own, on this machine only."""
    coordinator = pytest.importorskip("domain_coordinator", reason="domain_coordinator is not installed")
    with coordinator.domain_id() as domain:
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
        yield env


class Process:
    """A command whose output goes to a file, so that it can be waited for."""

    def __init__(self, log: Path, environment: dict[str, str], module: str, *arguments: str) -> None:
        self.log = log
        with log.open("w") as out:
            command = [sys.executable, "-m", module, *arguments]
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Waits until it has said this."""
        end = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert time.monotonic() < end, f"expected {text!r}, found {self.log.read_text()!r}"
            time.sleep(0.05)

    def done(self) -> str:
        """What it said, once it has ended by itself or by a signal, with exit status 0 and no traceback."""
        assert self._process.wait(60) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        return self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> str:
        """Sends the signal, and returns what it said."""
        self._process.send_signal(number)
        return self.done()

    def kill(self) -> None:
        """Ends it in any case."""
        if self.alive:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def start(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """start(module, *arguments): a Process; none outlives the test."""
    logs = tmp_path_factory.mktemp("logs")
    processes: list[Process] = []

    def begin(module: str, *arguments: str) -> Process:
        processes.append(Process(logs / f"{len(processes)}_{module}.log", environment, module, *arguments))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


def run_module(module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A short command to its end, with `stdout` and `stderr` apart; options of subprocess.run, such as env."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **{"timeout": 60, **options})


def run_without_ros(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process where importing any ROS package fails."""
    command = [sys.executable, "-c", _WITHOUT_ROS, module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def bag_topic(bag: Path, topic: str) -> Iterator[Any]:
    """The messages of one topic of a rosbag2, in order."""
    from aot_runtime.bags import bag_messages, open_bag, standard_typestore

    store = standard_typestore()
    with open_bag(bag) as reader:
        for connection, _, raw in bag_messages(reader, bag, {topic}):
            yield store.deserialize_cdr(raw, connection.msgtype)
