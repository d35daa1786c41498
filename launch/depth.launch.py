# SPDX-License-Identifier: Apache-2.0
"""Starts depth_node: `ros2 launch aot_perception depth.launch.py artifact:=MODEL.pt2 image:=/camera/image_rect`."""

from launch.substitutions import LaunchConfiguration

from aot_runtime.ros.launching import CPP_ARGUMENTS, MODEL_ARGUMENTS, LifecycleNode, description, params_file, typed

ARGUMENTS = (
    # name, default, description, choices
    ("artifact", None, "model made by export_dav2_to_pt2 with 3 input channels (.pt2)", None),
    ("image", "/camera/image_rect", "topic of sensor_msgs/Image (or CompressedImage, see image_transport)", None),
    ("camera_info", "/camera/camera_info", "topic of sensor_msgs/CameraInfo", None),
    ("image_transport", "raw", "type of the image topic", ["raw", "compressed"]),
    params_file("depth.yaml"),
    ("name", "depth", "name of the node", None),
    *MODEL_ARGUMENTS,
    *CPP_ARGUMENTS,
)


def generate_launch_description():
    node = LifecycleNode(
        executable="depth_node",
        plugin="aot_perception::DepthComponent",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "artifact": typed("artifact", str),
                "device": typed("device", str),
                "image_transport": typed("image_transport", str),
                "use_sim_time": typed("use_sim_time", bool),
                "autostart": typed("autostart", bool),
            },
        ],
        remappings=[
            ("~/image", LaunchConfiguration("image")),
            ("~/camera_info", LaunchConfiguration("camera_info")),
        ],
    )
    return description(ARGUMENTS, node)
