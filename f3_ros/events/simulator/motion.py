# SPDX-License-Identifier: Apache-2.0
"""Smooth rigid motion in closed form, so that any time can be asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Wobble = Sequence[tuple[float, float, float, float]]
"""Sinusoids as (axis 0..2, amplitude, frequency [Hz], phase [rad])."""


def rotation_from_vector(vector: np.ndarray | Sequence[float]) -> np.ndarray:
    """3x3 rotation by the angle |vector| [rad] about its direction (Rodrigues' formula)."""
    vector = np.asarray(vector, float)
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    k = vector / angle
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    rotation: np.ndarray = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation


class Motion:
    """Position and rotation vector, each `velocity * t + sum of amplitude * (sin(2 pi f t + phase) - sin(phase))`.

    At t = 0 the motion is the identity.

    Args:
        lin: linear velocity [m/s].
        ang: angular velocity [rad/s].
        wobble_t: sinusoids of the position [m].
        wobble_r: sinusoids of the rotation vector [rad].
    """

    def __init__(
        self,
        lin: Sequence[float] = (0, 0, 0),
        ang: Sequence[float] = (0, 0, 0),
        wobble_t: Wobble = (),
        wobble_r: Wobble = (),
    ) -> None:
        self.lin, self.ang = np.array(lin, float), np.array(ang, float)
        self.wobble_t = [tuple(map(float, term)) for term in wobble_t]
        self.wobble_r = [tuple(map(float, term)) for term in wobble_r]

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """(3x3 rotation, position [m]) at time t [s]."""
        position, rotation = self.lin * t, self.ang * t
        for terms, out in ((self.wobble_t, position), (self.wobble_r, rotation)):
            for axis, amplitude, frequency, phase in terms:
                out[int(axis)] += amplitude * (math.sin(2 * math.pi * frequency * t + phase) - math.sin(phase))
        return rotation_from_vector(rotation), position

    def to_dict(self) -> dict[str, Any]:
        """The parameters, for JSON."""
        return {
            "lin": self.lin.tolist(),
            "ang": self.ang.tolist(),
            "wobble_t": self.wobble_t,
            "wobble_r": self.wobble_r,
        }
