# SPDX-License-Identifier: Apache-2.0
"""The parameters of `depth_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aot_runtime.errors import InputError
from aot_runtime.ros.parameters import Param, declare_table, read_table
from depth_ros.pipeline import RESOLUTIONS

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode

TABLE = (
    Param("artifact", "", "The model, made by export_dav2_to_pt2 with 3 input channels (.pt2, .onnx or .engine)."),
    Param("device", "cpu", "Where the model runs: cpu, cuda or cuda:N; the artifact must be made for it."),
    Param("allow_list", "", "File of SHA-256 digests (as sha256sum prints) that may be loaded; empty: any artifact."),
    Param("num_threads", 0, "Threads of the model on a CPU; 0: as the environment says (OMP_NUM_THREADS).", (0, 256)),
    Param("cuda_graph", True, "On CUDA, replay the network as one graph."),
    Param("image_transport", "raw", "Type of the input: Image, or CompressedImage.", choices=("raw", "compressed")),
    Param("rectified", True, "Whether images are rectified: their points obey P of camera_info, else K and D."),
    Param("output_resolution", "image", "Size of the depth: that of the image, or the network's.", choices=RESOLUTIONS),
    Param("focal_baseline", 0.0, "Pixels * metres that turn disparity into metres; 0: by the artifact.", (0.0, 1e6)),
    Param("max_range", 0.0, "Metric depth beyond this is invalid [m]; 0: no limit.", (0.0, 1e6)),
    Param("points", "xyzrgb", "Cloud of metric depth, while subscribed.", choices=("off", "xyz", "xyzrgb")),
    Param("frame_id", "", "Frame of the outputs; empty: that of the images."),
)


@dataclass(frozen=True)
class DepthSettings:
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/depth.yaml."""

    artifact: Path
    device: str
    allow_list: str
    num_threads: int
    cuda_graph: bool
    image_transport: str
    rectified: bool
    output_resolution: str
    focal_baseline: float
    max_range: float
    points: str
    frame_id: str


def declare_parameters(node: PerceptionNode) -> None:
    """Declares all parameters with descriptions and ranges."""
    declare_table(node, TABLE)


def read_parameters(node: PerceptionNode) -> DepthSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values = read_table(node, TABLE)
    if not values["artifact"]:
        raise InputError(
            "expected an artifact, found the parameter 'artifact' empty",
            "set it with: --ros-args -p artifact:=MODEL.pt2 (made by export_dav2_to_pt2)",
        )
    return DepthSettings(**{**values, "artifact": Path(values["artifact"]).expanduser()})
