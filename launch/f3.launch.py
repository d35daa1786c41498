# SPDX-License-Identifier: Apache-2.0
"""Starts f3_node: `ros2 launch aot_perception f3.launch.py artifact:=MODEL.pt2 events:=/event_camera/events`."""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = get_package_share_directory("aot_perception")
PROFILE = os.path.join(SHARE, "config", "fastdds_shm64.xml")
ARGUMENTS = (
    # name, default, description, choices
    ("artifact", None, "model made by export_f3_to_pt2 (.pt2)", None),
    ("depth_artifact", "", "depth head made by export_dav2_to_pt2 (.pt2); empty: no depth", None),
    ("flow_artifact", "", "flow head made by export_flowhead_to_pt2 (.pt2); empty: no flow", None),
    ("events", "/event_camera/events", "topic of event_camera_msgs/EventPacket", None),
    ("event_camera_info", "/event_camera/camera_info", "topic of the event camera's sensor_msgs/CameraInfo", None),
    ("params_file", os.path.join(SHARE, "config", "f3.yaml"), "parameters of the node", None),
    ("device", "cpu", "cpu, cuda or cuda:N", None),
    ("name", "f3", "name of the node", None),
    ("namespace", "", "namespace of the node", None),
    ("use_sim_time", "false", "take the time from /clock", ["true", "false"]),
    ("autostart", "true", "configure and activate at once", ["true", "false"]),
    ("implementation", "python", "which node to run; python is the only one so far", ["python"]),
    ("log_level", "info", "debug, info, warn, error", ["debug", "info", "warn", "error", "fatal"]),
)


def fast_dds_profile():
    """Gives Fast DDS the large shared-memory segment, unless the user chose a profile."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    return [SetEnvironmentVariable(name, PROFILE) for name in names]


def declare(arguments):
    """Launch arguments; one without a default is required."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in arguments
    ]


def generate_launch_description():
    def typed(name, kind):
        return ParameterValue(LaunchConfiguration(name), value_type=kind)

    node = LifecycleNode(
        package="aot_perception",
        executable="f3_node",
        name=LaunchConfiguration("name"),
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "artifact": typed("artifact", str),
                "depth_artifact": typed("depth_artifact", str),
                "flow_artifact": typed("flow_artifact", str),
                "device": typed("device", str),
                "use_sim_time": typed("use_sim_time", bool),
                "autostart": typed("autostart", bool),
            },
        ],
        remappings=[
            ("~/events", LaunchConfiguration("events")),
            ("~/event_camera_info", LaunchConfiguration("event_camera_info")),
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
    )
    return LaunchDescription([*declare(ARGUMENTS), *fast_dds_profile(), node])
