# SPDX-License-Identifier: Apache-2.0
"""What every node with a model must do: say why it cannot be configured, obey the allow-list, agree with its YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ros_session import parameters


def values_of(status: Any) -> dict[str, str]:
    """The pairs of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in status.values}


def check_unusable(ros: Any, make: Callable[..., Any], wrong: dict[str, Any], reason: str, good: dict[str, Any]) -> Any:
    """Wrong parameters leave the node alive and unconfigured with a reason; with good ones it becomes active.

    Args:
        ros: the session.
        make: make(active=..., **parameters) -> the node.
        wrong: parameters it cannot be configured with.
        reason: part of what it says about them.
        good: at least the parameters of `wrong`, as they should be.
    """
    node = make(active=False, **wrong)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    assert "cannot configure" in node.health.warnings["lifecycle"]
    assert reason in node.health.warnings["lifecycle"]
    assert node._pipeline is None
    assert all(r.successful for r in node.set_parameters(parameters(**{name: good[name] for name in wrong})))
    node.trigger_configure()
    node.trigger_activate()
    assert node.health.state == "active"
    return node


def check_allow_list(ros: Any, make: Callable[..., Any], artifact: Path, folder: Path) -> None:
    """An artifact on the allow-list is loaded, another one is not."""
    from aot_runtime.files import sha256_file

    (folder / "allowed").write_text(f"{sha256_file(artifact)}  x.pt2\n")
    (folder / "others").write_text(f"{'0' * 64}  other.pt2\n")
    ros.remove(make(allow_list=folder / "allowed"))
    node = make(active=False, allow_list=folder / "others")
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"


def check_yaml(node: Any, yaml_file: str, **changed: Any) -> None:
    """The node declares what config/`yaml_file` says, with the same values except for `changed`, and describes it."""
    import yaml

    from aot_runtime.ros.resources import share_path

    hidden = ("use_sim_time", "start_type_description_service", "qos_overrides")
    declared = {name: node.get_parameter(name).value for name in node._parameters if not name.startswith(hidden)}
    text = share_path(f"config/{yaml_file}").read_text(encoding="utf-8")
    assert declared == {**yaml.safe_load(text)["/**"]["ros__parameters"], **changed}
    for name in declared:
        assert node.describe_parameter(name).description, name


def check_out_of_range(make: Callable[..., Any], name: str, value: float) -> None:
    """The node refuses to start with this value."""
    from rclpy.exceptions import InvalidParameterValueException

    with pytest.raises(InvalidParameterValueException):
        make(active=False, **{name: value})
