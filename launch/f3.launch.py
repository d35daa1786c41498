# SPDX-License-Identifier: Apache-2.0
"""Starts f3_node: `ros2 launch aot_perception f3.launch.py artifact:=MODEL.pt2 events:=/event_camera/events`."""

from launch.substitutions import LaunchConfiguration

from aot_runtime.ros.launching import CPP_ARGUMENTS, MODEL_ARGUMENTS, LifecycleNode, description, params_file, typed

ARGUMENTS = (
    # name, default, description, choices
    ("artifact", None, "model made by export_f3_to_pt2 (.pt2)", None),
    ("depth_artifact", "", "depth head made by export_dav2_to_pt2 (.pt2); empty: no depth", None),
    ("flow_artifact", "", "flow head made by export_flowhead_to_pt2 (.pt2); empty: no flow", None),
    ("events", "/event_camera/events", "topic of event_camera_msgs/EventPacket", None),
    ("event_camera_info", "/event_camera/camera_info", "topic of the event camera's sensor_msgs/CameraInfo", None),
    params_file("f3.yaml"),
    ("name", "f3", "name of the node", None),
    *MODEL_ARGUMENTS,
    *CPP_ARGUMENTS,
)


def generate_launch_description():
    node = LifecycleNode(
        executable="f3_node",
        plugin="aot_perception::F3Component",
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
    )
    return description(ARGUMENTS, node)
