# SPDX-License-Identifier: Apache-2.0
"""The parameters of `f3_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from aot_runtime.ros.parameters import Param, declare_table, read_table
from f3_ros.events.windows import WindowConfig
from f3_ros.head_outputs import FLOW_MASKS, RESOLUTIONS, HeadOptions
from f3_ros.pipeline import F3Pipeline
from f3_ros.stream import StreamConfig

if TYPE_CHECKING:  # f3_offline reads the same parameters where rclpy is not installed
    from aot_runtime.ros.node import PerceptionNode

TABLE = (
    Param("artifact", "", "The model: a .pt2 file made by export_f3_to_pt2."),
    Param("depth_artifact", "", "Depth head for these features, made by export_dav2_to_pt2; empty: no depth."),
    Param("flow_artifact", "", "Flow head for these features, made by export_flowhead_to_pt2; empty: no flow."),
    Param("device", "cpu", "Where the models run: cpu, cuda or cuda:N; the artifacts must be made for it."),
    Param("allow_list", "", "File of SHA-256 digests (as sha256sum prints) that may be loaded; empty: any artifact."),
    Param(
        "num_threads",
        0,
        "Threads of the models on a CPU; 0: as the environment says (OMP_NUM_THREADS).",
        limits=(0, 256),
    ),
    Param("cuda_graph", True, "On CUDA, replay the models as CUDA graphs."),
    Param(
        "publish_features",
        "auto",
        "When features are published; auto: always without heads, else while subscribed.",
        choices=("auto", "always", "subscribed"),
    ),
    Param("heads_always", False, "Run and publish depth and flow even while nobody subscribes."),
    Param(
        "output_resolution",
        "grid",
        "Pixels of depth and flow: the head's own grid, or the sensor's.",
        choices=RESOLUTIONS,
    ),
    Param("flow_mask", "events", "Flow is NaN where no event of the window fell, or dense.", choices=FLOW_MASKS),
    Param("camera_info_url", "", "Calibration of the event camera (ROS YAML); empty: from ~/event_camera_info."),
    Param("window_mode", "time", "What closes a window: time, events, or either.", choices=("time", "count", "hybrid")),
    Param("window_duration_us", 0, "Length of a window [us]; 0: that of the artifact.", limits=(0, 10_000_000)),
    Param(
        "window_stride_us", 0, "Time from window to window [us]; 0: the duration (no overlap).", limits=(0, 10_000_000)
    ),
    Param("window_count", 200_000, "Events in a window, modes count and hybrid.", limits=(1, 10_000_000)),
    Param(
        "window_max_events", 0, "Most events of a window, thinned above; 0: by the artifact.", limits=(0, 10_000_000)
    ),
    Param(
        "incomplete_windows",
        "use",
        "Windows with a known hole (a lost packet, the end of the stream).",
        choices=("use", "drop"),
    ),
    Param("hot_pixel_mask", "", "File of hot pixels to ignore; empty: none."),
    Param(
        "refractory_us",
        0,
        "Drop events of a pixel within this time of its last one [us]; 0: off.",
        limits=(0, 1_000_000),
    ),
    Param("noise_us", 0, "Drop events without a neighbour within this time [us]; 0: off.", limits=(0, 1_000_000)),
    Param(
        "packet_queue", 256, "Packets that may wait to be decoded; the oldest are dropped beyond.", limits=(1, 10_000)
    ),
    Param("window_queue", 2, "Closed windows that may wait for the model.", limits=(1, 1000)),
    Param("overload", "drop", "Model too slow: drop the oldest window, or block decoding.", choices=("drop", "block")),
    Param("frame_id", "", "Frame of the outputs; empty: that of the packets."),
    Param("stream_timeout", 0.0, "Silence [s] that closes a window; 0: automatic; < 0: never.", limits=(-1.0, 3600.0)),
)


@dataclass(frozen=True)
class F3Settings:
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/f3.yaml.

    `stream(pipeline)` gives the stream's configuration for an artifact.
    """

    artifact: Path
    depth_artifact: Path | None
    flow_artifact: Path | None
    device: str
    allow_list: str
    num_threads: int
    cuda_graph: bool
    publish_features: str
    heads_always: bool
    heads: HeadOptions
    camera_info_url: str
    packet_queue: int
    window_queue: int
    overload: str
    frame_id: str
    stream_timeout: float
    stream: Callable[[F3Pipeline], StreamConfig]


def declare_parameters(node: PerceptionNode) -> None:
    """Declares all parameters with descriptions and ranges."""
    declare_table(node, TABLE)


def read_parameters(node: PerceptionNode) -> F3Settings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    value = read_table(node, TABLE)
    if not value["artifact"]:
        raise InputError(
            "expected an artifact, found the parameter 'artifact' empty",
            "set it with: --ros-args -p artifact:=MODEL.pt2 (made by export_f3_to_pt2)",
        )

    def stream(pipeline: F3Pipeline) -> StreamConfig:
        return stream_config(pipeline, value)

    return F3Settings(
        artifact=Path(value["artifact"]).expanduser(),
        depth_artifact=_path(value["depth_artifact"]),
        flow_artifact=_path(value["flow_artifact"]),
        device=value["device"],
        allow_list=value["allow_list"],
        num_threads=value["num_threads"],
        cuda_graph=value["cuda_graph"],
        publish_features=value["publish_features"],
        heads_always=value["heads_always"],
        heads=head_options(value),
        camera_info_url=value["camera_info_url"],
        packet_queue=value["packet_queue"],
        window_queue=value["window_queue"],
        overload=value["overload"],
        frame_id=value["frame_id"],
        stream_timeout=value["stream_timeout"],
        stream=stream,
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def head_options(value: Mapping[str, Any]) -> HeadOptions:
    """What is done with depth and flow, from values by parameter name; those that are missing have their defaults.

    Raises:
        InputError: a value is none of the choices.
    """
    chosen = {param.name: param.default for param in TABLE} | dict(value)
    return HeadOptions(resolution=chosen["output_resolution"], flow_mask=chosen["flow_mask"])


def stream_config(pipeline: F3Pipeline, value: Mapping[str, Any]) -> StreamConfig:
    """The stream's configuration from values by parameter name; those that are missing have their defaults.

    Where a value is 0 the artifact decides: the length of a window and the most events in it.

    Raises:
        InputError: a value is out of range.
    """
    chosen = {param.name: param.default for param in TABLE} | dict(value)
    return StreamConfig(
        window=WindowConfig(
            mode=chosen["window_mode"],
            duration_us=chosen["window_duration_us"] or pipeline.window_us,
            stride_us=chosen["window_stride_us"] or None,
            count=chosen["window_count"],
            bin_us=pipeline.bin_us,
            max_events=chosen["window_max_events"] or pipeline.max_events,
        ),
        incomplete=chosen["incomplete_windows"],
        hot_pixel_mask=chosen["hot_pixel_mask"],
        refractory_us=chosen["refractory_us"],
        noise_us=chosen["noise_us"],
    )
