# SPDX-License-Identifier: Apache-2.0
"""A deterministic event camera with exact ground truth: textured planes, 6-DoF motion, contrast-threshold pixels.

The same seed and the same versions of numpy and numba give the same events, bit by bit. Depth and optical flow are
closed-form functions of the scene and the time, so they are exact at any moment.

    scene = demo_scene(346, 260, seed=1)
    for events, is_noise in simulate(scene, 0.5).steps():
        ...
    depth = scene.depth(0.1)                 # (H, W) metres
    flow_x, flow_y = scene.flow(0.1, 0.15)   # (H, W) pixels over 50 ms
"""

from f3_ros.events.simulator.dataset import batches, write_simulation_h5
from f3_ros.events.simulator.motion import Motion
from f3_ros.events.simulator.scene import Plane, Scene, demo_scene
from f3_ros.events.simulator.sensor import SensorParams, Simulation, simulate

__all__ = [
    "Motion",
    "Plane",
    "Scene",
    "SensorParams",
    "Simulation",
    "batches",
    "demo_scene",
    "simulate",
    "write_simulation_h5",
]
