# SPDX-License-Identifier: Apache-2.0
"""Tables of the pooling that need not be built again: in memory, and in a folder by hash."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from bev_ros.calibration import Rig, digest
from bev_ros.geometry import Frustum, lifts
from bev_ros.grid import BevGrid
from bev_ros.tables import Ints, PoolingTables, camera_cells, merge_cells, used_cameras

VERSION = 1
"""Of the files, and of what is computed: another one is not read, but written anew."""
ARRAYS = ("ranks_feat", "ranks_depth", "offsets")


@dataclass(frozen=True)
class Lookup:
    """Tables, and where they came from.

    Attributes:
        origin: "memory", "disk" or "built".
        problem: what was wrong with the file on disk, or why none could be written; empty if nothing was.
    """

    tables: PoolingTables
    origin: str
    problem: str = ""


class TableCache:
    """Tables of one frustum and grid for the rigs that come along.

    A calibration that comes again is found in memory. Of a new one only those cameras are projected whose own
    calibration is new; so is nothing where a camera falls silent or comes back, which is a counting sort.

    Args:
        folder: where tables are kept from run to run; None for nowhere.
        capacity: calibrations (rig and cameras used) to keep in memory; of single cameras eight times as many.
        keep_z: see `bev_ros.tables.build_tables`.

    Not for several threads at a time.
    """

    def __init__(
        self,
        frustum: Frustum,
        grid: BevGrid,
        *,
        keep_z: bool = False,
        folder: str | os.PathLike[str] | None = None,
        capacity: int = 8,
    ) -> None:
        if capacity < 1:
            raise InputError(f"expected a cache of 1 table or more, found {capacity}")
        self.frustum = frustum
        self.grid = grid
        self.keep_z = keep_z
        self._folder = None if folder is None else Path(folder)
        self._capacity = capacity
        self._geometry = [VERSION, frustum.to_json(), grid.to_json(), keep_z]
        self._tables: OrderedDict[str, PoolingTables] = OrderedDict()
        self._cells: OrderedDict[bytes, Ints] = OrderedDict()

    def key(self, rig: Rig, cameras: Sequence[str] | None = None, bda: npt.ArrayLike | None = None) -> str:
        """What tables depend on, as SHA-256. Names of cameras and lenses do not count."""
        used = used_cameras(rig, cameras)
        turn = None if bda is None else np.asarray(bda, np.float64).tolist()
        told = [
            [camera.width, camera.height, camera.matrix.tolist(), camera.sensor_to_ego.tolist(), camera.name in used]
            for camera in rig
        ]
        return digest([self._geometry, told, turn])

    def get(self, rig: Rig, cameras: Sequence[str] | None = None, *, bda: npt.ArrayLike | None = None) -> PoolingTables:
        """The tables of a rig, see `bev_ros.tables.build_tables`."""
        return self.find(rig, cameras, bda=bda).tables

    def find(self, rig: Rig, cameras: Sequence[str] | None = None, *, bda: npt.ArrayLike | None = None) -> Lookup:
        """The tables of a rig, and where they came from. A file that cannot be used is told, and written anew.

        Raises:
            InputError: as `bev_ros.tables.build_tables`.
        """
        used = used_cameras(rig, cameras)
        key = self.key(rig, used, bda)
        known = self._tables.get(key)
        if known is not None:
            self._tables.move_to_end(key)
            return Lookup(known, "memory")
        found, problem = self._read(key, len(rig), used)
        origin = "disk"
        if found is None:
            origin, found = "built", self._build(rig, used, bda)
            problem = "; ".join(part for part in (problem, self._write(key, found)) if part)
        self._tables[key] = found
        while len(self._tables) > self._capacity:
            self._tables.popitem(last=False)
        return Lookup(found, origin, problem)

    def _build(self, rig: Rig, used: tuple[str, ...], bda: npt.ArrayLike | None) -> PoolingTables:
        cells: list[Ints | None] = []
        for camera, lift in zip(rig, lifts(rig, self.frustum, bda)):
            if camera.name not in used:
                cells.append(None)
                continue
            key = lift.turn.tobytes() + lift.origin.tobytes()
            one = self._cells.pop(key, None)
            if one is None:
                one = camera_cells(lift, self.frustum, self.grid, keep_z=self.keep_z)
            self._cells[key] = one
            cells.append(one)
        while len(self._cells) > 8 * self._capacity:
            self._cells.popitem(last=False)
        return merge_cells(cells, self.frustum, self.grid, keep_z=self.keep_z, cameras=used)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"bev_tables_v{VERSION}_{key[:32]}.safetensors"

    def _write(self, key: str, tables: PoolingTables) -> str:
        """Returns why nothing could be written."""
        path = self._path(key)
        if path is None:
            return ""
        from safetensors.numpy import save_file

        arrays = {name: getattr(tables, name) for name in ARRAYS}
        metadata = {"key": key, "crc32": str(_checksum(arrays))}
        try:
            with atomic_write(path) as temporary:
                save_file(arrays, temporary, metadata)
        except OSError as error:
            return f"expected to keep tables in {path}, found {error}"
        return ""

    def _read(self, key: str, cameras: int, used: tuple[str, ...]) -> tuple[PoolingTables | None, str]:
        """(tables or None, what is wrong with the file)."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None, ""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in ARRAYS}
        except (OSError, ValueError, SafetensorError) as error:
            return None, f"expected tables of the pooling, found {error} in {path}; built them anew"
        height, width = self.frustum.size
        shape = (cameras, self.frustum.bins, height, width)
        map_shape = (self.grid.nz, *self.grid.shape) if self.keep_z else self.grid.shape
        if metadata.get("key") != key or metadata.get("crc32") != str(_checksum(arrays)):
            return None, f"expected tables of the pooling with their checksum, found others in {path}; built them anew"
        ranks_feat, ranks_depth, offsets = (arrays[name] for name in ARRAYS)
        return PoolingTables(ranks_feat, ranks_depth, offsets, shape, map_shape, used), ""


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """Against damage, not against malice; with it, what was written is what is read, shapes and all."""
    value = 0
    for name in ARRAYS:
        value = zlib.crc32(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return value
