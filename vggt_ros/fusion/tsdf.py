# SPDX-License-Identifier: Apache-2.0
"""A truncated signed distance field over sparse blocks, fused from posed depth (Curless and Levoy 1996).

A voxel's distance is taken to the plane that its pixel sees, not along the optical axis: with a surface's normal known,
neither the slant nor the rounding to a pixel bends it. Weights are those of `cameras.DepthView`; free space is carved
with less than a surface's weight, and weights are capped, so that the field follows changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aot_runtime.errors import InputError
from vggt_ros.fusion.blocks import REACH, SIDE, VOXELS, BlockIndex, offsets, pack, unpack
from vggt_ros.fusion.cameras import DepthView
from vggt_ros.fusion.npz import read_npz, write_npz
from vggt_ros.fusion.surface import Lattice, Mesh, SurfacePoints, crossings, tetrahedra

_CHUNK = 2048
"""Blocks that are worked on at a time: a million voxels."""
_CLEARLY = 5.0
"""Standard deviations of a depth's noise by which a view must see past a surface to contradict it."""
_STEEPEST = 2.0
"""A distance changes by at most one voxel from voxel to voxel, here with room for noise. Beyond, the free space that
one camera saw meets what lies behind the surface that another one saw, and there is no surface in between."""


@dataclass(frozen=True)
class TsdfConfig:
    """A field's resolution and memory.

    Attributes:
        voxel: edge of a voxel, in the map's unit.
        truncation: distance at which the field ends; None: 4 voxels.
        max_weight: cap of a voxel's weight.
        free_weight: weight of "seen through" over that of "surface".
        doubts: a voxel at a surface becomes free when so many views in a row see clearly through it, whatever it
            weighs: things move. More than one, since a single pixel may be grossly wrong. After one that clearly sees
            through (`DepthView.clearly_past`) it is hidden until it is confirmed.
        max_blocks: bound of memory; a block takes 11.5 KiB. Beyond, blocks with the least weight are dropped,
            and of these those not seen for longest.
    """

    voxel: float = 0.02
    truncation: float | None = None
    max_weight: float = 100.0
    free_weight: float = 0.5
    doubts: int = 2
    max_blocks: int = 50_000

    def __post_init__(self) -> None:
        if not (self.voxel > 0 and self.reach >= 2 * self.voxel and self.max_blocks > 0):
            raise InputError(f"expected a voxel above 0, a truncation of 2 voxels and room for blocks, found {self}")

    @property
    def reach(self) -> float:
        """The truncation distance."""
        return 4 * self.voxel if self.truncation is None else self.truncation


class TsdfVolume:
    """The field. Values are shares of the truncation, -1 (behind a surface) .. 1 (in front)."""

    def __init__(self, config: TsdfConfig | None = None, device: torch.device | None = None) -> None:
        self.config = config or TsdfConfig()
        self.device = device or torch.device("cpu")
        self.evicted = 0
        self.views = 0
        self._index = BlockIndex(self.device, self.config.max_blocks)
        self._values = torch.zeros(0, VOXELS, device=self.device)
        self._weights = torch.zeros(0, VOXELS, device=self.device)
        self._colours = torch.zeros(0, VOXELS, 3, device=self.device)
        self._doubts = torch.zeros(0, VOXELS, dtype=torch.uint8, device=self.device)
        # 1 where a view that is an anchor (see `DepthView`) saw a surface; only such views change it then.
        self._anchored = torch.zeros(0, VOXELS, dtype=torch.uint8, device=self.device)
        self._hidden = torch.zeros(0, VOXELS, dtype=torch.uint8, device=self.device)
        self._seen = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._offsets = offsets(SIDE, self.device)

    @property
    def blocks(self) -> int:
        """How many exist."""
        return len(self._index)

    def integrate(self, view: DepthView) -> None:
        """Fuse a view.

        Raises:
            InputError: it touches more blocks than the field may have.
        """
        self.views += 1
        touched = self._touched(view)
        if len(touched) > self.config.max_blocks:
            raise InputError(
                f"expected a view that touches at most {self.config.max_blocks} blocks, found {len(touched)}",
                "use larger voxels or allow more blocks",
            )
        self._make_room(touched)
        self._make(touched)
        for start in range(0, len(self._index), _CHUNK):
            self._update(slice(start, start + _CHUNK), view)
        self._drop_empty()

    def _touched(self, view: DepthView) -> Tensor:
        """Sorted keys of the blocks within the truncation of the view's surfaces, along its rays."""
        good = view.weight > 0
        points = view.points[good]
        centre = torch.as_tensor(view.camera.centre, dtype=points.dtype, device=points.device)
        away = points - centre
        away = away / away.norm(dim=-1, keepdim=True)
        edge = self.config.voxel * SIDE
        steps = int(np.ceil(2 * self.config.reach / (edge / 2))) + 1
        along = torch.linspace(-self.config.reach, self.config.reach, steps, device=points.device)
        keys = []
        for distance in along:
            block = torch.floor((points + distance * away) / edge)
            block = block[(block.abs() < REACH // SIDE).all(-1)]
            keys.append(torch.unique(pack(block.to(torch.int64))))
        found: Tensor = torch.unique(torch.cat(keys))
        return found

    def _make(self, keys: Tensor) -> None:
        rows = self._index.add(keys)
        grow = self._index.capacity - len(self._values)
        if grow > 0:
            self._values = torch.cat([self._values, self._values.new_zeros(grow, VOXELS)])
            self._weights = torch.cat([self._weights, self._weights.new_zeros(grow, VOXELS)])
            self._colours = torch.cat([self._colours, self._colours.new_zeros(grow, VOXELS, 3)])
            self._doubts = torch.cat([self._doubts, self._doubts.new_zeros(grow, VOXELS)])
            self._anchored = torch.cat([self._anchored, self._anchored.new_zeros(grow, VOXELS)])
            self._hidden = torch.cat([self._hidden, self._hidden.new_zeros(grow, VOXELS)])
            self._seen = torch.cat([self._seen, self._seen.new_zeros(grow)])
        self._values[rows] = 0
        self._weights[rows] = 0
        self._colours[rows] = 0
        self._doubts[rows] = 0
        self._anchored[rows] = 0
        self._hidden[rows] = 0
        self._seen[rows] = self.views

    def _update(self, some: slice, view: DepthView) -> None:
        blocks, rows = self._in_sight(unpack(self._index.keys[some]), self._index.rows[some], view)
        centres = self._places(blocks)
        own = view.camera.to_camera(centres.reshape(-1, 3))
        pixel = torch.round(view.camera.pixels(own))
        u, v = pixel.unbind(-1)
        camera = view.camera
        inside = (own[:, 2] > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        flat = torch.where(inside, v * camera.width + u, 0).to(torch.int64)
        gap = view.depth.view(-1)[flat] - own[:, 2]
        normal, point = view.normals.view(-1, 3)[flat], view.points.view(-1, 3)[flat]
        distance = (normal * (centres.reshape(-1, 3) - point)).sum(-1)
        reach = self.config.reach
        weight = torch.where(inside, view.weight.view(-1)[flat], 0.0)
        # Behind the surface nothing is known; at a flat angle the ray may pass it by much while the plane is near.
        weight = torch.where((distance < -reach) | (gap < -2 * reach), 0.0, weight)
        # The deeper behind the surface, the less sure: thin things have another side.
        weight = weight * (1 + distance / reach).clamp(0, 1)
        free = (distance >= reach) & (gap > 0)
        weight = torch.where(free, weight * self.config.free_weight, weight)
        # In front of the plane, and yet behind what the pixel sees: another surface hides it.
        weight = torch.where((distance >= reach) & ~free, 0.0, weight).view(len(rows), VOXELS)
        value = (distance / reach).clamp(-1, 1).view(len(rows), VOXELS)
        old, anchored = self._weights[rows], self._anchored[rows]
        taken = weight if view.anchor else torch.where(anchored > 0, 0.0, weight)
        total = old + taken
        share = taken / torch.where(total > 0, total, 1.0)
        self._values[rows] += share * (value - self._values[rows])
        near = torch.where(value.abs() < 1, share, 0.0)[..., None]
        colour = view.colour.reshape(-1, 3)[flat].view(len(rows), VOXELS, 3)
        self._colours[rows] += near * (colour - self._colours[rows])
        self._weights[rows] = total.clamp(max=self.config.max_weight)
        if view.anchor:
            self._anchored[rows] = torch.where((weight > 0) & (value.abs() < 1), 1, anchored)
        self._seen[rows] = torch.where((weight > 0).any(-1), self.views, self._seen[rows])
        past = (free & (gap > _CLEARLY * view.noise * (gap + own[:, 2]))).view(value.shape) & (weight > 0)
        confirmed = ~free.view(value.shape) & (weight > 0)
        clearly = inside & (distance >= reach) & view.clearly_past(own[:, 2], flat)
        hidden = torch.where(clearly.view(value.shape) & (self._values[rows] < 1), 1, self._hidden[rows])
        self._hidden[rows] = torch.where(confirmed, 0, hidden)
        self._doubt(rows, past, confirmed, weight)

    def _doubt(self, rows: Tensor, past: Tensor, confirmed: Tensor, weight: Tensor) -> None:
        """Count the views in a row that see past a voxel; free it when they are enough."""
        doubts = self._doubts[rows]
        doubts = torch.where(confirmed, 0, doubts + (past & (self._values[rows] < 1) & (doubts < 255)).to(torch.uint8))
        freed = doubts >= self.config.doubts
        self._values[rows] = torch.where(freed, 1.0, self._values[rows])
        self._weights[rows] = torch.where(freed, weight, self._weights[rows])
        self._doubts[rows] = torch.where(freed, 0, doubts)
        self._hidden[rows] = torch.where(freed, 0, self._hidden[rows])
        self._anchored[rows] = torch.where(freed, 0, self._anchored[rows])

    def _in_sight(self, blocks: Tensor, rows: Tensor, view: DepthView) -> tuple[Tensor, Tensor]:
        """Those of the blocks that may have a voxel in the camera's frustum: by their centre, give or take a radius."""
        edge = self.config.voxel * SIDE
        own = view.camera.to_camera((blocks.to(torch.float32) + 0.5) * edge)
        radius = 0.87 * edge
        z = own[:, 2]
        camera = view.camera
        pixel = camera.pixels(own)
        spare_u = radius * camera.matrix[0, 0] / z * 2
        spare_v = radius * camera.matrix[1, 1] / z * 2
        u, v = pixel.unbind(-1)
        seen = (u > -1 - spare_u) & (u < camera.width + spare_u) & (v > -1 - spare_v) & (v < camera.height + spare_v)
        kept = (z > -radius) & ((z < 2 * radius) | seen)
        return blocks[kept], rows[kept]

    def _places(self, blocks: Tensor) -> Tensor:
        """(B, 512, 3) float32: the voxels' centres; that of voxel (0, 0, 0) is half a voxel from the world's origin."""
        voxels = blocks[:, None] * SIDE + self._offsets
        return (voxels.to(torch.float32) + 0.5) * self.config.voxel

    def _drop_empty(self) -> None:
        """Remove blocks without any surface: never observed, or free everywhere."""
        rows = self._index.rows
        surface = torch.cat(
            [((self._values[part] < 1) & (self._weights[part] > 0)).any(-1) for part in torch.split(rows, _CHUNK)]
        )
        self._index.keep(surface)

    def _make_room(self, touched: Tensor) -> None:
        """Drop as many blocks as the touched ones that do not exist yet would be too many."""
        excess = len(self._index) + int((self._index.find(touched) < 0).sum()) - self.config.max_blocks
        if excess <= 0:
            return
        rows = self._index.rows
        weight = torch.cat([self._weights[part].amax(-1) for part in torch.split(rows, _CHUNK)])
        # What is in view stays.
        weight = torch.where(torch.isin(self._index.keys, touched), torch.inf, weight)
        by_age = torch.argsort(self._seen[rows], stable=True)
        order = by_age[torch.argsort(weight[by_age], stable=True)]
        kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        kept[order[:excess]] = False
        self._index.keep(kept)
        self.evicted += excess

    # -- reading -------------------------------------------------------------------------------------------------------

    def points(self, min_weight: float = 1e-3) -> SurfacePoints:
        """Where the field passes through zero along the three axes, with normals, colours and weights."""
        return crossings(self._lattice(min_weight))

    def mesh(self, min_weight: float = 1e-3) -> Mesh:
        """Triangles of the zero surface, by marching tetrahedra."""
        return tetrahedra(self._lattice(min_weight))

    def sampled(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(distance, weight), each (N,), of the voxel in which each of (N, 3) points lies; weight 0 where none."""
        place = torch.as_tensor(points, dtype=torch.float32, device=self.device)
        voxel = torch.floor(place / self.config.voxel).to(torch.int64)
        block = torch.div(voxel, SIDE, rounding_mode="floor")
        rows = self._index.find(pack(block))
        local = voxel - block * SIDE
        flat = (local[:, 0] * SIDE + local[:, 1]) * SIDE + local[:, 2]
        known = rows >= 0
        rows = rows.clamp(min=0)
        if not self.blocks:
            return np.full(len(points), np.nan, np.float32), np.zeros(len(points), np.float32)
        value = torch.where(known, self._values[rows, flat] * self.config.reach, torch.nan)
        return value.cpu().numpy(), torch.where(known, self._weights[rows, flat], 0.0).cpu().numpy()

    def _lattice(self, min_weight: float) -> Lattice:
        """Every block's voxels and the first layer of those that follow: 9 x 9 x 9, so that no cell is lost between."""
        side = SIDE + 1
        blocks = unpack(self._index.keys)
        values = torch.full((len(blocks), side, side, side), torch.nan, device=self.device)
        colours = torch.zeros((len(blocks), side, side, side, 3), device=self.device)
        weights = torch.zeros((len(blocks), side, side, side), device=self.device)
        cube = (-1, SIDE, SIDE, SIDE)
        for step in offsets(2, self.device):
            rows = self._index.find(pack(blocks + step))
            here = torch.nonzero(rows >= 0)[:, 0]
            rows = rows[here]
            x, y, z = (slice(SIDE, side) if one else slice(0, SIDE) for one in step.tolist())
            first = (slice(0, 1) if one else slice(0, SIDE) for one in step.tolist())
            take = (slice(None), *first)
            known = (self._weights[rows] >= min_weight) & (self._hidden[rows] == 0)
            values[here, x, y, z] = torch.where(known, self._values[rows], torch.nan).view(cube)[take]
            weights[here, x, y, z] = self._weights[rows].view(cube)[take]
            colours[here, x, y, z] = self._colours[rows].view(*cube, 3)[take]
        steepest = _STEEPEST * self.config.voxel / self.config.reach
        return Lattice(blocks * SIDE, values, weights, colours, self.config.voxel, steepest)

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path, more: Mapping[str, np.ndarray] | None = None) -> None:
        """Write the observed voxels as .npz.

        Keys: `coords` (N, 3) voxel centres, `values` (N,) -1..1, `weights` (N,), `colours` (N, 3) 0..255,
        `anchored` (N,) 0 or 1, `voxel`, `truncation`; `more` beside them.
        """
        order = self._index.rows
        places = self._places(unpack(self._index.keys))
        known = (self._weights[order] > 0) & (self._hidden[order] == 0)
        arrays = {
            "coords": places[known],
            "values": self._values[order][known],
            "weights": self._weights[order][known],
            "colours": self._colours[order][known],
            "anchored": self._anchored[order][known],
        }
        numbers = {"voxel": np.float64(self.config.voxel), "truncation": np.float64(self.config.reach)}
        write_npz(path, {**{key: array.cpu().numpy() for key, array in arrays.items()}, **numbers, **(more or {})})

    @classmethod
    def load(cls, path: Path, config: TsdfConfig | None = None, device: torch.device | None = None) -> TsdfVolume:
        """A field that `save` wrote; its voxel and truncation are the file's, the rest is `config`'s.

        Raises:
            InputError: the file is no field.
        """
        arrays = ("coords", "values", "weights", "colours", "anchored")
        data = read_npz(path, "a saved field", (*arrays, "voxel", "truncation"))
        voxel, truncation = float(data["voxel"]), float(data["truncation"])
        volume = cls(replace(config or TsdfConfig(), voxel=voxel, truncation=truncation), device)
        count = len(data["coords"])
        if any(len(data[name]) != count or not np.isfinite(data[name]).all() for name in arrays):
            raise InputError(f"expected finite arrays of one length, found others in {path}")
        voxels = torch.floor(torch.from_numpy(data["coords"]).to(volume.device) / voxel).to(torch.int64)
        block = torch.div(voxels, SIDE, rounding_mode="floor")
        keys = pack(block)
        volume._make(torch.unique(keys))
        local = voxels - block * SIDE
        place = (volume._index.find(keys), (local[:, 0] * SIDE + local[:, 1]) * SIDE + local[:, 2])
        for name in arrays[1:]:
            array = getattr(volume, f"_{name}")
            array[place] = torch.from_numpy(data[name]).to(array)
        return volume
