# SPDX-License-Identifier: Apache-2.0
"""Help for tests of f3_node and replay_node: small artifacts, and nodes that spin in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kept_artifacts import cached
from ros_session import Session, parameters

# Everything that decides what an artifact computes; a change of any of these compiles the artifacts again.
EXPORT = (*(f"aot_runtime/{name}.py" for name in ("export", "makers", "golden", "manifest")), "aot_runtime/backends")
F3_SOURCES = (
    *(f"f3_ros/{name}.py" for name in ("config", "blocks", "encoder", "model", "unet", "deploy", "export_f3")),
    *EXPORT,
)


@pytest.fixture(scope="session")
def micro_f3(artifact_cache: Path) -> Path:
    """A micro F3 on a 160x90 field with random weights, compiled once per torch version and source state."""
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.config import from_name
    from f3_ros.export_f3 import export_f3, make_model

    def make(path: Path) -> None:
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

    return cached(artifact_cache, "node_micro_160x90", ".pt2", F3_SOURCES, make)


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
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig
    from f3_ros.export_flowhead import export_flowhead
    from f3_ros.flow_head import FlowHead

    options: dict[str, Any] = {"height": 28, "width": 42, "checkpoint": CheckpointInfo.random(0), "progress": False}
    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 16, (8, 8, 16, 16), input_channels=8)
    depth = cached(
        artifact_cache,
        "tiny_depth",
        ".pt2",
        (*EXPORT, "depth_ros/model", "depth_ros/deploy.py", "depth_ros/export_dav2.py"),
        lambda path: export_dav2(DepthAnythingV2(config).eval().randomise(0), path, **options),
        asked=config,
    )
    flow = cached(
        artifact_cache,
        "tiny_flow",
        ".pt2",
        (*EXPORT, "f3_ros/blocks.py", "f3_ros/flow_head.py", "f3_ros/export_flowhead.py"),
        lambda path: export_flowhead(FlowHead(8, (3, 3), (2, 2), (1, 1)).eval().randomise(0), path, **options),
    )
    return {"depth_artifact": str(depth), "flow_artifact": str(flow)}


@pytest.fixture
def heads(stand_in_head: Callable[..., Path]) -> dict[str, str]:
    """Parameters that name two stand-in heads for `micro_f3`."""
    from f3_heads import CHANNELS, DEPTH_GRID, FLOW_GRID

    grids = {"depth": DEPTH_GRID, "flow": FLOW_GRID}
    return {f"{name}_artifact": str(stand_in_head(name, CHANNELS, *grid[::-1])) for name, grid in grids.items()}
