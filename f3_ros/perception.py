# SPDX-License-Identifier: Apache-2.0
"""From an event window to features, depth and flow, without ROS: F3 and its heads on one device.

Nothing leaves the device between the models: the feature field is resized once for all heads of one size, and only what
is wanted is copied to the host. A head that nobody wants does not run.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.heads import Head, HeadInfo
from f3_ros.pipeline import PADDING, F3Pipeline

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel
    from f3_ros.device_stream import DeviceStream
    from f3_ros.events.windows import EventWindow

OUTPUTS = ("features", "depth", "flow")


@dataclass(frozen=True)
class PerceptionResult:
    """What became of one event window; what was not wanted, or has no head, is None.

    Attributes:
        features: (C, H', W') float32; the image axes are in the usual order here.
        depth: (H, W) float32 as the head gives it; `PerceptionPipeline.depth.info.kind` says what it is.
        flow: (2, H, W) float32, dense: dx and dy in pixels of its own H x W grid over the head's `interval_us`.
        n_received: events in the window before any thinning.
        n_events_used: events that the network saw, after thinning.
        warnings: sentences for a log, empty if all is well.
    """

    features: np.ndarray | None
    depth: np.ndarray | None
    flow: np.ndarray | None
    n_received: int
    n_events_used: int
    warnings: tuple[str, ...] = field(default=())


class PerceptionPipeline:
    """Runs F3 and, on its features, a depth head and a flow head; both are optional.

    On CUDA it queues all work on a stream of its own and, with `cuda_graph`, replays the models as one graph: see
    `f3_ros.device_stream`. Not thread-safe.

    Args:
        f3: the backbone; closed with this pipeline.
        depth, flow: artifacts of these families for F3 features, loaded or as paths.
        cuda_graph: on CUDA, capture the models (once per size of the input) and replay them; a `.onnx` among them
            cannot be captured, and then none is.
        **options: further arguments of `load_model` for paths (allow_list, self_test, ...).

    Attributes:
        f3, depth, flow: the backbone and the heads; a head that is absent is None.
        warnings: sentences for a log about models that do not belong together.

    Raises:
        ArtifactError: a head is of another family, for another input, or for another number of channels.
    """

    def __init__(
        self,
        f3: F3Pipeline,
        depth: CompiledModel | str | os.PathLike[str] | None = None,
        flow: CompiledModel | str | os.PathLike[str] | None = None,
        *,
        cuda_graph: bool = True,
        **options: Any,
    ) -> None:
        self.f3 = f3
        self.depth = None if depth is None else Head(depth, "depth", f3, **options)
        try:
            self.flow = None if flow is None else Head(flow, "flow", f3, **options)
        except BaseException:
            if self.depth is not None and self.depth.model is not depth:
                self.depth.close()
            raise
        self.heads = {head.info.family: head for head in (self.depth, self.flow) if head is not None}
        self.warnings = tuple(text for head in self.heads.values() for text in head.warnings)
        self._stream: DeviceStream | None = None
        if f3.model.device.type == "cuda":
            from f3_ros.device_stream import DeviceStream

            self._stream = DeviceStream(
                f3.model.device,
                self._networks,
                frame=(f3.width, f3.height),
                max_events=f3.max_events,
                variable_events=f3.variable_events,
                cuda_graph=cuda_graph and all(model.capturable for model in self.models.values()),
            )

    @classmethod
    def load(
        cls,
        artifact: str | os.PathLike[str],
        device: str = "cpu",
        *,
        depth: str | os.PathLike[str] | None = None,
        flow: str | os.PathLike[str] | None = None,
        cuda_graph: bool = True,
        **options: Any,
    ) -> PerceptionPipeline:
        """All artifacts from files; if one of them cannot be used, those loaded before are closed."""
        f3 = F3Pipeline(artifact, device, **options)
        try:
            return cls(f3, depth, flow, cuda_graph=cuda_graph, **options)
        except BaseException:
            f3.close()
            raise

    @property
    def head_infos(self) -> dict[str, HeadInfo]:
        """What the heads compute, by family."""
        return {family: head.info for family, head in self.heads.items()}

    @property
    def cuda_graphs(self) -> int | None:
        """How many CUDA graphs are kept; None on a CPU."""
        return None if self._stream is None else self._stream.graphs

    @property
    def models(self) -> dict[str, CompiledModel]:
        """The loaded artifacts: "f3", "depth", "flow"."""
        return {"f3": self.f3.model, **{family: head.model for family, head in self.heads.items()}}

    def tensors(self, events: np.ndarray | torch.Tensor, want: Collection[str] = OUTPUTS) -> dict[str, torch.Tensor]:
        """Everything on the device, freshly allocated: features always, and those wanted heads that there are.

        On CUDA the work is only queued; the caller's current stream waits for it.

        Args:
            events: (N, 4) float32 rows of `F3Pipeline.tensor`, at most `max_events`, on the host or the device.
            want: out of "features", "depth", "flow".

        Returns:
            features (1, W', H', C) in F3's precision, depth (1, H, W) float32, flow (1, 2, H, W) float32.

        Raises:
            InputError: the events have another shape or dtype, or are too many; something unknown is wanted.
        """
        heads = self._wanted_heads(want)
        rows = self.f3.check_events(events)
        if self._stream is not None:
            return self._stream.run(rows, heads)
        return self._networks(self._padded(rows), heads)

    def process(
        self,
        window: EventWindow,
        width: int | None = None,
        height: int | None = None,
        *,
        want: Collection[str] = OUTPUTS,
    ) -> PerceptionResult:
        """What is wanted of one window of a sensor of width x height pixels (default: the model's frame)."""
        heads = self._wanted_heads(want)
        staging = None
        if self._stream is not None and len(window.events) <= self.f3.max_events:
            # The rows are written where the copy to the device starts.
            staging = self._stream.staging(len(window.events))
        rows, warnings = self.f3.prepare(window, width, height, staging)
        found: dict[str, np.ndarray] = {}
        if heads or "features" in want:
            wanted = {*heads, *({"features"} & set(want))}
            if self._stream is not None:
                found = self._stream.process(self.f3.check_events(rows), heads, wanted)
                warnings += self._stream.take_notes()
            else:
                tensors = self._networks(self._padded(self.f3.check_events(rows)), heads)
                found = {name: host_view(name, tensors[name]).numpy() for name in wanted}
        return PerceptionResult(
            # Channels last in memory, as messages carry them, under the axes of a field.
            features=found["features"].transpose(2, 0, 1) if "features" in found else None,
            depth=found.get("depth"),
            flow=found.get("flow"),
            n_received=window.n_received,
            n_events_used=len(rows),
            warnings=warnings,
        )

    def self_test(self) -> None:
        """Rerun the goldens of all artifacts.

        Raises:
            VerdictError: one computes something else than when it was exported.
        """
        for model in self.models.values():
            model.self_test()

    def close(self) -> None:
        """Free the memory of all models, graphs first."""
        if self._stream is not None:
            self._stream.close()
        for head in self.heads.values():
            head.close()
        self.f3.close()

    def _wanted_heads(self, want: Collection[str]) -> frozenset[str]:
        unknown = sorted(set(want) - set(OUTPUTS))
        if unknown:
            raise InputError(f"expected outputs out of {', '.join(OUTPUTS)}, found {unknown[0]!r}")
        return frozenset(want).intersection(self.heads)

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        missing = 0 if self.f3.variable_events else self.f3.max_events - len(rows)
        return torch.cat([rows, rows.new_full((missing, rows.shape[1]), PADDING)]) if missing else rows

    def _networks(self, events: torch.Tensor, heads: frozenset[str]) -> dict[str, torch.Tensor]:
        """F3, the resize and the heads: everything that a CUDA graph holds, free of host work that matters."""
        tensors = {"features": self.f3.run(events)}
        resized: dict[tuple[int, int], torch.Tensor] = {}
        for family in OUTPUTS[1:]:
            if family in heads:
                head = self.heads[family]
                if head.info.size not in resized:
                    resized[head.info.size] = resize_features(tensors["features"], head.info.size)
                tensors[family] = head.run(resized[head.info.size])
        return tensors


def resize_features(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A field (1, W', H', C) as heads take it: (1, C, H, W) float32, contiguous.

    Bilinear with align_corners=True in the field's own precision, as in the official deployment (f3.md section 8);
    that leaves a field that has the size already exactly as it is.
    """
    import torch

    image = features.permute(0, 3, 2, 1)
    if tuple(image.shape[2:]) != size:
        image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=True)
    return image.float().contiguous()


def host_view(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """An output of the networks as the host gets it: features (H', W', C), depth (H, W), flow (2, H, W)."""
    return (tensor[0].permute(1, 0, 2).float() if name == "features" else tensor[0]).contiguous()
