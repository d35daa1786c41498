# SPDX-License-Identifier: Apache-2.0
"""The parameters of `bev_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from aot_runtime.ros.parameters import CAMERA_SET, CameraSetSettings, Param, model_params, read_table
from bev_ros.moving_rig import AUTO
from bev_ros.rig_source import RigOptions
from bev_ros.sources.matching import Matching

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode
    from bev_ros.config import BevConfig

MISSING_CAMERAS = ("publish", "skip")
DISTORTED_IMAGES = ("undistort", "refuse")
PARTS = ("image_model", "pool_model", "bev_model")
# Sets of images are to be the same as those of a recording, so the defaults are too.
_MATCHING = Matching()
_SYNC_DEFAULTS = {
    "sync_slop": _MATCHING.slop_ns * 1e-9,
    "sync_patience": _MATCHING.patience_ns * 1e-9,
    "sync_depth": _MATCHING.depth,
}

TABLE = (
    Param("model", "", "The whole encoder: a .pt2 or .onnx file made by export_bev."),
    Param("image_model", "", "Instead of model: its image stage, made by export_bev --split-stages."),
    Param("pool_model", "", "With image_model: its pooling; empty: the library's own."),
    Param("bev_model", "", "With image_model: its BEV stage, if the encoder has one."),
    *(param for param in model_params("export_bev") if param.name != "artifact"),
    Param("tables_dir", "", "Folder where tables of the pooling are kept from run to run; empty: nowhere."),
    *(replace(param, default=_SYNC_DEFAULTS.get(param.name, param.default)) for param in CAMERA_SET),
    Param("missing_cameras", "publish", "Maps of the cameras that are there, or none.", choices=MISSING_CAMERAS),
    Param("distorted_images", "undistort", "What becomes of images with distortion.", choices=DISTORTED_IMAGES),
    Param("calibration_file", "", "YAML or JSON of the rig, in place of camera_info and the cameras' tf."),
    Param("base_frame", "", "Frame of the map, the vehicle's; empty: the calibration file's, else base_link."),
    Param(
        "fixed_frame",
        AUTO,
        "Frame for the vehicle's motion between images of a set; auto: odom, map or world; empty: none.",
    ),
    Param("static_rig", False, "Cameras do not move on the vehicle: tf is read once for each."),
    Param("tf_timeout", 0.1, "How long a set of images waits for transforms of its time [s].", (0.0, 60.0)),
    Param("tf_cache", 10.0, "How long transforms are kept [s].", (0.1, 3600.0)),
)


@dataclass(frozen=True)
class BevSettings(CameraSetSettings):
    """The values of the parameters, checked as far as no file is needed; names as in config/bev.yaml.

    `models` are the artifacts: a whole encoder, or its stages.
    """

    models: tuple[Path, ...]
    device: str
    allow_list: str
    num_threads: int
    cuda_graph: bool
    tables_dir: str
    missing_cameras: str
    distorted_images: str
    calibration_file: str
    base_frame: str
    fixed_frame: str
    static_rig: bool
    tf_timeout: float
    tf_cache: float

    def set_options(self) -> dict[str, Any]:
        """Arguments of `CameraSet` by name."""
        return {
            **self.options(),
            "required": self.cameras if self.missing_cameras == "skip" else (),
            "calibrated": not self.calibration_file,
            "num_threads": self.num_threads,
        }

    def rig_options(self) -> RigOptions:
        """How cameras are placed."""
        return RigOptions(
            self.base_frame,
            self.fixed_frame,
            self.static_rig,
            self.distorted_images == "undistort",
            self.tf_timeout,
        )


def read_parameters(node: PerceptionNode) -> BevSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values: dict[str, Any] = {**read_table(node, TABLE)}
    values["cameras"] = tuple(values["cameras"])
    model = values.pop("model")
    parts = {name: values.pop(name) for name in PARTS}
    if bool(model) == bool(parts["image_model"]) or (model and any(parts.values())):
        given = [name for name, told in {"model": model, **parts}.items() if told]
        raise InputError(
            f"expected the parameter 'model', or 'image_model' and perhaps 'pool_model' and 'bev_model', found "
            f"{' and '.join(given) or 'none of them'}",
            "set it with: --ros-args -p model:=MODEL.pt2 (made by export_bev)",
        )
    values["models"] = tuple(Path(told).expanduser() for told in (model, *parts.values()) if told)
    return BevSettings(**values)


def stated_parameters(config: BevConfig, frame: str, identity: str) -> dict[str, tuple[Any, str]]:
    """What a node states for who reads its maps: name -> (value, meaning)."""
    grid = config.grid
    return {
        "grid.x": (list(grid.x), "Columns of the map: low, high, step [m], forward."),
        "grid.y": (list(grid.y), "Rows of the map: low, high, step [m], to the left."),
        "grid.z": (list(grid.z), "Heights that are in the map: low, high, step [m]."),
        "grid.rule": (grid.rule, "How a coordinate becomes a cell: floor, or trunc as published checkpoints have it."),
        "grid.axis_order": ("C,Y,X", "Of the features; in the message rows are y, columns x, channels C."),
        "grid.channels": (config.output_channels, "C."),
        "grid.frame": (frame, "Frame of the map; its origin is the vehicle's."),
        "encoder_identity": (identity, "SHA-256 over what computes, as in the manifest of precomputed maps."),
    }
