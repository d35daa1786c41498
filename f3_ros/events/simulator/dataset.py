# SPDX-License-Identifier: Apache-2.0
"""A simulation as an HDF5 file in M3ED's layout, ground truth included.

Beside the events (/prophesee/left): /depth/prophesee/left (N, H, W) float32 metres, inf = nothing hit;
/flow/prophesee/left/{x,y} (N, H, W) float32 pixels, the displacement from ts[i] to ts[i] + dt_us of the point seen at
ts[i]; /ts microseconds; /ts_map_prophesee_left index of the first event at or after ts[i]; /Cn_T_C0 (N, 4, 4) poses;
/sim/is_noise marks noise events; /sim/hot_pixels (n, 2) x and y.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from f3_ros.events.simulator.sensor import Simulation
from f3_ros.events.types import Events

_BATCH = 1 << 17


def batches(
    simulation: Simulation, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Events, np.ndarray]]:
    """Events and noise marks of many micro-steps at a time; `progress` is called with the number of steps done."""
    parts: list[tuple[Events, np.ndarray]] = []
    n = 0
    for done, (events, noise) in enumerate(simulation.steps(), 1):
        parts.append((events, noise))
        n += len(events)
        if progress is not None:
            progress(done)
        if n >= _BATCH or done == simulation.n_steps:
            yield Events.concatenate([e for e, _ in parts]), np.concatenate([m for _, m in parts])
            parts, n = [], 0


def write_simulation_h5(
    path: str | Path,
    simulation: Simulation,
    *,
    gt_us: int = 50_000,
    params: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Run a simulation and write it with ground truth every `gt_us` microseconds (0: none); returns the events' number.

    Args:
        path: replaced once the new file is complete.
        params: what made the simulation, stored as JSON in the attribute `params`.
        progress: called with the number of micro-steps done.
    """
    from f3_ros.events.writers import M3edWriter, append_rows, write_m3ed_h5

    scene = simulation.scene
    calibration = {
        "camera_model": "pinhole",
        "distortion_model": "radtan",
        "distortion_coeffs": np.zeros(4),
        "intrinsics": np.array([scene.f, scene.f, scene.cx, scene.cy]),
        "T_to_prophesee_left": np.eye(4),
    }
    marks: list[np.ndarray] = []

    def events() -> Iterator[Events]:
        for part, noise in batches(simulation, progress):
            marks.append(noise)
            yield part

    def ground_truth(writer: M3edWriter) -> None:
        file = writer.file
        file.attrs["source"] = "aot_perception events simulate (synthetic)"
        file.attrs["scene"] = scene.to_json()
        file.attrs["params"] = json.dumps({**(params or {}), **asdict(simulation.sensor)})
        noise = file.create_dataset(
            "sim/is_noise", (0,), np.uint8, chunks=(40_000,), maxshape=(None,), compression="lzf"
        )
        for mark in marks:
            append_rows(noise, mark)
        file["sim/hot_pixels"] = simulation.hot.astype(np.uint16)
        if gt_us > 0:
            _write_truth(writer, simulation, gt_us)

    return write_m3ed_h5(path, events(), scene.width, scene.height, calibration=calibration, extra=ground_truth)


def _write_truth(writer: Any, simulation: Simulation, gt_us: int) -> None:
    file, scene, start = writer.file, simulation.scene, simulation.t_start
    ts = np.arange(0, simulation.n_steps * simulation.step_us - gt_us + 1, gt_us, dtype=np.int64)
    file["ts"] = ts
    file["ts_map_prophesee_left"] = np.array([_first_at(file["prophesee/left/t"], int(t)) for t in ts], np.uint64)
    first = np.linalg.inv(scene.pose(start))
    poses = [np.linalg.inv(first @ scene.pose(start + t * 1e-6)) for t in ts.tolist()]
    file["Cn_T_C0"] = np.stack(poses) if poses else np.zeros((0, 4, 4))
    shape = (len(ts), scene.height, scene.width)
    layout = (
        {"dtype": np.float32, "chunks": (1, *shape[1:]), "compression": "lzf"} if len(ts) else {"dtype": np.float32}
    )
    depth = file.create_dataset("depth/prophesee/left", shape, **layout)
    flow_x = file.create_dataset("flow/prophesee/left/x", shape, **layout)
    flow_y = file.create_dataset("flow/prophesee/left/y", shape, **layout)
    file["flow"].attrs["dt_us"] = gt_us
    file["flow"].attrs["meaning"] = "exact displacement in px from ts[i] to ts[i]+dt_us of the point seen at ts[i]"
    for i, t in enumerate(ts.tolist()):
        now = start + t * 1e-6
        depth[i] = scene.depth(now)
        flow_x[i], flow_y[i] = scene.flow(now, now + gt_us * 1e-6)


def _first_at(times: Any, t: int) -> int:
    """Index of the first element >= t of a sorted data set, by bisection."""
    lo, hi = 0, len(times)
    while lo < hi:
        middle = (lo + hi) // 2
        if int(times[middle]) < t:
            lo = middle + 1
        else:
            hi = middle
    return lo
