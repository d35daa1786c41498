# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""Surround cameras in, features on a grid around the vehicle out: command `bev_node`.

| topic | type | |
|---|---|---|
| `~/NAME/image`, for each camera | sensor_msgs/Image, any encoding and size; or CompressedImage | in |
| `~/NAME/camera_info` | sensor_msgs/CameraInfo; may be latched; not with `calibration_file` | in |
| `/tf`, `/tf_static` | tf2_msgs/TFMessage: `base_frame` -> each camera's frame; `fixed_frame` -> `base_frame` | in |
| `~/bev_features` | sensor_msgs/Image, 32FC<channels>: rows are y, columns x, see `bev_ros.grid` | out |
| `~/bev_preview` | sensor_msgs/Image, bgr8, forward up, for people | out * |
| `~/coverage` | sensor_msgs/Image, mono8: how many cameras reach a cell, on the features' rows and columns | out * |
| `~/bev_info` | diagnostic_msgs/DiagnosticArray: cameras in the map and missing, calibration hash | out * |
| `/diagnostics` | diagnostic_msgs/DiagnosticArray | out |

* while subscribed

All outputs of a set have its reference stamp, by which they belong together, and the frame `base_frame`. The grid is
told by the parameters `grid.x`, `grid.y`, `grid.z`, `grid.rule`, `grid.channels`, `grid.axis_order` and `grid.frame`
while the node is configured.

A camera without an image, calibration or transform is left out of the sums, or with `missing_cameras` "skip" there is
no map; nothing ever takes an image's place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from aot_runtime.errors import InputError
from aot_runtime.ros.camera_set import CAMERA_STAGES, CameraMatch, CameraSet, check_names
from aot_runtime.ros.diagnostics import count_finite
from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.node import describe, run_node
from aot_runtime.ros.parameters import declare_table
from aot_runtime.ros.tf import TransformListener
from aot_runtime.transforms import TransformBuffer
from bev_ros.calibration import CameraCalibration, Rig, read_rig
from bev_ros.parameters import TABLE, BevSettings, read_parameters, stated_parameters
from bev_ros.preview import Coverage, Painter
from bev_ros.rig_source import RigSource

if TYPE_CHECKING:
    from rclpy.parameter import Parameter

    from bev_ros.config import BevConfig
    from bev_ros.pipeline import BevPipeline, BevResult

USAGE = """\
usage: bev_node --ros-args -p model:=BEV.pt2 -p cameras:="[front, left, right]"
                [-r "~/front/image:=/front/image_rect"] [-r "~/front/camera_info:=/front/camera_info"] ...
                [-p calibration_file:=rig.yaml] [-p missing_cameras:=skip] [--params-file bev.yaml] ...

Features of surround cameras on a grid around the vehicle: ~/bev_features, ~/bev_preview.
All parameters with their meaning and range: config/bev.yaml, or: ros2 param describe /bev NAME
"""


class BevNode(ModelNode):
    """The lifecycle node; see the module's docstring for its topics and config/bev.yaml for its parameters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("bev", CAMERA_STAGES, **kwargs)
        declare_table(self, TABLE)
        self._stated: tuple[str, ...] = ()
        self._stating = False
        self.add_on_set_parameters_callback(self._refuse_stated)
        self._pipeline: BevPipeline | None = None
        self._cameras: CameraSet | None = None
        self._listener: TransformListener | None = None

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure_family(self) -> None:
        from bev_ros.chain import load_chain
        from bev_ros.pipeline import BevPipeline

        self._settings = settings = read_parameters(self)
        check_names(settings.cameras)
        self._calibration = _read_calibration(settings)
        limit_threads(settings.num_threads)
        chain = load_chain(settings.models, settings.device, allow_list=settings.allow_list or None, self_test=False)
        try:
            self._check_cameras(chain.config)
            self._pipeline = BevPipeline(chain, tables_dir=_folder(settings.tables_dir), cuda_graph=settings.cuda_graph)
        except BaseException:
            chain.close()
            raise
        self._models = chain.models
        config, grid = chain.config, chain.config.grid
        work = (
            f"{config.cameras} images -> ~/bev_features, {config.output_channels} channels of {grid.nx}x{grid.ny} cells"
        )
        for model in chain.models:
            part = str(model.manifest.preprocessing["part"])
            self.introduce(model, work if part in ("fused", "image") else part, "" if part == "fused" else f"{part} ")
        self._seen: dict[str, str] = {}
        self.health.add_details(lambda: self._seen)
        self.health.add_details(self._camera_details)
        self._buffer = TransformBuffer(settings.tf_cache)
        self._rigs = RigSource(self._buffer, settings.rig_options(), self._calibration)
        self._state_parameters(stated_parameters(config, self._rigs.base_frame, self._pipeline.identity))
        for name, kind in (
            ("bev_features", Image),
            ("bev_preview", Image),
            ("coverage", Image),
            ("bev_info", DiagnosticArray),
        ):
            self.add_output(name, kind)

    def activate_family(self) -> None:
        pipeline, settings = self._pipeline, self._settings
        assert pipeline is not None
        for model in self._models:
            model.self_test()
        rig = blank_rig(pipeline.config)
        blank = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in rig}
        self.warm_up(lambda: pipeline.process(blank, rig))
        self._coverage, self._painter = Coverage(pipeline.config), Painter()
        self._built, self._built_ms = 0, 0.0
        self._seen = {"cameras in the last map": "none yet"}
        self._epoch = 0
        self._buffer.clear()
        self._rigs.forget()
        self._listener = TransformListener(self, self._buffer)
        self._cameras = CameraSet(
            self, settings.cameras, self._process, on_jump=self._time_went_back, **settings.set_options()
        )

    def deactivate_family(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.health.warnings.pop("rig", None)

    def cleanup_family(self) -> None:
        self.health.forget_sources()
        self.remove_outputs()
        for name in self._stated:
            self.undeclare_parameter(name)
        self._stated = ()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._models = ()
        self.forget_model()

    def _check_cameras(self, config: BevConfig) -> None:
        settings = self._settings
        if len(settings.cameras) > config.cameras:
            raise InputError(
                f"expected at most {config.cameras} cameras, as many as the encoder takes, found "
                f"{', '.join(settings.cameras)}",
                f"correct the parameter 'cameras', or export_bev --num-cams {len(settings.cameras)}",
            )

    # -- parameters that tell what the maps are ------------------------------------------------------------------------

    def _state_parameters(self, stated: Mapping[str, tuple[Any, str]]) -> None:
        """Declares them. rclpy never lets go of one that it holds read-only, and another artifact has another grid."""
        self._stating = True
        try:
            for name, (value, text) in stated.items():
                descriptor = describe(text, constraints="read only: as the artifact has it")
                self.declare_parameter(name, value, descriptor, ignore_override=True)
                self._stated += (name,)
        finally:
            self._stating = False

    def _refuse_stated(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name in self._stated and not self._stating:
                reason = f"{parameter.name} is read only: it tells what the artifact has"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    # -- executor's thread ---------------------------------------------------------------------------------------------

    def _time_went_back(self, stamp_ns: int | None) -> None:
        self._buffer.clear(stamp_ns)

    def _camera_details(self) -> dict[str, str]:
        return self._cameras.details() if self._cameras is not None else {}

    # -- worker's thread -----------------------------------------------------------------------------------------------

    def _process(self, match: CameraMatch) -> None:
        """One set of images: features first, then what is only for those who listen."""
        pipeline, settings = self._pipeline, self._settings
        if pipeline is None:
            return
        if match.epoch != self._epoch:
            self._epoch = match.epoch
            self._rigs.forget()
        placed = self._rigs.place(match)
        self._tell_unplaced(placed.problems)
        needed = len(settings.cameras) if settings.missing_cameras == "skip" else settings.min_cameras
        if placed.rig is None or len(placed.rig) < needed:
            self.health.dropped("too_few_cameras")
            return
        result = pipeline.process(placed.images, placed.rig)
        for warning in result.warnings:
            self.warn_throttled("tables", warning)
        self.health.passed("infer")
        self._note(placed.rig, result)
        header = Header(stamp=ns_to_stamp(match.stamp_ns), frame_id=self._rigs.base_frame)
        features = result.features
        self.outputs["bev_features"].publish(to_image(features.transpose(1, 2, 0), f"32FC{len(features)}", header))
        self.told_published(match, count_finite(features))
        self._publish_extras(placed.rig, result, header)

    def _tell_unplaced(self, problems: Mapping[str, str]) -> None:
        """Says in diagnostics and on the log which cameras have no place on the vehicle, and why."""
        if not problems:
            self.health.warnings.pop("rig", None)
            return
        text = "cameras left out: " + "; ".join(f"{name} ({reason})" for name, reason in problems.items())
        self.health.warnings["rig"] = text
        self.health.failed("infer", text)
        self.warn_throttled("rig", text)
        self.health.dropped("unplaced_camera", len(problems))

    def _note(self, rig: Rig, result: BevResult) -> None:
        """For /diagnostics."""
        timings = result.timings_ms
        if result.tables_built:
            self._built += 1
            self._built_ms = timings["tables"]
        missing = [name for name in self._settings.cameras if name not in result.cameras]
        self._seen = {
            "cameras in the last map": ", ".join(result.cameras),
            "missing in the last map": ", ".join(missing) or "none",
            "calibration": rig.hash,
            "fixed frame": self._rigs.fixed_frame or "none: the vehicle counts as standing still within a set",
            "tables built": str(self._built),
            "last tables built in [ms]": f"{self._built_ms:.2f}",
            **{f"{name} [ms]": f"{timings[name]:.2f}" for name in ("prepare", "tables", "network", "total")},
        }

    def _publish_extras(self, rig: Rig, result: BevResult, header: Header) -> None:
        if self.wanted("bev_info"):
            self.outputs["bev_info"].publish(self._info(rig, result, header))
        if not (self.wanted("coverage") or self.wanted("bev_preview")):
            return
        counts = self._coverage.of(rig)
        if self.wanted("coverage"):
            self.outputs["coverage"].publish(to_image(counts, "mono8", header))
        if self.wanted("bev_preview"):
            picture = self._painter.paint(result.features, counts > 0)
            self.outputs["bev_preview"].publish(to_image(picture, "bgr8", header))

    def _info(self, rig: Rig, result: BevResult, header: Header) -> DiagnosticArray:
        missing = [name for name in self._settings.cameras if name not in result.cameras]
        told = {
            "cameras": ",".join(result.cameras),
            "missing": ",".join(missing),
            "calibration": rig.hash,
            "encoder_identity": self._pipeline.identity if self._pipeline is not None else "",
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if missing else DiagnosticStatus.OK,
            name="bev map",
            message=f"without {', '.join(missing)}" if missing else "all cameras",
            values=[KeyValue(key=key, value=value) for key, value in told.items()],
        )
        return DiagnosticArray(header=header, status=[status])


def blank_rig(config: BevConfig) -> Rig:
    """As many cameras as the encoder takes, with images of its size, that all look forward from the origin."""
    height, width = config.image
    matrix = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    forward = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return Rig(tuple(CameraCalibration(f"blank{n}", width, height, matrix, forward) for n in range(config.cameras)))


def _read_calibration(settings: BevSettings) -> Rig | None:
    """The rig of the parameter `calibration_file`, or None.

    Raises:
        InputError: unreadable, or without one of the cameras.
    """
    if not settings.calibration_file:
        return None
    rig = read_rig(Path(settings.calibration_file).expanduser())
    absent = [name for name in settings.cameras if name not in rig.names]
    if absent:
        raise InputError(
            f"expected the camera {absent[0]} in {settings.calibration_file}, found {', '.join(rig.names)}",
            "correct the parameter 'cameras', or the file",
        )
    return rig


def _folder(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def main(argv: Sequence[str] | None = None) -> int:
    """Command `bev_node`."""
    return run_node(BevNode, argv, usage=USAGE)


if __name__ == "__main__":
    sys.exit(main())
