# SPDX-License-Identifier: Apache-2.0
"""Help for tests of f3_node and replay_node: small artifacts, and nodes that spin in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ros_session import Session, parameters


@pytest.fixture(scope="session")
def micro_f3(artifact_cache: Path) -> Path:
    """A micro F3 on a 160x90 field with random weights, compiled once per torch version and source state."""
    import hashlib

    import f3_ros.deploy
    import f3_ros.model
    from aot_runtime.environment import this_host
    from aot_runtime.manifest import CheckpointInfo
    from aot_runtime.verdict import judge
    from f3_ros.config import from_name
    from f3_ros.export_f3 import export_f3, make_model

    host = this_host()
    digest = hashlib.sha256(repr((host.torch, sorted(host.cpu_flags))).encode())
    for module in (f3_ros.deploy, f3_ros.model):
        digest.update(Path(module.__file__).read_bytes())
    path = artifact_cache / f"node_micro_160x90_{digest.hexdigest()[:16]}.pt2"
    if not path.is_file() or not judge(path, "cpu").ok:
        import torch

        torch.manual_seed(0)
        model = make_model(from_name("1280x720x20_patchff_ds1_micro"))
        export_f3(
            model,
            path,
            checkpoint=CheckpointInfo.random(0),
            n_events=20_000,
            variable=True,
            downsample=(160, 90),
            progress=False,
        )
    return path


@pytest.fixture
def ros(ros: Session) -> Session:
    """The session of test/support, where event cameras' messages are installed."""
    pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")
    return ros


@pytest.fixture
def f3(ros: Session, micro_f3: Path) -> Callable[..., Any]:
    """f3(**parameters): an F3Node with the small artifact, active unless it cannot be."""
    from f3_ros.node import F3Node

    def make(active: bool = True, **values: Any) -> Any:
        return ros.start(F3Node, active, **{"artifact": micro_f3, **values})

    return make


@pytest.fixture
def replay(ros: Session) -> Callable[..., Any]:
    """replay(file, **parameters): a ReplayNode connected to the node /f3."""
    from f3_ros.replay_node import ReplayNode

    arguments = ["--ros-args", "-r", "~/events:=/f3/events", "-r", "~/processed_seq:=/f3/processed_seq"]

    def make(file: Path | str, **values: Any) -> Any:
        given = {"file": str(file), "progress": False, "rate": 0.0, "stamps": "recorded", **values}
        return ros.add(ReplayNode(cli_args=arguments, parameter_overrides=parameters(**given)))

    return make


@pytest.fixture(scope="session")
def tiny_heads(artifact_cache: Path) -> dict[str, str]:
    """FlowHead and Depth Anything V2 for the features of `micro_f3`, tiny, with random weights, as node parameters."""
    import hashlib
    import inspect

    from aot_runtime.environment import this_host
    from aot_runtime.manifest import CheckpointInfo
    from aot_runtime.verdict import judge
    from depth_ros import deploy as depth_deploy
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig
    from f3_ros import flow_head as flow_module
    from f3_ros.export_flowhead import export_flowhead

    host = this_host()
    digest = hashlib.sha256(repr((host.torch, sorted(host.cpu_flags))).encode())
    for source in (depth_deploy, flow_module, inspect.getmodule(DepthAnythingV2), export_dav2, export_flowhead):
        digest.update(inspect.getsource(source).encode())
    paths = {name: artifact_cache / f"tiny_{name}_{digest.hexdigest()[:16]}.pt2" for name in ("depth", "flow")}
    options: dict[str, Any] = {"checkpoint": CheckpointInfo.random(0), "progress": False}
    if not paths["depth"].is_file() or not judge(paths["depth"], "cpu").ok:
        config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 8, 16, 16), input_channels=8)
        export_dav2(DepthAnythingV2(config).eval().randomise(0), paths["depth"], height=28, width=42, **options)
    if not paths["flow"].is_file() or not judge(paths["flow"], "cpu").ok:
        flow_head = flow_module.FlowHead(8, (3, 3), (2, 2), (1, 1)).eval().randomise(0)
        export_flowhead(flow_head, paths["flow"], height=28, width=42, **options)
    return {f"{name}_artifact": str(path) for name, path in paths.items()}


@pytest.fixture
def heads(stand_in_head: Callable[..., Path]) -> dict[str, str]:
    """Parameters that name two stand-in heads for `micro_f3`."""
    from f3_heads import CHANNELS, DEPTH_GRID, FLOW_GRID

    grids = {"depth": DEPTH_GRID, "flow": FLOW_GRID}
    return {f"{name}_artifact": str(stand_in_head(name, CHANNELS, *grid[::-1])) for name, grid in grids.items()}
