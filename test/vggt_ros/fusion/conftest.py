# SPDX-License-Identifier: Apache-2.0
"""The synthetic room for all tests of fusion."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_room import Room


@pytest.fixture(scope="session")
def room(shared: Path) -> Room:
    """Frames, exact depth, poses and distances."""
    return Room(shared / "data" / "synthetic_room")
