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
| `/tf` | `unscaled_frame` -> camera | out, if `publish_tf` and no tf was there when the map began |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |
| `~/bootstrap` | std_srvs/Trigger: with the next images, whatever the map says | service |
| `~/reset` | std_srvs/Trigger: forget the map | service |
| `~/save_map`, `~/load_map` | std_srvs/Trigger; the file is the parameter `map_path` | service |
| `~/pause` | std_srvs/SetBool | service |

Points and poses lie in `world_frame` if tf placed them there, else in `unscaled_frame`. Depth has the stamp and the
frame of its image, and its size; images of lenses that bend (`rectified` false) are undistorted first, and so is it.

Three threads: the executor takes messages and puts them together, one worker runs networks and the map, one more makes
clouds. Only the newest set of images waits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import AotError
from aot_runtime.ros.camera_set import CAMERA_STAGES, CameraMatch, CameraSet, check_names
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.node import describe, run_node
from aot_runtime.ros.parameters import declare_table
from aot_runtime.ros.tf import TransformListener
from aot_runtime.transforms import TransformBuffer
from vggt_ros.cloud_publisher import CloudPublisher, add_points_output
from vggt_ros.outputs import CameraBroadcaster, StepOutputs
from vggt_ros.parameters import TABLE, read_parameters
from vggt_ros.pose_policy import PosePolicy
from vggt_ros.services import MAP_PATH, MapServices
from vggt_ros.shared_map import SharedMap
from vggt_ros.sources import Sources
from vggt_ros.views import ViewMaker

if TYPE_CHECKING:
    from vggt_ros.steps import StepResult

USAGE = """\
usage: vggt_node --ros-args -p cameras:="[left, right]" -p vggt_model:=VGGT.pt2 -p depth_model:=DEPTH.pt2
                 [-p accept_noncommercial_weights:=true] [-r "~/left/image:=/left/image_rect"]
                 [-r "~/left/camera_info:=/left/camera_info"] ... [--params-file vggt.yaml] ...

Fuses the images of several cameras into a map: ~/points, ~/depth/NAME, ~/poses.
All parameters with their meaning and range: config/vggt.yaml, or: ros2 param describe /vggt NAME
"""


class VggtNode(ModelNode):
    """The lifecycle node; see the module's docstring for its topics and config/vggt.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("vggt", CAMERA_STAGES, **kwargs)
        declare_table(self, TABLE)
        text = "File of ~/save_map (.npz; .ply or .gaussians.ply for other programs) and ~/load_map (.npz)."
        self.declare_parameter(MAP_PATH, "", describe(text))
        self._sources: Sources | None = None
        self._shared: SharedMap | None = None
        self._map_services: MapServices | None = None
        self._cameras: CameraSet | None = None
        self._clouds: CloudPublisher | None = None
        self._buffer: TransformBuffer | None = None
        self._listener: TransformListener | None = None
        self._broadcaster: CameraBroadcaster | None = None

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        from vggt_ros.pipeline import ReconstructionPipeline

        self._settings = settings = read_parameters(self)
        check_names(settings.cameras)
        limit_threads(settings.num_threads)
        self._sources = sources = Sources(settings)
        for prefix, model, work in sources.introductions:
            self.introduce(model, work, prefix)
        pipeline = ReconstructionPipeline(
            sources.bootstrap, sources.disparity, settings.pipeline_config(), settings.device
        )
        self._shared = SharedMap(pipeline, settings)
        self._told: dict[str, str] = {}
        self._outputs = StepOutputs(self, settings)
        add_points_output(self)
        self.health.add_details(self._report)
        self._map_services = MapServices(self, self._shared, can_bootstrap=sources.bootstrap is not None)

    def activate_family(self) -> None:
        settings, sources, shared, services = self._settings, self._sources, self._shared, self._map_services
        assert sources is not None
        assert shared is not None
        assert services is not None
        self.warm_up(sources.warm_up)
        self.health.stall_s = max(self.health.stall_s, settings.start_patience + 1)
        services.start()
        self._epoch = 0
        self._policy = PosePolicy(settings.pose_source, settings.start_patience)
        if settings.pose_source != "network" or settings.publish_tf:
            self._buffer = TransformBuffer(settings.tf_cache)
            self._listener = TransformListener(self, self._buffer)
        looked_up = self._buffer if settings.pose_source != "network" else None
        self._views = ViewMaker(looked_up, settings.world_frame, settings.tf_timeout)
        if settings.publish_tf and settings.pose_source == "tf":
            self.get_logger().warning("publish_tf does nothing with pose_source tf: poses are on /tf already")
        elif settings.publish_tf:
            self._broadcaster = CameraBroadcaster(self, self._buffer, settings.unscaled_frame)
        self._clouds = CloudPublisher(self, shared, settings, self._outputs.frame)
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
        for part in (self._cameras, self._clouds, self._listener, self._broadcaster):
            if part is not None:
                part.close()
        self._cameras = self._clouds = self._listener = self._broadcaster = self._buffer = None
        for key in ("views", "pause", "scale"):
            self.health.warnings.pop(key, None)
        try:
            if self._shared is not None:
                self._shared.save_calibration()
        except (AotError, OSError) as error:
            self.get_logger().error(f"the calibration was not saved: {error}")

    def cleanup_family(self) -> None:
        self.health.forget_sources()
        self.remove_outputs()
        if self._map_services is not None:
            self._map_services.close()
            self._map_services = None
        self._shared = None
        if self._sources is not None:
            self._sources.close()
            self._sources = None
        self.forget_model()

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _time_went_back(self, stamp_ns: int | None) -> None:
        if self._buffer is not None:
            self._buffer.clear(stamp_ns)

    def _report(self) -> dict[str, str]:
        """Values of /diagnostics."""
        if self._shared is None:
            return {}
        pipeline = self._shared.pipeline
        fused, scale = pipeline.map, pipeline.scale
        found = {
            "reconstruction": pipeline.state,
            "scale": f"{scale.unit} by {scale.name}" if fused.size else "none yet",
            "frame": self._outputs.frame(scale.anchored) if fused.size else "none yet",
            "map": f"{fused.size} {'blocks' if hasattr(fused, 'volume') else 'surfels'}",
            "map evicted": str(fused.evicted),
            "last bootstrap": "none",
            **self._told,
        }
        if scale.metric:
            found["scale factor"] = f"{scale.factor:.5g} m a unit, spread {scale.spread:.2%}"
        for part in (self._cameras, self._clouds):
            if part is not None:
                found.update(part.details())
        if self._listener is not None:
            found["transforms received"] = str(self._listener.received)
        return found

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _process(self, match: CameraMatch) -> None:
        """One set of images: a bootstrap or a step of streaming, then all outputs but the points."""
        shared, services, sources = self._shared, self._map_services, self._sources
        if shared is None or services is None or sources is None:
            return
        if services.paused:
            self.health.dropped("paused")
            self.health.excused()
            return
        begun = shared.pipeline
        unposed = begun.map.size > 0 and not begun.scale.anchored and match.epoch == self._epoch
        placed = self._views.views(match.items, posed=not unposed)
        with shared.alone() as pipeline:
            if match.epoch != self._epoch:
                self._epoch = match.epoch
                if self._settings.reset_on_time_jump:
                    shared.begin()
                    self._told = {}
            if unposed and not pipeline.map.size:
                return  # somebody has reset the map meanwhile: the next images have poses again
            decision = self._policy.decide(pipeline, placed, match.reasons, hurry=services.forced)
            placed = decision.views
            if decision.wait:
                self._tell({**placed.problems, "": decision.wait})
                return
            if decision.arbitrary:
                self._say_arbitrary(decision.arbitrary)
            forced, services.forced = services.forced, False
            result = pipeline.step(placed.views, match.stamp_ns * 1e-9, force_bootstrap=forced)
            depths = {frame.name: frame.depth for frame in result.frames}
            for name in result.bootstrapped:
                depths[name] = pipeline.map.render(result.cameras[name]).depth.cpu().numpy()
            shared.stamp_ns = match.stamp_ns
            shared.version += bool(result.bootstrapped) or any(frame.fused for frame in result.frames)
        self._note(result, placed.problems)
        if not result.cameras:
            if sources.disparity is None and pipeline.map.size:
                self.health.excused()  # there are only bootstraps
            return
        self.health.passed("infer")
        scale = result.scale
        finite = self._outputs.depths(match, depths, placed.cameras, result.cameras, metric=scale.metric)
        self._outputs.poses(match, result.cameras, anchored=scale.anchored)
        if self._broadcaster is not None and not scale.anchored:
            self._broadcaster.send(match, result.cameras)
        self.told_published(match, finite)

    def _say_arbitrary(self, why: str) -> None:
        text = f"the scale is arbitrary for want of tf ({why}); once it is there, call ~/reset"
        self.health.warnings["scale"] = text
        self.warn_throttled("scale", text)

    def _tell(self, problems: Mapping[str, str]) -> None:
        """Says in diagnostics and on the log what keeps cameras, or everything, from taking part."""
        if not problems:
            self.health.warnings.pop("views", None)
            return
        text = "; ".join(f"{name}: {problem}" if name else problem for name, problem in problems.items())
        self.health.warnings["views"] = text
        self.health.failed("infer", text)
        self.warn_throttled("views", text)

    def _note(self, result: StepResult, problems: Mapping[str, str]) -> None:
        """What diagnostics say of a step."""
        told, reason = dict(self._told), result.reason
        if result.scale.metric:
            self.health.warnings.pop("scale", None)
        if result.bootstrapped:
            told["last bootstrap"] = f"at {result.stamp_s:.3f} s of {', '.join(result.bootstrapped)}: {reason}"
            told.pop("bootstrap wanted", None)
            self.get_logger().info(f"bootstrap {told['last bootstrap']}")
        elif reason:
            told["bootstrap wanted"] = f"at {result.stamp_s:.3f} s: {reason}"
        for frame in result.frames:
            known = frame.parameters
            scale = "no scale yet" if known is None else f"scale {known[0]:.4g}, shift {known[1]:.4g}"
            told[f"depth {frame.name}"] = (
                f"{'fused' if frame.fused else frame.problem}; {scale}, inliers {frame.inliers:.0%}, "
                f"residual {frame.residual:.2%}, map shows {frame.coverage:.0%}"
            )
        told["step [ms]"] = ", ".join(f"{name} {ms:.0f}" for name, ms in result.timings_ms.items() if "/" not in name)
        self._told = told
        found = {**problems, **{problem.camera: problem.text for problem in result.problems}}
        found.update({frame.name: frame.problem for frame in result.frames if frame.problem})
        self._tell(found if result.bootstrapped or not reason else {**found, "": reason})


def main(argv: Sequence[str] | None = None) -> int:
    """Command `vggt_node`."""
    return run_node(VggtNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
