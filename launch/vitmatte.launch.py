# SPDX-License-Identifier: Apache-2.0
"""Starts vitmatte_node: `ros2 launch aot_perception vitmatte.launch.py artifact:=MODEL.pt2 guidance:=mask
image:=/camera/image_raw guidance_topic:=/segmentation/mask`."""

from launch.substitutions import LaunchConfiguration

from aot_runtime.ros.launching import MODEL_ARGUMENTS, LifecycleNode, description, params_file, typed

ARGUMENTS = (
    # name, default, description, choices
    ("artifact", None, "model made by export_vitmatte (.pt2, .onnx or .engine)", None),
    ("image", "/camera/image_raw", "topic of sensor_msgs/Image (or CompressedImage, see image_transport)", None),
    ("image_transport", "raw", "type of the image topic", ["raw", "compressed"]),
    ("guidance", "trimap", "what tells the object apart", ["trimap", "mask", "probability", "depth"]),
    ("guidance_topic", "/segmentation/trimap", "its topic, sensor_msgs/Image of one channel", None),
    ("sync", "approximate", "images with guidance of their stamp, or with the latest", ["approximate", "latest"]),
    params_file("vitmatte.yaml"),
    ("name", "vitmatte", "name of the node", None),
    *MODEL_ARGUMENTS,
)


def generate_launch_description():
    guidance = LaunchConfiguration("guidance_topic")
    node = LifecycleNode(
        executable="vitmatte_node",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "artifact": typed("artifact", str),
                "device": typed("device", str),
                "image_transport": typed("image_transport", str),
                "guidance": typed("guidance", str),
                "sync": typed("sync", str),
                "use_sim_time": typed("use_sim_time", bool),
                "autostart": typed("autostart", bool),
            },
        ],
        remappings=[
            ("~/image", LaunchConfiguration("image")),
            # Only the one that `guidance` names is subscribed to.
            *((f"~/{kind}", guidance) for kind in ("trimap", "mask", "probability", "depth")),
        ],
    )
    return description(ARGUMENTS, node)
