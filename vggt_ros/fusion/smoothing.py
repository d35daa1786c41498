# SPDX-License-Identifier: Apache-2.0
"""Scale and shift of each camera over time: a Kalman filter that rejects what contradicts it, saved as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from vggt_ros.fusion.alignment import DisparityFit

_FORMAT = "aot_perception disparity calibration"
_VERSION = 1


@dataclass(frozen=True)
class SmoothingConfig:
    """How scale and shift may change from frame to frame.

    Attributes:
        drift: standard deviation of the change in a frame, as a share of the disparity that the parameters give at
            `typical`; a network that normalises every image by itself drifts much, a fixed one little.
        gate: chi-square of a fit against the prediction, 2 degrees of freedom, beyond which it is rejected; 18.4 is
            passed by one good fit in 10 000.
        average: share that a new fit has in an exponential average, 0..1; 0: the share that the covariances give it.
        restart_after: rejections in a row after which the filter believes the fit and starts anew.
    """

    drift: float = 0.1
    gate: float = 18.4
    average: float = 0.0
    restart_after: int = 5


@dataclass(frozen=True)
class CameraCalibration:
    """What is known of a camera's scale and shift.

    Attributes:
        parameters: (2,) float64, see `alignment.DisparityFit`.
        covariance: (2, 2) float64.
        rejected: fits rejected since the last one that was accepted.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    rejected: int = 0


@dataclass
class DisparityFilter:
    """The calibrations of all cameras."""

    config: SmoothingConfig = field(default_factory=SmoothingConfig)
    cameras: dict[str, CameraCalibration] = field(default_factory=dict)

    def update(self, camera: str, fit: DisparityFit) -> tuple[np.ndarray | None, str]:
        """Take in a fit.

        Returns:
            (parameters to use, why the fit was rejected or ""); parameters are None if there is no history to fall
            back on, and the old ones if the fit was rejected.
        """
        old = self.cameras.get(camera)
        if not fit.accepted:
            return self._rejected(camera, old), fit.problem
        if old is None:
            self.cameras[camera] = CameraCalibration(fit.parameters, fit.covariance)
            return fit.parameters, ""
        predicted = old.covariance + self._drift(old.parameters)
        step = fit.parameters - old.parameters
        certainty = np.linalg.inv(predicted + fit.covariance)
        gain = self.config.average * np.eye(2) if self.config.average else predicted @ certainty
        distance = float(step @ certainty @ step)
        if distance > self.config.gate:
            if old.rejected + 1 < self.config.restart_after:
                return self._rejected(camera, old), f"expected scale and shift near the last ones, found {_show(fit)}"
            self.cameras[camera] = CameraCalibration(fit.parameters, fit.covariance)
            return fit.parameters, ""
        rest = np.eye(2) - gain
        # Joseph's form: right for any gain, and symmetric.
        covariance = rest @ predicted @ rest.T + gain @ fit.covariance @ gain.T
        new = CameraCalibration(old.parameters + gain @ step, covariance)
        self.cameras[camera] = new
        return new.parameters, ""

    def reset(self) -> None:
        """Forget all cameras: after a new bootstrap the map's unit may be another."""
        self.cameras.clear()

    def _rejected(self, camera: str, old: CameraCalibration | None) -> np.ndarray | None:
        if old is None:
            return None
        covariance = old.covariance + self._drift(old.parameters)
        self.cameras[camera] = CameraCalibration(old.parameters, covariance, old.rejected + 1)
        return old.parameters

    def _drift(self, parameters: np.ndarray) -> np.ndarray:
        # The shift may be 0, so its drift is a share of both.
        size = np.array([abs(parameters[0]), abs(parameters[0]) + abs(parameters[1])])
        return np.asarray(np.diag((self.config.drift * size) ** 2))

    def save(self, path: Path) -> None:
        """Write all cameras as JSON."""
        cameras = {
            name: {
                "scale": float(one.parameters[0]),
                "shift": float(one.parameters[1]),
                "covariance": one.covariance.tolist(),
            }
            for name, one in sorted(self.cameras.items())
        }
        text = json.dumps({"format": _FORMAT, "version": _VERSION, "cameras": cameras}, indent=1)
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def load(self, path: Path) -> None:
        """Take the cameras of a file in addition to, or instead of, those known.

        Raises:
            InputError: the file is no calibration.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["format"] != _FORMAT or told["version"] != _VERSION:
                raise ValueError(f"{told['format']!r} version {told['version']!r}")
            self.cameras.update({name: _calibration(one) for name, one in told["cameras"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected '{_FORMAT}' version {_VERSION}, found {error} in {path}",
                "remove the file; it is written anew at the end of a run",
            ) from error


def _calibration(told: dict[str, object]) -> CameraCalibration:
    parameters = np.array([told["scale"], told["shift"]], np.float64)
    covariance = np.array(told["covariance"], np.float64)
    finite = np.isfinite(parameters).all() and np.isfinite(covariance).all()
    if covariance.shape != (2, 2) or not finite or parameters[0] <= 0 or np.linalg.eigvalsh(covariance).min() < 0:
        raise ValueError(f"scale, shift {parameters.tolist()}")
    return CameraCalibration(parameters, covariance)


def _show(fit: DisparityFit) -> str:
    sigma = [math.sqrt(max(value, 0)) for value in np.diag(fit.covariance)]
    return ", ".join(f"{value:.3g} +- {error:.2g}" for value, error in zip(fit.parameters, sigma))
