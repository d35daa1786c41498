# SPDX-License-Identifier: Apache-2.0
"""Python nodes against C++ nodes and components: latency and CPU share of each on the same input, in one run.

    source install/setup.bash      # ROS 2 with aot_perception and aot_perception_cpp
    python benchmarks/components_latency.py --events RECORDING --f3 F3.pt2 --depth-head D.pt2 --flow-head F.pt2 \\
        --depth DEPTH.pt2 --aliked ALIKED.pt2 --json benchmarks/results/components_cpu.json

Each artifact that is given is a case. The three forms of a node take turns, several rounds, so that other load on the
machine meets all of them; the table has the median of the rounds. Latency is what the nodes themselves report: from
the input's header stamp, and from its arrival, to the moment when the result is published. CPU is the node's process,
100 % being one core; for a component that is its container, which holds nothing else.

Events are replayed in real time, in a loop; images (bgr8, noise) are published at a fixed rate from this process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aot_runtime.environment import stamp
from aot_runtime.errors import AotError, InputError
from aot_runtime.ros.launching import CPP_PACKAGE

FORMS = ("python", "cpp", "component")
NAME = "subject"
KEYS = {
    "stamp_p50_ms": "latency from stamp p50 [ms]",
    "stamp_p99_ms": "latency from stamp p99 [ms]",
    "receive_p50_ms": "latency from receive p50 [ms]",
    "receive_p99_ms": "latency from receive p99 [ms]",
    "rss_mib": "resident memory [MiB]",
}


@dataclass(frozen=True)
class Case:
    """A node and its input.

    Attributes:
        family: "f3", "depth" or "aliked".
        values: its parameters.
        topics: private outputs to subscribe to, and the names of their message types.
    """

    name: str
    family: str
    values: dict[str, str]
    topics: dict[str, str]

    @property
    def plugin(self) -> str:
        """The component's class."""
        return f"aot_perception::{self.family.capitalize()}Component"


@dataclass
class Measured:
    """Numbers of one form of a node in one round."""

    case: str
    form: str
    round: int
    cpu_percent: float
    inputs: int
    outputs: int
    drops: dict[str, int]
    values: dict[str, float] = field(default_factory=dict)


class Bench:
    """A rclpy node that starts the subjects, feeds them and reads their reports."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init(args=[])
        self.node = rclpy.create_node("bench")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._told: dict[str, str] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)

    def _on_report(self, array: Any) -> None:
        for status in array.status:
            if status.name == NAME:
                self._told = {pair.key: pair.value for pair in status.values}

    def until(self, condition: Any, timeout_s: float) -> bool:
        """Spins until the condition holds; whether it did."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if condition():
                return True
            self._executor.spin_once(timeout_sec=0.01)
        return bool(condition())

    def measure(self, case: Case, form: str, number: int, options: argparse.Namespace) -> Measured:
        """One form of a node over one playback."""
        self._told = {}
        with self._subject(case, form) as process:
            if not self.until(lambda: self._told.get("state") == "active", 60):
                raise InputError(f"expected {case.name} as {form} to become active, found {self._told or 'no report'}")
            subscriptions = [self._listen(topic, kind) for topic, kind in case.topics.items()]
            self.until(lambda: all(one.get_publisher_count() for one in subscriptions), 10)
            self.until(lambda: False, 1.0)
            busy, begin = cpu_seconds(process.pid), time.monotonic()
            (self._play if case.family == "f3" else self._publish)(options)
            cpu = 100 * (cpu_seconds(process.pid) - busy) / (time.monotonic() - begin)
            self.until(lambda: False, 1.0)
            told = self._told
            for one in subscriptions:
                self.node.destroy_subscription(one)
        return Measured(
            case.name,
            form,
            number,
            round(cpu, 1),
            int(told["count receive"]),
            int(told["count publish"]),
            {key[8:]: int(value) for key, value in told.items() if key.startswith("dropped ")},
            {name: float(told[key]) for name, key in KEYS.items()},
        )

    def _listen(self, topic: str, kind: str) -> Any:
        """Subscribes without looking at what comes: serialised messages cost this process least."""
        from sensor_msgs import msg

        return self.node.create_subscription(getattr(msg, kind), f"/{NAME}/{topic}", lambda raw: None, 5, raw=True)

    @contextlib.contextmanager
    def _subject(self, case: Case, form: str) -> Iterator[subprocess.Popen[bytes]]:
        """The process of the node, or of the container that it is alone in."""
        values = {**case.values, "diagnostics_period": "0.2"}
        arguments = ["--ros-args", "-r", f"__node:={NAME}"]
        arguments += [part for key, value in values.items() for part in ("-p", f"{key}:={value}")]
        if form == "python":
            command = [sys.executable, "-m", f"{case.family}_ros.node", *arguments]
        elif form == "cpp":
            command = [executable(CPP_PACKAGE, f"{case.family}_node"), *arguments]
        else:
            container = executable("rclcpp_components", "component_container_isolated")
            command = [container, "--ros-args", "-r", "__node:=container"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if form == "component":
                self._load(case, values)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _load(self, case: Case, values: dict[str, str]) -> None:
        import yaml
        from composition_interfaces.srv import LoadNode
        from rclpy.parameter import Parameter

        client = self.node.create_client(LoadNode, "/container/_container/load_node")
        if not self.until(client.service_is_ready, 20):
            raise InputError("expected a component container, found none within 20 s")
        request = LoadNode.Request(package_name=CPP_PACKAGE, plugin_name=case.plugin, node_name=NAME)
        for key, value in values.items():
            request.parameters.append(Parameter(key, value=yaml.safe_load(value)).to_parameter_msg())
        future = client.call_async(request)
        self.until(future.done, 60)
        self.node.destroy_client(client)
        if not future.done() or not future.result().success:
            found = future.result().error_message if future.done() else "no answer"
            raise InputError(f"expected {case.plugin} to load, found {found}")

    def _play(self, options: argparse.Namespace) -> None:
        """Replays the recording in a loop."""
        command = [sys.executable, "-m", "f3_ros.replay_node", "--ros-args", "-p", f"file:={options.events}"]
        command += ["-p", "loop:=true", "-p", "progress:=false", "-r", f"~/events:=/{NAME}/events"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.until(lambda: int(self._told.get("count receive", 0)) > 0, 20)
        self.until(lambda: False, options.seconds)
        process.send_signal(signal.SIGINT)
        process.wait(15)

    def _publish(self, options: argparse.Namespace) -> None:
        """Publishes images at the rate asked for."""
        from sensor_msgs.msg import Image

        from aot_runtime.ros.qos import image_input_qos

        width, height = options.image
        rng = np.random.default_rng(0)
        small = rng.integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
        pixels = np.ascontiguousarray(np.kron(small, np.ones((8, 8, 1), np.uint8)))
        image = Image(height=height, width=width, encoding="bgr8", step=3 * width)
        image.data.frombytes(pixels.data)
        publisher = self.node.create_publisher(Image, f"/{NAME}/image", image_input_qos(5))
        self.until(publisher.get_subscription_count, 10)
        begin, number = time.monotonic(), 0
        while (due := number / options.rate) < options.seconds:
            self.until(lambda at=due: time.monotonic() - begin >= at, options.seconds)
            image.header.stamp = self.node.get_clock().now().to_msg()
            publisher.publish(image)
            number += 1
        self.node.destroy_publisher(publisher)


def executable(package: str, name: str) -> str:
    """The path of an installed executable.

    Raises:
        InputError: it is not installed.
    """
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        path = Path(get_package_prefix(package)) / "lib" / package / name
    except PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise InputError(
            f"expected {name} of the package {package}, found none",
            "build with colcon build --base-paths . cpp_nodes where ROS 2 is sourced, and source install/setup.bash",
        )
    return str(path)


def cpu_seconds(pid: int) -> float:
    """Time that a process has spent on CPUs, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cases_of(options: argparse.Namespace) -> list[Case]:
    """The cases that the artifacts given allow."""
    cases = []
    if options.f3:
        cases.append(Case("f3: features", "f3", {"artifact": options.f3}, {"features": "Image"}))
        heads = {"depth_artifact": options.depth_head, "flow_artifact": options.flow_head}
        if all(heads.values()):
            topics = {"relative_depth": "Image", "flow": "Image"}
            cases.append(Case("f3: depth and flow", "f3", {"artifact": options.f3, **heads}, topics))
    if options.depth:
        cases.append(Case("depth", "depth", {"artifact": options.depth}, {"depth": "Image"}))
    if options.aliked:
        cases.append(Case("aliked", "aliked", {"artifact": options.aliked}, {"keypoints": "PointCloud2"}))
    return cases


def medians(measured: list[Measured]) -> list[dict[str, Any]]:
    """One row for each case and form: the median over the rounds of each number."""
    rows = []
    for case, form in dict.fromkeys((one.case, one.form) for one in measured):
        rounds = [one for one in measured if (one.case, one.form) == (case, form)]
        row: dict[str, Any] = {"case": case, "form": form, "rounds": len(rounds)}
        row["cpu_percent"] = statistics.median(one.cpu_percent for one in rounds)
        for key in KEYS:
            row[key] = statistics.median(one.values[key] for one in rounds)
        row["outputs"] = statistics.median(one.outputs for one in rounds)
        row["drops"] = max(sum(one.drops.values()) for one in rounds)
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = (
        "stamp p50 ms",
        "stamp p99 ms",
        "receive p50 ms",
        "receive p99 ms",
        "CPU %",
        "RSS MiB",
        "outputs",
        "drops",
    )
    table = Table("case", "form")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        numbers = [f"{row[key]:.2f}" for key in list(KEYS)[:4]]
        table.add_row(
            row["case"],
            row["form"],
            *numbers,
            f"{row['cpu_percent']:.1f}",
            f"{row['rss_mib']:.0f}",
            f"{row['outputs']:.0f}",
            str(row["drops"]),
        )
    Console(width=150).print(table)


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("events", "f3", "depth-head", "flow-head", "depth", "aliked", "json"):
        parser.add_argument(f"--{name}", default="", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=10.0, help="of input for each form and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="images a second")
    parser.add_argument("--image", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args(argv)
    try:
        cases = cases_of(options)
        if not cases or (options.f3 and not options.events):
            raise InputError("expected at least one artifact, and --events with --f3, found none", "see --help")
        bench, measured = Bench(), []
        for number in range(options.rounds):
            for case in cases:
                for form in options.forms:
                    measured.append(bench.measure(case, form, number, options))
                    print(measured[-1], file=sys.stderr, flush=True)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = medians(measured)
    environment = stamp(argv)
    print(environment.line())
    print_table(rows)
    if options.json:
        document = {
            "environment": {**environment.as_dict(), "load_average": os.getloadavg()},
            "input": {"seconds": options.seconds, "rate_hz": options.rate, "image": list(options.image)},
            "medians": rows,
            "rounds": [asdict(one) for one in measured],
        }
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
