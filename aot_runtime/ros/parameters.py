# SPDX-License-Identifier: Apache-2.0
"""A node's parameters as one table: name, default, description, and what values are allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError

if TYPE_CHECKING:  # programs without rclpy read the same tables
    from aot_runtime.ros.node import PerceptionNode


@dataclass(frozen=True)
class Param:
    """One parameter.

    Attributes:
        limits: (lowest, highest) of a number.
        choices: the words that are allowed.
    """

    name: str
    default: Any
    text: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()


IMAGE_TRANSPORT = Param(
    "image_transport", "raw", "Type of the input: Image, or CompressedImage.", choices=("raw", "compressed")
)
FRAME_ID = Param("frame_id", "", "Frame of the outputs; empty: that of the images.")


CAMERA_SET = (
    Param("cameras", ["camera"], "Names of the cameras: their topics are ~/NAME/image and ~/NAME/camera_info."),
    IMAGE_TRANSPORT,
    Param("rectified", True, "Whether images are rectified: they obey P of camera_info; else K and D."),
    Param("sync_slop", 0.02, "Largest distance in time between images of a set [s].", (0.0, 60.0)),
    Param("sync_patience", 0.2, "How long an image waits for those of other cameras [s].", (0.001, 3600.0)),
    Param("sync_depth", 10, "Images that may wait per camera.", (1, 1000)),
    Param("min_cameras", 1, "Sets with fewer cameras are dropped.", (1, 1000)),
)
"""What every node with a `CameraSet` has."""


@dataclass(frozen=True)
class CameraSetSettings:
    """Values of `CAMERA_SET`."""

    cameras: tuple[str, ...]
    image_transport: str
    rectified: bool
    sync_slop: float
    sync_patience: float
    sync_depth: int
    min_cameras: int

    def options(self) -> dict[str, Any]:
        """Arguments of `CameraSet` by name."""
        return {
            "slop_ns": round(self.sync_slop * 1e9),
            "patience_ns": round(self.sync_patience * 1e9),
            "least": self.min_cameras,
            "transport": self.image_transport,
            "rectified": self.rectified,
            "depth": self.sync_depth,
        }


@dataclass(frozen=True)
class ImageSettings:
    """Values of `model_params`, `IMAGE_TRANSPORT` and `FRAME_ID`: what a node of images has besides its own."""

    artifact: Path
    device: str
    allow_list: str
    num_threads: int
    cuda_graph: bool
    image_transport: str
    frame_id: str


def model_params(maker: str) -> tuple[Param, ...]:
    """What every node around one model has; `maker` is who makes its artifacts, as in "export_aliked"."""
    return (
        Param("artifact", "", f"The model: a .pt2, .onnx or .engine file made by {maker}."),
        Param("device", "cpu", "Where the model runs: cpu, cuda or cuda:N; the artifact must be made for it."),
        Param(
            "allow_list", "", "File of SHA-256 digests (as sha256sum prints) that may be loaded; empty: any artifact."
        ),
        Param(
            "num_threads", 0, "Threads of the model on a CPU; 0: as the environment says (OMP_NUM_THREADS).", (0, 256)
        ),
        Param("cuda_graph", True, "On CUDA, replay the network as one graph (not with .onnx)."),
    )


def declare_table(node: PerceptionNode, table: Iterable[Param]) -> None:
    """Declares all parameters with descriptions and ranges."""
    for param in table:
        low, high = param.limits or (None, None)
        node.declare(param.name, param.default, param.text, low=low, high=high, constraints=" or ".join(param.choices))


def read_table(node: PerceptionNode, table: Iterable[Param]) -> dict[str, Any]:
    """The values by name.

    Raises:
        InputError: a word is none of the choices; the message names the parameter.
    """
    table = tuple(table)
    values = {param.name: node.value(param.name) for param in table}
    check_choices(values, table)
    return values


def check_choices(values: Mapping[str, Any], table: Iterable[Param]) -> None:
    """Raises InputError if a word is none of the choices; the message names the parameter."""
    for param in table:
        if param.choices and values[param.name] not in param.choices:
            raise InputError(
                f"expected {param.name} to be {' or '.join(param.choices)}, found '{values[param.name]}'",
                "correct the parameter",
            )


def artifact_path(values: Mapping[str, Any], maker: str) -> Path:
    """The path in the parameter "artifact".

    Raises:
        InputError: there is none.
    """
    if not values["artifact"]:
        raise InputError(
            "expected an artifact, found the parameter 'artifact' empty",
            f"set it with: --ros-args -p artifact:=MODEL.pt2 (made by {maker})",
        )
    return Path(values["artifact"]).expanduser()
