# SPDX-License-Identifier: Apache-2.0
"""Ray casting of textured rectangles, compiled with numba.

For plane i let M = [u v c] in the camera frame (in-plane axes and centre) and Q = M^-1. The pixel's ray d = (dx, dy, 1)
meets the plane at depth s = 1 / (Q d)_2 with in-plane coordinates a = s (Q d)_0, b = s (Q d)_1.

No fast-math: results must be the same bits on every machine, so the order of operations matters too.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

BACKGROUND = -1.2
"""Log intensity where no plane is hit."""


@njit(cache=True, nogil=True, inline="always")
def _nearest(q, half, dx, dy):
    """(depth, plane or -1, a, b) of the nearest plane on the ray through (dx, dy, 1)."""
    best, plane, best_a, best_b = np.inf, -1, 0.0, 0.0
    for i in range(q.shape[0]):
        w = q[i, 2, 0] * dx + q[i, 2, 1] * dy + q[i, 2, 2]
        if w <= 1e-9:
            continue
        s = 1.0 / w
        if s >= best:
            continue
        a = (q[i, 0, 0] * dx + q[i, 0, 1] * dy + q[i, 0, 2]) * s
        if a < -half[i, 0] or a > half[i, 0]:
            continue
        b = (q[i, 1, 0] * dx + q[i, 1, 1] * dy + q[i, 1, 2]) * s
        if b < -half[i, 1] or b > half[i, 1]:
            continue
        best, plane, best_a, best_b = s, i, a, b
    return best, plane, best_a, best_b


@njit(cache=True, nogil=True)
def cast_rays(depth, plane, a, b, q, half, f, cx, cy):
    """Fill (H, W) arrays: depth [m] (inf = nothing hit), plane (-1), in-plane coordinates [m]."""
    rows, columns = depth.shape
    for y in range(rows):
        dy = (y - cy) / f
        for x in range(columns):
            dx = (x - cx) / f
            depth[y, x], plane[y, x], a[y, x], b[y, x] = _nearest(q, half, dx, dy)


@njit(cache=True, nogil=True)
def _bilinear(texture, offset, size, u, v):
    """Periodic bilinear sample of the mip level that starts at `offset`; texel centres at half integers."""
    u -= 0.5
    v -= 0.5
    fu, fv = math.floor(u), math.floor(v)
    du, dv = u - fu, v - fv
    wrap = size - 1
    i0, j0 = int(fu) & wrap, int(fv) & wrap
    i1, j1 = (i0 + 1) & wrap, (j0 + 1) & wrap
    top = texture[offset + j0 * size + i0] * (1 - du) + texture[offset + j0 * size + i1] * du
    bottom = texture[offset + j1 * size + i0] * (1 - du) + texture[offset + j1 * size + i1] * du
    return top * (1 - dv) + bottom * dv


@njit(cache=True, nogil=True)
def render_log_intensity(out, q, half, texels_per_m, texture_of, textures, size, levels, f, cx, cy):
    """Fill `out` (H, W) float32 with log intensity, trilinear between two mip levels."""
    rows, columns = out.shape
    for y in range(rows):
        dy = (y - cy) / f
        for x in range(columns):
            dx = (x - cx) / f
            depth, plane, a, b = _nearest(q, half, dx, dy)
            if plane < 0:
                out[y, x] = BACKGROUND
                continue
            # footprint of one pixel in texels: exact Jacobian of (a, b) with respect to the pixel
            m = q[plane]
            ax = (m[0, 0] - a * m[2, 0]) * depth / f
            ay = (m[0, 1] - a * m[2, 1]) * depth / f
            bx = (m[1, 0] - b * m[2, 0]) * depth / f
            by = (m[1, 1] - b * m[2, 1]) * depth / f
            area = max(ax * ax + bx * bx, ay * ay + by * by) * texels_per_m[plane] * texels_per_m[plane]
            texture = textures[texture_of[plane]]
            if area < 0.5:  # level of detail 0: neither the logarithm nor the second sample can change the result
                out[y, x] = _bilinear(texture, 0, size, a * texels_per_m[plane], b * texels_per_m[plane])
                continue
            lod = 0.5 * math.log2(area) + 0.5
            if lod > levels - 1.001:
                lod = levels - 1.001
            if lod < 0:
                lod = 0.0
            level = int(lod)
            fraction = lod - level
            offset, side = 0, size
            for _ in range(level):
                offset += side * side
                side >>= 1
            u = a * texels_per_m[plane] / (1 << level)
            v = b * texels_per_m[plane] / (1 << level)
            fine = _bilinear(texture, offset, side, u, v)
            coarse = _bilinear(texture, offset + side * side, side >> 1, u * 0.5, v * 0.5)
            out[y, x] = fine * (1 - fraction) + coarse * fraction
