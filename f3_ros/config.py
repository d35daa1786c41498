# SPDX-License-Identifier: Apache-2.0
"""Every published F3 configuration by its official name, with the level resolutions pinned.

The official code computes the resolutions of the encoder's levels in float32 when a model is constructed and
does not store them in the checkpoint. Some sit on the edge of the truncation (319.99997 or 320), so that two
machines can disagree; a model then runs, and returns slightly wrong features. Here they are constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot_runtime.errors import InputError

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class EncoderConfig:
    """The multi-resolution encoder.

    Attributes:
        feature_size: features per level.
        log2_entries: the table of one level has 2**log2_entries rows.
        resolutions: cells of each level along (x, y, t).
        polarity: two tables, one per polarity, chosen by the events' last column.
    """

    feature_size: int
    log2_entries: int
    resolutions: tuple[Triple, ...]
    polarity: bool = False

    @property
    def levels(self) -> int:
        return len(self.resolutions)

    @property
    def channels(self) -> int:
        """Features per event: levels * feature_size."""
        return self.levels * self.feature_size

    @property
    def hashed_levels(self) -> int:
        """How many levels are too large for a dense table (always the last ones)."""
        return sum(sum(math.log2(r + 1) for r in res) > self.log2_entries for res in self.resolutions)

    def rows(self, level: int) -> int:
        """Rows of the level's table that any event can touch."""
        if level >= self.levels - self.hashed_levels:
            return 1 << self.log2_entries
        rx, ry, rt = self.resolutions[level]
        return rx + ry * rx + rt * rx * ry + 1


@dataclass(frozen=True)
class F3Config:
    """One F3 network. Spatial tuples are in the network's order (W, H), never (H, W).

    Attributes:
        name: official name.
        frame: (W, H, T): sensor pixels and time bins of the event window.
        prediction_bins: time bins that the prediction head (training objective) outputs.
        dims, kernels, depths, bottlenecks, dilations: per stage: channels, kernel, blocks, expansion, dilation.
        entry_kernels, entry_strides: per stage: the convolution that enters it.
        patch_size: features have W / patch_size x H / patch_size cells.
        decoder_block: one more block before the prediction head.
        upsampling_dims: channels of the upsampling path's output; 0 = no upsampling path.
        model: "EventPatchFF" or "EventUNetFF".
    """

    name: str
    frame: Triple
    prediction_bins: int
    dims: tuple[int, ...]
    encoder: EncoderConfig | None = None
    kernels: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    bottlenecks: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    entry_kernels: tuple[int, ...] = ()
    entry_strides: tuple[int, ...] = ()
    patch_size: int = 1
    decoder_block: bool = False
    upsampling_dims: int = 0
    model: str = "EventPatchFF"

    @property
    def feature_size(self) -> int:
        """Channels of the feature field."""
        return self.upsampling_dims or self.dims[-1]

    @property
    def stride(self) -> int:
        """The product of the entry strides: what W and H must be divisible by with an upsampling path."""
        return math.prod(self.entry_strides) if self.entry_strides else 4

    def feature_shape(self, downsample: tuple[int, int] | None = None) -> Triple:
        """(W', H', C) of the feature field, with the field optionally resized to `downsample` = (W', H') first."""
        width, height = downsample or self.frame[:2]
        if self.model != "EventUNetFF" and not self.upsampling_dims:
            for kernel, stride in zip(self.entry_kernels, self.entry_strides):
                pad = 2 * ((kernel - 1) // 2)
                width, height = (width + pad - kernel) // stride + 1, (height + pad - kernel) // stride + 1
        return width, height, self.feature_size

    @staticmethod
    def from_dict(
        options: Mapping[str, Any], name: str = "custom", resolutions: Sequence[Sequence[int]] | None = None
    ) -> F3Config:
        """A configuration from the official YAML's keys.

        Args:
            options: the mapping of the official `modeloptions` file.
            name: a name for messages.
            resolutions: pinned level resolutions; computed by `level_resolutions` if absent (also read from the
                mapping's own key "resolutions").

        Raises:
            InputError: a key is missing or its value does not fit the others.
        """
        try:
            model = options.get("model", "EventPatchFF")
            frame = _triple(options["frame_sizes"])
            if model == "EventUNetFF":
                return F3Config(name, frame, int(options["T"]), tuple(options["dims"]), model=model)
            if model != "EventPatchFF":
                raise InputError(f"expected model EventPatchFF or EventUNetFF, found {model} in configuration {name}")
            table = options["multi_hash_encoder"]
            pinned = resolutions or options.get("resolutions")
            if pinned is None:
                pinned = level_resolutions(table["coarsest_resolution"], table["finest_resolution"], table["levels"])
            encoder = EncoderConfig(
                feature_size=int(table["feature_size"]),
                log2_entries=int(table["log2_entries_per_level"]),
                resolutions=tuple(_triple(r) for r in pinned),
                polarity=bool(table.get("polarity", False)),
            )
            if encoder.levels != int(table["levels"]):
                raise InputError(
                    f"expected {table['levels']} level resolutions, found {encoder.levels} in configuration {name}"
                )
            config = F3Config(
                name=name,
                frame=frame,
                prediction_bins=int(options["T"]),
                dims=tuple(options["dims"]),
                encoder=encoder,
                kernels=tuple(options["convkernels"]),
                depths=tuple(options["convdepths"]),
                bottlenecks=tuple(options["convbtlncks"]),
                dilations=tuple(options["convdilations"]),
                entry_kernels=tuple(options["dskernels"]),
                entry_strides=tuple(options["dsstrides"]),
                patch_size=int(options.get("patch_size", 1)),
                decoder_block=bool(options.get("use_decoder_block", False)),
                upsampling_dims=int(options["upsampling_dims"]) if options.get("use_upsampling") else 0,
            )
        except KeyError as error:
            raise InputError(
                f"expected the key {error.args[0]!r} in configuration {name}, found none", "add it"
            ) from error
        lists = (config.kernels, config.depths, config.bottlenecks, config.dilations, config.entry_kernels)
        if any(len(item) != len(config.dims) for item in (*lists, config.entry_strides)):
            raise InputError(f"expected {len(config.dims)} stages in every list of configuration {name}, found others")
        return config


def level_resolutions(coarsest: Sequence[int], finest: Sequence[int], levels: int) -> tuple[Triple, ...]:
    """Level resolutions, geometric from coarsest to finest, truncated, in float32 as the official code does.

    Only for configurations of one's own: the published ones are pinned in `CONFIGS` because the last bit of this
    computation depends on the machine.
    """
    low, high = np.log(np.asarray(coarsest, np.float32)), np.log(np.asarray(finest, np.float32))
    step = (high - low) / np.float32(max(levels - 1, 1))
    return tuple(_triple(np.exp(low + np.float32(level) * step).astype(np.int32)) for level in range(levels))


def _triple(values: Sequence[int] | np.ndarray) -> Triple:
    x, y, t = (int(v) for v in values)
    return x, y, t


_HD = ((8, 8, 1), (27, 22, 2), (93, 63, 4), (320, 180, 8))
_VGA50 = ((8, 8, 1), (27, 24, 2), (93, 77, 6), (320, 240, 16))
_DAVIS20 = ((8, 8, 1), (22, 20, 2), (63, 53, 4), (180, 139, 8))
_DAVIS50 = ((8, 8, 1), (22, 20, 2), (63, 53, 6), (180, 139, 16))


def _encoder(resolutions: tuple[Triple, ...]) -> EncoderConfig:
    return EncoderConfig(feature_size=2, log2_entries=19, resolutions=resolutions)


def _small(
    name: str,
    frame: Triple,
    resolutions: tuple[Triple, ...],
    channels: int = 32,
    bottleneck: int = 2,
    prediction_bins: int | None = None,
) -> F3Config:
    """Two stages of three 7x7 blocks at full resolution, entered by 1x1 convolutions."""
    return F3Config(
        name=name,
        frame=frame,
        prediction_bins=prediction_bins or frame[2],
        dims=(channels, channels),
        encoder=_encoder(resolutions),
        kernels=(7, 7),
        depths=(3, 3),
        bottlenecks=(bottleneck, bottleneck),
        dilations=(1, 1),
        entry_kernels=(1, 1),
        entry_strides=(1, 1),
    )


def _dilated(name: str, frame: Triple, resolutions: tuple[Triple, ...]) -> F3Config:
    """As small, but entered by 5x5 convolutions and dilated by two in the first stage; predicts 50 bins."""
    return F3Config(
        name=name,
        frame=frame,
        prediction_bins=50,
        dims=(32, 32),
        encoder=_encoder(resolutions),
        kernels=(7, 7),
        depths=(3, 3),
        bottlenecks=(2, 2),
        dilations=(2, 1),
        entry_kernels=(5, 5),
        entry_strides=(1, 1),
    )


_ALL = (
    _small("1280x720x20_patchff_ds1_small", (1280, 720, 20), _HD),
    _small("1280x720x20_patchff_ds1_tiny", (1280, 720, 20), _HD, channels=16),
    _small("1280x720x20_patchff_ds1_micro", (1280, 720, 20), _HD, channels=8, bottleneck=4),
    _small("640x480x20_patchff_ds1_small", (640, 480, 20), _HD),
    _small("346x260x20_patchff_ds1_small", (346, 260, 20), _DAVIS20),
    _small("346x260x50_patchff_ds1_small", (346, 260, 50), _DAVIS50),
    _dilated("640x480x50_patchff_ds1_small", (640, 480, 50), _VGA50),
    _dilated("1280x720x20_50_patchff_ds1", (1280, 720, 20), _HD),
    F3Config(
        name="1280x720x50_patchff_ds1",
        frame=(1280, 720, 50),
        prediction_bins=50,
        dims=(32, 32, 32),
        encoder=_encoder(_HD),
        kernels=(7, 7, 7),
        depths=(3, 2, 1),
        bottlenecks=(2, 2, 2),
        dilations=(2, 3, 1),
        entry_kernels=(5, 5, 3),
        entry_strides=(1, 1, 1),
    ),
    F3Config(
        name="1280x720_patchff_ds16",
        frame=(1280, 720, 20),
        prediction_bins=20,
        dims=(96, 128, 256),
        encoder=_encoder(_HD),
        kernels=(7, 7, 1),
        depths=(2, 2, 3),
        bottlenecks=(4, 4, 4),
        dilations=(1, 1, 1),
        entry_kernels=(5, 5, 5),
        entry_strides=(2, 2, 4),
        patch_size=16,
        decoder_block=True,
    ),
    F3Config(
        name="640x480x20_patchff_ds1_small_v1",
        frame=(640, 480, 20),
        prediction_bins=20,
        dims=(96, 160, 192),
        encoder=_encoder(_HD),
        kernels=(5, 5, 5),
        depths=(2, 2, 2),
        bottlenecks=(2, 2, 2),
        dilations=(1, 1, 1),
        entry_kernels=(5, 3, 3),
        entry_strides=(4, 2, 2),
        upsampling_dims=16,
    ),
    F3Config(
        name="1280x720x20_unetff_ds4_small",
        frame=(1280, 720, 20),
        prediction_bins=20,
        dims=(32, 32),
        model="EventUNetFF",
    ),
)

CONFIGS: dict[str, F3Config] = {config.name: config for config in _ALL}
"""Every published configuration by official name (the torchsparse one, unpublished, is not served)."""


def from_name(name: str) -> F3Config:
    """The configuration of an official name.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in CONFIGS:
        raise InputError(
            f"expected the official name of an F3 configuration, found {name!r}",
            "use one of: " + ", ".join(sorted(CONFIGS)),
        )
    return CONFIGS[name]
