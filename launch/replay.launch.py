# SPDX-License-Identifier: Apache-2.0
"""Replays a recording of events: `ros2 launch aot_perception replay.launch.py file:=RECORDING rate:=0.5`."""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = get_package_share_directory("aot_perception")
PROFILE = os.path.join(SHARE, "config", "fastdds_shm64.xml")
ARGUMENTS = (
    # name, default, description, choices
    ("file", None, "recording: .raw, .dat, .aedat4, HDF5, or a rosbag2", None),
    ("rate", "1.0", "speed; 0: as fast as the consumer acknowledges", None),
    ("loop", "false", "start again at the end", ["true", "false"]),
    ("start", "0.0", "seconds to skip", None),
    ("duration", "0.0", "seconds to play; 0: to the end", None),
    ("stamps", "now", "header stamps", ["now", "recorded"]),
    ("events", "/event_camera/events", "topic to publish on", None),
    ("processed_seq", "/f3/processed_seq", "topic of the consumer's acknowledgements (rate 0)", None),
    ("params_file", os.path.join(SHARE, "config", "replay.yaml"), "further parameters", None),
    ("namespace", "", "namespace of the node", None),
    ("use_sim_time", "false", "take the time from /clock", ["true", "false"]),
    ("log_level", "info", "debug, info, warn, error", ["debug", "info", "warn", "error", "fatal"]),
)


def fast_dds_profile():
    """Gives Fast DDS the large shared-memory segment, unless the user chose a profile."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(os.environ.get(name) for name in names):
        return []
    return [SetEnvironmentVariable(name, PROFILE) for name in names]


def generate_launch_description():
    def typed(name, kind):
        return ParameterValue(LaunchConfiguration(name), value_type=kind)

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    node = Node(
        package="aot_perception",
        executable="replay_node",
        name="replay",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "file": typed("file", str),
                "rate": typed("rate", float),
                "loop": typed("loop", bool),
                "start": typed("start", float),
                "duration": typed("duration", float),
                "stamps": typed("stamps", str),
                "use_sim_time": typed("use_sim_time", bool),
            },
        ],
        remappings=[
            ("~/events", LaunchConfiguration("events")),
            ("~/processed_seq", LaunchConfiguration("processed_seq")),
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return LaunchDescription([*declared, *fast_dds_profile(), node])
