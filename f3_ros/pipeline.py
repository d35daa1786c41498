# SPDX-License-Identifier: Apache-2.0
"""From an event window to the feature field, without ROS: what the node, the offline runner and tests share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel
    from f3_ros.events.windows import EventWindow

THINNING_SEED = 42
PADDING = -1.0
"""Value of the columns of a row that is no event: the network ignores rows whose time is below 0."""


@dataclass(frozen=True)
class F3Result:
    """What became of one event window.

    Attributes:
        features: (C, H', W') float32; the image axes are in the usual order here.
        n_received: events in the window before any thinning.
        n_events_used: events that the network saw, after thinning.
        warnings: sentences for a log, empty if all is well.
    """

    features: np.ndarray
    n_received: int
    n_events_used: int
    warnings: tuple[str, ...] = field(default=())


class F3Pipeline:
    """Runs an F3 artifact on event windows.

    Args:
        model: a loaded artifact of the family "f3", or the path of one.
        device: where to load a path: "cpu", "cuda" or "cuda:N".
        **options: further arguments of `load_model` for a path (allow_list, self_test, ...).

    Attributes:
        width, height: the sensor frame in pixels that the network was made for; smaller sensors are centred in it.
        bins, bin_us, window_us: time bins of a window, and their and its length in microseconds.
        feature_shape: (C, H', W') of the features.
        max_events: most events that one run can take.
        variable_events: whether the artifact takes any number of events, or exactly `max_events` with padding.

    Raises:
        ArtifactError: the artifact is not one of F3.
    """

    def __init__(self, model: CompiledModel | str | os.PathLike[str], device: str = "cpu", **options: Any) -> None:
        if isinstance(model, (str, os.PathLike)):
            from aot_runtime.compiled_model import load_model

            model = load_model(model, device, **options)
        self.model = model
        manifest = model.manifest
        if manifest.family != "f3":
            raise ArtifactError(
                f"expected an artifact of the family f3, found {manifest.family} in {model.path}",
                "export one with export_f3_to_pt2",
            )
        told = manifest.preprocessing
        try:
            self.width, self.height = int(told["width"]), int(told["height"])
            self.bins, self.bin_us, self.window_us = int(told["bins"]), int(told["bin_us"]), int(told["window_us"])
            width, height, channels = (int(size) for size in told["feature_shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"expected width, height, bins, bin_us, window_us and feature_shape in the manifest's preprocessing, "
                f"found {told} in {model.path} ({error!r})",
                "export it again with export_f3_to_pt2",
            ) from error
        self.feature_shape = (channels, height, width)
        count = manifest.inputs[0].shape[0]
        self.variable_events = isinstance(count, str)
        self.max_events = manifest.dim(count).max if isinstance(count, str) else count
        self._output = manifest.outputs[0].name

    def tensor(
        self, window: EventWindow, width: int | None = None, height: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A window as the network's input: (N, 4) float32 x/W, y/H, k/T, p with k = 0 the newest bin.

        Args:
            width, height: the sensor's size if it is not the model's; it is centred on the frame, and events of a
                larger sensor that lie outside the frame are left out, as are events older than the network's bins.
            out: write into these rows, which may be more than the events.
        """
        from f3_ros.events.binning import events_to_tensor

        rows: np.ndarray = events_to_tensor(
            window,
            width or self.width,
            height or self.height,
            self.bins,
            model_size=(self.width, self.height),
            bin_us=self.bin_us,
            out=out,
        )
        return rows

    def prepare(
        self, window: EventWindow, width: int | None = None, height: int | None = None, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The rows of a window that the network will see, at most `max_events`, and sentences on what was left out."""
        rows = self.tensor(window, width, height, out)
        used = self.thin(rows)
        warnings = []
        if len(used) < len(rows):
            warnings.append(f"thinned {len(rows)} events to the artifact's {len(used)}")
        outside = len(window.events) - len(rows)
        if outside:
            warnings.append(
                f"left out {outside} of {len(window.events)} events outside the network's {self.width}x{self.height} "
                f"pixels or {self.window_us} us"
            )
        return used, tuple(warnings)

    def check_events(self, events: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Events (N, 4) float32 as a tensor wherever they are, unpadded.

        Raises:
            InputError: the events have another shape or dtype, or are more than `max_events`: see `thin`.
        """
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(events)) if isinstance(events, np.ndarray) else events
        if tensor.dim() != 2 or tensor.shape[1] != 4 or tensor.dtype != torch.float32:
            raise InputError(
                f"expected events (N, 4) float32, found {tuple(tensor.shape)} {tensor.dtype}",
                "make them with f3_ros.events.binning.events_to_tensor",
            )
        if len(tensor) > self.max_events:
            raise InputError(
                f"expected at most {self.max_events} events, found {len(tensor)} for {self.model.path}",
                "thin them with F3Pipeline.thin, or export with a larger --n-events or --max-events",
            )
        return tensor

    def features_tensor(self, events: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The feature field (1, W', H', C) on the model's device, in the artifact's precision, freshly allocated.

        On CUDA the work is only queued.

        Raises:
            InputError: see `check_events`.
        """
        import torch

        tensor = self.check_events(events)
        if not self.variable_events and len(tensor) < self.max_events:
            padding = tensor.new_full((self.max_events - len(tensor), 4), PADDING)
            tensor = torch.cat([tensor, padding])
        if tensor.device != self.model.device:
            if self.model.device.type == "cuda":
                # Pinned memory makes the copy three times as fast; its allocator waits for the copy before reusing it.
                tensor = tensor.pin_memory()
            tensor = tensor.to(self.model.device, non_blocking=True)
        return self.run(tensor)

    def run(self, events: torch.Tensor) -> torch.Tensor:
        """The feature field of as many events as the artifact takes, on its device."""
        return self.model.run(events=events)[self._output]

    def features(self, events: np.ndarray | torch.Tensor) -> np.ndarray:
        """The feature field (C, H', W') float32 of events (N, 4) float32; see `features_tensor`."""
        field = self.features_tensor(events)
        image: np.ndarray = field[0].permute(2, 1, 0).float().contiguous().cpu().numpy()
        return image

    def thin(self, events: np.ndarray) -> np.ndarray:
        """At most `max_events` rows of events, every one equally likely to stay, in order; the same ones every time."""
        if len(events) <= self.max_events:
            return events
        from f3_ros.events.windows import thinning_indices

        return events[thinning_indices(len(events), self.max_events, "random", THINNING_SEED)]

    def process(self, window: EventWindow, width: int | None = None, height: int | None = None) -> F3Result:
        """Features of one window of a sensor of width x height pixels (default: the model's frame)."""
        used, warnings = self.prepare(window, width, height)
        return F3Result(
            features=self.features(used), n_received=window.n_received, n_events_used=len(used), warnings=warnings
        )

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()
