# SPDX-License-Identifier: Apache-2.0
"""What a lift-splat encoder is made of, checked before anything is built. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aot_runtime.errors import InputError
from bev_ros.geometry import PIXEL_RULES, Frustum
from bev_ros.grid import BevGrid
from bev_ros.images import ORDERS

BACKBONES: Mapping[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
"""Name -> (kind of block, blocks of each stage)."""
NECKS = ("fpn", "second_fpn")
"""mmdet's FPN, one level of it; or mmdet3d's SECONDFPN, which brings all levels to one size and joins them."""
HEADS = ("lss", "bevdepth")
"""One 1x1 convolution, or BEVDepth's camera-aware depth network."""
BEV_STAGES = ("none", "resnet18")
"""What refines the pooled map: nothing, or the three stages of a ResNet-18 and a SECONDFPN of BEVDepth's head."""
_COUNTS = (
    "cameras",
    "sweeps",
    "base_channels",
    "neck_channels",
    "mid_channels",
    "channels",
    "bev_base",
    "bev_channels",
)
STRIDES = (4, 8, 16, 32)
"""Image pixels per pixel of the four stages of a ResNet."""
BEV_MULTIPLE = 8
"""Cells of a map with a BEV stage come in groups of so many: its coarsest level."""


@dataclass(frozen=True)
class BevConfig:
    """One encoder.

    Attributes:
        name: free; the variant in an artifact's manifest.
        grid: cells of the map and the rule of the index.
        depth: (first, end, step) of the depth bins in metres, end excluded.
        image: (height, width) of what the network takes, in pixels.
        stride: image pixels per pixel of the features.
        pixels: where pixels lie, a member of `bev_ros.geometry.PIXEL_RULES`.
        order: of the network's channels, a member of `bev_ros.images.ORDERS`.
        cameras: images of one instant.
        sweeps: instants at a time, the key frame first; their maps are joined on channels, as BEVDepth's networks of
            several key frames have them.
        backbone: a member of BACKBONES.
        base_channels: of its first stage; 64 in the published ones.
        neck: a member of NECKS.
        neck_channels: that it gives; of "second_fpn" a quarter from each stage.
        head: a member of HEADS.
        mid_channels: inside the head "bevdepth".
        use_da: BEVDepth's depth refinement; it needs the volume of all depths, N D h w C numbers, in memory.
        channels: of the pooled map (and of the context).
        keep_z: the map's channels are those of every height cell, lowest first, instead of their sum.
        bev_stage: a member of BEV_STAGES.
        bev_base: channels of its first stage.
        bev_channels: that each of its four levels gives.
        custom_encoder: "module:Class" in the place of backbone, neck and head, see `bev_ros.custom`.
        custom_options: its further arguments.

    Raises:
        InputError: a field is impossible or contradicts another.
    """

    name: str
    grid: BevGrid
    depth: tuple[float, float, float]
    image: tuple[int, int]
    stride: int = 16
    pixels: str = "corners"
    order: str = "rgb"
    cameras: int = 6
    sweeps: int = 1
    backbone: str = "resnet50"
    base_channels: int = 64
    neck: str = "second_fpn"
    neck_channels: int = 512
    head: str = "bevdepth"
    mid_channels: int = 512
    use_da: bool = False
    channels: int = 80
    keep_z: bool = False
    bev_stage: str = "none"
    bev_base: int = 160
    bev_channels: int = 64
    custom_encoder: str = ""
    custom_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, value, known in (
            ("backbone", self.backbone, tuple(BACKBONES)),
            ("neck", self.neck, NECKS),
            ("head", self.head, HEADS),
            ("BEV stage", self.bev_stage, BEV_STAGES),
            ("stride", self.stride, STRIDES),
            ("pixel rule", self.pixels, PIXEL_RULES),
            ("order of channels", self.order, ORDERS),
        ):
            if value not in known:
                raise InputError(f"expected {option} {', '.join(str(item) for item in known)}, found {value!r}")
        for option in _COUNTS:
            if getattr(self, option) < 1:
                raise InputError(f"expected {option} from 1, found {getattr(self, option)}")
        self._check_geometry()
        if self.keep_z and self.sweeps > 1:
            raise InputError(f"expected heights apart or several sweeps, found keep_z and {self.sweeps} sweeps")
        if self.use_da and self.head != "bevdepth":
            raise InputError("expected use_da with the head bevdepth, found it with lss", "leave it out")
        if self.neck == "second_fpn" and self.neck_channels % 4:
            raise InputError(f"expected neck_channels in fours for second_fpn, found {self.neck_channels}")
        if self.custom_encoder and self.custom_encoder.count(":") != 1:
            raise InputError(f"expected a custom encoder as module:Class, found {self.custom_encoder!r}")

    def _check_geometry(self) -> None:
        # The frustum refuses what does not fit: features and points must have one resolution.
        frustum = self.frustum
        object.__setattr__(self, "image", frustum.image)
        object.__setattr__(self, "depth", frustum.depth)
        if self.bev_stage != "none" and (self.grid.ny % BEV_MULTIPLE or self.grid.nx % BEV_MULTIPLE):
            raise InputError(
                f"expected whole {BEV_MULTIPLE}s of cells with a BEV stage, found {self.grid.nx} x {self.grid.ny}",
                "choose another grid, or no BEV stage",
            )

    @property
    def frustum(self) -> Frustum:
        """The points that the features of one camera stand for."""
        return Frustum(self.image, self.stride, self.depth, self.pixels)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Cells of what is pooled: (Y, X), or (layers, Y, X) where there are several."""
        return (self.layers, *self.grid.shape) if self.layers > 1 or self.keep_z else self.grid.shape

    @property
    def layers(self) -> int:
        """Maps that are pooled side by side and then joined on channels: one of each height or sweep."""
        return self.grid.nz if self.keep_z else self.sweeps

    @property
    def slots(self) -> int:
        """Images at a time."""
        return self.cameras * self.sweeps

    @property
    def cells(self) -> int:
        """Of the pooled map."""
        return math.prod(self.map_shape)

    @property
    def lifted_points(self) -> int:
        """Points of all cameras, in the grid or not."""
        height, width = self.frustum.size
        return self.slots * self.frustum.bins * height * width

    @property
    def camera_aware(self) -> bool:
        """Whether the image stage takes the camera vectors."""
        return bool(self.custom_encoder) or self.head == "bevdepth"

    @property
    def volume(self) -> bool:
        """Whether the image stage gives the whole volume instead of depth and context."""
        return self.use_da and not self.custom_encoder

    @property
    def pooled_channels(self) -> int:
        """Channels of the pooled map."""
        return self.channels * self.layers

    @property
    def output_channels(self) -> int:
        """Channels of the final map."""
        return self.pooled_channels if self.bev_stage == "none" else 4 * self.bev_channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of the final map."""
        return self.output_channels, self.grid.ny, self.grid.nx

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        told = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return told | {
            "grid": self.grid.to_json(),
            "depth": list(self.depth),
            "image": list(self.image),
            "custom_options": dict(self.custom_options),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any], source: str = "the configuration") -> BevConfig:
        """What `to_json` gave.

        Raises:
            InputError: a field is missing, unknown, of another type, or impossible.
        """
        hints = {item.name: item for item in dataclasses.fields(cls)}
        unknown = sorted(set(told) - set(hints))
        if unknown:
            raise InputError(f"expected the fields of a BEV encoder, found {', '.join(unknown)} in {source}")
        try:
            made = dict(told)
            for name, item in hints.items():
                kind = {"int": int, "str": str, "bool": bool, "Mapping[str, Any]": dict}.get(str(item.type))
                if kind is not None and name in made and type(made[name]) is not kind:
                    raise TypeError(f"{name} is {made[name]!r}")
            made["grid"] = BevGrid.from_json(made["grid"])
            return cls(**made)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"expected name, grid, depth, image and the other fields of a BEV encoder, found {error!r} in {source}",
                "export again with export_bev of this version",
            ) from error


def _bevdepth() -> BevConfig:
    bound = (-51.2, 51.2, 0.8)
    return BevConfig(
        name="bevdepth-r50-256x704",
        grid=BevGrid(bound, bound, (-5.0, 3.0, 8.0), "trunc"),
        depth=(2.0, 58.0, 0.5),
        image=(256, 704),
        order="bgr",
    )


def _agentformer() -> BevConfig:
    bound = (-50.0, 50.0, 1.0)
    return BevConfig(
        name="agentformer",
        grid=BevGrid(bound, bound, (-10.0, 10.0, 20.0), "trunc"),
        depth=(2.0, 58.0, 2.0),
        image=(256, 704),
        neck="fpn",
        neck_channels=256,
        mid_channels=256,
        channels=256,
    )


def _tiny() -> BevConfig:
    return BevConfig(
        name="tiny",
        grid=BevGrid((-10.0, 10.0, 1.0), (-10.0, 10.0, 1.0), (-10.0, 10.0, 20.0), "floor"),
        depth=(1.0, 13.0, 1.0),
        image=(64, 96),
        stride=8,
        cameras=3,
        backbone="resnet10",
        base_channels=8,
        neck="fpn",
        neck_channels=16,
        mid_channels=16,
        channels=8,
    )


PRESETS = {config.name: config for config in (_bevdepth(), _agentformer(), _tiny())}
"""`bevdepth-r50-256x704` is the published network; `agentformer` the map of 256 channels that trajectory prediction
takes; `tiny` is for trials."""


def preset(preset_name: str, /, **changes: Any) -> BevConfig:
    """A preset with some fields changed.

    Raises:
        InputError: no such preset, or the changes make it impossible.
    """
    if preset_name not in PRESETS:
        raise InputError(f"expected a preset of {', '.join(PRESETS)}, found {preset_name!r}")
    return replace(PRESETS[preset_name], **changes)
