# SPDX-License-Identifier: Apache-2.0
"""Windows of made-up events."""

from __future__ import annotations

import numpy as np

from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow


def random_window(count: int = 300, seed: int = 0, width: int = 64, height: int = 48) -> EventWindow:
    """Random events of a sensor in 20 ms that end at 1 s."""
    generator = np.random.default_rng(seed)
    events = Events(
        generator.integers(0, width, count).astype(np.uint16),
        generator.integers(0, height, count).astype(np.uint16),
        np.sort(generator.integers(980_000, 1_000_000, count)),
        generator.integers(0, 2, count).astype(np.uint8),
    )
    return EventWindow(980_000, 1_000_000, events, True, count)
