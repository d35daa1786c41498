# SPDX-License-Identifier: Apache-2.0
"""The four published ALIKED networks by their official names."""

from __future__ import annotations

from dataclasses import dataclass

from aot_runtime.errors import InputError

STRIDE = 32
"""The encoder divides sizes by this; images are padded to multiples of it."""
STRIDES = (1, 2, 8, 32)
"""Of the four levels, relative to the image."""
DETECTION_RADIUS = 2
"""Of non-maximum suppression and of sub-pixel refinement, in pixels."""
THRESHOLD = 0.2
"""Official threshold on the peak score in threshold mode."""


@dataclass(frozen=True)
class AlikedConfig:
    """One ALIKED network.

    Attributes:
        name: official name.
        channels: of the four encoder levels; the last one is also the length of a descriptor.
        samples: deformable positions that one descriptor looks at.
    """

    name: str
    channels: tuple[int, int, int, int]
    samples: int

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self.channels[3]


CONFIGS = {
    config.name: config
    for config in (
        AlikedConfig("aliked-t16", (8, 16, 32, 64), 16),
        AlikedConfig("aliked-n16", (16, 32, 64, 128), 16),
        # The same graph as n16, trained with rotated images: only the name tells the two apart.
        AlikedConfig("aliked-n16rot", (16, 32, 64, 128), 16),
        AlikedConfig("aliked-n32", (16, 32, 64, 128), 32),
    )
}


def from_name(name: str) -> AlikedConfig:
    """The configuration of an official name, with or without its "aliked-".

    Raises:
        InputError: no such network; the message lists all.
    """
    config = CONFIGS.get(name if name.startswith("aliked-") else f"aliked-{name}")
    if config is None:
        raise InputError(f"expected the name of an ALIKED network, found {name!r}", f"use one of: {', '.join(CONFIGS)}")
    return config
