# SPDX-License-Identifier: Apache-2.0
"""Help for tests of vitmatte_node and matte: a small compiled network, scenes, and nodes that spin in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ros_session import Session

from vitmatte_ros.trimap import trimap_from_mask

SIZE = (120, 160)


@dataclass(frozen=True)
class Scene:
    """A picture (120, 160, 3) uint8 RGB and what tells its object apart."""

    image: np.ndarray
    mask: np.ndarray

    @property
    def trimap(self) -> np.ndarray:
        return trimap_from_mask(self.mask, 6, 6)


@pytest.fixture(scope="session")
def scenes(shared: Path) -> list[Scene]:
    """Views of the retriever that move, each with a mask of where the trimap is not background."""
    folder = shared / "data" / "matting"
    image = cv2.imread(str(folder / "retriever_rgb.jpg"))
    trimap = cv2.imread(str(folder / "retriever_trimap.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert trimap is not None
    views = [(slice(y, y + SIZE[0]), slice(x, x + SIZE[1])) for y, x in ((20, 140), (30, 150), (40, 160), (50, 170))]
    return [
        Scene(np.ascontiguousarray(image[view][:, :, ::-1]), np.where(trimap[view] > 0, 255, 0).astype(np.uint8))
        for view in views
    ]


@pytest.fixture(scope="session")
def network(matte_artifact: Callable[..., Path]) -> Path:
    """The small network for images of 160x120, compiled."""
    return matte_artifact(height=SIZE[0], width=SIZE[1])


@pytest.fixture
def matte(ros: Session, network: Path) -> Callable[..., Any]:
    """matte(**parameters): a VitMatteNode with the small network, active unless it cannot be."""
    from vitmatte_ros.node import VitMatteNode

    def make(active: bool = True, cli_args: list[str] | None = None, **values: Any) -> Any:
        values.setdefault("artifact", network)
        return ros.start(VitMatteNode, active, cli_args, **values)

    return make
