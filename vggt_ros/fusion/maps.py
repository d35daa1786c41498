# SPDX-License-Identifier: Apache-2.0
"""The two kinds of map behind one face: fuse a view, render what a camera expects, give points, save."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import DepthView, PosedCamera
from vggt_ros.fusion.npz import read_npz
from vggt_ros.fusion.render import Rendered, render
from vggt_ros.fusion.scale import ARBITRARY, Scale, scale_arrays, scale_from_arrays
from vggt_ros.fusion.surface import SurfacePoints
from vggt_ros.fusion.surfels import SurfelConfig, SurfelMap
from vggt_ros.fusion.tsdf import TsdfConfig, TsdfVolume

KINDS = ("surfel", "tsdf")
_DISC = 0.9
"""Radius of a rendered zero crossing in voxels: crossings of a slanted plane lie up to sqrt(3) / 2 voxels apart."""


class FusedMap(Protocol):
    """What streaming needs of a map."""

    def fuse(self, view: DepthView) -> None:
        """Take a view in."""
        ...

    def render(self, camera: PosedCamera) -> Rendered:
        """What the camera would see; the depth is that of surfaces, hidden ones left out."""
        ...

    def surface(self) -> SurfacePoints:
        """All points that no view contradicts."""
        ...

    def save(self, path: Path, scale: Scale = ARBITRARY) -> None:
        """Write the map, and what its unit is, as .npz for `load_map`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the map lies; views must lie there too."""
        ...

    @property
    def size(self) -> int:
        """Surfels, or blocks of voxels."""
        ...

    @property
    def evicted(self) -> int:
        """How many of them were dropped to bound memory."""
        ...


class SurfelFusion:
    """Surfels as a `FusedMap`."""

    def __init__(self, surfels: SurfelMap) -> None:
        self.surfels = surfels

    def fuse(self, view: DepthView) -> None:
        """See `FusedMap`."""
        self.surfels.fuse(view)

    def render(self, camera: PosedCamera) -> Rendered:
        """See `FusedMap`. Anchored surfels first: the others were aligned to them, and would pull after themselves what
        is aligned to them in turn."""
        surfels = self.surfels
        first = self._rendered(camera, surfels.shown & surfels.anchored)
        rest = self._rendered(camera, surfels.shown & ~surfels.anchored)
        empty = first.index < 0
        return Rendered(torch.where(empty, rest.depth, first.depth), torch.where(empty, rest.index, first.index))

    def _rendered(self, camera: PosedCamera, which: torch.Tensor) -> Rendered:
        surfels, places = self.surfels, torch.nonzero(which)[:, 0]
        found = render(camera, surfels.positions[places], surfels.normals[places], surfels.radii[places])
        if not len(places):
            return found
        return Rendered(found.depth, torch.where(found.index < 0, -1, places[found.index.clamp(min=0)]))

    def surface(self) -> SurfacePoints:
        """See `FusedMap`."""
        surfels, shown = self.surfels, self.surfels.shown
        arrays = (surfels.positions, surfels.normals, surfels.colours, surfels.weights)
        return SurfacePoints(*(array[shown] for array in arrays))

    def save(self, path: Path, scale: Scale = ARBITRARY) -> None:
        """See `FusedMap`."""
        self.surfels.save(path, scale_arrays(scale))

    @property
    def device(self) -> torch.device:
        """See `FusedMap`."""
        return self.surfels.device

    @property
    def size(self) -> int:
        """Surfels."""
        return len(self.surfels)

    @property
    def evicted(self) -> int:
        """See `FusedMap`."""
        return self.surfels.evicted


class TsdfFusion:
    """A signed distance field as a `FusedMap`; its points are extracted once after each change."""

    def __init__(self, volume: TsdfVolume) -> None:
        self.volume = volume
        self._surface: SurfacePoints | None = None

    def fuse(self, view: DepthView) -> None:
        """See `FusedMap`."""
        self.volume.integrate(view)
        self._surface = None

    def render(self, camera: PosedCamera) -> Rendered:
        """See `FusedMap`."""
        found = self.surface()
        radius = torch.full_like(found.weights, _DISC * self.volume.config.voxel)
        return render(camera, found.positions, found.normals, radius)

    def surface(self) -> SurfacePoints:
        """See `FusedMap`."""
        if self._surface is None:
            self._surface = self.volume.points()
        return self._surface

    def save(self, path: Path, scale: Scale = ARBITRARY) -> None:
        """See `FusedMap`."""
        self.volume.save(path, scale_arrays(scale))

    @property
    def device(self) -> torch.device:
        """See `FusedMap`."""
        return self.volume.device

    @property
    def size(self) -> int:
        """Blocks."""
        return self.volume.blocks

    @property
    def evicted(self) -> int:
        """See `FusedMap`."""
        return self.volume.evicted


def make_map(
    kind: str,
    *,
    tsdf: TsdfConfig | None = None,
    surfel: SurfelConfig | None = None,
    device: torch.device | None = None,
    backend: str = "torch",
) -> FusedMap:
    """An empty map; `backend` of a field is "torch" (our own) or "open3d".

    Raises:
        InputError: the kind or the backend is unknown, or Open3D is not installed.
    """
    if kind == "tsdf" and backend == "open3d":
        from vggt_ros.fusion.open3d_tsdf import Open3dFusion

        return Open3dFusion(tsdf, device)
    if backend != "torch":
        raise InputError(f"expected backend torch, or open3d of a tsdf, found {backend!r} of a {kind}")
    if kind == "surfel":
        return SurfelFusion(SurfelMap(surfel, device))
    if kind == "tsdf":
        return TsdfFusion(TsdfVolume(tsdf, device))
    raise InputError(f"expected a map of kind {' or '.join(KINDS)}, found {kind!r}")


def load_map(path: Path, device: torch.device | None = None) -> tuple[FusedMap, Scale]:
    """A map that was saved, of either kind, and what its unit is; without a word about that it is arbitrary.

    Raises:
        InputError: the file is no map.
    """
    data = read_npz(path, "a saved map")
    scale = scale_from_arrays(data, str(path))
    if "truncation" in data:
        return TsdfFusion(TsdfVolume.load(path, device=device)), scale
    return SurfelFusion(SurfelMap.load(path, device=device)), scale
