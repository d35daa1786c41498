# SPDX-License-Identifier: Apache-2.0
"""Starts aliked_node: `ros2 launch aot_perception aliked.launch.py artifact:=MODEL.pt2 image:=/camera/image_raw`.

More cameras are more launches: `name:=aliked_left image:=/left/image_raw`, `name:=aliked_right image:=...`.
"""

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
    ("artifact", None, "model made by export_aliked (.pt2, .onnx or .engine)", None),
    ("image", "/camera/image_raw", "topic of sensor_msgs/Image (or CompressedImage, see image_transport)", None),
    ("image_transport", "raw", "type of the image topic", ["raw", "compressed"]),
    ("params_file", os.path.join(SHARE, "config", "aliked.yaml"), "parameters of the node", None),
    ("device", "cpu", "cpu, cuda or cuda:N", None),
    ("track", "false", "match keypoints with those of the image before: ~/tracks", ["true", "false"]),
    ("name", "aliked", "name of the node", None),
    ("namespace", "", "namespace of the node", None),
    ("use_sim_time", "false", "take the time from /clock", ["true", "false"]),
    ("autostart", "true", "configure and activate at once", ["true", "false"]),
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
        executable="aliked_node",
        name=LaunchConfiguration("name"),
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "artifact": typed("artifact", str),
                "device": typed("device", str),
                "image_transport": typed("image_transport", str),
                "track": typed("track", bool),
                "use_sim_time": typed("use_sim_time", bool),
                "autostart": typed("autostart", bool),
            },
        ],
        remappings=[("~/image", LaunchConfiguration("image"))],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
    )
    return LaunchDescription([*declare(ARGUMENTS), *fast_dds_profile(), node])
