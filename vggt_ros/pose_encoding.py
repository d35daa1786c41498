# SPDX-License-Identifier: Apache-2.0
"""What the network's pose encoding means: nine numbers <-> extrinsics and intrinsics. Only numpy.

Encoding: translation (3), quaternion x, y, z, w (4, of any length), vertical and horizontal field of view (2, radians).
Extrinsics are [R | T], camera from world, in OpenCV's axes (x right, y down, z forward). Intrinsics are of the image
that the network saw, with the principal point in the middle of its **edges** (W / 2, H / 2): an image whose pixel
centres are at whole numbers, as in ROS and OpenCV, has it half a pixel before (`centred`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aot_runtime.errors import InputError
from vggt_ros.config import POSE_SIZE

Array = npt.NDArray[Any]


def decode(encoding: Array, height: int, width: int) -> tuple[Array, Array]:
    """(..., 9) -> extrinsics (..., 3, 4) and intrinsics (..., 3, 3) of an image of height x width pixels.

    A field of view of zero, which the network can give, has no focal length: NaN.

    Raises:
        InputError: not nine numbers.
    """
    encoding = np.asarray(encoding)
    if encoding.shape[-1:] != (POSE_SIZE,):
        raise InputError(f"expected pose encodings of {POSE_SIZE} numbers, found shape {encoding.shape}")
    rotation = to_matrix(encoding[..., 3:7])
    extrinsics = np.concatenate([rotation, encoding[..., :3, None]], axis=-1)
    intrinsics = np.zeros((*encoding.shape[:-1], 3, 3), encoding.dtype)
    with np.errstate(divide="ignore"):
        focal = np.array([height, width], encoding.dtype) / 2 / np.tan(encoding[..., 7:] / 2)
    focal = np.where(encoding[..., 7:] > 0, focal, np.nan)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = focal[..., 1], focal[..., 0]
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return extrinsics, intrinsics


def encode(extrinsics: Array, intrinsics: Array, height: int, width: int) -> Array:
    """The inverse of `decode`, with a unit quaternion of w >= 0."""
    fields = [2 * np.arctan(size / 2 / intrinsics[..., axis, axis]) for size, axis in ((height, 1), (width, 0))]
    return np.concatenate(
        [extrinsics[..., :3, 3], to_quaternion(extrinsics[..., :3, :3]), np.stack(fields, axis=-1)], axis=-1
    )


def to_matrix(quaternion: Array) -> Array:
    """(..., 4) x, y, z, w of any length but zero -> rotations (..., 3, 3)."""
    x, y, z, w = np.moveaxis(np.asarray(quaternion), -1, 0)
    s = 2 / (quaternion**2).sum(-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def to_quaternion(rotation: Array) -> Array:
    """Rotations (..., 3, 3) -> unit quaternions (..., 4) x, y, z, w with w >= 0.

    4 q q^T is a sum of the matrix's elements; the row of the largest component is the one without cancellation.
    """
    r = np.asarray(rotation)
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    xw, yw, zw = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    products = np.stack(
        [
            np.stack([1 + xx - yy - zz, xy, xz, xw], axis=-1),
            np.stack([xy, 1 - xx + yy - zz, yz, yw], axis=-1),
            np.stack([xz, yz, 1 - xx - yy + zz, zw], axis=-1),
            np.stack([xw, yw, zw, 1 + xx + yy + zz], axis=-1),
        ],
        axis=-2,
    )
    largest = np.diagonal(products, axis1=-2, axis2=-1).argmax(-1)
    row = np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    quaternion = row / np.linalg.norm(row, axis=-1, keepdims=True)
    return np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def invert(transform: Array) -> Array:
    """Rigid transforms (..., 3, 4) or (..., 4, 4) -> their inverses (..., 4, 4)."""
    transform = np.asarray(transform)
    turned = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse = np.zeros((*transform.shape[:-2], 4, 4), transform.dtype)
    inverse[..., :3, :3] = turned
    inverse[..., :3, 3] = -(turned @ transform[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def unproject(depth: Array, extrinsics: Array, intrinsics: Array) -> Array:
    """Points (..., H, W, 3) in the world of depths (..., H, W) along the optical axis.

    Pixel centres are at whole numbers, as the official code has them; with intrinsics of `decode` that is half a pixel
    off, which `centred` repairs.
    """
    height, width = depth.shape[-2:]
    v, u = np.meshgrid(np.arange(height, dtype=depth.dtype), np.arange(width, dtype=depth.dtype), indexing="ij")

    def entry(row: int, column: int) -> Array:
        return intrinsics[..., row, column, None, None]

    rays = np.stack([(u - entry(0, 2)) / entry(0, 0) * depth, (v - entry(1, 2)) / entry(1, 1) * depth, depth], axis=-1)
    translation, rotation = extrinsics[..., None, None, :3, 3], extrinsics[..., None, :3, :3]
    # World = R^T (X - T); a row vector times R is R^T times the column.
    return np.asarray((rays - translation) @ rotation)


def centred(intrinsics: Array) -> Array:
    """Intrinsics for pixel centres at whole numbers, as in CameraInfo: the principal point is half a pixel before."""
    moved = np.array(intrinsics, copy=True)
    moved[..., :2, 2] -= 0.5
    return moved
