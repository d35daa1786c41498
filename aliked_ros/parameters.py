# SPDX-License-Identifier: Apache-2.0
"""The parameters of `aliked_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aliked_ros.matching import MIN_SIMILARITY
from aot_runtime.ros.parameters import (
    FRAME_ID,
    IMAGE_TRANSPORT,
    ImageSettings,
    Param,
    artifact_path,
    model_params,
    read_table,
)

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode

TABLE = (
    *model_params("export_aliked"),
    IMAGE_TRANSPORT,
    Param("resize", "fit", "Images of another size than the artifact's: scaled, or refused.", choices=("fit", "never")),
    Param("threshold", 0.0, "Keypoints with a peak score up to this are left out.", (0.0, 0.999)),
    Param("max_keypoints", 0, "Only so many are published, the strongest; 0: the artifact's top_k.", (0, 100_000)),
    Param("track", False, "Match keypoints with those of the image before, while somebody subscribes to tracks."),
    Param("min_similarity", MIN_SIMILARITY, "Smallest dot product of two descriptors that match.", (-1.0, 1.0)),
    Param("ratio", 1.0, "Largest distance to the nearest descriptor over that to the second; 1: any.", (0.01, 1.0)),
    Param("max_step", 0.0, "Longest way of a tracked keypoint between two images [px]; 0: no limit.", (0.0, 1e5)),
    FRAME_ID,
)


@dataclass(frozen=True)
class AlikedSettings(ImageSettings):
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/aliked.yaml."""

    resize: str
    threshold: float
    max_keypoints: int
    track: bool
    min_similarity: float
    ratio: float
    max_step: float


def read_parameters(node: PerceptionNode) -> AlikedSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values = read_table(node, TABLE)
    return AlikedSettings(**{**values, "artifact": artifact_path(values, "export_aliked")})
