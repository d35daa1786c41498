# SPDX-License-Identifier: Apache-2.0
"""Several cameras' images -> poses, depth and a fused map, step by step, without ROS.

What `reconstruct` and `vggt_node` share. A step either bootstraps (poses and depth of all views by the bootstrap
source, into the map) or streams (relative disparity of each camera, aligned to the map and fused into it). A bootstrap
happens at first, when asked for, and when the map no longer shows what the cameras see; a later one is fused only if it
can be brought into the map's world and unit, else it is refused with the reason and the map goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aot_runtime.errors import AotError, InputError
from vggt_ros.depth_sources import DepthRequest, DisparitySource, MetricClaim, disparities_of, metric_claim
from vggt_ros.fusion.bootstrap import Bootstrap, BootstrapSource
from vggt_ros.fusion.cameras import PosedCamera
from vggt_ros.fusion.maps import FusedMap, SurfelFusion, TsdfFusion, load_map, make_map
from vggt_ros.fusion.open3d_tsdf import Open3dFusion
from vggt_ros.fusion.placement import PlacementLimits, place_again, place_first
from vggt_ros.fusion.ply import to_gaussians, write_cloud
from vggt_ros.fusion.scale import Scale
from vggt_ros.fusion.streaming import Reconstruction, StreamConfig, StreamFrame
from vggt_ros.fusion.tsdf import TsdfConfig
from vggt_ros.steps import Problem, Step, StepResult, View

GAUSSIANS_SUFFIX = ".gaussians.ply"


@dataclass(frozen=True)
class PipelineConfig:
    """How a reconstruction is made.

    Attributes:
        fusion: kind of map: "surfel" or "tsdf".
        tsdf_backend: of "tsdf": "torch", or "open3d" if that is installed.
        voxel_size: in metres, or in the map's unit.
        trunc_margin: distance at which a field ends; None: 4 voxels.
        smooth_scale: share that a new scale and shift have in an average, 0..1; 0: by their covariance.
        min_views: a bootstrap needs so many.
        rebootstrap: whether to bootstrap again when the map asks for it; one that is forced always is.
        rebootstrap_period_s: also after so many seconds; None: never.
        rebootstrap_pause_s: at least so many seconds between attempts, successful or not.
        metric_depth: camera -> (H, W) metres on the first bootstrap's grid, to find the scale where poses are unknown;
            without it a metric depth network does.
        arbitrary_scale: go on in an arbitrary unit if nothing metric is known; else there is no map until it is.
        placement: what a later bootstrap must satisfy.
        stream: everything about streaming; `smooth_scale` and the two times above go before what it has of them.

    Raises:
        InputError: a number makes no sense.
    """

    fusion: str = "surfel"
    tsdf_backend: str = "torch"
    voxel_size: float = 0.02
    trunc_margin: float | None = None
    smooth_scale: float = 0.0
    min_views: int = 1
    rebootstrap: bool = True
    rebootstrap_period_s: float | None = None
    rebootstrap_pause_s: float = 1.0
    metric_depth: Mapping[str, np.ndarray] = field(default_factory=dict)
    arbitrary_scale: bool = False
    placement: PlacementLimits = field(default_factory=PlacementLimits)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.smooth_scale <= 1:
            raise InputError(f"expected smooth_scale from 0 to 1, found {self.smooth_scale}")
        if self.min_views < 1 or self.rebootstrap_pause_s < 0 or (self.rebootstrap_period_s or 1) <= 0:
            raise InputError(f"expected at least one view, no negative pause and a period above 0, found {self}")

    @property
    def streaming(self) -> StreamConfig:
        """`stream` with this configuration's own numbers."""
        keyframes = replace(
            self.stream.keyframes, period_s=self.rebootstrap_period_s, least_pause_s=self.rebootstrap_pause_s
        )
        smoothing = replace(self.stream.smoothing, average=self.smooth_scale)
        return replace(self.stream, keyframes=keyframes, smoothing=smoothing)

    def make_map(self, device: torch.device) -> FusedMap:
        """An empty map of this kind."""
        tsdf = TsdfConfig(self.voxel_size, self.trunc_margin)
        return make_map(self.fusion, tsdf=tsdf, device=device, backend=self.tsdf_backend)


class ReconstructionPipeline:
    """A map that grows by steps. Not to be called from two threads at once.

    Args:
        source: makes bootstraps; None: only a loaded map is streamed into.
        disparity: gives streaming depth; None: there are only bootstraps.
        device: of the map: "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: the configuration makes no sense, or there is no such device.
    """

    def __init__(
        self,
        source: BootstrapSource | None,
        disparity: DisparitySource | None,
        config: PipelineConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config or PipelineConfig()
        self._source, self._disparity = source, disparity
        self._device = _usable(device)
        self._whole = Reconstruction(self.config.make_map(self._device), self.config.streaming)
        self._known: dict[str, PosedCamera] = {}
        self._tried_s: float | None = None

    @property
    def map(self) -> FusedMap:
        """What was fused so far."""
        return self._whole.map

    @property
    def scale(self) -> Scale:
        """Of the map; arbitrary before the first bootstrap."""
        return self._whole.scale

    @property
    def metric_network(self) -> MetricClaim | None:
        """What the source of disparity says of metres; None if it has none."""
        return metric_claim(self._disparity)

    @property
    def wants_bootstrap(self) -> str:
        """Why a bootstrap is due; "" if none is."""
        return self._whole.wants_bootstrap or ""

    @property
    def state(self) -> str:
        """ "empty" before the first bootstrap, "streaming", or "lost" while the map wants another one."""
        if not self.map.size:
            return "empty"
        return "lost" if self.wants_bootstrap else "streaming"

    def step(self, views: Sequence[View], stamp_s: float, *, force_bootstrap: bool = False) -> StepResult:
        """Take in the images of one instant.

        A camera that is missing is simply not among the views; one that is malformed or unknown is a problem, and the
        others go on.

        Args:
            views: those that are there; the first of a bootstrap's is the reference.
            stamp_s: of the images. It may jump back (a bag that starts again).
            force_bootstrap: bootstrap now, whatever the map says.

        Raises:
            InputError: a camera occurs twice.
        """
        names = [view.name for view in views]
        if len(set(names)) != len(names):
            raise InputError(f"expected each camera once in a step, found {sorted(names)}")
        begun = time.perf_counter()
        step = Step(stamp_s)
        good = [view for view in views if step.accepts(view)]
        if self._due(stamp_s, force_bootstrap):
            self._try_bootstrap(good, step)
        elif not self.map.size:
            step.reason = f"a bootstrap is due: {self.wants_bootstrap}"
        if self.map.size and not step.bootstrapped:
            self._stream(good, step)
        step.timings["total"] = _since(begun)
        return step.result(self.scale)

    def reset(self) -> None:
        """Forget the map, the calibrations of the cameras and where they were."""
        self._whole = Reconstruction(self.config.make_map(self._device), self.config.streaming)
        self._known.clear()
        self._tried_s = None

    def save_map(self, path: Path) -> int:
        """Write the map by suffix: .npz (for `load_map`), .gaussians.ply (a start for 3D Gaussian splatting) or .ply.

        Returns:
            how many surfels or blocks, Gaussians, or points.

        Raises:
            InputError: the suffix is unknown, or there is no map yet.
        """
        if not self.map.size:
            raise InputError("expected a map to save, found an empty one", "bootstrap first")
        if path.name.endswith(GAUSSIANS_SUFFIX):
            return to_gaussians(path, self.map.surface(), gaussian_radius(self.map))
        if path.suffix == ".ply":
            return write_cloud(path, self.map.surface())
        if path.suffix == ".npz":
            self.map.save(path, self.scale)
            return self.map.size
        raise InputError(f"expected a map's name in .npz, .ply or {GAUSSIANS_SUFFIX}, found {path.name}")

    def load_map(self, path: Path) -> None:
        """Go on with a map that `save_map` wrote as .npz; all that was known of the cameras is forgotten.

        Raises:
            InputError: the file is no map, or an empty one; everything stays as it was.
        """
        fused, scale = load_map(path, self._device)
        whole = Reconstruction(fused, self.config.streaming)
        whole.resume(scale)
        self.reset()
        self._whole = whole

    def load_calibration(self, path: Path) -> None:
        """Scale and shift of cameras from JSON; see `DisparityFilter.load`."""
        self._whole.filter.load(path)

    def save_calibration(self, path: Path) -> None:
        """Scale and shift of all cameras as JSON."""
        self._whole.filter.save(path)

    # -- bootstraps ----------------------------------------------------------------------------------------------------

    def _due(self, stamp_s: float, forced: bool) -> bool:
        if forced:
            return True
        if not self.wants_bootstrap or (self.map.size and not (self.config.rebootstrap and self._source)):
            return False
        waited = None if self._tried_s is None else stamp_s - self._tried_s
        # A time that went back starts the pause anew.
        return waited is None or waited < 0 or waited >= self.config.rebootstrap_pause_s

    def _try_bootstrap(self, views: Sequence[View], step: Step) -> None:
        begun = time.perf_counter()
        why = self.wants_bootstrap or "it was asked for"
        try:
            step.bootstrapped = self._bootstrap(views, step)
            step.reason = why
        except AotError as error:
            step.reason = f"a bootstrap was refused: {error}" if self.map.size else str(error)
        finally:
            self._tried_s = step.stamp_s
            step.timings["bootstrap"] = _since(begun)

    def _bootstrap(self, views: Sequence[View], step: Step) -> tuple[str, ...]:
        if self._source is None:
            raise InputError("expected a source of bootstraps, found none", "load a map, or give a VGGT artifact")
        if len(views) < self.config.min_views:
            raise InputError(f"expected at least {self.config.min_views} views for a bootstrap, found {len(views)}")
        images = {view.name: view.image for view in views}
        matrices = {view.name: view.matrix for view in views if view.matrix is not None}
        found = self._source.bootstrap(images, matrices)
        given = {view.name: view.pose for view in views if view.pose is not None}
        if self.map.size:
            before = {name: camera.pose for name, camera in self._known.items()}
            placed = place_again(found, self.map, self.scale, given, before, self.config.placement)
            step.problems += [Problem(name, text) for name, text in placed.left_out.items()]
            found = placed.views
        else:
            found = self._place_first(found, views, given, step)
        self._take(found, images, step)
        return found.names

    def _place_first(
        self, found: Bootstrap, views: Sequence[View], given: Mapping[str, np.ndarray], step: Step
    ) -> Bootstrap:
        depth, network, doubt = self.config.metric_depth, "", ""
        claim = self.metric_network
        if claim is not None and not depth and len(given) < 2:
            network, doubt = claim.file, claim.doubt
            depth = {} if doubt else self._metric_depth(found, views, step)
        placed = place_first(found, given, depth, network=network, arbitrary=self.config.arbitrary_scale, doubt=doubt)
        if doubt:
            step.problems.append(Problem("", f"{doubt}; not used for the scale, which is arbitrary"))
        return placed

    def _metric_depth(self, found: Bootstrap, views: Sequence[View], step: Step) -> dict[str, np.ndarray]:
        """Metres on the grids of a bootstrap's views, by a metric depth network.

        Raises:
            InputError: the network gives none for any of them; otherwise this is only a view's problem.
        """
        assert self._disparity is not None
        seen = [view for view in views if view.name in found.names]
        requests = [DepthRequest(view.name, view.image_name, view.image) for view in seen]
        depth: dict[str, np.ndarray] = {}
        for view, answer in zip(seen, disparities_of(self._disparity, requests)):
            if isinstance(answer.disparity, AotError):
                step.problems.append(Problem(view.name, str(answer.disparity)))
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                metres = np.asarray(1 / answer.disparity, np.float32)
            depth[view.name] = found.depth_on_grid(found.names.index(view.name), metres)
        if not depth:
            raise InputError(f"expected metric depth of {', '.join(found.names)}, found none: {step.problems[-1].text}")
        return depth

    def _take(self, found: Bootstrap, images: Mapping[str, np.ndarray], step: Step) -> None:
        colours = {name: found.colour(index, images[name]) for index, name in enumerate(found.names)}
        self._whole.bootstrap(found, colours, step.stamp_s)
        for index, name in enumerate(found.names):
            height, width = images[name].shape[:2]
            self._known[name] = step.cameras[name] = found.image_camera(index, width, height)

    # -- streaming -----------------------------------------------------------------------------------------------------

    def _stream(self, views: Sequence[View], step: Step) -> None:
        if self._disparity is None:
            self._whole.update([], step.stamp_s)
            return
        placed: list[tuple[View, PosedCamera]] = []
        for view in views:
            try:
                placed.append((view, self._camera(view, step)))
            except InputError as error:
                step.problems.append(Problem(view.name, str(error)))
        begun = time.perf_counter()
        requests = [DepthRequest(view.name, view.image_name, view.image) for view, _ in placed]
        frames = []
        for (view, camera), found in zip(placed, disparities_of(self._disparity, requests)):
            step.timings[f"depth/{view.name}"] = found.milliseconds
            if isinstance(found.disparity, AotError):
                step.problems.append(Problem(view.name, str(found.disparity)))
                continue
            step.cameras[view.name] = camera
            frames.append(StreamFrame(view.name, camera, found.disparity, view.image))
        step.timings["depth"] = _since(begun)
        begun = time.perf_counter()
        step.frames = self._whole.update(frames, step.stamp_s)
        step.timings["update"] = _since(begun)
        for result in step.frames:
            if result.fused:
                self._remember(result.name, step.cameras[result.name])
        if self.wants_bootstrap and not step.reason:
            step.reason = f"a new bootstrap is due: {self.wants_bootstrap}"

    def _why_no_pose(self) -> str:
        if self.scale.metric:
            return "its pose is of another world than the map, whose bootstrap had none; not used"
        return f"its pose is in metres, the map in {self.scale.unit}; not used"

    def _remember(self, name: str, camera: PosedCamera) -> None:
        """Where a camera was when the map last agreed with it; its grid stays that of the bootstrap."""
        known = self._known.get(name)
        self._known[name] = camera if known is None else replace(known, pose=camera.pose)

    def _camera(self, view: View, step: Step) -> PosedCamera:
        """Where a camera is: as the view says, else where it last was."""
        known, matrix, pose = self._known.get(view.name), view.matrix, view.pose
        height, width = view.image.shape[:2]
        if pose is not None and not self.scale.anchored:
            step.problems.append(Problem(view.name, self._why_no_pose()))
            pose = None
        if (matrix is None or pose is None) and known is None:
            raise InputError(
                f"expected intrinsics and a pose of '{view.name}', found none: it was not in the bootstrap either",
                "give --intrinsics and --poses",
            )
        if matrix is None:
            assert known is not None
            if (known.width, known.height) != (width, height):
                told = f"its images were {known.width}x{known.height} and are {width}x{height}; taken for resized"
                step.problems.append(Problem(view.name, told))
            matrix = known.resized(width, height).matrix
        if pose is None:
            assert known is not None
            pose = known.pose
        return PosedCamera(matrix, pose, width, height)


def gaussian_radius(fused: FusedMap) -> Any:
    """The extent of a map's points along their surface, for `to_gaussians`: a number, or one for each."""
    if isinstance(fused, TsdfFusion):
        return fused.volume.config.voxel / 2
    if isinstance(fused, SurfelFusion):
        return fused.surfels.radii[fused.surfels.shown].cpu().numpy()
    if isinstance(fused, Open3dFusion):
        return fused.config.voxel / 2
    raise InputError(f"expected surfels or a field to make Gaussians of, found {type(fused).__name__}")


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InputError(f"expected the device cpu, cuda or cuda:N, found {str(device)!r}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"expected a GPU for the device {found}, found {torch.cuda.device_count()} that torch can use", "use cpu"
        )
    return found


def _since(begun: float) -> float:
    return 1000 * (time.perf_counter() - begun)
