# SPDX-License-Identifier: Apache-2.0
"""Starts vggt_node: `ros2 launch aot_perception vggt.launch.py cameras:=left,right vggt_model:=VGGT.pt2 ...`."""

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
    ("vggt_model", "", "what bootstraps, made by export_vggt (.pt2, .onnx, .engine)", None),
    ("depth_model", "", "streaming depth, made by export_dav2_to_pt2 with 3 input channels", None),
    ("accept_noncommercial_weights", "false", "load weights that are for non-commercial use only", BOOL),
    ("bootstrap_file", "", "instead of vggt_model: NPZ of the first images' poses, intrinsics and depth", None),
    ("depth_folder", "", "instead of depth_model: FOLDER/CAMERA/STAMP.npy", None),
    ("initial_map", "", "a map of before (.npz), to go on with", None),
    ("pose_source", "auto", "where poses come from", ["auto", "tf", "network"]),
    ("world_frame", "map", "frame of all that is metric", None),
    ("fusion", "surfel", "kind of map", ["surfel", "tsdf"]),
    params_file("vggt.yaml"),
    ("name", "vggt", "name of the node", None),
    *MODEL_ARGUMENTS,
)


def start(context):
    node = LifecycleNode(
        executable="vggt_node",
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "cameras": camera_names(context),
                "image_transport": typed("image_transport", str),
                "rectified": typed("rectified", bool),
                "vggt_model": typed("vggt_model", str),
                "depth_model": typed("depth_model", str),
                "accept_noncommercial_weights": typed("accept_noncommercial_weights", bool),
                "bootstrap_file": typed("bootstrap_file", str),
                "depth_folder": typed("depth_folder", str),
                "initial_map": typed("initial_map", str),
                "pose_source": typed("pose_source", str),
                "world_frame": typed("world_frame", str),
                "fusion": typed("fusion", str),
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
