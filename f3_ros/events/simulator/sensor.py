# SPDX-License-Identifier: Apache-2.0
"""The event pixel: contrast thresholds with mismatch, refractory period, background activity, hot pixels.

Between two rendered frames (micro-steps) a pixel's log intensity is taken as linear in time. An event is emitted each
time it moves one threshold away from the level of the last event, at the interpolated time of the crossing. Model after
Lichtsteiner et al., "A 128x128 120 dB 15 us latency asynchronous temporal contrast vision sensor" (JSSC 2008).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.simulator.scene import Scene
from f3_ros.events.types import Events

_CAPACITY_PER_PIXEL = 8
_SMALLEST_THRESHOLD = 0.02


@dataclass(frozen=True)
class SensorParams:
    """Pixel parameters.

    Attributes:
        c_pos, c_neg: thresholds of ON and OFF events in log intensity.
        sigma_c: standard deviation of both over the pixels.
        refractory_us: a pixel is silent this long after an event.
        ba_rate_hz: background activity per pixel.
        hot_pixels: number of hot pixels.
        hot_rate_hz: event rate of each hot pixel.
    """

    c_pos: float = 0.2
    c_neg: float = 0.2
    sigma_c: float = 0.03
    refractory_us: int = 100
    ba_rate_hz: float = 0.05
    hot_pixels: int = 0
    hot_rate_hz: float = 1000.0


class Simulation:
    """One run of the sensor over a scene; iterate `steps()` once.

    Attributes:
        hot: (N, 2) int64, x and y of the hot pixels.
        n_steps: number of micro-steps.
        t_start: scene time [s] of the first event time 0.
    """

    def __init__(
        self, scene: Scene, duration: float, step_us: int, sensor: SensorParams, seed: int, t_start: float
    ) -> None:
        if step_us < 1 or duration < 0:
            raise InputError(
                f"expected step_us >= 1 and duration >= 0, found {step_us} and {duration}", "give other values"
            )
        self.scene, self.step_us, self.sensor, self.t_start = scene, int(step_us), sensor, float(t_start)
        self.n_steps = round(duration * 1e6 / step_us)
        shape = (scene.height, scene.width)
        # the order of these draws is part of the result: same seed, same events
        self._rng = rng = np.random.default_rng(seed)
        self._c_pos = np.maximum(_SMALLEST_THRESHOLD, rng.normal(sensor.c_pos, sensor.sigma_c, shape))
        self._c_neg = np.maximum(_SMALLEST_THRESHOLD, rng.normal(sensor.c_neg, sensor.sigma_c, shape))
        hot_x = rng.integers(0, scene.width, sensor.hot_pixels)
        self.hot = np.stack([hot_x, rng.integers(0, scene.height, sensor.hot_pixels)], 1)
        self._start_dither = rng.random(shape) - 0.5

    def steps(self) -> Iterator[tuple[Events, np.ndarray]]:
        """Events of each micro-step, ordered by (t, y, x, p), and a bool array that marks noise.

        `t` counts microseconds from the start of the simulation.

        Raises:
            InputError: a pixel would fire more than 8 times in a step on average.
        """
        from f3_ros.events.simulator.pixel import advance

        scene, sensor = self.scene, self.sensor
        before = scene.log_intensity(self.t_start)
        after = np.empty_like(before)
        # start level: uniform inside the dead zone, so there is no burst at the start
        level = before.astype(np.float64) + self._start_dither * np.minimum(self._c_pos, self._c_neg)
        last = np.full(before.shape, -1e9)
        keys = np.empty(before.size * _CAPACITY_PER_PIXEL, np.int64)
        for k in range(self.n_steps):
            t0, t1 = k * self.step_us, (k + 1) * self.step_us
            scene.log_intensity(self.t_start + t1 * 1e-6, after)
            n = advance(
                before, after, level, last, self._c_pos, self._c_neg, float(t0), float(t1),
                float(sensor.refractory_us), keys,
            )  # fmt: skip
            if n > keys.size:
                raise InputError(
                    f"expected at most {_CAPACITY_PER_PIXEL} events per pixel in a step of {self.step_us} us, "
                    f"found {n / before.size:.1f}",
                    "give a smaller --step-us or a larger --threshold",
                )
            yield self._with_noise(np.sort(keys[:n]), t0, t1)
            before, after = after, before

    def _with_noise(self, keys: np.ndarray, t0: int, t1: int) -> tuple[Events, np.ndarray]:
        """Add background activity and hot pixels of the step, and unpack the keys."""
        rng, sensor = self._rng, self.sensor
        height, width = self.scene.height, self.scene.width
        noise = np.zeros(len(keys), bool)
        n_background = rng.poisson(sensor.ba_rate_hz * height * width * self.step_us * 1e-6)
        n_hot = rng.poisson(sensor.hot_rate_hz * sensor.hot_pixels * self.step_us * 1e-6)
        if n_background or n_hot:
            x, y = rng.integers(0, width, n_background), rng.integers(0, height, n_background)
            if n_hot:
                chosen = rng.integers(0, sensor.hot_pixels, n_hot)
                x, y = np.concatenate([x, self.hot[chosen, 0]]), np.concatenate([y, self.hot[chosen, 1]])
            t = rng.integers(t0, t1, n_background + n_hot)
            p = rng.integers(0, 2, n_background + n_hot)
            both = np.concatenate([keys, ((t * height + y) * width + x) * 2 + p])
            order = np.argsort(both, kind="stable")
            noise = order >= len(keys)
            keys = both[order]
        rest, x = np.divmod(keys >> 1, width)
        t, y = np.divmod(rest, height)
        return Events(x.astype(np.uint16), y.astype(np.uint16), t, (keys & 1).astype(np.uint8)), noise

    def run(self) -> tuple[Events, np.ndarray]:
        """All events and noise marks at once."""
        parts = list(self.steps())
        noise = np.concatenate([mark for _, mark in parts]) if parts else np.zeros(0, bool)
        return Events.concatenate([events for events, _ in parts]), noise


def simulate(
    scene: Scene,
    duration: float,
    step_us: int = 250,
    sensor: SensorParams | None = None,
    seed: int = 0,
    t_start: float = 0.0,
) -> Simulation:
    """Prepare a simulation; events are computed while `steps()` or `run()` goes on.

    Args:
        scene: what the camera sees.
        duration: seconds.
        step_us: time between rendered frames; motion should stay below about one pixel per step.
        sensor: pixel parameters.
        seed: thresholds and noise.
        t_start: scene time [s] at which the recording starts.

    Raises:
        InputError: a negative duration or a step below 1 us.
    """
    return Simulation(scene, duration, step_us, sensor or SensorParams(), seed, t_start)
