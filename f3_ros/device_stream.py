# SPDX-License-Identifier: Apache-2.0
"""The CUDA side of the perception pipeline: one stream, pinned memory, and the models replayed as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from f3_ros.perception import host_view
from f3_ros.pipeline import PADDING

Networks = Callable[[torch.Tensor, frozenset[str]], dict[str, torch.Tensor]]
"""(events on the device, heads to run) -> tensors by name; queues work on the current stream and nothing else."""

SMALLEST_GRAPH = 8192
MAX_GRAPHS = 8
_WARMUP_RUNS = 3
_COLUMNS = 4


def padded_size(count: int, most: int) -> int:
    """The rows, events and padding, of the graph for `count` events: the next power of two, within bounds."""
    return min(max(SMALLEST_GRAPH, 1 << max(count - 1, 0).bit_length()), most)


def padding_rows(count: int, width: int, height: int) -> np.ndarray:
    """Rows (count, 4) float32 that are no events (their time is below 0), spread over the frame.

    They add zeros to the field; at one and the same pixel those additions would wait for each other.
    """
    index = np.arange(count, dtype=np.int64)
    rows = np.full((count, _COLUMNS), PADDING, np.float32)
    rows[:, 0] = (index % width).astype(np.float32) / np.float32(width)
    rows[:, 1] = (index // width % height).astype(np.float32) / np.float32(height)
    return rows


@dataclass
class _Graph:
    """A capture: write events into the first rows of `events`, replay, read `outputs`.

    The first `filled` rows may hold events of an earlier frame; all rows behind are `padding`.
    """

    graph: torch.cuda.CUDAGraph
    events: torch.Tensor
    padding: torch.Tensor
    outputs: dict[str, torch.Tensor]
    filled: int = 0


class DeviceStream:
    """Queues the networks on a stream of its own.

    Args:
        device: a CUDA device.
        networks: the models with everything between them.
        frame: (W, H) of the network's frame, pixels.
        max_events: most events of one run.
        variable_events: whether the networks take any number of events, or exactly `max_events` with padding.
        cuda_graph: capture and replay; where a capture fails, the networks run as they are and a note says why.

    With a variable number of events there are graphs for a few padded sizes (`padded_size`), captured when they are
    first needed; of the `MAX_GRAPHS` kept, the one not used for longest makes room for another.
    """

    def __init__(
        self,
        device: torch.device,
        networks: Networks,
        *,
        frame: tuple[int, int],
        max_events: int,
        variable_events: bool,
        cuda_graph: bool,
    ) -> None:
        self.device = device
        self.cuda_graph = cuda_graph
        self._networks = networks
        self._frame = frame
        self._max_events = max_events
        self._variable = variable_events
        self._graphs: OrderedDict[tuple[int, frozenset[str]], _Graph] = OrderedDict()
        self._notes: list[str] = []
        self._tail: torch.Tensor | None = None
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # One pool: graphs never run at the same time, and what they leave is read before the next one starts.
            self._pool: Any = torch.cuda.graph_pool_handle() if cuda_graph else None

    def staging(self, count: int) -> np.ndarray:
        """Pinned rows (count, 4) float32 to write events into.

        PyTorch's pinned allocator hands freed memory out again only when the copies that read it are done.
        """
        return torch.empty((count, _COLUMNS), dtype=torch.float32, pin_memory=True).numpy()

    @property
    def graphs(self) -> int:
        """How many captures are kept."""
        return len(self._graphs)

    def take_notes(self) -> tuple[str, ...]:
        """What happened that a log should say, once."""
        notes, self._notes = tuple(self._notes), []
        return notes

    @torch.inference_mode()
    def run(self, rows: torch.Tensor, heads: frozenset[str]) -> dict[str, torch.Tensor]:
        """New tensors on the device; queued, and the caller's current stream waits for them."""
        with torch.cuda.device(self.device):
            caller = torch.cuda.current_stream()
            if rows.is_cuda:
                self.stream.wait_stream(caller)
            with torch.cuda.stream(self.stream):
                outputs, static = self._queue(rows, heads)
                if static:
                    outputs = {name: tensor.clone() for name, tensor in outputs.items()}
            caller.wait_stream(self.stream)
            for tensor in outputs.values():
                tensor.record_stream(caller)
            if rows.is_cuda:
                rows.record_stream(self.stream)
            return outputs

    @torch.inference_mode()
    def process(self, rows: torch.Tensor, heads: frozenset[str], want: Collection[str]) -> dict[str, np.ndarray]:
        """What is wanted, on the host, in the layout of `host_view`; waits until it is there.

        The arrays are pinned memory of their own: no later frame writes into them.
        """
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            outputs, _ = self._queue(rows, heads)
            copies = {}
            for name in want:
                view = host_view(name, outputs[name])
                copies[name] = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
                copies[name].copy_(view, non_blocking=True)
            self.stream.synchronize()
        return {name: tensor.numpy() for name, tensor in copies.items()}

    def close(self) -> None:
        """Free the graphs; the models may be closed afterwards."""
        if self._graphs:
            self.stream.synchronize()
            self._graphs.clear()

    def _queue(self, rows: torch.Tensor, heads: frozenset[str]) -> tuple[dict[str, torch.Tensor], bool]:
        """Queues upload and networks on the current stream; whether the outputs are static buffers of a graph."""
        if not rows.is_cuda and not rows.is_pinned():
            rows = rows.pin_memory()
        if self.cuda_graph:
            graph = self._graph(len(rows), heads)
            if graph is not None:
                count = len(rows)
                graph.events[:count].copy_(rows, non_blocking=True)
                if graph.filled > count:
                    graph.events[count : graph.filled].copy_(graph.padding[count : graph.filled])
                graph.filled = count
                graph.graph.replay()
                return graph.outputs, True
        events = rows.to(self.device, non_blocking=True)
        if not self._variable and len(rows) < self._max_events:
            if self._tail is None:
                self._tail = self._padding(self._max_events)
            events = torch.cat([events, self._tail[len(rows) :]])
        return self._networks(events, heads), False

    def _padding(self, size: int) -> torch.Tensor:
        return torch.from_numpy(padding_rows(size, *self._frame)).to(self.device)

    def _graph(self, count: int, heads: frozenset[str]) -> _Graph | None:
        size = padded_size(count, self._max_events) if self._variable else self._max_events
        key = (size, heads)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        if len(self._graphs) >= MAX_GRAPHS:
            self.stream.synchronize()
            self._graphs.popitem(last=False)
        try:
            graph = self._capture(size, heads)
        except RuntimeError as error:
            # Whatever a kernel or an allocation does that a capture forbids is a RuntimeError of torch.
            self.cuda_graph = False
            self._graphs.clear()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._notes.append(f"CUDA graph capture failed, the models run without: {reason}")
            return None
        self._graphs[key] = graph
        return graph

    def _capture(self, size: int, heads: frozenset[str]) -> _Graph:
        events = self._padding(size)
        # Kernels are loaded, and libraries make their workspaces, at the first runs: a capture allows neither.
        for _ in range(_WARMUP_RUNS):
            self._networks(events, heads)
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads of a node may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = self._networks(events, heads)
        return _Graph(graph, events, events.clone(), outputs)
