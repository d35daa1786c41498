# SPDX-License-Identifier: Apache-2.0
"""What starts a map: poses, intrinsics, depth and confidence of several views, from a network or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from aot_runtime.camera import PixelMap
from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import PosedCamera, checked_pose
from vggt_ros.fusion.npz import read_npz
from vggt_ros.fusion.scale import ARBITRARY, Scale
from vggt_ros.pose_encoding import centred, decode


@dataclass(frozen=True)
class Bootstrap:
    """Several views of one scene in one world.

    Attributes:
        names: of the cameras, unique, in the order of the arrays' first axis.
        poses: (N, 4, 4) float64, world <- camera.
        intrinsics: (N, 3, 3) float64, pixel centres at integers.
        depth: (N, H, W) float32, z; NaN where unknown.
        confidence: (N, H, W) float32 >= 0, about 1 for an ordinary pixel.
        scale: what its unit of length is.
        grids: from the pixels of each view's image to those of its depth; empty: the whole image was resized.

    Raises:
        InputError: the shapes disagree, names repeat, or a pose or matrix is none.
    """

    names: tuple[str, ...]
    poses: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    scale: Scale = field(default=ARBITRARY)
    grids: tuple[PixelMap, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        if count < 1 or len(set(self.names)) != count:
            raise InputError(f"expected views with names of their own, found {list(self.names)}")
        if self.depth.ndim != 3:
            raise InputError(f"expected depth (views, height, width), found {self.depth.shape}")
        shapes = {
            "poses": (count, 4, 4),
            "intrinsics": (count, 3, 3),
            "depth": (count, *self.depth.shape[1:]),
            "confidence": self.depth.shape,
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"expected {name} {shape} for {count} views, found {getattr(self, name).shape} in a bootstrap"
                )
        if self.grids and len(self.grids) != count:
            raise InputError(f"expected a grid for each of {count} views, found {len(self.grids)}")
        for index in range(count):
            self.camera(index)

    def camera(self, index: int) -> PosedCamera:
        """The camera of a view."""
        height, width = self.depth.shape[1:]
        return PosedCamera(self.intrinsics[index], self.poses[index], width, height)

    def image_camera(self, index: int, width: int, height: int) -> PosedCamera:
        """The camera of the image, of width x height pixels, that a view was made from."""
        back = self._grid(index, width, height).inverse
        return PosedCamera(back.applied_to(self.intrinsics[index]), self.poses[index], width, height)

    def colour(self, index: int, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 that a view was made from, on the depth's grid; black beyond its border."""
        return self._on_grid(index, image)

    def depth_on_grid(self, index: int, depth: np.ndarray) -> np.ndarray:
        """Depth (H, W) float32 of the image that a view was made from, on the view's grid; NaN beyond its border."""
        # The nearest pixel's: between two surfaces there is nothing.
        return self._on_grid(index, depth, nearest=True, border=np.nan)

    def _on_grid(self, index: int, image: np.ndarray, *, nearest: bool = False, border: float = 0) -> np.ndarray:
        height, width = self.depth.shape[1:]
        if not self.grids and image.shape[:2] == (height, width):
            return image
        import cv2

        grid = self._grid(index, image.shape[1], image.shape[0])
        matrix = np.array([[grid.scale_x, 0, grid.shift_x], [0, grid.scale_y, grid.shift_y]])
        flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=flags, borderValue=border))

    def _grid(self, index: int, width: int, height: int) -> PixelMap:
        if self.grids:
            return self.grids[index]
        return PixelMap.half_pixel((width, height), (self.depth.shape[2], self.depth.shape[1]))

    def subset(self, names: Sequence[str]) -> Bootstrap:
        """Only some views, in their order here.

        Raises:
            InputError: a name is unknown, or none is given.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InputError(f"expected views among {list(self.names)}, found {unknown[0]!r}")
        keep = [index for index, name in enumerate(self.names) if name in names]
        return replace(
            self,
            names=tuple(self.names[index] for index in keep),
            poses=self.poses[keep],
            intrinsics=self.intrinsics[keep],
            depth=self.depth[keep],
            confidence=self.confidence[keep],
            grids=tuple(self.grids[index] for index in keep) if self.grids else (),
        )


class BootstrapSource(Protocol):
    """Makes a bootstrap of images: a network, or something that stands in for it."""

    def bootstrap(
        self, images: Mapping[str, np.ndarray], matrices: Mapping[str, np.ndarray] | None = None
    ) -> Bootstrap:
        """The views of the cameras in `images`, name -> (H, W, 3) uint8 RGB; the first is the reference.

        Args:
            matrices: camera -> (3, 3) of its image, where it is calibrated; a source that has its own may keep them.

        Raises:
            InputError: a camera is unknown to the source, or the images are malformed.
        """
        ...


@dataclass(frozen=True)
class NpzSource:
    """A bootstrap that was computed before and lies in an .npz; images choose only which views are taken.

    Keys: `depth` (N, H, W); `extrinsic` (N, 3, 4) or (N, 4, 4) camera <- world, or `poses` (N, 4, 4) world <- camera;
    `intrinsics` (N, 3, 3), or `pose_enc` (N, 9) whose last two are the vertical and horizontal field of view;
    optionally `confidence` or `depth_conf` (N, H, W), and `names` (N,).

    Attributes:
        path: of the file.
        names: of its views where the file has none; "0", "1", ... without.
    """

    path: Path
    names: tuple[str, ...] = ()

    def bootstrap(
        self, images: Mapping[str, np.ndarray], matrices: Mapping[str, np.ndarray] | None = None
    ) -> Bootstrap:
        """The file's views of these cameras, with its intrinsics; all of them if `images` is empty.

        Raises:
            InputError: the file is unreadable or lacks a key, or a camera is not in it.
        """
        data = read_npz(self.path, "a bootstrap")
        whole = bootstrap_from_arrays(data, self.names, str(self.path))
        return whole.subset(list(images)) if images else whole


@dataclass
class NpzFolderSource:
    """Bootstraps that were computed before for several instants: NUMBER.npz in a folder, each as `NpzSource` has it.

    Attributes:
        folder: of the files.
        names: see `NpzSource`.
        frame: number of the instant that is asked for next.
    """

    folder: Path
    names: tuple[str, ...] = ()
    frame: int = 0

    def bootstrap(
        self, images: Mapping[str, np.ndarray], matrices: Mapping[str, np.ndarray] | None = None
    ) -> Bootstrap:
        """The views of the file of `frame`.

        Raises:
            InputError: there is no such file, or see `NpzSource`.
        """
        paths = [path for path in sorted(self.folder.glob("*.npz")) if path.stem.isdigit()]
        for path in paths:
            if int(path.stem) == self.frame:
                return NpzSource(path, self.names).bootstrap(images)
        numbers = ", ".join(path.stem for path in paths) or "none"
        raise InputError(f"expected a bootstrap of instant {self.frame}, found those of {numbers} in {self.folder}")


def bootstrap_from_arrays(
    data: Mapping[str, np.ndarray],
    names: Sequence[str] = (),
    where: str = "arrays",
    grids: Sequence[PixelMap] = (),
) -> Bootstrap:
    """A bootstrap, of arbitrary scale, from arrays with the keys that `NpzSource` lists.

    Raises:
        InputError: a key is missing or an array has the wrong shape.
    """
    if "depth" not in data:
        raise InputError(f"expected an array 'depth', found {sorted(data)} in {where}")
    depth = np.array(data["depth"], np.float32)
    if depth.ndim == 4 and depth.shape[-1] == 1:
        depth = depth[..., 0]
    if depth.ndim != 3:
        raise InputError(f"expected depth (views, height, width), found {depth.shape} in {where}")
    depth[~(np.isfinite(depth) & (depth > 1e-8))] = np.nan
    told = tuple(str(name) for name in data["names"]) if "names" in data else tuple(names)
    confidence = data.get("confidence", data.get("depth_conf"))
    return Bootstrap(
        told or tuple(str(index) for index in range(len(depth))),
        _poses(data, where),
        _intrinsics(data, depth.shape[1], depth.shape[2], where),
        depth,
        np.ones_like(depth) if confidence is None else relative_confidence(np.asarray(confidence, np.float32)),
        grids=tuple(grids),
    )


def relative_confidence(confidence: np.ndarray) -> np.ndarray:
    """A network's confidence over its median in each view, 0..2; VGGT's own begins at 1 and has no upper end."""
    finite = np.where(np.isfinite(confidence), np.maximum(confidence, 0), 0).astype(np.float32)
    middle = np.median(finite.reshape(len(finite), -1), axis=1).reshape(-1, 1, 1)
    return np.asarray(np.clip(finite / np.maximum(middle, 1e-12), 0, 2), np.float32)


def _poses(data: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    if "poses" in data:
        return np.stack([checked_pose(pose, where) for pose in data["poses"]])
    if "extrinsic" not in data:
        raise InputError(f"expected an array 'poses' or 'extrinsic', found {sorted(data)} in {where}")
    outer = np.asarray(data["extrinsic"], np.float64)
    if outer.ndim != 3 or outer.shape[1:] not in ((3, 4), (4, 4)):
        raise InputError(f"expected extrinsic (views, 3, 4), found {outer.shape} in {where}")
    poses = np.tile(np.eye(4), (len(outer), 1, 1))
    poses[:, :3, :3] = outer[:, :3, :3].transpose(0, 2, 1)
    poses[:, :3, 3] = -np.einsum("nij,nj->ni", poses[:, :3, :3], outer[:, :3, 3])
    return np.stack([checked_pose(pose, where) for pose in poses])


def _intrinsics(data: Mapping[str, np.ndarray], height: int, width: int, where: str) -> np.ndarray:
    if "intrinsics" in data:
        return np.asarray(data["intrinsics"], np.float64)
    if "pose_enc" not in data:
        raise InputError(f"expected an array 'intrinsics' or 'pose_enc', found {sorted(data)} in {where}")
    _, matrices = decode(np.asarray(data["pose_enc"], np.float64), height, width)
    if not np.isfinite(matrices).all():
        raise InputError(f"expected fields of view above 0, found {data['pose_enc'].tolist()} in {where}")
    return centred(matrices)
