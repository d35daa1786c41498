# SPDX-License-Identifier: Apache-2.0
"""Where streaming depth comes from: a Depth Anything artifact, or files computed before. Always as disparity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    from depth_ros.pipeline import ImageDepthPipeline


class DisparitySource(Protocol):
    """Relative disparity of images."""

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """(H, W) float32 of the image's size, greater is nearer, up to scale and shift; NaN where unknown.

        Raises:
            InputError: there is none for this image.
        """
        ...


class ArtifactDisparity:
    """A depth network; what it gives is turned into disparity by what its manifest says that it is."""

    def __init__(self, pipeline: ImageDepthPipeline) -> None:
        self._pipeline = pipeline

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """See `DisparitySource`."""
        result = self._pipeline.process(image)
        if result.kind != "metric":
            return result.depth
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1 / result.depth, np.float32)


class FolderDisparity:
    """Files ROOT/CAMERA/NAME.npy, NAME being the image's without suffix, for example of another network.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"expected a folder of disparities, found nothing at {root}", "check --depth_folder")
        self._root = root

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """See `DisparitySource`."""
        path = self._root / camera / f"{name}.npy"
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"expected a disparity image, found {error} for {path}") from error
        if found.shape != image.shape[:2] or found.dtype.kind != "f":
            raise InputError(
                f"expected floating-point disparity {image.shape[:2]}, found {found.dtype} {found.shape} in {path}"
            )
        return np.asarray(found, np.float32)
