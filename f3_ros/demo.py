# SPDX-License-Identifier: Apache-2.0
"""The whole product in one command: events, an artifact, two ROS 2 nodes over real DDS, pictures and numbers.

    f3_demo [--events FILE] [--checkpoint FILE] [--output demo]

Simulates a scene (or takes a recording), exports F3 and small heads for depth and flow for this CPU, replays the events
to `f3_node`, records what both publish, and writes pictures, the recording and a summary to the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from aot_runtime.errors import AotError, InputError
from f3_ros.demo_results import Recording, show, summarise, write_pictures

EVENTS_TOPIC = "/event_camera/events"
RECORDED = ("features", "event_image", "feature_image", "window_info")
HEAD_WIDTH = 168
PATCH = 14
STOP_TIMEOUT_S = 20.0
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Choice:
    """A configuration and the grid it runs on, small enough for two CPU cores."""

    model: str
    downsample: tuple[int, int] | None


def choose_model(width: int, height: int, name: str | None = None) -> Choice:
    """A published configuration whose frame holds the sensor.

    Raises:
        InputError: the sensor is larger than every published frame, or than the named model's.
    """
    from f3_ros.config import from_name

    if name is None:
        if width <= 346 and height <= 260:
            name = "346x260x20_patchff_ds1_small"
        elif width <= 640 and height <= 480:
            name = "640x480x20_patchff_ds1_small"
        else:
            name = "1280x720x20_patchff_ds1_small"
    frame = from_name(name).frame
    if width > frame[0] or height > frame[1]:
        raise InputError(
            f"expected a sensor of at most {frame[0]}x{frame[1]} for {name}, found {width}x{height}",
            "choose another --model-name or recording",
        )
    # Full frames beyond the small sensor's take seconds a window on a CPU; 320 columns keep the aspect ratio.
    return Choice(name, None if frame[0] <= 346 else (320, 320 * frame[1] // frame[0]))


def make_events(cache: Path, duration_s: float, seed: int) -> Path:
    """A simulated recording, made once."""
    from f3_ros.events import cli

    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"room_seed{seed}_{duration_s:g}s_346x260.h5"
    if not path.exists():
        code = cli.main(["simulate", str(path), "--duration", f"{duration_s:g}", "--seed", str(seed)])
        if code:
            raise InputError("expected a simulated recording, found that the simulation failed", "see the error above")
    return path


def make_artifact(cache: Path, choice: Choice, checkpoint: Path | None) -> Path:
    """The F3 artifact for this CPU, exported unless there is one that may run here."""
    from aot_runtime.files import sha256_file

    weights = sha256_file(checkpoint)[:12] if checkpoint else "random"
    grid = "x".join(map(str, choice.downsample)) if choice.downsample else "full"
    arguments = ["f3_ros.export_f3", "--model-name", choice.model, "--variable-events", "--precision", "fp32"]
    arguments += ["--checkpoint", str(checkpoint)] if checkpoint else ["--random-weights"]
    if choice.downsample:
        arguments += ["--downsample", *map(str, choice.downsample)]
    return _export(cache / f"{choice.model}_{grid}_{weights}.pt2", arguments)


def make_heads(cache: Path, choice: Choice) -> dict[str, Path]:
    """Heads with random weights for this F3, small enough for two CPU cores: Depth Anything V2 (vits) and FlowHead.

    Both run on one grid of the frame's aspect, so that the features are resized once.
    """
    from f3_ros.config import from_name

    config = from_name(choice.model)
    width, height, _ = config.frame
    rows = PATCH * max(1, round(HEAD_WIDTH * height / width / PATCH))
    channels = config.feature_shape(choice.downsample)[2]
    size = ["-i", str(channels), "--height", str(rows), "--width", str(HEAD_WIDTH), "--random-weights"]
    name = f"{channels}ch_{HEAD_WIDTH}x{rows}_random.pt2"
    return {
        "depth": _export(cache / f"dav2_vits_{name}", ["depth_ros.export_dav2", "--encoder", "vits", *size]),
        "flow": _export(cache / f"flowhead_k9999_{name}", ["f3_ros.export_flowhead", *size]),
    }


def _export(path: Path, arguments: Sequence[str]) -> Path:
    """Runs an export command, unless its artifact is there and may run here."""
    from aot_runtime.verdict import judge

    if path.exists() and judge(path, "cpu").kind == "OK":
        return path
    command = [sys.executable, "-m", *arguments, "--output-name", str(path)]
    command += ["--device", "cpu", "--runs", "5", "--warmup-runs", "1"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if subprocess.run(command, check=False).returncode or not path.exists():
        raise InputError(f"expected the artifact {path}, found that its export failed", "see the error above")
    return path


def _environment() -> dict[str, str]:
    """One isolated ROS domain on this machine for the demo's processes."""
    return {
        **os.environ,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(random.SystemRandom().randint(1, 101)),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _process(
    name: str, command: Sequence[str], logs: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A node in a process of its own, its output in a log file; ended as Ctrl-C would."""
    with (logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _fail(name: str, logs: Path, what: str) -> InputError:
    log = logs / f"{name}.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return InputError(f"expected {what}, found this at the end of {log}:\n{tail}")


def topics_of(artifacts: Mapping[str, Path]) -> list[str]:
    """What the node publishes with these artifacts and the demo records, without the node's name."""
    from aot_runtime.verdict import read_manifest

    topics = list(RECORDED)
    if "depth" in artifacts:
        relative = read_manifest(artifacts["depth"]).preprocessing.get("kind") == "relative"
        topics += ["relative_depth" if relative else "depth", "depth_image"]
    if "flow" in artifacts:
        topics += ["flow", "flow_image"]
    return topics


def run_nodes(events: Path, artifacts: Mapping[str, Path], output: Path) -> None:
    """Replay, node and recorder until the recording has been processed.

    Args:
        artifacts: "f3", and "depth" and "flow" if wanted.

    Raises:
        InputError: a process failed; the message ends with its log.
    """
    logs = output / "logs"
    logs.mkdir()
    environment = _environment()
    remap = ["-r", f"~/events:={EVENTS_TOPIC}"]
    recorder = ["f3_ros.recorder", "--output", str(output / "topics"), EVENTS_TOPIC, "/diagnostics"]
    topics = topics_of(artifacts)
    recorder += [f"/f3/{name}" for name in topics]
    node = ["f3_ros.node", "--ros-args", *remap]
    for family, path in artifacts.items():
        node += ["-p", f"{'' if family == 'f3' else family + '_'}artifact:={path}"]
    replay = ["f3_ros.replay_node", "--ros-args", "-p", f"file:={events}", "-p", "rate:=0.0"]
    # Two subscribers, so that the recorder has joined as well.
    replay += ["-p", "wait_for_subscribers:=2", "-p", "wait_timeout:=60.0"]
    replay += ["-r", "~/processed_seq:=/f3/processed_seq", *remap]
    with (
        _process("record_topics", recorder, logs, environment) as recording,
        _process("f3_node", node, logs, environment) as running,
    ):
        _wait_for_recorder(recording, running, logs, topics)
        _replay(replay, {"f3_node": running, "record_topics": recording}, logs, environment)


def _wait_for_recorder(
    recording: subprocess.Popen[bytes], running: subprocess.Popen[bytes], logs: Path, topics: Sequence[str]
) -> None:
    """Returns once the node has started and everything it publishes is recorded."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        text = (logs / "record_topics.log").read_text(errors="replace")
        if all(f"recording /f3/{name} " in text for name in topics):
            return
        for process, name in ((running, "f3_node"), (recording, "record_topics")):
            if process.poll() is not None:
                raise _fail(name, logs, f"{name} to keep running")
        if time.monotonic() > deadline or ": cannot " in (logs / "f3_node.log").read_text(errors="replace"):
            raise _fail("f3_node", logs, "f3_node to start")
        time.sleep(0.1)


def _replay(
    command: Sequence[str], others: dict[str, subprocess.Popen[bytes]], logs: Path, environment: dict[str, str]
) -> None:
    """Replays to the end while the other processes live."""
    with _process("replay_node", command, logs, environment) as replaying:
        while replaying.poll() is None:
            for name, process in others.items():
                if process.poll() is not None:
                    raise _fail(name, logs, f"{name} to keep running")
            time.sleep(0.1)
        if replaying.returncode:
            name = "f3_node" if "error" in (logs / "f3_node.log").read_text(errors="replace").lower() else "replay_node"
            raise _fail(name, logs, "the recording to be replayed to f3_node")
        # Silence closes the last window, and one more report comes on /diagnostics.
        time.sleep(2.0)


def run(arguments: argparse.Namespace) -> Path:
    """The demo; returns the output folder."""
    from f3_ros.events.readers import open_events

    output: Path = arguments.output
    cache: Path = arguments.cache
    if arguments.checkpoint is not None and not arguments.checkpoint.is_file():
        raise InputError(f"expected a checkpoint, found no file {arguments.checkpoint}", "check --checkpoint")
    print("[1/4] events", flush=True)
    events = arguments.events or make_events(cache, arguments.duration, arguments.seed)
    with open_events(events) as reader:
        width, height = reader.width, reader.height
    choice = choose_model(width, height, arguments.model_name)
    print(f"[2/4] artifacts for this CPU: {choice.model}{'' if arguments.no_heads else ', depth and flow'}", flush=True)
    artifacts = {"f3": make_artifact(cache, choice, arguments.checkpoint)}
    if not arguments.no_heads:
        artifacts |= make_heads(cache, choice)
    if arguments.checkpoint is None:
        print("      NOTE: no --checkpoint given: the weights are random, the features mean nothing.", flush=True)
    if not arguments.no_heads:
        print("      NOTE: the weights of the heads are random: depth and flow mean nothing.", flush=True)
    print("[3/4] replay_node -> f3_node -> record_topics", flush=True)
    _make_room(output)
    run_nodes(events, artifacts, output)
    print("[4/4] results", flush=True)
    recording = Recording(output / "topics")
    if not recording.count("features"):
        raise _fail("f3_node", output / "logs", "features from f3_node")
    write_pictures(recording, output)
    summary = summarise(recording, artifacts)
    (output / "summary.json").write_text(json.dumps({"events": str(events), **asdict(summary)}, indent=2) + "\n")
    show(summary, output, events)
    return output


def _make_room(output: Path) -> None:
    """An empty output folder; what an earlier demo left there goes, anything else is refused."""
    if output.exists():
        strangers = [p.name for p in output.iterdir() if not _is_ours(p)]
        if strangers:
            raise InputError(
                f"expected a new folder or one of an earlier demo, found {strangers[0]} in {output}", "choose --output"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True)


def _is_ours(path: Path) -> bool:
    return path.name in ("logs", "topics", "summary.json", "overview.png") or (
        path.suffix == ".png" and path.name.startswith(("events_", "features_", "depth_", "flow_"))
    )


def main(argv: list[str] | None = None) -> int:
    """Command `f3_demo`."""
    parser = argparse.ArgumentParser(prog="f3_demo", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=Path, help="a recording; default: a simulated room, 346x260")
    parser.add_argument("--duration", type=float, default=0.5, help="length of the simulation [s] (default: 0.5)")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--model-name", help="F3 configuration; default: the smallest frame that holds the sensor")
    parser.add_argument("-c", "--checkpoint", type=Path, help="official checkpoint of that configuration")
    parser.add_argument("--no-heads", action="store_true", help="features only: no depth, no flow")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder to write (default: demo)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/demo"), help="where events and artifacts are kept")
    arguments = parser.parse_args(argv)
    try:
        run(arguments)
    except AotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
