# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: pictures, and a summary of what the recorded topics hold."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = 4
PICTURE_TOPICS = {"event_image": "events", "feature_image": "features", "depth_image": "depth", "flow_image": "flow"}
"""Topics of pictures -> the names of their files, in the order of the overview's rows."""


@dataclass
class Summary:
    """What happened, from what the node published.

    Attributes:
        outputs: topic -> encoding, size, and the share of valid pixels where it is not all.
        artifacts, weights: "f3", "depth", "flow" -> file, and where its weights come from.
    """

    events_received: int
    events_used: int
    windows: int
    incomplete_windows: int
    drops: dict[str, int]
    latency_ms: dict[str, float]
    outputs: dict[str, str]
    artifacts: dict[str, str]
    weights: dict[str, str]


class Recording:
    """The messages that the summary and the pictures are made of."""

    def __init__(self, bag: Path) -> None:
        from rosbags.rosbag2 import Reader

        from f3_ros.events.readers.bag_types import event_typestore

        self.pictures: dict[str, list[np.ndarray]] = defaultdict(list)
        self.windows: list[dict[str, str]] = []
        self.report: dict[str, str] = {}
        self.formats: dict[str, str] = {}
        self._valid: dict[str, list[float]] = defaultdict(list)
        store = event_typestore()
        with Reader(bag) as reader:
            for connection, _, raw in reader.messages():
                name = connection.topic.rsplit("/", 1)[-1]
                if name != "events":
                    self._take(name, store.deserialize_cdr(raw, connection.msgtype))

    def _take(self, name: str, message: Any) -> None:
        if name == "diagnostics":
            for status in message.status:
                if "f3" in status.name:
                    self.report = {item.key: item.value for item in status.values}
        elif name == "window_info":
            self.windows.append({item.key: item.value for item in message.values})
        elif name in PICTURE_TOPICS:
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
            picture = pixels[:, : message.width * 3].reshape(message.height, message.width, 3)
            self.pictures[name].append(picture)
        else:
            values = np.frombuffer(message.data, np.float32)
            self._valid[name].append(float(np.isfinite(values).mean()))
            self.formats[name] = f"{message.encoding} {message.width}x{message.height}"

    def count(self, name: str) -> int:
        """Messages of an output."""
        return len(self._valid[name])

    def outputs(self) -> dict[str, str]:
        """Encoding, size and share of valid pixels of every output."""
        told = {}
        for name, form in self.formats.items():
            share = float(np.mean(self._valid[name]))
            told[name] = form if share == 1.0 else f"{form}, {share:.1%} of the pixels valid"
        return told


def write_pictures(recording: Recording, output: Path) -> None:
    """A few windows as pictures: one file each, and all in overview.png, a column per window."""
    import cv2

    rows = [name for name in PICTURE_TOPICS if recording.pictures[name]]
    if not rows:
        return
    count = min(len(recording.pictures[name]) for name in rows)
    size = recording.pictures[rows[0]][0].shape[1::-1]
    columns = []
    for k, index in enumerate(sorted({round(i) for i in np.linspace(0, count - 1, min(PICTURES, count))})):
        column = []
        for name in rows:
            picture = recording.pictures[name][index]
            cv2.imwrite(str(output / f"{PICTURE_TOPICS[name]}_{k}.png"), picture)
            column.append(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST))
        columns.append(np.vstack(column))
    cv2.imwrite(str(output / "overview.png"), np.hstack(columns))


def summarise(recording: Recording, artifacts: Mapping[str, Path]) -> Summary:
    """The summary of a recording that was made with these artifacts ("f3", "depth", "flow")."""
    from aot_runtime.verdict import read_manifest

    weights = {}
    for family, path in artifacts.items():
        checkpoint = read_manifest(path).checkpoint
        weights[family] = f"random, seed {checkpoint.random_seed}" if checkpoint.is_random else checkpoint.file
    windows, report = recording.windows, recording.report
    return Summary(
        events_received=sum(int(w["n_received"]) for w in windows),
        events_used=sum(int(w["n_used"]) for w in windows),
        windows=recording.count("features"),
        incomplete_windows=sum(w["complete"] == "false" for w in windows),
        drops={k: int(float(v)) for k, v in report.items() if k.startswith("drop") and v not in ("0", "")},
        latency_ms={k: float(v) for k, v in report.items() if "latency" in k and _is_number(v)},
        outputs=recording.outputs(),
        artifacts={family: str(path) for family, path in artifacts.items()},
        weights=weights,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def show(summary: Summary, output: Path, events: Path) -> None:
    """The summary as a table."""
    from rich.console import Console
    from rich.table import Table

    what = " + ".join({"f3": "F3", "depth": "depth", "flow": "flow"}[family] for family in summary.artifacts)
    table = Table(show_header=False, title=f"events -> compiled {what}, over DDS")
    rows = {
        "recording": str(events),
        "events": f"{summary.events_received:,} received, {summary.events_used:,} used",
        "windows": f"{summary.windows}, {summary.incomplete_windows} incomplete (the stream's ends count)",
        **{f"~/{name}": text for name, text in summary.outputs.items()},
        "drops": ", ".join(f"{k}: {v}" for k, v in summary.drops.items()) or "none",
        **{f"{name} [ms]": f"{value:.1f}" for name, value in summary.latency_ms.items()},
        **{f"{family} artifact": f"{path} (weights: {summary.weights[family]})"
           for family, path in summary.artifacts.items()},
        "written": f"{output}/: overview.png, events_*.png, features_*.png, topics/*.mcap, summary.json, logs/",
    }  # fmt: skip
    for key, value in rows.items():
        table.add_row(key, value)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
