# SPDX-License-Identifier: Apache-2.0
"""A posed pinhole camera and its depth image as oriented, weighted points.

Optical axes: x right, y down, z forward; depth is z, not the length of the ray. A pixel's centre has integer
coordinates. A pose maps camera to world. Lengths are in the map's unit: metres once its scale is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aot_runtime.camera import PixelMap
from aot_runtime.errors import InputError

_ORTHOGONAL = 1e-4
_CLEARLY = 5.0
_CLEAR = 0.3
_CLEAR_REACH = 2
"""Share of the depth, and pixels, for `DepthView.clearly_past`."""
_LEAST_COSINE = 0.1
"""Surfaces seen at a flatter angle (84 degrees) say nothing reliable about their place."""


def rotated(points: Tensor, rotation: np.ndarray) -> Tensor:
    """(..., 3) points times a (3, 3) rotation, term by term: a matrix product's order of summation may vary."""
    matrix = torch.as_tensor(rotation, dtype=points.dtype, device=points.device)
    return points[..., 0:1] * matrix[:, 0] + points[..., 1:2] * matrix[:, 1] + points[..., 2:3] * matrix[:, 2]


def checked_pose(pose: np.ndarray, name: str) -> np.ndarray:
    """A rigid (4, 4) transformation in float64.

    Raises:
        InputError: it is of another shape, not finite, or its rotation is none.
    """
    matrix = np.asarray(pose, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"expected a finite (4, 4) pose, found {matrix.tolist()} for {name}")
    turn = matrix[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > _ORTHOGONAL or np.linalg.det(turn) < 0:
        raise InputError(
            f"expected a rotation in the pose, found {turn.tolist()} for {name}",
            "give camera-to-world poses without scale or mirror",
        )
    return matrix


@dataclass(frozen=True)
class PosedCamera:
    """An ideal camera somewhere in the world.

    Attributes:
        matrix: (3, 3) float64.
        pose: (4, 4) float64, world <- camera.
        width, height: of its grid, in pixels.

    Raises:
        InputError: `matrix` or `pose` is no camera's.
    """

    matrix: np.ndarray
    pose: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        good = matrix.shape == (3, 3) and np.isfinite(matrix).all()
        if not good or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise InputError(f"expected a camera matrix with focal lengths above 0, found {matrix.tolist()}")
        if self.width < 1 or self.height < 1:
            raise InputError(f"expected a camera with pixels, found {self.width}x{self.height}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "pose", checked_pose(self.pose, "a camera"))

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3), world <- camera."""
        return np.asarray(self.pose[:3, :3])

    @property
    def centre(self) -> np.ndarray:
        """(3,) in the world."""
        return np.asarray(self.pose[:3, 3])

    def resized(self, width: int, height: int) -> PosedCamera:
        """The camera of the whole image resized to another grid."""
        if (width, height) == (self.width, self.height):
            return self
        grid = PixelMap.half_pixel((self.width, self.height), (width, height))
        return PosedCamera(grid.applied_to(self.matrix), self.pose, width, height)

    def rays(self, device: torch.device | None = None) -> Tensor:
        """(H, W, 3) float32: x / z, y / z and 1 of each pixel in the camera's axes."""
        v, u = np.mgrid[: self.height, : self.width].astype(np.float64)
        y = (v - self.matrix[1, 2]) / self.matrix[1, 1]
        x = (u - self.matrix[0, 2] - self.matrix[0, 1] * y) / self.matrix[0, 0]
        return torch.from_numpy(np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)).to(device)

    def to_world(self, points: Tensor) -> Tensor:
        """(..., 3) from the camera's axes to the world's."""
        return rotated(points, self.rotation) + torch.as_tensor(self.centre, dtype=points.dtype, device=points.device)

    def to_camera(self, points: Tensor) -> Tensor:
        """(..., 3) from the world's axes to the camera's."""
        centre = torch.as_tensor(self.centre, dtype=points.dtype, device=points.device)
        return rotated(points - centre, self.rotation.T)

    def pixels(self, points: Tensor) -> Tensor:
        """(..., 2) coordinates u, v of (..., 3) points in the camera's axes; only sensible where z > 0."""
        ((fx, skew, cx), (_, fy, cy), _) = self.matrix.tolist()
        x, y, z = points.unbind(-1)
        return torch.stack([(fx * x + skew * y) / z + cx, fy * y / z + cy], -1)


@dataclass(frozen=True)
class DepthView:
    """What one depth image says about surfaces; pixels that say nothing have weight 0.

    Attributes:
        camera: whose grid all have.
        depth: (H, W) float32, z; finite everywhere (1 where unknown).
        points: (H, W, 3) float32 in the world.
        normals: (H, W, 3) float32 unit vectors in the world, towards the camera.
        weight: (H, W) float32 >= 0: confidence * cosine of the viewing angle / z^2.
        colour: (H, W, 3) float32, 0..255.
        known: (H, W) bool: where there is a depth at all; also at edges, where its weight is 0.
        noise: standard deviation of the depth, as a share of it.
        anchor: whether it says where surfaces are: a bootstrap's or a depth camera's. A view that was itself aligned to
            the map does not; it fills in what is not there yet, and removes what it sees past, but would pull what is
            there after itself, and the map would drift.
    """

    camera: PosedCamera
    depth: Tensor
    points: Tensor
    normals: Tensor
    weight: Tensor
    colour: Tensor
    known: Tensor
    noise: float = 0.0
    anchor: bool = True

    def clearly_past(self, z: Tensor, pixel: Tensor) -> Tensor:
        """(N,) bool: whether this view alone contradicts something at depth `z` (N,), seen at `pixel` (N,).

        It must see past it by a large share of the depth, and not only through its pixel but through all around it:
        then neither a gross error nor a pose that is off by so many pixels explains it. So what moves is gone from a
        map when it is once looked at, and outlines of what stands still stay.
        """
        reach = _CLEAR_REACH
        depth = torch.where(self.known, self.depth, torch.inf)[None, None]
        nearest = -torch.nn.functional.max_pool2d(-depth, 2 * reach + 1, 1, reach).view(-1)[pixel]
        return self.known.view(-1)[pixel] & (nearest - z > max(_CLEAR, 10 * self.noise) * nearest)


def depth_view(
    camera: PosedCamera,
    depth: Tensor | np.ndarray,
    confidence: Tensor | np.ndarray | float = 1.0,
    colour: Tensor | np.ndarray | None = None,
    *,
    window: int = 1,
    edge: float = 0.02,
    range_max: float = 100.0,
    noise: float = 0.0,
    anchor: bool = True,
    device: torch.device | None = None,
) -> DepthView:
    """The surfaces of a depth image.

    Args:
        depth: (H, W), z; anything that is not finite and above 0 is unknown.
        confidence: (H, W) or one number, about 1; not finite or below 0 counts as 0.
        colour: (H, W, 3) RGB, 0..255; grey where absent.
        window: normals are fitted in squares of 2 * window + 1 pixels; larger for noisy depth.
        edge: how far (share of the disparity, root mean square) a square's pixels may lie from one plane; beyond, the
            pixel is at a depth edge, where neither place nor normal can be trusted.
        range_max: depth beyond counts as unknown.
        noise: see `DepthView`. Above 0, single pixels that stand out from their neighbours by more than 5 of it are
            taken for gross errors.
        anchor: see `DepthView`.

    Raises:
        InputError: an image is not of the camera's size.
    """
    z = torch.as_tensor(depth, dtype=torch.float32, device=device)
    _check_size(z, camera, "depth")
    known = torch.isfinite(z) & (z > 0) & (z <= range_max)
    if noise > 0:
        known &= ~_impulses(z, known, max(edge, _CLEARLY * noise))
    normals, flat = _normals(torch.where(known, z, 1.0), known, camera, window, edge)
    z = torch.where(known, z, 1.0)
    rays = camera.rays(z.device)
    cosine = (-(normals * rays).sum(-1) / rays.norm(dim=-1)).clamp(0, 1)
    sure = torch.as_tensor(confidence, dtype=torch.float32, device=z.device).expand(z.shape)
    sure = torch.where(torch.isfinite(sure), sure, 0.0).clamp(min=0)
    weight = torch.where(known & flat & (cosine > _LEAST_COSINE), sure * cosine / (z * z), 0.0).clamp(max=4.0)
    if colour is None:
        shade = torch.full((*z.shape, 3), 128.0, device=z.device)
    else:
        shade = torch.as_tensor(colour, device=z.device).to(torch.float32)
        _check_size(shade, camera, "colour")
    points = camera.to_world(rays * z[..., None])
    return DepthView(camera, z, points, rotated(normals, camera.rotation), weight, shade, known, noise, anchor)


def _check_size(image: Tensor, camera: PosedCamera, name: str) -> None:
    if image.shape[:2] != (camera.height, camera.width):
        found = "x".join(str(size) for size in reversed(image.shape[:2]))
        raise InputError(
            f"expected {name} of the camera's {camera.width}x{camera.height} pixels, found {found}",
            "resize the camera with the image",
        )


def _impulses(z: Tensor, known: Tensor, share: float) -> Tensor:
    """(H, W) bool: pixels whose disparity differs by more than this share from the median of their 3 x 3."""
    disparity = torch.where(known, 1 / torch.where(known, z, 1.0), torch.nan)
    padded = torch.nn.functional.pad(disparity[None, None], (1, 1, 1, 1), value=torch.nan)
    around = padded[0, 0].unfold(0, 3, 1).unfold(1, 3, 1).reshape(*z.shape, 9)
    return known & ((disparity - around.nanmedian(-1)[0]).abs() > share * disparity)


def _normals(z: Tensor, known: Tensor, camera: PosedCamera, window: int, edge: float) -> tuple[Tensor, Tensor]:
    """Unit normals (H, W, 3) in the camera's axes, and where a plane fits.

    A plane n . X = c seen along the ray r = X / z is n . r = c / z: disparity is linear in the pixel, and the fitted
    coefficients are the normal. So planes come out exactly whatever their slant.
    """
    side = torch.arange(-window, window + 1, dtype=torch.float64, device=z.device)
    v, u = torch.meshgrid(side, side, indexing="ij")
    mask = known.double()
    disparity = mask / z.double()
    one = torch.ones_like(u)
    count, su, sv, uu, uv, vv = _sums(mask, [one, u, v, u * u, u * v, v * v])
    sd, ud, vd = _sums(disparity, [one, u, v])
    (dd,) = _sums(disparity * disparity, [one])
    rows = [torch.stack(row, -1) for row in ((uu, uv, su), (uv, vv, sv), (su, sv, count))]
    across = [torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)]
    determinant = (rows[0] * across[0]).sum(-1)
    # Numbers are whole, so a determinant above 1/2 means pixels that are not all in a line.
    solid = known & (count >= 5) & (determinant > 0.5)
    fitted = across[0] * ud[..., None] + across[1] * vd[..., None] + across[2] * sd[..., None]
    along_u, along_v, middle = (fitted / torch.where(solid, determinant, 1.0)[..., None]).unbind(-1)
    residual = (dd - along_u * ud - along_v * vd - middle * sd).clamp(min=0)
    flat = solid & ((residual / count.clamp(min=1)).sqrt() <= edge / z.double())
    ((fx, skew, _), (_, fy, _), _) = camera.matrix.tolist()
    x, y, _ = camera.rays(z.device).double().unbind(-1)
    normal_x, normal_y = along_u * fx, along_u * skew + along_v * fy
    normal = torch.stack([normal_x, normal_y, middle - normal_x * x - normal_y * y], -1)
    length = normal.norm(dim=-1, keepdim=True)
    flat &= length[..., 0] > 0
    towards = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64, device=z.device)
    return torch.where(flat[..., None], -normal / length.clamp(min=1e-30), towards).float(), flat


def _sums(image: Tensor, kernels: list[Tensor]) -> list[Tensor]:
    """Sums of (H, W) pixels times each kernel around every pixel; beyond the border everything is 0."""
    pad = kernels[0].shape[0] // 2
    found = torch.nn.functional.conv2d(image[None, None], torch.stack(kernels)[:, None], padding=pad)
    return list(found[0])
