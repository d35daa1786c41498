# SPDX-License-Identifier: Apache-2.0
"""A bootstrap from a VGGT artifact: images of any size in, poses, intrinsics, depth and confidence out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.camera import PixelMap
from aot_runtime.errors import ArtifactError, InputError
from vggt_ros.fusion.bootstrap import Bootstrap, bootstrap_from_arrays
from vggt_ros.images import prepare
from vggt_ros.pose_encoding import centred, decode

if TYPE_CHECKING:
    from aot_runtime.compiled_model import CompiledModel

_WHITE = 255


class NetworkSource:
    """Runs the network; the first image's camera is the origin, the scale is arbitrary.

    Images are made as wide as the network's input with their aspect kept, as its official loader does; rows that are
    too many are cut off on both sides, missing ones are white and have no depth.

    Args:
        model: a loaded artifact of the family "vggt".
        intrinsics: camera -> (3, 3) of its images, where it is calibrated; it replaces the network's field of view.

    Raises:
        ArtifactError: it is of another family, or its size is not fixed.
    """

    def __init__(self, model: CompiledModel, intrinsics: Mapping[str, np.ndarray] | None = None) -> None:
        manifest = model.manifest
        if manifest.family != "vggt":
            raise ArtifactError(
                f"expected an artifact of the family vggt, found {manifest.family} in {model.path}",
                "export one with export_vggt",
            )
        height, width = manifest.inputs[0].shape[-2:]
        if not isinstance(height, int) or not isinstance(width, int):
            raise ArtifactError(f"expected a network for images of one size, found {height} x {width} in {model.path}")
        self._model = model
        self._known = dict(intrinsics or {})
        self._height, self._width = height, width

    def bootstrap(
        self, images: Mapping[str, np.ndarray], matrices: Mapping[str, np.ndarray] | None = None
    ) -> Bootstrap:
        """The views of all images, name -> (H, W, 3) uint8 RGB.

        Args:
            matrices: camera -> (3, 3) of this image; they go before those that this was made with.

        Raises:
            InputError: there is no image, one is malformed, the network takes another number of them, or it gives a
                camera that is not calibrated no field of view.
        """
        import torch

        if not images:
            raise InputError("expected images for a bootstrap, found none")
        placed = [self._placed(name, image) for name, image in images.items()]
        batch = np.stack([image for image, _, _ in placed]).astype(np.float32) / 255.0
        with torch.inference_mode():
            found = self._model.run(images=torch.from_numpy(batch).to(self._model.device))
        outputs = {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
        depth = outputs["depth"].copy()
        for view, (_, _, rows) in zip(depth, placed):
            view[: rows.start] = np.nan
            view[rows.stop :] = np.nan
        extrinsics, intrinsics = decode(outputs["pose_enc"].astype(np.float64), self._height, self._width)
        intrinsics = centred(intrinsics)
        known = {**self._known, **(matrices or {})}
        for index, (name, (_, grid, _)) in enumerate(zip(images, placed)):
            if name in known:
                intrinsics[index] = grid.applied_to(known[name])
            elif not np.isfinite(intrinsics[index]).all():
                view = outputs["pose_enc"][index, 7:].tolist()
                raise InputError(f"expected a field of view above 0, found {view} for '{name}'", "give its intrinsics")
        arrays = {
            "depth": depth,
            "depth_conf": outputs["depth_conf"],
            "extrinsic": extrinsics,
            "intrinsics": intrinsics,
        }
        return bootstrap_from_arrays(arrays, tuple(images), str(self._model.path), [grid for _, grid, _ in placed])

    def _placed(self, name: str, image: np.ndarray) -> tuple[np.ndarray, PixelMap, slice]:
        """(3, H, W) uint8 of the network's size, where the image's pixels went, and the rows that show it."""
        from PIL import Image

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(
                f"expected an RGB image (height, width, 3) uint8, found {image.shape} {image.dtype} of '{name}'"
            )
        (resized,), (placement,) = prepare([Image.fromarray(image)], "crop", self._width)
        rows = resized.shape[1]
        # Negative: rows are cut off; an odd one at the bottom.
        top = (self._height - rows) // 2 if rows <= self._height else -((rows - self._height) // 2)
        out = np.full((3, self._height, self._width), _WHITE, np.uint8)
        inside = slice(max(0, top), min(self._height, top + rows))
        out[:, inside] = resized[:, inside.start - top : inside.stop - top]
        (scale_x, scale_y), (shift_x, shift_y) = placement.scale, placement.offset
        grid = PixelMap(scale_x, scale_y, 0.5 * scale_x - 0.5 + shift_x, 0.5 * scale_y - 0.5 + shift_y + top)
        return out, grid, inside
