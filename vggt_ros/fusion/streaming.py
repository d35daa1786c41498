# SPDX-License-Identifier: Apache-2.0
"""The map over time: started by a bootstrap, kept by frames whose relative disparity is aligned to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from aot_runtime.errors import InputError
from vggt_ros.fusion.alignment import MAD_TO_SIGMA, AlignmentLimits, depth_from_disparity, fit_disparity
from vggt_ros.fusion.bootstrap import Bootstrap
from vggt_ros.fusion.cameras import PosedCamera, depth_view
from vggt_ros.fusion.keyframes import KeyframeConfig, KeyframeDecision
from vggt_ros.fusion.maps import FusedMap
from vggt_ros.fusion.scale import ARBITRARY, Scale
from vggt_ros.fusion.smoothing import DisparityFilter, SmoothingConfig


@dataclass(frozen=True)
class StreamConfig:
    """How frames are taken in.

    Attributes:
        limits, smoothing, keyframes: see there.
        frame_weight: confidence of an aligned pixel beside a bootstrap's, which is about 1.
        normal_window: see `cameras.depth_view`; wide, since networks' depth is rough.
        edge: see `cameras.depth_view`.
        range_max: depth beyond is unknown, in the map's unit.
        max_step, max_turn: greatest plausible motion of a camera between two of its frames, in the map's unit and in
            degrees. A greater one is a jump of localisation or a loop in the input: its frames are not fused until
            they agree with the map `jump_patience` times in a row.
        jump_patience: see there.
    """

    limits: AlignmentLimits = field(default_factory=AlignmentLimits)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    frame_weight: float = 0.2
    normal_window: int = 3
    edge: float = 0.04
    range_max: float = 20.0
    max_step: float = 1.0
    max_turn: float = 60.0
    jump_patience: int = 2


@dataclass(frozen=True)
class StreamFrame:
    """One camera's part of a batch.

    Attributes:
        name: of the camera.
        camera: where it is, on the grid of `relative`.
        relative: (H, W) relative disparity, greater is nearer; not finite where unknown.
        colour: (H, W, 3) uint8 RGB or None.
    """

    name: str
    camera: PosedCamera
    relative: np.ndarray
    colour: np.ndarray | None = None


@dataclass(frozen=True)
class FrameResult:
    """What became of a frame.

    Attributes:
        name: of the camera.
        depth: (H, W) float32 in the map's unit, NaN where unknown; all NaN if nothing is known of its scale.
        parameters: (2,) scale and shift that made it, or None.
        residual, inliers: of the fit; see `alignment.DisparityFit`.
        coverage: share of the pixels that the map showed before the frame was fused.
        fused: whether the frame went into the map.
        problem: why it did not; "" if it did.
    """

    name: str
    depth: np.ndarray
    parameters: np.ndarray | None
    residual: float
    inliers: float
    coverage: float
    fused: bool
    problem: str = ""


class Reconstruction:
    """A map, the calibrations of its cameras, and the judgement whether they still fit each other."""

    def __init__(self, fused: FusedMap, config: StreamConfig | None = None) -> None:
        self.map = fused
        self.config = config or StreamConfig()
        self.filter = DisparityFilter(self.config.smoothing)
        self.keyframes = KeyframeDecision(self.config.keyframes)
        self.scale: Scale = ARBITRARY
        self.wants_bootstrap: str | None = "there was no bootstrap yet"
        self._poses: dict[str, np.ndarray] = {}
        self._jumped: dict[str, int] = {}

    def bootstrap(self, views: Bootstrap, colours: Mapping[str, np.ndarray] | None = None, time_s: float = 0.0) -> None:
        """Fuse a bootstrap's views.

        Args:
            views: in the map's unit and world (see `placement.place_again`); of an empty map they decide both.
            colours: camera -> (H, W, 3) RGB on the depth's grid.
            time_s: of the images.

        Raises:
            InputError: the views' unit is another than the map's, or there is no depth in any.
        """
        if self.map.size and self.scale.metric != views.scale.metric:
            raise InputError(
                f"expected a bootstrap in the map's {self.scale.unit}, found one in {views.scale.unit}",
                "scale it as the first one was, or reset the map",
            )
        if not np.isfinite(views.depth).any():
            raise InputError("expected depth in a bootstrap, found none", "check the images and the network")
        if not self.map.size:
            self.scale = views.scale
        for index, name in enumerate(views.names):
            camera = views.camera(index)
            colour = (colours or {}).get(name)
            self.map.fuse(
                depth_view(
                    camera,
                    views.depth[index],
                    views.confidence[index],
                    colour,
                    range_max=self.config.range_max,
                    device=self.map.device,
                )
            )
            self._poses[name] = camera.pose
        self.keyframes.bootstrapped(time_s)
        self.wants_bootstrap = None

    def update(self, frames: Sequence[StreamFrame], time_s: float = 0.0) -> list[FrameResult]:
        """Align the frames of one instant to the map, then fuse those that fit.

        A camera that is missing is simply not there, and one whose images are not of its size is rejected alone. All
        are aligned before the first is fused, so that their order does not matter to the depth.

        Raises:
            InputError: a camera occurs twice.
        """
        names = [frame.name for frame in frames]
        if len(set(names)) != len(names):
            raise InputError(f"expected each camera once in a batch, found {sorted(names)}")
        results = [self._aligned(frame) for frame in frames]
        for frame, result in zip(frames, results):
            if result.fused:
                self._fuse(frame, result)
        self.wants_bootstrap = self.keyframes.judge(
            time_s,
            [result.coverage for result in results],
            [result.residual for result in results if result.fused],
            sum(not result.fused for result in results),
        )
        return results

    def resume(self, scale: Scale, time_s: float = 0.0) -> None:
        """Go on with the map that this was made with, which is not empty: it was saved before.

        Raises:
            InputError: the map is empty.
        """
        if not self.map.size:
            raise InputError("expected a map to go on with, found an empty one", "bootstrap first")
        self.scale = scale
        self.keyframes.bootstrapped(time_s)
        self.wants_bootstrap = None

    def reset_calibration(self) -> None:
        """Forget scale and shift of all cameras, for example after the depth network was changed."""
        self.filter.reset()

    def _aligned(self, frame: StreamFrame) -> FrameResult:
        size = (frame.camera.height, frame.camera.width)
        for image in (frame.relative, frame.colour):
            if image is not None and image.shape[:2] != size:
                found = "x".join(str(side) for side in image.shape[1::-1])
                problem = f"expected images of the camera's {size[1]}x{size[0]} pixels, found {found}"
                depth = np.full(frame.relative.shape[:2], np.nan, np.float32)
                return FrameResult(frame.name, depth, None, float("nan"), 0.0, 0.0, False, problem)
        shown = self.map.render(frame.camera)
        fit = fit_disparity(frame.relative, shown.depth.cpu().numpy(), limits=self.config.limits)
        problem = self._jump(frame, fit.accepted)
        if problem:
            # Its fit must not touch the calibration either.
            known = self.filter.cameras.get(frame.name)
            parameters = None if known is None else known.parameters
        else:
            parameters, problem = self.filter.update(frame.name, fit)
        if parameters is None:
            depth = np.full(frame.relative.shape, np.nan, np.float32)
        else:
            depth = depth_from_disparity(frame.relative, parameters, self.config.range_max)
        return FrameResult(
            frame.name, depth, parameters, fit.residual, fit.inliers, shown.coverage, not problem, problem
        )

    def _jump(self, frame: StreamFrame, agrees: bool) -> str:
        """Why the camera's motion since its last good frame is implausible; "" if it is not."""
        pose, last = frame.camera.pose, self._poses.get(frame.name)
        if last is None:
            self._poses[frame.name] = pose
            return ""
        step = float(np.linalg.norm(pose[:3, 3] - last[:3, 3]))
        cosine = (np.trace(pose[:3, :3] @ last[:3, :3].T) - 1) / 2
        turn = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        if step <= self.config.max_step and turn <= self.config.max_turn:
            self._poses[frame.name] = pose
            self._jumped.pop(frame.name, None)
            return ""
        count = self._jumped.get(frame.name, 0) + 1 if agrees else 0
        self._jumped[frame.name] = count
        if count > self.config.jump_patience:
            self._poses[frame.name] = pose
            del self._jumped[frame.name]
            return ""
        return f"expected a camera that moves at most {self.config.max_step:g} and turns at most" + (
            f" {self.config.max_turn:g} degrees, found {step:.3g} and {turn:.0f}"
        )

    def _fuse(self, frame: StreamFrame, result: FrameResult) -> None:
        self.map.fuse(
            depth_view(
                frame.camera,
                torch.from_numpy(result.depth),
                self.config.frame_weight,
                frame.colour,
                window=self.config.normal_window,
                edge=self.config.edge,
                range_max=self.config.range_max,
                noise=MAD_TO_SIGMA * result.residual,
                anchor=False,
                device=self.map.device,
            )
        )
