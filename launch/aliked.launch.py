# SPDX-License-Identifier: Apache-2.0
"""Starts aliked_node: `ros2 launch aot_perception aliked.launch.py artifact:=MODEL.pt2 image:=/camera/image_raw`.

More cameras are more launches: `name:=aliked_left image:=/left/image_raw`, `name:=aliked_right image:=...`.
"""

from launch.substitutions import LaunchConfiguration

from aot_runtime.ros.launching import (
    BOOL,
    CPP_ARGUMENTS,
    MODEL_ARGUMENTS,
    LifecycleNode,
    description,
    params_file,
    typed,
)

ARGUMENTS = (
    # name, default, description, choices
    ("artifact", None, "model made by export_aliked (.pt2, .onnx or .engine)", None),
    ("image", "/camera/image_raw", "topic of sensor_msgs/Image (or CompressedImage, see image_transport)", None),
    ("image_transport", "raw", "type of the image topic", ["raw", "compressed"]),
    params_file("aliked.yaml"),
    ("track", "false", "match keypoints with those of the image before: ~/tracks", BOOL),
    ("name", "aliked", "name of the node", None),
    *MODEL_ARGUMENTS,
    *CPP_ARGUMENTS,
)


def generate_launch_description():
    node = LifecycleNode(
        executable="aliked_node",
        plugin="aot_perception::AlikedComponent",
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
    )
    return description(ARGUMENTS, node)
