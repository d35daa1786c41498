# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Several cameras in; poses, depth and a fused point cloud out: command `vggt_node`.

| topic, service | type | |
|---|---|---|
| `~/NAME/image`, for each camera | sensor_msgs/Image, any encoding; or CompressedImage | in |
| `~/NAME/camera_info` | sensor_msgs/CameraInfo; may be latched | in |
| `/tf`, `/tf_static` | tf2_msgs/TFMessage: `world_frame` -> frame of each camera's images | in |
| `~/points` | sensor_msgs/PointCloud2, x y z rgb confidence; latched, at most `points_rate` | out, while subscribed |
| `~/depth/NAME`, with `~/depth/NAME/camera_info` | sensor_msgs/Image, 32FC1, metres | out, if the scale is known |
| `~/unscaled_depth/NAME`, with `.../camera_info` | the same in an arbitrary unit | out, if it is not |
| `~/poses` | geometry_msgs/PoseArray, those known, in the order of `cameras` | out |
| `~/pose/NAME` | geometry_msgs/PoseStamped | out |
| `/tf` | `unscaled_frame` -> camera | out, if `publish_tf` and the scale is arbitrary |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |
| `~/bootstrap` | std_srvs/Trigger: with the next images, whatever the map says | service |
| `~/reset` | std_srvs/Trigger: forget the map | service |
| `~/save_map`, `~/load_map` | std_srvs/Trigger; the file is the parameter `map_path` | service |
| `~/pause` | std_srvs/SetBool | service |

Points and poses lie in `world_frame` if they are metres, else in `unscaled_frame`. Depth has the stamp and the frame of
its image, and its size; images of lenses that bend (`rectified` false) are undistorted first, and so is the depth.

Three threads: the executor takes messages and puts them together, one worker runs networks and the map, one more makes
clouds. Only the newest set of images waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from aot_runtime.errors import AotError, InputError
from aot_runtime.ros.camera_set import CAMERA_STAGES, CameraMatch, CameraSet, check_names
from aot_runtime.ros.clouds import to_cloud
from aot_runtime.ros.messages import ns_to_stamp
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.node import describe, run_node
from aot_runtime.ros.parameters import declare_table
from aot_runtime.ros.qos import latched_qos
from aot_runtime.ros.tf import TransformListener
from aot_runtime.ros.worker import Worker
from aot_runtime.transforms import TransformBuffer
from vggt_ros.outputs import CameraBroadcaster, StepOutputs
from vggt_ros.parameters import MAP_PATH, TABLE, existing, read_parameters
from vggt_ros.point_stream import FIELDS, PointStream
from vggt_ros.sources import Sources
from vggt_ros.views import PosedViews, ViewMaker

if TYPE_CHECKING:
    from vggt_ros.pipeline import ReconstructionPipeline, StepResult

USAGE = """\
usage: vggt_node --ros-args -p cameras:="[left, right]" -p vggt_model:=VGGT.pt2 -p depth_model:=DEPTH.pt2
                 [-p accept_noncommercial_weights:=true] [-r ~/left/image:=/left/image_rect]
                 [-r ~/left/camera_info:=/left/camera_info] ... [--params-file vggt.yaml] ...

Fuses the images of several cameras into a map: ~/points, ~/depth/NAME, ~/poses.
All parameters with their meaning and range: config/vggt.yaml, or: ros2 param describe /vggt NAME
"""
SERVICE_PATIENCE_S = 2.0
"""Services wait so long for a step in work, no longer: the executor must go on."""


class VggtNode(ModelNode):
    """The lifecycle node; see the module's docstring for its topics and config/vggt.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("vggt", CAMERA_STAGES, **kwargs)
        declare_table(self, TABLE)
        text = "File of ~/save_map (.npz; .ply or .gaussians.ply for other programs) and ~/load_map (.npz)."
        self.declare_parameter(MAP_PATH, "", describe(text))
        self._sources: Sources | None = None
        self._pipeline: ReconstructionPipeline | None = None
        self._cameras: CameraSet | None = None
        self._listener: TransformListener | None = None
        self._broadcaster: CameraBroadcaster | None = None
        self._points_worker: Worker[None] | None = None
        self._points_timer: Any = None
        self._own_services: list[Any] = []
        self._busy = threading.Lock()
        self._version, self._points_version = 0, -1

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        from vggt_ros.pipeline import ReconstructionPipeline

        self._settings = settings = read_parameters(self)
        check_names(settings.cameras)
        limit_threads(settings.num_threads)
        self._sources = sources = Sources(settings)
        for prefix, model, work in sources.introductions:
            self.introduce(model, work, prefix)
        config = settings.pipeline_config()
        self._pipeline = ReconstructionPipeline(sources.bootstrap, sources.disparity, config, settings.device)
        self._details: dict[str, str] = {}
        self._last_bootstrap = "none"
        self._begin()
        self._outputs = StepOutputs(self, settings)
        self.add_output("points", PointCloud2, qos=latched_qos())
        self.health.add_details(self._report)
        self._own_services = [
            self.create_service(Trigger, "~/bootstrap", self._on_bootstrap),
            self.create_service(Trigger, "~/reset", self._on_reset),
            self.create_service(Trigger, "~/save_map", self._on_save_map),
            self.create_service(Trigger, "~/load_map", self._on_load_map),
            self.create_service(SetBool, "~/pause", self._on_pause),
        ]

    def activate_family(self) -> None:
        settings = self._settings
        assert self._sources is not None
        self.warm_up(self._sources.warm_up)
        self.health.stall_s = max(self.health.stall_s, settings.start_patience + 1)
        self._forced = False
        self._paused = False
        self._epoch = 0
        self._first: float | None = None
        self._points_version, self._points_subscribers = -1, 0
        self._points_at_ns = 0
        self._points_sent = 0
        buffer = None
        if settings.pose_source != "network" or settings.publish_tf:
            buffer = TransformBuffer(settings.tf_cache)
            self._listener = TransformListener(self, buffer)
        self._buffer = buffer
        looked_up = buffer if settings.pose_source != "network" else None
        self._views = ViewMaker(looked_up, settings.world_frame, settings.tf_timeout)
        if settings.publish_tf:
            self._broadcaster = CameraBroadcaster(self, buffer, settings.unscaled_frame)
        self._stream = PointStream(settings.voxel_size, settings.min_confidence, settings.max_points)
        self._points_worker = Worker("points", self._publish_points, on_error=self._points_failed)
        self._points_worker.start()
        self._points_timer = self.create_timer(
            1 / settings.points_rate, self._ask_for_points, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._cameras = CameraSet(
            self,
            settings.cameras,
            self._process,
            calibrated=settings.require_camera_info,
            num_threads=settings.num_threads,
            on_jump=self._time_went_back,
            **settings.options(),
        )

    def deactivate_family(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None
        if self._points_timer is not None:
            self.destroy_timer(self._points_timer)
            self._points_timer = None
        if self._points_worker is not None:
            if not self._points_worker.stop():
                self.get_logger().error("the thread 'points' did not end within 10 s")
            self._points_worker = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._broadcaster is not None:
            self._broadcaster.close()
            self._broadcaster = None
        for key in ("views", "pause", "scale"):
            self.health.warnings.pop(key, None)
        self._save_calibration()

    def cleanup_family(self) -> None:
        self.health.forget_sources()
        self.remove_outputs()
        for service in self._own_services:
            self.destroy_service(service)
        self._own_services = []
        self._pipeline = None
        if self._sources is not None:
            self._sources.close()
            self._sources = None
        self.forget_model()

    def _save_calibration(self) -> None:
        if self._pipeline is None or not self._settings.per_camera_calibration:
            return
        try:
            self._pipeline.save_calibration(Path(self._settings.per_camera_calibration).expanduser())
        except (AotError, OSError) as error:
            self.get_logger().error(f"the calibration was not saved: {error}")

    def _begin(self) -> None:
        """An empty map, or the initial one; and what was known of the cameras before."""
        pipeline, settings = self._pipeline, self._settings
        assert pipeline is not None
        pipeline.reset()
        if settings.initial_map:
            pipeline.load_map(existing(settings.initial_map, "initial_map"))
        known = Path(settings.per_camera_calibration).expanduser()
        if settings.per_camera_calibration and known.exists():
            pipeline.load_calibration(known)
        self._first = None
        self._details = {}
        self._version += 1
        self._points_version = -1
        self.health.warnings.pop("scale", None)

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _time_went_back(self, stamp_ns: int | None) -> None:
        if self._buffer is not None:
            self._buffer.clear(stamp_ns)

    def _ask_for_points(self) -> None:
        """A cloud is due if the map has changed, or somebody has come who has not seen it."""
        subscribers = self.outputs["points"].get_subscription_count()
        joined = subscribers > self._points_subscribers
        self._points_subscribers = subscribers
        if joined:
            self._points_version = -1
        if subscribers and self._points_version != self._version and self._points_worker is not None:
            self._points_worker.submit(None)

    def _on_bootstrap(self, request: Any, response: Any) -> Any:
        def work(pipeline: ReconstructionPipeline) -> str:
            if self._sources is None or self._sources.bootstrap is None:
                raise InputError("expected something that bootstraps, found neither vggt_model nor bootstrap_file")
            self._forced = True
            return "the next images bootstrap; /diagnostics tells under 'last bootstrap' what became of it"

        # Nothing of the map is touched here, so there is no need to wait for a step.
        return self._answer(response, work, wait=False)

    def _on_reset(self, request: Any, response: Any) -> Any:
        def work(pipeline: ReconstructionPipeline) -> str:
            self._begin()
            return f"the map is {pipeline.state}"

        return self._answer(response, work)

    def _on_save_map(self, request: Any, response: Any) -> Any:
        def work(pipeline: ReconstructionPipeline) -> str:
            path = self._map_path()
            if not path.parent.is_dir():
                raise InputError(f"expected a folder for the map, found none at {path.parent}", "make it first")
            return f"{pipeline.save_map(path)} elements in {pipeline.scale.unit} written to {path}"

        return self._answer(response, work)

    def _on_load_map(self, request: Any, response: Any) -> Any:
        def work(pipeline: ReconstructionPipeline) -> str:
            path = existing(str(self._map_path()), MAP_PATH)
            pipeline.load_map(path)
            self._version += 1
            self._points_version = -1
            return f"{pipeline.map.size} elements in {pipeline.scale.unit} read from {path}"

        return self._answer(response, work)

    def _on_pause(self, request: Any, response: Any) -> Any:
        def work(pipeline: ReconstructionPipeline) -> str:
            self._paused = bool(request.data)
            if self._paused:
                self.health.warnings["pause"] = "paused"
            else:
                self.health.warnings.pop("pause", None)
            return "paused" if self._paused else "going on"

        return self._answer(response, work, wait=False)

    def _map_path(self) -> Path:
        told = str(self.get_parameter(MAP_PATH).value)
        if not told:
            raise InputError(
                f"expected a file in the parameter '{MAP_PATH}', found it empty",
                f"ros2 param set {self.get_fully_qualified_name()} {MAP_PATH} /path/to/map.npz",
            )
        return Path(told).expanduser()

    def _answer(self, response: Any, work: Callable[[ReconstructionPipeline], str], *, wait: bool = True) -> Any:
        """Fills a service's response with what came of `work`; by default no step runs meanwhile."""
        try:
            if self.health.state != "active" or self._pipeline is None:
                raise InputError(f"expected an active node, found it {self.health.state}", "activate it")
            with self._alone(SERVICE_PATIENCE_S) if wait else _at_once():
                response.message = work(self._pipeline)
            response.success = True
        except (AotError, OSError) as error:
            response.success = False
            response.message = str(error)
            self.get_logger().warning(f"service refused: {error}")
        return response

    @contextmanager
    def _alone(self, patience_s: float = -1) -> Iterator[None]:
        """Nobody else touches the pipeline meanwhile.

        Raises:
            InputError: somebody did for longer than the patience.
        """
        if not self._busy.acquire(timeout=patience_s):
            raise InputError(
                f"expected a step to end within {patience_s:g} s, found one that takes longer",
                "ask again, or pause first",
            )
        try:
            yield
        finally:
            self._busy.release()

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _process(self, match: CameraMatch) -> None:
        """One set of images: a bootstrap or a step of streaming, then all outputs but the points."""
        if self._paused:
            self.health.dropped("paused")
            self.health.excused()
            return
        placed = self._views.views(match.items)
        with self._alone():
            pipeline = self._pipeline
            assert pipeline is not None
            if match.epoch != self._epoch:
                self._epoch = match.epoch
                if self._settings.reset_on_time_jump:
                    self._begin()
            placed, reason = self._placed(placed, match)
            if reason:
                self._tell({**placed.problems, "": reason})
                return
            forced, self._forced = self._forced, False
            result = pipeline.step(placed.views, match.stamp_ns * 1e-9, force_bootstrap=forced)
            depths = {frame.name: frame.depth for frame in result.frames}
            for name in result.bootstrapped:
                depths[name] = pipeline.map.render(result.cameras[name]).depth.cpu().numpy()
            self._note(result)
            problems = {**placed.problems, **{problem.camera: problem.text for problem in result.problems}}
            problems.update({frame.name: frame.problem for frame in result.frames if frame.problem})
        self._tell(problems if not result.reason or result.bootstrapped else {**problems, "": result.reason})
        self.health.passed("infer")
        if not result.cameras:
            if self._sources is not None and self._sources.disparity is None:
                self.health.excused()  # there are only bootstraps
            return
        metric = result.scale.metric
        finite = self._outputs.depths(match, depths, placed.cameras, result.cameras, metric=metric)
        self._outputs.poses(match, result.cameras, metric=metric)
        if self._broadcaster is not None and not metric:
            self._broadcaster.send(match, result.cameras)
        self.told_published(match, finite)

    def _placed(self, placed: PosedViews, match: CameraMatch) -> tuple[PosedViews, str]:
        """The views that may be used, with the poses that may; and why there is nothing to do yet, or ""."""
        pipeline, source = self._pipeline, self._settings.pose_source
        assert pipeline is not None
        posed = {view.name for view in placed.views if view.pose is not None}
        if source == "network":
            return self._waited(placed, match, set())
        if not pipeline.map.size:
            placed, reason = self._waited(placed, match, set(placed.unposed))
            if reason:
                return placed, reason
            if source == "tf" and len(posed) < 2:
                why = "; ".join(f"{name}: {text}" for name, text in placed.unposed.items()) or "one camera alone"
                return placed, f"expected tf of at least 2 cameras for the scale, found {len(posed)} ({why})"
            if len(posed) < 2:
                self._say_arbitrary(placed)
                return placed.without_poses(), ""
        elif not pipeline.scale.metric:
            return placed.without_poses(), ""
        # In a metric map a camera without a pose might be anywhere.
        return placed.only(posed), ""

    def _waited(self, placed: PosedViews, match: CameraMatch, unposed: set[str]) -> tuple[PosedViews, str]:
        """Whether a first bootstrap still waits for cameras that are missing or without a pose."""
        pipeline = self._pipeline
        assert pipeline is not None
        lacking = {**match.reasons, **placed.problems, **{name: placed.unposed[name] for name in unposed}}
        if pipeline.map.size or self._forced or not lacking:
            return placed, ""
        now = time.monotonic()
        self._first = self._first or now
        left = self._settings.start_patience - (now - self._first)
        if left <= 0:
            return placed, ""
        why = "; ".join(f"{name}: {text}" for name, text in lacking.items())
        return placed, f"the first bootstrap waits for {why}"

    def _say_arbitrary(self, placed: PosedViews) -> None:
        why = "; ".join(f"{name}: {text}" for name, text in placed.unposed.items()) or "one camera alone"
        text = f"the scale is arbitrary, for want of tf of 2 cameras ({why}); ~/reset tries again"
        self.health.warnings["scale"] = text
        self.get_logger().warning(text)

    def _tell(self, problems: dict[str, str]) -> None:
        """Says in diagnostics and on the log what keeps cameras, or everything, from taking part."""
        if not problems:
            self.health.warnings.pop("views", None)
            return
        text = "; ".join(f"{name}: {problem}" if name else problem for name, problem in problems.items())
        self.health.warnings["views"] = text
        self.health.failed("infer", text)
        self.warn_throttled("views", text)

    def _note(self, result: StepResult) -> None:
        """What diagnostics say of the last step."""
        if result.scale.metric:
            self.health.warnings.pop("scale", None)
        self._version += bool(result.bootstrapped) or any(frame.fused for frame in result.frames)
        self._points_at_ns = round(result.stamp_s * 1e9)
        if result.bootstrapped:
            names = ", ".join(result.bootstrapped)
            self._last_bootstrap = f"at {result.stamp_s:.3f} s of {names}: {result.reason}"
            self.get_logger().info(f"bootstrap {self._last_bootstrap}")
        elif result.reason:
            self._details["bootstrap wanted"] = f"at {result.stamp_s:.3f} s: {result.reason}"
        for frame in result.frames:
            state = "fused" if frame.fused else frame.problem
            scale = (
                "no scale yet" if frame.parameters is None else "scale {:.4g} shift {:.4g}".format(*frame.parameters)
            )
            self._details[f"depth {frame.name}"] = (
                f"{state}; {scale}, inliers {frame.inliers:.0%}, residual {frame.residual:.2%}, "
                f"map shows {frame.coverage:.0%}"
            )
        told = ", ".join(f"{name} {ms:.0f}" for name, ms in result.timings_ms.items() if "/" not in name)
        self._details["step [ms]"] = told

    def _report(self) -> dict[str, str]:
        """Values of /diagnostics; in the executor's thread."""
        pipeline, cameras = self._pipeline, self._cameras
        if pipeline is None:
            return {}
        scale = pipeline.scale
        found = {
            "reconstruction": pipeline.state,
            "scale": f"{scale.unit} by {scale.source}" if pipeline.map.size else "none yet",
            "map": f"{pipeline.map.size} {'blocks' if hasattr(pipeline.map, 'volume') else 'surfels'}",
            "map evicted": str(pipeline.map.evicted),
            "last bootstrap": self._last_bootstrap,
            **self._details,
        }
        if scale.metric:
            found["scale factor"] = f"{scale.factor:.5g} m a unit, spread {scale.spread:.2%}"
        if cameras is not None:
            found.update(cameras.details())
            found["points published"] = f"{self._points_sent}, {self._stream.left_out} left out"
        if self._listener is not None:
            found["transforms received"] = str(self._listener.received)
        return found

    # -- points' thread ------------------------------------------------------------------------------------------------

    def _publish_points(self, _: None) -> None:
        """The map, or what is new of it."""
        whole = self._settings.points_mode == "whole" or self._points_version < 0
        with self._alone():
            pipeline = self._pipeline
            assert pipeline is not None
            version, metric = self._version, pipeline.scale.metric
            surface = pipeline.map.surface()
        points = self._stream.whole(surface) if whole else self._stream.new(surface)
        self._points_version = version
        if not whole and not len(points):
            return
        header = Header(stamp=ns_to_stamp(self._points_at_ns), frame_id=self._outputs.frame(metric))
        self.outputs["points"].publish(to_cloud(points, FIELDS, header, dense=True))
        self._points_sent = len(points)

    def _points_failed(self, _: None, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.health.dropped("points_failed")
        self.health.failed("publish", reason)
        self.warn_throttled("points", f"no cloud: {reason}")


@contextmanager
def _at_once() -> Iterator[None]:
    yield


def main(argv: Sequence[str] | None = None) -> int:
    """Command `vggt_node`."""
    return run_node(VggtNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
