# SPDX-License-Identifier: Apache-2.0
"""Which images count as taken together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matching:
    """How images are put together; see `Synchronizer`.

    Attributes:
        slop_ns: largest distance between stamps of a set.
        patience_ns: how long an image waits for those that are not required.
        required: cameras without which there is no set; None: all.
        least: so many cameras are needed at least.
        interval_ns: leave out sets that follow the last one so closely; 0 keeps all.
        depth: images that may wait per camera.
    """

    slop_ns: int = 40_000_000
    patience_ns: int = 200_000_000
    required: tuple[str, ...] | None = None
    least: int = 1
    interval_ns: int = 0
    depth: int = 10
