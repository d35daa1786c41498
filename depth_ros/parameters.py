# SPDX-License-Identifier: Apache-2.0
"""The parameters of `depth_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aot_runtime.ros.parameters import (
    FRAME_ID,
    IMAGE_TRANSPORT,
    ImageSettings,
    Param,
    artifact_path,
    model_params,
    read_table,
)
from depth_ros.pipeline import RESOLUTIONS

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode

TABLE = (
    *model_params("export_dav2_to_pt2 with 3 input channels"),
    IMAGE_TRANSPORT,
    Param("rectified", True, "Whether images are rectified: their points obey P of camera_info, else K and D."),
    Param("output_resolution", "image", "Size of the depth: that of the image, or the network's.", choices=RESOLUTIONS),
    Param("focal_baseline", 0.0, "Pixels * metres that turn disparity into metres; 0: by the artifact.", (0.0, 1e6)),
    Param("max_range", 0.0, "Metric depth beyond this is invalid [m]; 0: no limit.", (0.0, 1e6)),
    Param("points", "xyzrgb", "Cloud of metric depth, while subscribed.", choices=("off", "xyz", "xyzrgb")),
    FRAME_ID,
)


@dataclass(frozen=True)
class DepthSettings(ImageSettings):
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/depth.yaml."""

    rectified: bool
    output_resolution: str
    focal_baseline: float
    max_range: float
    points: str


def read_parameters(node: PerceptionNode) -> DepthSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values = read_table(node, TABLE)
    return DepthSettings(**{**values, "artifact": artifact_path(values, "export_dav2_to_pt2")})
