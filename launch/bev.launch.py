# SPDX-License-Identifier: Apache-2.0
"""Starts bev_node: `ros2 launch aot_perception bev.launch.py cameras:=front,left,right model:=BEV.pt2
image:=/sensors/{camera}/image_rect camera_info:=/sensors/{camera}/camera_info`."""

from launch.actions import OpaqueFunction
from launch.substitutions import LaunchConfiguration

from aot_runtime.ros.launching import (
    BOOL,
    CAMERA_ARGUMENTS,
    MODEL_ARGUMENTS,
    LifecycleNode,
    camera_names,
    camera_remappings,
    description,
    params_file,
    typed,
)

ARGUMENTS = (
    # name, default, description, choices
    *CAMERA_ARGUMENTS,
    ("model", "", "the whole encoder, made by export_bev (.pt2 or .onnx)", None),
    ("image_model", "", "or its image stage, made by export_bev --split-stages (.pt2, .onnx or .engine)", None),
    ("pool_model", "", "with it, its pooling; empty: the library's own", None),
    ("bev_model", "", "with it, its BEV stage, if it has one", None),
    ("missing_cameras", "publish", "a camera is missing: maps of the others, or none", ["publish", "skip"]),
    ("calibration_file", "", "YAML or JSON of the rig, in place of camera_info and the cameras' tf", None),
    ("base_frame", "", "frame of the map; empty: the calibration file's, else base_link", None),
    ("fixed_frame", "auto", "frame for the vehicle's motion; auto: odom, map or world; empty: none", None),
    ("static_rig", "false", "cameras do not move on the vehicle: tf is read once for each", BOOL),
    params_file("bev.yaml"),
    ("name", "bev", "name of the node", None),
    *MODEL_ARGUMENTS,
)


def start(context):
    node = LifecycleNode(
        executable="bev_node",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "cameras": camera_names(context),
                "image_transport": typed("image_transport", str),
                "rectified": typed("rectified", bool),
                "model": typed("model", str),
                "image_model": typed("image_model", str),
                "pool_model": typed("pool_model", str),
                "bev_model": typed("bev_model", str),
                "missing_cameras": typed("missing_cameras", str),
                "calibration_file": typed("calibration_file", str),
                "base_frame": typed("base_frame", str),
                "fixed_frame": typed("fixed_frame", str),
                "static_rig": typed("static_rig", bool),
                "device": typed("device", str),
                "use_sim_time": typed("use_sim_time", bool),
                "autostart": typed("autostart", bool),
            },
        ],
        remappings=camera_remappings(context),
    )
    return [node]


def generate_launch_description():
    return description(ARGUMENTS, OpaqueFunction(function=start))
