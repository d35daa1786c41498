# SPDX-License-Identifier: Apache-2.0
"""The simulator: the shipped recording bit by bit, and ground truth that agrees with itself."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.readers import open_events
from f3_ros.events.simulator import Scene, SensorParams, demo_scene, simulate, write_simulation_h5

T0, T1 = 0.1, 0.14


@pytest.fixture(scope="module")
def scene() -> Scene:
    return demo_scene(160, 120, seed=3)


@pytest.fixture(scope="module")
def ideal() -> SensorParams:
    return SensorParams(sigma_c=0.0, refractory_us=0, ba_rate_hz=0)


def test_shipped_recording(shared: Path) -> None:
    """The first 25 ms; a shorter simulation is a prefix of a longer one."""
    shipped = demo_scene(346, 260, seed=1)
    sensor = SensorParams(0.25, 0.25, 0.15 * 0.25, 100, 0.1, 8, 500.0)
    simulation = simulate(shipped, 0.025, 250, sensor, seed=1)
    events, noise = simulation.run()
    with h5py.File(shared / "data" / "events" / "synthetic" / "room_seed1_346x260.h5") as file:
        group, n = file["prophesee/left"], len(events)
        assert group["t"][n - 1] < 25_000 <= group["t"][n]
        for name in ("x", "y", "t", "p"):
            np.testing.assert_array_equal(group[name][:n], getattr(events, name))
        np.testing.assert_array_equal(file["sim/is_noise"][:n], noise)
        np.testing.assert_array_equal(file["sim/hot_pixels"], simulation.hot)
        assert json.loads(shipped.to_json()) == json.loads(file.attrs["scene"])
        depth, flow = file["depth/prophesee/left"][2], file["flow/prophesee/left/x"][2]
        np.testing.assert_allclose(shipped.depth(0.1), depth, rtol=2**-11)
        np.testing.assert_allclose(shipped.flow(0.1, 0.15)[0], flow, atol=1 / 128 + 1e-6)
        np.testing.assert_allclose(np.linalg.inv(shipped.pose(0.1)), file["Cn_T_C0"][2], atol=1e-12)


def test_flow_by_warping(scene: Scene) -> None:
    """Where visible, the intensity at x + flow later is the intensity at x before."""
    flow_x, flow_y = scene.flow(T0, T1)
    before, after = scene.log_intensity(T0).astype(float), scene.log_intensity(T1).astype(float)
    rows, columns = np.mgrid[0 : scene.height, 0 : scene.width]
    x, y = columns + flow_x, rows + flow_y
    ok = (x > 1) & (y > 1) & (x < scene.width - 2) & (y < scene.height - 2) & ~scene.occlusion(T0, T1)
    assert ok.mean() > 0.7
    x, y = x[ok], y[ok]
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - i, y - j
    top = after[j, i] * (1 - u) + after[j, i + 1] * u
    bottom = after[j + 1, i] * (1 - u) + after[j + 1, i + 1] * u
    residual = np.abs(top * (1 - v) + bottom * v - before[ok]).mean()
    assert residual < 0.35 * np.abs(after[ok] - before[ok]).mean()


def test_flow_by_depth_and_pose() -> None:
    still = demo_scene(160, 120, seed=3, moving_object=False)
    z = still.depth(T0)
    rows, columns = np.mgrid[0 : still.height, 0 : still.width]
    point = np.stack([(columns - still.cx) / still.f * z, (rows - still.cy) / still.f * z, z, np.ones_like(z)], -1)
    moved = point @ (np.linalg.inv(still.pose(T1)) @ still.pose(T0)).T
    u = still.f * moved[..., 0] / moved[..., 2] + still.cx - columns
    v = still.f * moved[..., 1] / moved[..., 2] + still.cy - rows
    flow_x, flow_y = still.flow(T0, T1)
    assert np.nanmax(np.hypot(u - flow_x, v - flow_y)) < 1e-6
    assert np.isfinite(z).mean() > 0.95


def test_events_integrate_to_the_intensity_change(scene: Scene, ideal: SensorParams) -> None:
    events, noise = simulate(scene, 0.05, 250, ideal, seed=5).run()
    assert not noise.any()
    assert np.all(np.diff(events.t) >= 0)
    total = np.zeros((scene.height, scene.width))
    np.add.at(total, (events.y, events.x), np.where(events.p > 0, 0.2, -0.2))
    change = scene.log_intensity(0.05).astype(float) - scene.log_intensity(0.0)
    # one threshold of rest at the end, half of one at the start, whose level is random
    assert np.abs(total - change).max() < 0.31


def test_deterministic_and_converging(scene: Scene, ideal: SensorParams) -> None:
    once, again = (simulate(scene, 0.02, 250, ideal, seed=5).run()[0] for _ in range(2))
    for name in ("x", "y", "t", "p"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    finer = simulate(scene, 0.02, 125, ideal, seed=5).run()[0]
    assert len(finer) == pytest.approx(len(once), rel=0.02)
    other = simulate(scene, 0.02, 250, ideal, seed=6).run()[0]
    assert len(other) != len(once) or not np.array_equal(other.x, once.x)


def test_noise_is_marked_and_of_the_stated_rate(scene: Scene) -> None:
    sensor = SensorParams(c_pos=9.0, c_neg=9.0, ba_rate_hz=2.0, hot_pixels=3, hot_rate_hz=1000.0)
    events, noise = simulate(scene, 0.1, 500, sensor, seed=1).run()
    assert noise.all()
    expected = 2.0 * 160 * 120 * 0.1 + 3 * 1000 * 0.1
    assert len(events) == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_file_with_ground_truth(scene: Scene, tmp_path: Path) -> None:
    simulation = simulate(scene, 0.02, 250, SensorParams(), seed=1)
    steps: list[int] = []
    n = write_simulation_h5(tmp_path / "a.h5", simulation, gt_us=10_000, params={"seed": 1}, progress=steps.append)
    assert steps == list(range(1, 81))
    with open_events(tmp_path / "a.h5") as reader, h5py.File(tmp_path / "a.h5") as file:
        events = next(reader.chunks())
        assert (reader.width, reader.height, len(events), len(file["sim/is_noise"])) == (160, 120, n, n)
        assert file["ts"][()].tolist() == [0, 10_000]
        assert file["ts_map_prophesee_left"][()].tolist() == np.searchsorted(events.t, [0, 10_000]).tolist()
        np.testing.assert_array_equal(file["depth/prophesee/left"][1], scene.depth(0.01).astype(np.float32))
        np.testing.assert_array_equal(file["flow/prophesee/left/y"][1], scene.flow(0.01, 0.02)[1].astype(np.float32))
        assert file["flow"].attrs["dt_us"] == 10_000
        assert json.loads(file.attrs["params"])["seed"] == 1


def test_too_fast_for_the_step(scene: Scene) -> None:
    with pytest.raises(InputError, match="--step-us"):
        simulate(scene, 0.4, 200_000, SensorParams(c_pos=0.02, c_neg=0.02, sigma_c=0, refractory_us=0)).run()
    with pytest.raises(InputError, match="step_us >= 1"):
        simulate(scene, 0.1, 0)
