# SPDX-License-Identifier: Apache-2.0
"""The parameters of `vggt_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from aot_runtime.ros.parameters import CAMERA_SET, CameraSetSettings, Param, model_params, read_table
from vggt_ros.fusion.maps import KINDS
from vggt_ros.fusion.streaming import StreamConfig
from vggt_ros.pipeline import PipelineConfig

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode

POSE_SOURCES = ("auto", "tf", "network")
POINTS_MODES = ("whole", "deltas")
_DEFAULTS = StreamConfig()

TABLE = (
    Param("vggt_model", "", "What bootstraps: a .pt2, .onnx or .engine file made by export_vggt."),
    Param("depth_model", "", "Streaming depth: a file made by export_dav2_to_pt2 with 3 input channels."),
    *(param for param in model_params("") if param.name != "artifact"),
    Param("accept_noncommercial_weights", False, "Weights for non-commercial use only may be loaded."),
    Param("bootstrap_file", "", "Instead of vggt_model: NPZ with poses, intrinsics and depth of the first images."),
    Param("depth_folder", "", "Instead of depth_model: disparities FOLDER/CAMERA/STAMP.npy, STAMP in nanoseconds."),
    Param("initial_map", "", "A map that ~/save_map wrote (.npz), to go on with."),
    Param("per_camera_calibration", "", "JSON of each camera's scale and shift: read if there, written at the end."),
    *CAMERA_SET,
    Param("require_camera_info", True, "Images without camera_info are dropped; else the network's intrinsics count."),
    Param("pose_source", "auto", "Where poses come from.", choices=POSE_SOURCES),
    Param("world_frame", "map", "Frame of a map that tf places; poses are those of the images' frames in it."),
    Param("unscaled_frame", "vggt", "Frame of a map that begins without tf: its world is the first camera's."),
    Param("tf_timeout", 0.1, "How long a set of images waits for transforms of its time [s].", (0.0, 60.0)),
    Param("tf_cache", 10.0, "How long transforms are kept [s].", (0.1, 3600.0)),
    Param("start_patience", 5.0, "A first bootstrap waits so long for all cameras and their tf [s].", (0.0, 3600.0)),
    Param("publish_tf", False, "Publish poses in unscaled_frame as transforms unscaled_frame -> camera."),
    Param("fusion", "surfel", "Kind of map.", choices=KINDS),
    Param("voxel_size", 0.02, "Of the field, and cell of points_mode deltas [m, or the map's unit].", (1e-4, 100.0)),
    Param("trunc_margin", 0.0, "Distance at which the field ends; 0: 4 voxels.", (0.0, 100.0)),
    Param("range_max", _DEFAULTS.range_max, "Depth beyond is unknown [m, or the map's unit].", (0.01, 1e5)),
    Param("max_step", _DEFAULTS.max_step, "Greatest motion of a camera between images [m, or unit].", (1e-3, 1e5)),
    Param("max_turn", _DEFAULTS.max_turn, "Greatest turn of a camera between images [degrees].", (0.1, 180.0)),
    Param("smooth_scale", 0.0, "Share of a new scale in an average; 0: by its covariance.", (0.0, 1.0)),
    Param("min_views", 1, "A bootstrap needs so many cameras.", (1, 1000)),
    Param("rebootstrap", True, "Bootstrap again when the map no longer shows what the cameras see."),
    Param("rebootstrap_period", 0.0, "Also after so many seconds; 0: never.", (0.0, 1e6)),
    Param("rebootstrap_pause", 1.0, "At least so many seconds between attempts.", (0.0, 1e6)),
    Param("reset_on_time_jump", True, "Start with a new map when time goes back (a bag that loops)."),
    Param("points_rate", 1.0, "Most clouds per second on ~/points.", (0.01, 100.0)),
    Param("points_mode", "whole", "~/points has the whole map, or what is new since the last.", choices=POINTS_MODES),
    Param("min_confidence", 0.0, "Points of ~/points have at least this confidence.", (0.0, 1e6)),
    Param("max_points", 1_000_000, "Most points of a cloud, evenly chosen; 0: no limit.", (0, 100_000_000)),
)


@dataclass(frozen=True)
class VggtSettings(CameraSetSettings):
    """The values of the parameters, checked as far as no file is needed; names as in config/vggt.yaml."""

    vggt_model: str
    depth_model: str
    device: str
    allow_list: str
    num_threads: int
    cuda_graph: bool
    accept_noncommercial_weights: bool
    bootstrap_file: str
    depth_folder: str
    initial_map: str
    per_camera_calibration: str
    require_camera_info: bool
    pose_source: str
    world_frame: str
    unscaled_frame: str
    tf_timeout: float
    tf_cache: float
    start_patience: float
    publish_tf: bool
    fusion: str
    voxel_size: float
    trunc_margin: float
    range_max: float
    max_step: float
    max_turn: float
    smooth_scale: float
    min_views: int
    rebootstrap: bool
    rebootstrap_period: float
    rebootstrap_pause: float
    reset_on_time_jump: bool
    points_rate: float
    points_mode: str
    min_confidence: float
    max_points: int

    def pipeline_config(self) -> PipelineConfig:
        """Those that concern the pipeline."""
        return PipelineConfig(
            fusion=self.fusion,
            voxel_size=self.voxel_size,
            trunc_margin=self.trunc_margin or None,
            smooth_scale=self.smooth_scale,
            min_views=self.min_views,
            rebootstrap=self.rebootstrap,
            rebootstrap_period_s=self.rebootstrap_period or None,
            rebootstrap_pause_s=self.rebootstrap_pause,
            arbitrary_scale=self.pose_source != "tf",
            stream=StreamConfig(range_max=self.range_max, max_step=self.max_step, max_turn=self.max_turn),
        )


def read_parameters(node: PerceptionNode) -> VggtSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values: dict[str, Any] = {**read_table(node, TABLE)}
    values["cameras"] = tuple(values["cameras"])
    if values["vggt_model"] and values["bootstrap_file"]:
        raise InputError("expected vggt_model or bootstrap_file, found both", "leave one of them empty")
    if not (values["vggt_model"] or values["bootstrap_file"] or values["initial_map"]):
        raise InputError(
            "expected something to start from, found vggt_model, bootstrap_file and initial_map empty",
            "set one with: --ros-args -p vggt_model:=MODEL.pt2 (made by export_vggt)",
        )
    if values["depth_model"] and values["depth_folder"]:
        raise InputError("expected depth_model or depth_folder, found both", "leave one of them empty")
    if values["pose_source"] != "network" and not values["world_frame"]:
        raise InputError("expected a world_frame to look poses up in, found none", "set it, or pose_source:=network")
    if values["unscaled_frame"] in ("", values["world_frame"]):
        raise InputError(
            f"expected an unscaled_frame other than the world_frame, found '{values['unscaled_frame']}'",
            "what has no metres must not lie in a metric frame",
        )
    return VggtSettings(**values)


def existing(text: str, name: str) -> Path:
    """The file or folder that a parameter names.

    Raises:
        InputError: there is none.
    """
    path = Path(text).expanduser()
    if not path.exists():
        raise InputError(f"expected a file for the parameter '{name}', found nothing at {path}", "correct the path")
    return path
