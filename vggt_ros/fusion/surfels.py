# SPDX-License-Identifier: Apache-2.0
"""A map of oriented discs (surfels; Pfister et al. 2000, fused as by Keller et al. 2013).

A pixel that sees a surfel where it measures a surface moves it, by their weights, if it may (`DepthView.anchor`); one
that measures a surface where there is no surfel adds one. A surfel that one view clearly sees past is hidden until it
is confirmed, one that several views in a row see past is gone, whatever it weighs. The map is bounded by what surfels
weigh and how long ago they were seen, never by their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import DepthView
from vggt_ros.fusion.npz import read_npz, write_npz
from vggt_ros.fusion.render import Rendered, render


@dataclass(frozen=True)
class SurfelConfig:
    """When a pixel and a surfel are the same surface.

    Attributes:
        gap: greatest distance along the ray, as a share of the depth.
        cosine: least cosine between the normals: of 30 degrees.
        see_through: a surfel nearer than the measured depth by so much (a share) is contradicted.
        doubts: contradictions in a row, of different views, that remove a surfel: things move. More than one, since a
            single pixel may be grossly wrong.
        max_weight: cap of a surfel's weight, so that the map follows changes.
        unstable_weight, unstable_views: a surfel lighter than this, or hidden, is removed that many views after it was
            last seen.
        max_surfels: bound of memory; 76 bytes each.
    """

    gap: float = 0.05
    cosine: float = 0.866
    see_through: float = 0.1
    doubts: int = 2
    max_weight: float = 100.0
    unstable_weight: float = 0.02
    unstable_views: int = 60
    max_surfels: int = 4_000_000


@dataclass
class _Arrays:
    position: Tensor  # (N, 3) float32
    normal: Tensor  # (N, 3) float32
    radius: Tensor  # (N,) float32
    colour: Tensor  # (N, 3) float32, 0..255
    weight: Tensor  # (N,) float32
    seen: Tensor  # (N,) int64, number of the view
    doubts: Tensor  # (N,) int64, views that saw through it since
    hidden: Tensor  # (N,) int64, 1 where a view clearly saw past it since
    anchored: Tensor  # (N,) int64, 1 where a view placed it that is an anchor (see `DepthView`), else 0

    def taken(self, which: Tensor) -> _Arrays:
        return _Arrays(*(getattr(self, part.name)[which] for part in fields(self)))

    def joined(self, more: _Arrays) -> _Arrays:
        return _Arrays(*(torch.cat([getattr(self, part.name), getattr(more, part.name)]) for part in fields(self)))


class SurfelMap:
    """The surfels."""

    def __init__(self, config: SurfelConfig | None = None, device: torch.device | None = None) -> None:
        self.config = config or SurfelConfig()
        self.device = device or torch.device("cpu")
        self.views = 0
        self.evicted = 0
        none = torch.zeros(0, device=self.device)
        three = torch.zeros(0, 3, device=self.device)
        self._all = _Arrays(three, three, none, three, none, *(none.to(torch.int64) for _ in range(4)))

    def __len__(self) -> int:
        return len(self._all.weight)

    @property
    def positions(self) -> Tensor:
        """(N, 3) float32 in the world."""
        return self._all.position

    @property
    def normals(self) -> Tensor:
        """(N, 3) float32 unit vectors."""
        return self._all.normal

    @property
    def radii(self) -> Tensor:
        """(N,) float32 in the map's unit."""
        return self._all.radius

    @property
    def colours(self) -> Tensor:
        """(N, 3) float32 RGB, 0..255."""
        return self._all.colour

    @property
    def weights(self) -> Tensor:
        """(N,) float32: the confidence."""
        return self._all.weight

    @property
    def shown(self) -> Tensor:
        """(N,) bool: those that no view contradicts."""
        return self._all.hidden == 0

    @property
    def anchored(self) -> Tensor:
        """(N,) bool: those that an anchor placed; see `DepthView`."""
        return self._all.anchored > 0

    def fuse(self, view: DepthView) -> None:
        """Merge, add and remove surfels by a view."""
        self.views += 1
        shown = render(view.camera, self._all.position, self._all.normal, self._all.radius)
        same = self._same(view, shown)
        self._doubt(view)
        self._merge(view, shown, same)
        good = view.weight > 0
        # What lies close to a surfel and yet is not the same (an edge, a bend) would only roughen it.
        near = (shown.index >= 0) & ((view.depth - shown.depth).abs() <= self.config.gap * view.depth) & ~same
        self._all = self._all.joined(self._new(view, good & ~same & ~near))
        age = self.views - self._all.seen
        weak = (self._all.weight < self.config.unstable_weight) | (self._all.hidden > 0)
        weak &= age >= self.config.unstable_views
        self._all = self._all.taken(~weak & (self._all.doubts < self.config.doubts))
        self._evict()

    def _same(self, view: DepthView, shown: Rendered) -> Tensor:
        """(H, W) bool: pixel and surfel are the same surface."""
        there = (shown.index >= 0) & (view.weight > 0)
        gap = view.depth - torch.where(there, shown.depth, view.depth)
        return there & (gap.abs() <= max(self.config.gap, 3 * view.noise) * view.depth) & self._facing(view, shown)

    def _facing(self, view: DepthView, shown: Rendered) -> Tensor:
        if not len(self):
            return torch.zeros_like(shown.index, dtype=torch.bool)
        normal = self._all.normal[shown.index.clamp(min=0)]
        return (shown.index >= 0) & ((normal * view.normals).sum(-1) >= self.config.cosine)

    def _doubt(self, view: DepthView) -> None:
        """Count the views in a row that see past a surfel: past its centre, whatever else they show in front."""
        own = view.camera.to_camera(self._all.position)
        u, v = torch.round(view.camera.pixels(own)).unbind(-1)
        z = own[:, 2]
        inside = (z > 0) & (u >= 0) & (u < view.camera.width) & (v >= 0) & (v < view.camera.height)
        pixel = torch.where(inside, v * view.camera.width + u, 0).to(torch.int64)
        depth = torch.where(inside & (view.weight.view(-1)[pixel] > 0), view.depth.view(-1)[pixel], 0.0)
        past = (depth - z > max(self.config.see_through, 5 * view.noise) * depth) & (depth > 0)
        self._all.doubts = self._all.doubts + past.to(torch.int64)
        self._all.hidden = torch.where(inside & view.clearly_past(z, pixel), 1, self._all.hidden)

    def _merge(self, view: DepthView, shown: Rendered, same: Tensor) -> None:
        if not same.any():
            return
        index, weight = shown.index[same], view.weight[same][:, None]
        # Along the ray only: a disc that covers several pixels must not wander sideways to their middle.
        ray = view.points[same] - torch.as_tensor(view.camera.centre, dtype=torch.float32, device=self.device)
        along = (view.depth[same] - shown.depth[same])[:, None] / view.depth[same][:, None] * ray
        radius = _radius(view)[same][:, None]
        # A pixel that sees less than a surfel does blurs its colour and its size; so the finest wins.
        columns = torch.cat([along, view.normals[same], view.colour[same], radius, torch.ones_like(weight)], 1)
        sums = segment_sums(torch.cat([columns * weight, weight], 1), index, len(self))
        count = segment_sums(torch.ones_like(weight), index, len(self))[:, 0].clamp(min=1)
        total = sums[:, 11]
        hit = total > 0
        mean = sums / torch.where(hit, total, 1.0)[:, None]
        gain = total / count
        old = self._all
        # Colours follow whatever is seen; places only what says where they are.
        moved = hit if view.anchor else hit & (old.anchored == 0)
        tinge = torch.where(hit, gain / (old.weight + gain).clamp(min=1e-12), 0.0)[:, None]
        share = torch.where(moved[:, None], tinge, 0.0)
        if view.anchor:
            share = torch.where((hit & (old.anchored == 0))[:, None], 1.0, share)
        normal = torch.lerp(old.normal, torch.where(hit[:, None], mean[:, 3:6], old.normal), share)
        self._all = _Arrays(
            old.position + share * mean[:, :3],
            normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-6),
            torch.where(moved, torch.minimum(old.radius, mean[:, 9]), old.radius),
            torch.lerp(old.colour, mean[:, 6:9], tinge).clamp(0, 255),
            (old.weight + torch.where(moved, gain, 0.0)).clamp(max=self.config.max_weight),
            torch.where(hit, self.views, old.seen),
            torch.where(hit, 0, old.doubts),
            torch.where(hit, 0, old.hidden),
            torch.where(hit, 1, old.anchored) if view.anchor else old.anchored,
        )

    def _new(self, view: DepthView, where: Tensor) -> _Arrays:
        count = int(where.sum())
        seen = torch.full((count,), self.views, dtype=torch.int64, device=self.device)
        return _Arrays(
            view.points[where],
            view.normals[where],
            _radius(view)[where],
            view.colour[where],
            view.weight[where],
            seen,
            torch.zeros_like(seen),
            torch.zeros_like(seen),
            torch.full_like(seen, int(view.anchor)),
        )

    def _evict(self) -> None:
        excess = len(self) - self.config.max_surfels
        if excess <= 0:
            return
        by_age = torch.argsort(self._all.seen, stable=True)
        order = by_age[torch.argsort(self._all.weight[by_age], stable=True)]
        kept = torch.ones(len(self), dtype=torch.bool, device=self.device)
        kept[order[:excess]] = False
        self._all = self._all.taken(kept)
        self.evicted += excess

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path, more: Mapping[str, np.ndarray] | None = None) -> None:
        """Write all surfels as .npz, an array for each thing that is known of them, and `more`."""
        arrays = {part.name: getattr(self._all, part.name).cpu().numpy() for part in fields(self._all)}
        write_npz(path, {**arrays, **(more or {})})

    @classmethod
    def load(cls, path: Path, config: SurfelConfig | None = None, device: torch.device | None = None) -> SurfelMap:
        """A map that `save` wrote.

        Raises:
            InputError: the file is no map.
        """
        loaded = cls(config, device)
        names = [part.name for part in fields(_Arrays)]
        data = read_npz(path, "saved surfels", names)
        arrays = [data[name] for name in names]
        for array, part in zip(arrays, fields(loaded._all)):
            like = getattr(loaded._all, part.name)
            if array.shape[1:] != tuple(like.shape[1:]) or len(array) != len(arrays[0]) or not np.isfinite(array).all():
                raise InputError(f"expected finite {part.name} of every surfel, found {array.shape} in {path}")
            setattr(loaded._all, part.name, torch.from_numpy(array).to(like.dtype).to(loaded.device))
        loaded.views = int(loaded._all.seen.max()) if len(loaded) else 0
        return loaded


def _radius(view: DepthView) -> Tensor:
    """(H, W): discs that touch those of the diagonal neighbours: z / f / sqrt(2) / cosine, at most four times that."""
    rays = view.points - torch.as_tensor(view.camera.centre, dtype=torch.float32, device=view.points.device)
    cosine = -(view.normals * rays).sum(-1) / rays.norm(dim=-1).clamp(min=1e-12)
    focal = float(np.sqrt(view.camera.matrix[0, 0] * view.camera.matrix[1, 1]))
    radius: Tensor = view.depth / (focal * 2**0.5) / cosine.clamp(min=0.25)
    return radius


def segment_sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    """(count, C) float32 sums of the rows (N, C) that have the same index; added in their order, so deterministic."""
    order = torch.argsort(index, stable=True)
    lengths = torch.bincount(index, minlength=count)
    return torch.segment_reduce(values[order], "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)
