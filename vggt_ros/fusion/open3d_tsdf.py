# SPDX-License-Identifier: Apache-2.0
"""Open3D's voxel block grid as a `FusedMap`: an optional back end (`pip install open3d`), for comparison and its tools.

It integrates along the optical axis and weighs every view alike, so it neither keeps anchors nor carves what moved:
our own field does. Its integration truncates the projected pixel where ROS's and OpenCV's centres are integers, so it
gets the camera matrix with half a pixel more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import DepthView, PosedCamera
from vggt_ros.fusion.npz import write_npz
from vggt_ros.fusion.render import Rendered, render
from vggt_ros.fusion.scale import ARBITRARY, Scale, scale_arrays
from vggt_ros.fusion.surface import SurfacePoints
from vggt_ros.fusion.tsdf import TsdfConfig

_SIDE = 16
_DISC = 0.9
_LEAST_WEIGHT = 0.5
_FAR = 1e3


class Open3dFusion:
    """A field of Open3D as a `FusedMap`, on the CPU.

    Its file (`save`) is a cloud with normals; Open3D's own grid cannot be gone on with, so `load_map` refuses it.

    Raises:
        InputError: Open3D is not installed, or the device is not the CPU.
    """

    def __init__(self, config: TsdfConfig | None = None, device: torch.device | None = None) -> None:
        self.config = config or TsdfConfig()
        if device is not None and device.type != "cpu":
            raise InputError(f"expected --device cpu for Open3D's field, found {device}", "use --tsdf_backend torch")
        try:
            import open3d
        except ImportError as error:
            raise InputError(
                f"expected Open3D for --tsdf_backend open3d, found {error}",
                "pip install open3d (400 MB), or use --tsdf_backend torch",
            ) from error
        self._o3d: Any = open3d
        core = open3d.core
        # Blocks are allocated beforehand, 80 KiB each; the grid grows when they are used up.
        self._grid: Any = open3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"),
            (core.float32, core.float32, core.float32),
            ((1,), (1,), (3,)),
            self.config.voxel,
            _SIDE,
            min(4000, self.config.max_blocks),
            core.Device("CPU:0"),
        )
        self._surface: SurfacePoints | None = None
        self._blocks = 0

    def fuse(self, view: DepthView) -> None:
        """See `FusedMap`. The view's weights only say which pixels count."""
        o3d = self._o3d
        depth = torch.where(view.weight > 0, view.depth, 0.0).contiguous()
        if not bool((depth > 0).any()):
            return
        matrix = view.camera.matrix.copy()
        matrix[:2, 2] += 0.5
        inner = o3d.core.Tensor(np.ascontiguousarray(matrix))
        outer = o3d.core.Tensor(np.ascontiguousarray(np.linalg.inv(view.camera.pose)))
        image = o3d.t.geometry.Image(o3d.core.Tensor(depth.numpy()))
        shade = o3d.t.geometry.Image(o3d.core.Tensor((view.colour / 255).contiguous().numpy()))
        voxels = self.config.reach / self.config.voxel
        blocks = self._grid.compute_unique_block_coordinates(image, inner, outer, 1.0, _FAR, voxels)
        self._grid.integrate(blocks, image, shade, inner, inner, outer, 1.0, _FAR, voxels)
        self._blocks = int(self._grid.hashmap().size())
        self._surface = None

    def render(self, camera: PosedCamera) -> Rendered:
        """See `FusedMap`; discs of its points, since its own ray casting is an order slower and rounds to voxels."""
        found = self.surface()
        radius = torch.full_like(found.weights, _DISC * self.config.voxel)
        return render(camera, found.positions, found.normals, radius)

    def surface(self) -> SurfacePoints:
        """See `FusedMap`."""
        if self._surface is None:
            self._surface = self._extract()
        return self._surface

    def _extract(self) -> SurfacePoints:
        if not self._blocks:
            none = torch.zeros(0, 3)
            return SurfacePoints(none, none, none, torch.zeros(0))
        cloud = self._grid.extract_point_cloud(_LEAST_WEIGHT)
        positions, normals, colours = (
            torch.from_numpy(np.array(cloud.point[name].numpy(), np.float32))
            for name in ("positions", "normals", "colors")
        )
        # The order of a hash map is that of its threads.
        order = np.lexsort(positions.numpy().T[::-1])
        return SurfacePoints(positions[order], normals[order], 255 * colours[order], torch.ones(len(positions)))

    def save(self, path: Path, scale: Scale = ARBITRARY) -> None:
        """Write positions, normals and colours of the surface as .npz."""
        found = self.surface()
        arrays = {"positions": found.positions, "normals": found.normals, "colours": found.colours}
        write_npz(path, {**{name: array.numpy() for name, array in arrays.items()}, **scale_arrays(scale)})

    @property
    def device(self) -> torch.device:
        """See `FusedMap`."""
        return torch.device("cpu")

    @property
    def size(self) -> int:
        """Blocks, of 16 x 16 x 16 voxels."""
        return self._blocks

    @property
    def evicted(self) -> int:
        """None: the grid grows."""
        return 0
