# SPDX-License-Identifier: Apache-2.0
"""The YAML files say the same as the nodes: names, defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_checks import check_out_of_range, check_yaml


def test_f3_yaml_holds_every_parameter_with_its_default(f3: Callable[..., Any]) -> None:
    check_yaml(f3(active=False, autostart=True, artifact=""), "f3.yaml")


def test_replay_yaml_holds_every_parameter_with_its_default(replay: Callable[..., Any], shared: Path) -> None:
    file = str(shared / "data" / "events" / "bag_mono_sqlite3")
    check_yaml(replay(file, rate=1.0, stamps="now", progress=True), "replay.yaml", file=file)


@pytest.mark.parametrize(
    ("name", "value"),
    [("window_duration_us", -1), ("packet_queue", 0), ("stream_timeout", 4000.0), ("num_threads", 257)],
)
def test_values_out_of_range_are_refused(name: str, value: float, f3: Callable[..., Any]) -> None:
    check_out_of_range(f3, name, value)
