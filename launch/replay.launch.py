# SPDX-License-Identifier: Apache-2.0
"""Replays a recording of events: `ros2 launch aot_perception replay.launch.py file:=RECORDING rate:=0.5`."""

from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from aot_runtime.ros.launching import BOOL, NODE_ARGUMENTS, description, node_options, params_file, typed

ARGUMENTS = (
    # name, default, description, choices
    ("file", None, "recording: .raw, .dat, .aedat4, HDF5, or a rosbag2", None),
    ("rate", "1.0", "speed; 0: as fast as the consumer acknowledges", None),
    ("loop", "false", "start again at the end", BOOL),
    ("start", "0.0", "seconds to skip", None),
    ("duration", "0.0", "seconds to play; 0: to the end", None),
    ("stamps", "now", "header stamps", ["now", "recorded"]),
    ("events", "/event_camera/events", "topic to publish on", None),
    ("processed_seq", "/f3/processed_seq", "topic of the consumer's acknowledgements (rate 0)", None),
    params_file("replay.yaml", "further parameters"),
    *NODE_ARGUMENTS,
)


def generate_launch_description():
    node = Node(
        executable="replay_node",
        name="replay",
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
        **node_options(),
    )
    return description(ARGUMENTS, node)
