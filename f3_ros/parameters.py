# SPDX-License-Identifier: Apache-2.0
"""The parameters of `f3_node`: declared in one place, read into one plain struct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from f3_ros.events.windows import WindowConfig
from f3_ros.pipeline import F3Pipeline
from f3_ros.stream import StreamConfig

if TYPE_CHECKING:  # f3_offline reads the same parameters where rclpy is not installed
    from aot_runtime.ros.node import PerceptionNode

_TABLE: tuple[tuple[str, Any, str, tuple[float, float] | tuple[str, ...] | None], ...] = (
    ("artifact", "", "The model: a .pt2 file made by export_f3_to_pt2.", None),
    ("device", "cpu", "Where the model runs: cpu, cuda or cuda:N; the artifact must be made for it.", None),
    ("allow_list", "", "File of SHA-256 digests (as sha256sum prints) that may be loaded; empty: any artifact.", None),
    ("num_threads", 0, "Threads of the model on a CPU; 0: as the environment says (OMP_NUM_THREADS).", (0, 256)),
    ("window_mode", "time", "What closes a window: time, events, or either.", ("time", "count", "hybrid")),
    ("window_duration_us", 0, "Length of a window [us]; 0: that of the artifact.", (0, 10_000_000)),
    ("window_stride_us", 0, "Time from window to window [us]; 0: the duration (no overlap).", (0, 10_000_000)),
    ("window_count", 200_000, "Events in a window, modes count and hybrid.", (1, 10_000_000)),
    ("window_max_events", 0, "Most events of a window, thinned above; 0: by the artifact.", (0, 10_000_000)),
    ("incomplete_windows", "use", "Windows with a known hole (a lost packet, the end of the stream).", ("use", "drop")),
    ("hot_pixel_mask", "", "File of hot pixels to ignore; empty: none.", None),
    ("refractory_us", 0, "Drop events of a pixel within this time of its last one [us]; 0: off.", (0, 1_000_000)),
    ("noise_us", 0, "Drop events without a neighbour within this time [us]; 0: off.", (0, 1_000_000)),
    ("packet_queue", 256, "Packets that may wait to be decoded; the oldest are dropped beyond.", (1, 10_000)),
    ("window_queue", 2, "Closed windows that may wait for the model.", (1, 1000)),
    ("overload", "drop", "Model too slow: drop the oldest window, or block decoding.", ("drop", "block")),
    ("frame_id", "", "Frame of the outputs; empty: that of the packets.", None),
    ("stream_timeout", 0.0, "Silence [s] that closes a window; 0: automatic; < 0: never.", (-1.0, 3600.0)),
)  # fmt: skip


@dataclass(frozen=True)
class F3Settings:
    """The values of the parameters, checked as far as the artifact is not needed; names as in config/f3.yaml.

    `stream(pipeline)` gives the stream's configuration for an artifact.
    """

    artifact: Path
    device: str
    allow_list: str
    num_threads: int
    packet_queue: int
    window_queue: int
    overload: str
    frame_id: str
    stream_timeout: float
    stream: Callable[[F3Pipeline], StreamConfig]


def declare_parameters(node: PerceptionNode) -> None:
    """Declares all parameters with descriptions and ranges."""
    for name, default, text, limits in _TABLE:
        if limits and not isinstance(limits[0], str):
            node.declare(name, default, text, low=limits[0], high=limits[1])
        else:
            node.declare(name, default, text, constraints=" or ".join(map(str, limits or ())))


def read_parameters(node: PerceptionNode) -> F3Settings:
    """Reads and checks them.

    Raises:
        InputError: a value is not usable; the message names the parameter.
    """
    value = {name: node.value(name) for name, *_ in _TABLE}
    for name, _, _, limits in _TABLE:
        if limits and isinstance(limits[0], str) and value[name] not in limits:
            raise InputError(
                f"expected {name} to be {' or '.join(map(str, limits))}, found '{value[name]}'", "correct the parameter"
            )
    if not value["artifact"]:
        raise InputError(
            "expected an artifact, found the parameter 'artifact' empty",
            "set it with: --ros-args -p artifact:=MODEL.pt2 (made by export_f3_to_pt2)",
        )

    def stream(pipeline: F3Pipeline) -> StreamConfig:
        return stream_config(pipeline, value)

    return F3Settings(
        artifact=Path(value["artifact"]).expanduser(),
        device=value["device"],
        allow_list=value["allow_list"],
        num_threads=value["num_threads"],
        packet_queue=value["packet_queue"],
        window_queue=value["window_queue"],
        overload=value["overload"],
        frame_id=value["frame_id"],
        stream_timeout=value["stream_timeout"],
        stream=stream,
    )


def stream_config(pipeline: F3Pipeline, value: Mapping[str, Any]) -> StreamConfig:
    """The stream's configuration from values by parameter name; those that are missing have their defaults.

    Where a value is 0 the artifact decides: the length of a window and the most events in it.

    Raises:
        InputError: a value is out of range.
    """
    chosen = {name: default for name, default, *_ in _TABLE} | dict(value)
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
