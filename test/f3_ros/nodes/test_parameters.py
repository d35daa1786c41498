# SPDX-License-Identifier: Apache-2.0
"""The YAML files say the same as the nodes: names, defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aot_runtime.ros.resources import share_path

HIDDEN = ("use_sim_time", "start_type_description_service", "qos_overrides")


def declared(node: Any) -> dict[str, Any]:
    """Values of the node's own parameters."""
    names = [name for name in node._parameters if not name.startswith(HIDDEN)]
    return {name: node.get_parameter(name).value for name in names}


def written(name: str) -> dict[str, Any]:
    return yaml.safe_load(share_path(f"config/{name}").read_text())["/**"]["ros__parameters"]


def test_f3_yaml_holds_every_parameter_with_its_default(f3: Callable[..., Any]) -> None:
    node = f3(active=False, autostart=True, artifact="")
    assert declared(node) == written("f3.yaml")
    for name in written("f3.yaml"):
        assert node.describe_parameter(name).description, name


def test_replay_yaml_holds_every_parameter_with_its_default(replay: Callable[..., Any], shared: Path) -> None:
    file = str(shared / "data" / "events" / "bag_mono_sqlite3")
    node = replay(file, rate=1.0, stamps="now", progress=True)
    assert declared(node) == {**written("replay.yaml"), "file": file}


@pytest.mark.parametrize(
    ("name", "value"),
    [("window_duration_us", -1), ("packet_queue", 0), ("stream_timeout", 4000.0), ("num_threads", 257)],
)
def test_values_out_of_range_are_refused(name: str, value: float, f3: Callable[..., Any]) -> None:
    from rclpy.exceptions import InvalidParameterValueException

    with pytest.raises(InvalidParameterValueException):
        f3(active=False, **{name: value})
