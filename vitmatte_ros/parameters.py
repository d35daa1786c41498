# SPDX-License-Identifier: Apache-2.0
"""The parameters of `vitmatte_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aot_runtime.errors import InputError
from aot_runtime.ros.parameters import (
    FRAME_ID,
    IMAGE_TRANSPORT,
    ImageSettings,
    Param,
    artifact_path,
    model_params,
    read_table,
)
from vitmatte_ros.foreground import METHODS
from vitmatte_ros.guidance import KINDS, GuidanceOptions
from vitmatte_ros.trimap import TrimapCoding

if TYPE_CHECKING:
    from aot_runtime.ros.node import PerceptionNode

SYNCS = ("approximate", "latest")
ALPHA_ENCODINGS = ("mono8", "32FC1")
TABLE = (
    *model_params("export_vitmatte"),
    IMAGE_TRANSPORT,
    Param("guidance", "trimap", "What tells the object apart, and the topic it comes on.", choices=KINDS),
    Param("sync", "approximate", "Each image with guidance of its stamp, or with the latest.", choices=SYNCS),
    Param("sync_slop", 0.02, "Largest difference of two stamps that belong together [s].", (0.0, 10.0)),
    Param("sync_depth", 10, "Images, and guidance, that may wait for each other.", (1, 1000)),
    Param("max_guidance_age", 0.5, "With sync latest: older guidance is not used [s].", (0.0, 3600.0)),
    Param("age_widening", 20.0, "With sync latest: unknown grows this fast with guidance's age [px/s].", (0.0, 1e4)),
    Param("trimap_coding", "0,128,255", "Values of background, unknown, foreground in trimaps."),
    Param("class_ids", "", "Values of a mask that are the object, separated by commas; empty: all but 0."),
    Param("inner_radius", -1, "Pixels of a mask's inside that become unknown; -1: by its size.", (-1, 1000)),
    Param("outer_radius", -1, "Pixels of a mask's outside that become unknown; -1: by its size.", (-1, 1000)),
    Param("low", 0.05, "Probability below which there is only background.", (0.0, 1.0)),
    Param("high", 0.95, "Probability above which there is only foreground.", (0.0, 1.0)),
    Param("widen", 4, "Pixels by which the unknown band of a probability grows.", (0, 1000)),
    Param("near", 1.0, "Depth below which there is only foreground [m].", (1e-3, 1e6)),
    Param("far", 1.5, "Depth above which there is only background [m].", (1e-3, 1e6)),
    Param("edge_ratio", 0.05, "Jumps of depth above this times the depth are edges.", (0.0, 10.0)),
    Param("edge_width", 6, "Pixels on both sides of an edge of depth that are unknown.", (0, 1000)),
    Param("resize_guidance", False, "Guidance of another size than the image is resized to it, not refused."),
    Param("smoothing", 1.0, "Weight of the newest trimap in the average over time; 1: no average.", (0.01, 1.0)),
    Param("clamp_known", True, "Alpha is exactly 0 and 1 where the trimap is certain."),
    Param("max_pixels", 1_500_000, "Pixels of one run of an artifact for any size.", (4096, 100_000_000)),
    Param("overlap", 64, "Pixels that neighbouring tiles share.", (0, 4096)),
    Param("margin", 64, "Known pixels around the unknown region that the network sees.", (0, 4096)),
    Param("alpha_encoding", "mono8", "Of ~/alpha: 0 .. 255, or 0 .. 1 in floats.", choices=ALPHA_ENCODINGS),
    Param("foreground", "blur", "How ~/foreground gets its colours.", choices=METHODS),
    Param("premultiplied", False, "Colours of ~/foreground are multiplied by alpha."),
    FRAME_ID,
)


@dataclass(frozen=True)
class MatteSettings(ImageSettings):
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/vitmatte.yaml.

    `options` has those that make trimaps.
    """

    sync: str
    sync_slop: float
    sync_depth: int
    max_guidance_age: float
    age_widening: float
    clamp_known: bool
    max_pixels: int
    overlap: int
    margin: int
    alpha_encoding: str
    foreground: str
    premultiplied: bool
    options: GuidanceOptions


def read_parameters(node: PerceptionNode) -> MatteSettings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    values = read_table(node, TABLE)
    options = GuidanceOptions(
        kind=values["guidance"],
        coding=TrimapCoding.parse(values["trimap_coding"]),
        inner=values["inner_radius"],
        outer=values["outer_radius"],
        class_ids=parse_class_ids(values["class_ids"]),
        resize=values["resize_guidance"],
        **{name: values[name] for name in ("low", "high", "widen", "near", "far", "edge_ratio", "edge_width")},
        smoothing=values["smoothing"],
    )
    values["artifact"] = artifact_path(values, "export_vitmatte")
    own = {name: value for name, value in values.items() if name in MatteSettings.__dataclass_fields__}
    return MatteSettings(**own, options=options)


def parse_class_ids(text: str) -> tuple[int, ...]:
    """Integers separated by commas.

    Raises:
        InputError: they are none.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise InputError(
            f"expected class ids as integers separated by commas, found '{text}'", "for example 1,7"
        ) from None
