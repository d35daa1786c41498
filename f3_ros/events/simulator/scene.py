# SPDX-License-Identifier: Apache-2.0
"""Scenes of textured rectangles before a moving pinhole camera, with exact depth and optical flow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from f3_ros.events.simulator.motion import Motion
from f3_ros.events.simulator.textures import make_mips, make_texture


class Plane:
    """A textured rectangle.

    Args:
        centre: position [m] in world axes.
        u, v: in-plane directions; made orthonormal.
        half: half extents [m] along u and v.
        texture: index of the texture.
        texels_per_m: texture resolution.
        motion: rigid motion of its own; None stands still.
    """

    def __init__(
        self,
        centre: Sequence[float],
        u: Sequence[float],
        v: Sequence[float],
        half: tuple[float, float],
        texture: int,
        texels_per_m: float,
        motion: Motion | None = None,
    ) -> None:
        self.centre = np.array(centre, float)
        axis = np.array(u, float)
        self.u = axis / np.linalg.norm(axis)
        axis = np.array(v, float)
        axis = axis - self.u * (axis @ self.u)
        self.v = axis / np.linalg.norm(axis)
        self.half = (float(half[0]), float(half[1]))
        self.texture, self.texels_per_m, self.motion = int(texture), float(texels_per_m), motion

    def frame(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(centre, u, v) in world axes at time t [s]."""
        if self.motion is None:
            return self.centre, self.u, self.v
        rotation, shift = self.motion.at(t)
        return self.centre + shift, rotation @ self.u, rotation @ self.v

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for JSON."""
        return {
            "c": self.centre.tolist(),
            "u": self.u.tolist(),
            "v": self.v.tolist(),
            "half": self.half,
            "tex": self.texture,
            "texels_per_m": self.texels_per_m,
            "motion": None if self.motion is None else self.motion.to_dict(),
        }


class Scene:
    """Planes and a camera. Camera axes: x right, y down, z forward; the world frame is the camera's at t = 0.

    Args:
        width, height: image size in pixels.
        f: focal length in pixels; the principal point is the image centre.
        planes: what is seen.
        camera: motion of the camera.
        textures: square log-intensity textures of one size (a power of two).
        levels: mip levels.
        name: for people.
    """

    def __init__(
        self,
        width: int,
        height: int,
        f: float,
        planes: Sequence[Plane],
        camera: Motion,
        textures: Sequence[np.ndarray],
        *,
        levels: int = 6,
        name: str = "scene",
    ) -> None:
        self.width, self.height, self.f = int(width), int(height), float(f)
        self.cx, self.cy = (self.width - 1) / 2, (self.height - 1) / 2
        self.planes, self.camera, self.name = list(planes), camera, name
        self._size, self._levels = int(textures[0].shape[0]), int(levels)
        self._textures = np.stack([make_mips(texture, levels) for texture in textures])
        self._half = np.array([plane.half for plane in planes])
        self._texels_per_m = np.array([plane.texels_per_m for plane in planes])
        self._texture_of = np.array([plane.texture for plane in planes], np.int64)

    def pose(self, t: float) -> np.ndarray:
        """T_world_camera (4x4) at time t [s]."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.camera.at(t)
        return out

    def _plane_matrices(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """M = [u v centre] of each plane in the camera frame, and the inverses; both (n, 3, 3)."""
        rotation, position = self.camera.at(t)
        m = np.empty((len(self.planes), 3, 3))
        for i, plane in enumerate(self.planes):
            centre, u, v = plane.frame(t)
            m[i, :, 0], m[i, :, 1], m[i, :, 2] = rotation.T @ u, rotation.T @ v, rotation.T @ (centre - position)
        return m, np.linalg.inv(m)

    def _cast(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(depth, plane, a, b) images at time t."""
        from f3_ros.events.simulator.render import cast_rays

        shape = (self.height, self.width)
        depth, a, b, plane = np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape, np.int16)
        cast_rays(depth, plane, a, b, self._plane_matrices(t)[1], self._half, self.f, self.cx, self.cy)
        return depth, plane, a, b

    def log_intensity(self, t: float, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W) float32 log intensity at time t [s]; written into `out` if given."""
        from f3_ros.events.simulator.render import render_log_intensity

        if out is None:
            out = np.empty((self.height, self.width), np.float32)
        render_log_intensity(
            out, self._plane_matrices(t)[1], self._half, self._texels_per_m, self._texture_of, self._textures,
            self._size, self._levels, self.f, self.cx, self.cy,
        )  # fmt: skip
        return out

    def depth(self, t: float) -> np.ndarray:
        """(H, W) float64 depth Z [m] at time t [s]; inf where nothing is hit."""
        return self._cast(t)[0]

    def flow(self, t0: float, t1: float) -> tuple[np.ndarray, np.ndarray]:
        """Exact displacement (dx, dy) [px], each (H, W) float64, over t0 -> t1 of the point seen at each pixel at t0.

        NaN where nothing is hit or the point passes behind the camera. Points that become hidden keep their value.
        """
        _, plane, a, b = self._cast(t0)
        m, _ = self._plane_matrices(t1)
        point = m[plane, :, 0] * a[..., None] + m[plane, :, 1] * b[..., None] + m[plane, :, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            x = self.f * point[..., 0] / point[..., 2] + self.cx
            y = self.f * point[..., 1] / point[..., 2] + self.cy
        rows, columns = np.mgrid[0 : self.height, 0 : self.width]
        flow_x, flow_y = x - columns, y - rows
        bad = (plane < 0) | (point[..., 2] <= 0)
        flow_x[bad] = flow_y[bad] = np.nan
        return flow_x, flow_y

    def occlusion(self, t0: float, t1: float, relative_tolerance: float = 0.01) -> np.ndarray:
        """(H, W) bool: the point seen at t0 is hidden or out of view at t1."""
        flow_x, flow_y = self.flow(t0, t1)
        _, plane, a, b = self._cast(t0)
        m, _ = self._plane_matrices(t1)
        z = m[plane, 2, 0] * a + m[plane, 2, 1] * b + m[plane, 2, 2]
        rows, columns = np.mgrid[0 : self.height, 0 : self.width]
        x = np.rint(columns + np.nan_to_num(flow_x)).astype(int)
        y = np.rint(rows + np.nan_to_num(flow_y)).astype(int)
        out = (x < 0) | (y < 0) | (x >= self.width) | (y >= self.height) | np.isnan(flow_x)
        seen = self.depth(t1)[np.clip(y, 0, self.height - 1), np.clip(x, 0, self.width - 1)]
        hidden: np.ndarray = out | (seen < z * (1 - relative_tolerance))
        return hidden

    def to_json(self) -> str:
        """Geometry and motion as JSON (textures follow from the seed)."""
        return json.dumps(
            {
                "name": self.name,
                "width": self.width,
                "height": self.height,
                "f": self.f,
                "cx": self.cx,
                "cy": self.cy,
                "planes": [plane.to_dict() for plane in self.planes],
                "camera": self.camera.to_dict(),
            }
        )


def demo_scene(
    width: int = 346,
    height: int = 260,
    seed: int = 1,
    speed: float = 1.0,
    moving_object: bool = True,
    texture_size: int = 512,
) -> Scene:
    """A textured room: back wall, floor, left wall, a tilted board and, optionally, a board that moves by itself.

    Args:
        width, height: image size in pixels.
        seed: textures, and directions and phases of the motion.
        speed: factor on all velocities.
        moving_object: whether the moving board is there.
        texture_size: side of the textures in texels, a power of two.
    """
    textures = [make_texture(seed * 100 + i, texture_size, leaves=500) for i in range(4)]
    rng = np.random.default_rng(seed)
    ph = rng.random(8) * 2 * math.pi
    sign = rng.choice([-1.0, 1.0], 4)
    camera = Motion(
        lin=(0.35 * speed * sign[0], 0.0, 0.5 * speed),
        ang=(0.0, 0.15 * speed * sign[1], 0.05 * speed * sign[2]),
        wobble_t=[(1, 0.05 * speed, 1.3, ph[0]), (0, 0.03 * speed, 2.1, ph[1])],
        wobble_r=[(0, 0.03 * speed, 1.7, ph[2]), (1, 0.03 * speed, 2.3, ph[3]), (2, 0.05 * speed, 1.1, ph[4])],
    )
    tilted = (math.cos(0.5), 0, math.sin(0.5))
    planes = [
        Plane((0, -1.0, 8.0), (1, 0, 0), (0, 1, 0), (14, 8), 0, 55),  # back wall
        Plane((0, 1.2, 5.0), (1, 0, 0), (0, 0, 1), (14, 8), 1, 90),  # floor
        Plane((-3.0, 0, 5.0), (0, 0, 1), (0, 1, 0), (9, 5), 2, 80),  # left wall
        Plane((1.1, 0.3, 3.4), tilted, (0, 1, 0), (0.7, 0.9), 3, 180),
    ]
    if moving_object:
        own = Motion(lin=(1.2 * speed, -0.2 * speed, 0.3 * speed), wobble_r=[(2, 0.15, 0.9, ph[5])])
        planes.append(Plane((-0.9, 0.2, 2.4), (1, 0, 0), (0, 1, 0.15), (0.35, 0.35), 3, 220, motion=own))
    return Scene(width, height, 0.65 * width, planes, camera, textures, name=f"room-seed{seed}")
