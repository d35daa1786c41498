# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: their arguments, the transport, and how a node of this package is started.

A launch file holds one table of arguments and one call of `LifecycleNode` (or launch_ros's `Node`), with what only this
node has: its executable, parameters and remappings. Everything else is here, so that another way of starting a node
is added here once. Needs the packages `launch` and `launch_ros`, which come with ROS 2 alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros import actions
from launch_ros.parameter_descriptions import ParameterValue

from aot_runtime.ros.resources import PACKAGE, share_path

BOOL = ["true", "false"]
# Name, default (None: the user must give it), description, choices (None: any).
Argument = tuple[str, str | None, str, list[str] | None]
# Of every launch file, and of every one that starts a node with a model.
NODE_ARGUMENTS: tuple[Argument, ...] = (
    ("namespace", "", "namespace of the node", None),
    ("use_sim_time", "false", "take the time from /clock", BOOL),
    ("log_level", "info", "debug, info, warn, error", ["debug", "info", "warn", "error", "fatal"]),
)
MODEL_ARGUMENTS: tuple[Argument, ...] = (
    ("device", "cpu", "cpu, cuda or cuda:N", None),
    ("autostart", "true", "configure and activate at once", BOOL),
    *NODE_ARGUMENTS,
)


def params_file(name: str, text: str = "parameters of the node") -> Argument:
    """The argument `params_file`; by default it is the package's own config/`name`."""
    return ("params_file", str(share_path(f"config/{name}")), text, None)


def typed(name: str, kind: type) -> ParameterValue:
    """The value of a launch argument as a parameter of this type, which "true" or "12" do not tell."""
    return ParameterValue(LaunchConfiguration(name), value_type=kind)


def node_options() -> dict[str, Any]:
    """Options of launch_ros's `Node` for a node of this package with `NODE_ARGUMENTS`."""
    return {
        "package": PACKAGE,
        "namespace": LaunchConfiguration("namespace"),
        "arguments": ["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        "output": "screen",
    }


class LifecycleNode(actions.LifecycleNode):
    """A node with a model, as the arguments `name` and `MODEL_ARGUMENTS` say.

    Attributes:
        parameters: files and dictionaries, as given.
        remappings: pairs (from, to), as given; with `parameters` all that another form of the same node needs.
    """

    def __init__(
        self, *, executable: str, parameters: Sequence[Any], remappings: Sequence[tuple[str, Any]], **options: Any
    ) -> None:
        self.parameters = list(parameters)
        self.remappings = list(remappings)
        super().__init__(
            executable=executable,
            name=LaunchConfiguration("name"),
            parameters=self.parameters,
            remappings=self.remappings,
            emulate_tty=True,
            **{**node_options(), **options},
        )


def description(arguments: Iterable[Argument], node: Any) -> LaunchDescription:
    """Declares the arguments, prepares the transport, and starts the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in arguments
    ]
    return LaunchDescription([*declared, *fast_dds_profile(), node])


def fast_dds_profile() -> list[SetEnvironmentVariable]:
    """Gives Fast DDS the large shared-memory segment, unless the user chose a profile."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    profile = str(share_path("config/fastdds_shm64.xml"))
    return [SetEnvironmentVariable(name, profile) for name in names]
