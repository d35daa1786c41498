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

from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros import actions
from launch_ros.descriptions import ComposableNode
from launch_ros.parameter_descriptions import ParameterValue

from aot_runtime.errors import InputError
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
# Of those that start a node with several cameras, see `camera_names` and `camera_remappings`.
CAMERA_ARGUMENTS: tuple[Argument, ...] = (
    ("cameras", None, "names of the cameras, separated by commas", None),
    ("image", "/{camera}/image_rect", "topic of sensor_msgs/Image of each camera; {camera} stands for its name", None),
    ("camera_info", "/{camera}/camera_info", "topic of sensor_msgs/CameraInfo of each camera", None),
    ("image_transport", "raw", "type of the image topics", ["raw", "compressed"]),
    ("rectified", "true", "whether the images are rectified", BOOL),
)
# Of those that start a node which exists in C++ too.
CPP_PACKAGE = "aot_perception_cpp"
CPP_ARGUMENTS: tuple[Argument, ...] = (
    ("implementation", "python", f"which node to run; cpp needs the package {CPP_PACKAGE}", ["python", "cpp"]),
    ("use_composition", "false", "load the C++ node as a component into a container", BOOL),
    ("container_name", "", "a running container to load it into; empty: one of its own, NAME_container", None),
)


def params_file(name: str, text: str = "parameters of the node") -> Argument:
    """The argument `params_file`; by default it is the package's own config/`name`."""
    return ("params_file", str(share_path(f"config/{name}")), text, None)


def typed(name: str, kind: type) -> ParameterValue:
    """The value of a launch argument as a parameter of this type, which "true" or "12" do not tell."""
    return ParameterValue(LaunchConfiguration(name), value_type=kind)


def camera_names(context: LaunchContext) -> list[str]:
    """The names in the argument `cameras`."""
    return [name.strip() for name in LaunchConfiguration("cameras").perform(context).split(",")]


def camera_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """The node's topics of each camera -> those of the arguments `image` and `camera_info`."""
    return [
        (f"~/{name}/{kind}", LaunchConfiguration(kind).perform(context).replace("{camera}", name))
        for name in camera_names(context)
        for kind in ("image", "camera_info")
    ]


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
        executable_name, plugin: as given.
        parameters: files and dictionaries, as given.
        remappings: pairs (from, to), as given; with `parameters` all that another form of the same node needs.

    Args:
        plugin: the component's class in `CPP_PACKAGE`, which has the same executable, topics and parameters; empty for
            a node that exists in Python only. With one, `CPP_ARGUMENTS` choose.
    """

    def __init__(
        self,
        *,
        executable: str,
        parameters: Sequence[Any],
        remappings: Sequence[tuple[str, Any]],
        plugin: str = "",
        **options: Any,
    ) -> None:
        self.executable_name = executable
        self.plugin = plugin
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
    started = OpaqueFunction(function=_start, args=[node]) if getattr(node, "plugin", "") else node
    return LaunchDescription([*declared, *fast_dds_profile(), started])


def _start(context: LaunchContext, node: LifecycleNode) -> list[Action]:
    """The node in the form that `CPP_ARGUMENTS` ask for.

    Raises:
        InputError: the Python node is to be a component.
    """

    def chosen(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    composed = chosen("use_composition") == "true"
    if chosen("implementation") == "python":
        if composed:
            raise InputError(
                "expected implementation:=cpp with use_composition:=true, found implementation:=python",
                "components are C++; leave one of the two out",
            )
        return [node]
    if not composed:
        return [
            LifecycleNode(
                executable=node.executable_name,
                parameters=node.parameters,
                remappings=node.remappings,
                package=CPP_PACKAGE,
            )
        ]
    component = ComposableNode(
        package=CPP_PACKAGE,
        plugin=node.plugin,
        name=LaunchConfiguration("name"),
        namespace=LaunchConfiguration("namespace"),
        parameters=node.parameters,
        remappings=node.remappings,
        extra_arguments=[{"use_intra_process_comms": True}],
    )
    if container := chosen("container_name"):
        return [actions.LoadComposableNodes(composable_node_descriptions=[component], target_container=container)]
    options = node_options() | {"package": "rclcpp_components"}
    return [
        actions.ComposableNodeContainer(
            # One executor thread for each component: while one of them loads a model the others go on.
            executable="component_container_isolated",
            name=f"{chosen('name')}_container",
            composable_node_descriptions=[component],
            emulate_tty=True,
            **options,
        )
    ]


def fast_dds_profile() -> list[SetEnvironmentVariable]:
    """Gives Fast DDS the large shared-memory segment, unless the user chose a profile."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    profile = str(share_path("config/fastdds_shm64.xml"))
    return [SetEnvironmentVariable(name, profile) for name in names]
