# SPDX-License-Identifier: Apache-2.0
"""What bev_node publishes: the pipeline's maps, of whatever cameras there are, from wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from bev_artifacts import tiny_images, tiny_rig
from bev_vehicle import Vehicle
from diagnostic_msgs.msg import DiagnosticArray
from node_checks import values_of
from ros_images import PERIOD_NS, START_NS, png_message
from sensor_msgs.msg import Image

from aot_runtime.camera import Camera
from aot_runtime.ros.messages import image_to_array, image_view, stamp_to_ns
from aot_runtime.transforms import inverse, to_matrix
from bev_ros.calibration import Rig, write_rig
from bev_ros.lenses import Lenses
from bev_ros.preview import UNSEEN, Coverage, Painter

MS = 1_000_000


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def seen_by(rig: Rig, *names: str) -> Rig:
    """The rig of these cameras, placed as a transform message holds it."""
    from aot_runtime.transforms import to_parts

    return replace(
        rig.ordered(names),
        cameras=tuple(
            replace(rig.camera(name), sensor_to_ego=to_matrix(*to_parts(rig.camera(name).sensor_to_ego)))
            for name in names
        ),
    )


def test_a_map_is_the_pipelines(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle()
    scene.show(images)
    assert ros.until(lambda: scene.features)
    (msg,) = scene.features
    assert (msg.encoding, msg.width, msg.height, msg.step) == ("32FC8", 20, 20, 20 * 8 * 4)
    assert (stamp_to_ns(msg.header.stamp), msg.header.frame_id) == (START_NS, "base_link")
    expected = pipeline.process(images, seen_by(rig, *rig.names)).features
    assert scene.map().tobytes() == expected.tobytes()
    assert np.abs(expected).max() > 0
    assert scene.node.health.drops() == {}
    assert [scene.node.health.count(stage) for stage in scene.node.health.stages] == [3, 1, 1, 1]


def test_a_split_encoder(
    ros: Any,
    vehicle: Callable[..., Any],
    rig: Rig,
    images: dict[str, np.ndarray],
    pipeline: Any,
    bev_artifacts: Callable[..., Path],
) -> None:
    scene = vehicle(model=None, image_model=bev_artifacts("image", ".onnx"), pool_model=bev_artifacts("pool"))
    scene.show(images)
    assert ros.until(lambda: scene.features)
    expected = pipeline.process(images, seen_by(rig, *rig.names)).features
    np.testing.assert_allclose(scene.map(), expected, atol=2e-4 * np.abs(expected).max(), rtol=0)
    identity = scene.node.health.identity
    assert {"image artifact", "pool artifact"} <= set(identity)
    assert identity["image model"] == "bev tiny"


def test_a_missing_camera_is_left_out_and_told(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle()
    infos, coverage = ros.listen(DiagnosticArray, "/bev/bev_info"), ros.listen(Image, "/bev/coverage")
    assert ros.until(lambda: scene.node.wanted("bev_info") and scene.node.wanted("coverage"))
    scene.show(images)
    assert ros.until(lambda: infos and coverage)
    scene.show(without(images, "left"), 1)
    assert ros.until(lambda: len(scene.features) == 2 and len(infos) == 2 and len(coverage) == 2)
    two = seen_by(rig, "front", "right")
    assert scene.map().tobytes() == pipeline.process(without(images, "left"), two).features.tobytes()
    black = {**images, "left": np.zeros_like(images["left"])}
    assert scene.map().tobytes() != pipeline.process(black, seen_by(rig, *rig.names)).features.tobytes()
    assert not scene.map()[:, image_view(coverage[1]) == 0].any()
    told = [values_of(array.status[0]) for array in infos]
    assert [entry["cameras"] for entry in told] == ["front,left,right", "front,right"]
    assert [entry["missing"] for entry in told] == ["", "left"]
    assert [array.status[0].level for array in infos] == [b"\x00", b"\x01"]
    assert told[1]["calibration"] == two.hash
    assert told[1]["encoder_identity"] == pipeline.identity
    for array, msg in zip(infos, scene.features):
        assert array.header == msg.header
    values = scene.node.health.report().values
    assert values["cameras in the last map"] == "front, right"
    assert values["missing in the last map"] == "left"
    assert "missing cameras: left (no image in time)" in scene.node.health.warnings["cameras"]
    scene.show(images, 2)
    assert ros.until(lambda: len(scene.features) == 3)
    assert scene.features[2].data == scene.features[0].data
    assert "cameras" not in scene.node.health.warnings


def test_no_map_without_a_camera_if_so_wished(
    ros: Any, vehicle: Callable[..., Any], images: dict[str, np.ndarray]
) -> None:
    scene = vehicle(missing_cameras="skip")
    scene.show(without(images, "left"))
    assert ros.until(lambda: scene.node.health.drops().get("sync_unmatched") == 2)
    scene.show(images, 1)
    assert ros.until(lambda: scene.features)
    assert [stamp_to_ns(msg.header.stamp) for msg in scene.features] == [START_NS + PERIOD_NS]


def test_as_many_cameras_as_are_asked_for(ros: Any, vehicle: Callable[..., Any], images: dict[str, np.ndarray]) -> None:
    scene = vehicle(min_cameras=2)
    scene.show(without(images, "left", "right"))
    assert ros.until(lambda: scene.node.health.drops().get("too_few_cameras") == 1)
    scene.show(without(images, "left"), 1)
    assert ros.until(lambda: scene.features)


def test_fewer_cameras_than_the_encoder_takes(
    ros: Any, make: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    two = rig.ordered(("right", "front"))
    scene = Vehicle(ros, make(cameras=list(two.names), missing_cameras="skip"), two)
    scene.infos()
    scene.places()
    scene.show(without(images, "left"))
    assert ros.until(lambda: scene.features)
    expected = pipeline.process(without(images, "left"), seen_by(rig, *two.names)).features
    assert scene.map().tobytes() == expected.tobytes()
    assert scene.node.health.report().values["missing in the last map"] == "none"


def test_tables_are_kept_from_run_to_run(
    ros: Any, vehicle: Callable[..., Any], images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    built = []
    for _ in range(2):
        scene = vehicle(tables_dir=tmp_path / "tables")
        scene.features.clear()
        scene.show(images)
        assert ros.until(lambda made=scene: made.features)
        built.append(scene.node.health.report().values["tables built"])
        ros.remove(scene.node)
    assert built == ["1", "0"]


def test_coverage_and_preview_while_subscribed(
    ros: Any,
    vehicle: Callable[..., Any],
    rig: Rig,
    images: dict[str, np.ndarray],
    pipeline: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Painter, "paint", lambda *a: pytest.fail("painted for nobody"))
    monkeypatch.setattr(Coverage, "of", lambda *a: pytest.fail("counted for nobody"))
    rig = rig.moved({"left": rig.camera("front").sensor_to_ego})
    scene = vehicle(tf=False)
    scene.places(rig)
    scene.show(images)
    assert ros.until(lambda: scene.features)
    assert scene.node.health.drops() == {}
    monkeypatch.undo()
    previews, coverage = ros.listen(Image, "/bev/bev_preview"), ros.listen(Image, "/bev/coverage")
    assert ros.until(lambda: scene.node.wanted("bev_preview") and scene.node.wanted("coverage"))
    scene.show(images, 1)
    assert ros.until(lambda: previews and coverage)
    counts = image_view(coverage[0])
    assert (coverage[0].encoding, counts.shape) == ("mono8", (20, 20))
    expected = np.zeros((20, 20), np.uint8)
    for name in rig.names:
        alone = pipeline.process({name: images[name]}, seen_by(rig, name)).features
        expected += alone.any(0)
    np.testing.assert_array_equal(counts, expected)
    assert {0, 1, 2} <= set(np.unique(counts))
    picture = image_to_array(previews[0])
    assert (previews[0].encoding, previews[0].header) == ("bgr8", scene.features[1].header)
    np.testing.assert_array_equal(picture, Painter().paint(scene.map(), counts > 0))
    # Behind the vehicle, at the bottom, no camera looks; row 0 of the map is the right, so the last column here.
    assert (picture[-1] == UNSEEN).all()
    assert counts[0, 10]
    assert (picture[9, 19] != UNSEEN).any()


def test_images_of_other_sizes_and_calibrations_on_the_way(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle()
    for index in range(2):
        scene.show(images, index)
    assert scene.node.health.report().values["tables built"] == "1"
    large = tiny_rig(rig.names, (200, 130))
    scene.infos(large)
    pictures = tiny_images(large, 1)
    scene.show(pictures, 2)
    assert ros.until(lambda: len(scene.features) == 3)
    assert scene.map().tobytes() == pipeline.process(pictures, seen_by(large, *rig.names)).features.tobytes()
    before = scene.node.health.report().values
    assert before["tables built"] == "2"
    assert float(before["last tables built in [ms]"]) > 0
    matrix = rig.camera("front").matrix * [[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]]
    longer = replace(rig.camera("front"), matrix=matrix)
    changed = Rig((longer, *rig.cameras[1:]))
    scene.infos(changed)
    scene.show(images, 3)
    assert ros.until(lambda: len(scene.features) == 4)
    assert scene.map().tobytes() == pipeline.process(images, seen_by(changed, *rig.names)).features.tobytes()
    assert scene.features[3].data != scene.features[0].data
    after = scene.node.health.report().values
    assert after["tables built"] == "3"
    assert after["calibration"] != before["calibration"]
    assert scene.node.health.drops() == {}


def test_region_of_interest_and_binning(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle(info=False)
    for camera in rig:
        # The sensor has twice the pixels; half of them in each direction were cut off, and the rest binned by 2.
        full = np.array(camera.matrix)
        full[:2] *= 2
        full[:2, 2] += 0.5 + np.array([100, 60])
        scene.cameras.info(
            camera.name,
            full,
            520,
            300,
            binning_x=2,
            binning_y=2,
            roi=roi(100, 60, 2 * camera.width, 2 * camera.height),
        )
    scene.show(images)
    assert ros.until(lambda: scene.features)
    expected = pipeline.process(images, seen_by(rig, *rig.names)).features
    np.testing.assert_allclose(scene.map(), expected, atol=1e-5 * np.abs(expected).max())


def roi(x: int, y: int, width: int, height: int) -> Any:
    from sensor_msgs.msg import RegionOfInterest

    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


def test_distorted_images_are_undistorted_or_refused(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    bent = (-0.2, 0.05, 0.001, -0.001, 0.0)
    for policy in ("undistort", "refuse"):
        scene = vehicle(rectified=False, distorted_images=policy)
        front = rig.camera("front")
        scene.cameras.info("front", front.matrix, front.width, front.height, d=list(bent))
        scene.features.clear()
        scene.show(images)
        assert ros.until(lambda made=scene: made.features)
        if policy == "undistort":
            placed = seen_by(rig, *rig.names)
            lens = replace(placed.cameras[0], distortion=bent, model="plumb_bob")
            lenses = Lenses()
            straight = {**images, "front": lenses.undistorted(lens, images["front"])}
            assert np.abs(straight["front"].astype(int) - images["front"]).max() > 10
            expected = pipeline.process(straight, Rig((lenses.pinhole(lens), *placed.cameras[1:])))
            assert scene.node.health.drops() == {}
        else:
            expected = pipeline.process(without(images, "front"), seen_by(rig, "left", "right"))
            assert "front (expected undistorted images" in scene.node.health.warnings["rig"]
        assert scene.map().tobytes() == expected.features.tobytes()
        ros.remove(scene.node)


def test_a_lens_of_an_unknown_kind_costs_only_its_camera(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray]
) -> None:
    scene = vehicle(rectified=False)
    left = rig.camera("left")
    scene.cameras.info("left", left.matrix, left.width, left.height, d=[0.1] * 5, distortion_model="fisheye360")
    scene.show(images)
    assert ros.until(lambda: scene.features)
    assert scene.node.health.report().values["missing in the last map"] == "left"
    assert "fisheye360" in scene.node.health.warnings["rig"]


def test_compressed_images(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle(image_transport="compressed")
    for name, image in images.items():
        msg = png_message(image)
        msg.header.frame_id = f"{name}_optical"
        scene.cameras.publish(name, msg)
    assert ros.until(lambda: scene.features)
    assert scene.map().tobytes() == pipeline.process(images, seen_by(rig, *rig.names)).features.tobytes()


def test_a_calibration_file_needs_no_other_calibration(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any, tmp_path: Path
) -> None:
    turned = replace(rig.ordered(("right", "front", "left")), frame="chassis")
    write_rig(turned, tmp_path / "rig.yaml")
    scene = vehicle(info=False, tf=False, calibration_file=tmp_path / "rig.yaml")
    scene.show(images)
    assert ros.until(lambda: scene.features)
    assert scene.features[0].header.frame_id == "chassis"
    assert scene.map().tobytes() == pipeline.process(images, rig).features.tobytes()
    assert scene.node.get_parameter("grid.frame").value == "chassis"
    pictures = tiny_images(tiny_rig(("front",), (200, 130)))
    scene.show({**images, **pictures}, 1)
    assert ros.until(lambda: len(scene.features) == 2)
    assert "expected images of 160x90 pixels of the camera 'front'" in scene.node.health.warnings["rig"]


def odometry(scene: Any, first: int, last: int) -> Callable[[int], np.ndarray]:
    """Publishes a drive in a curve on /tf; returns odom <- base_link at an offset [ns] from the start."""

    def pose(offset_ns: int) -> np.ndarray:
        angle = 0.4 * offset_ns * 1e-9
        return to_matrix((3.0 * offset_ns * 1e-9, 0, 0), (0, 0, np.sin(angle / 2), np.cos(angle / 2)))

    for index in range(first, last + 1):
        scene.cameras.transform("odom", "base_link", pose(index * PERIOD_NS), index)
    return pose


def test_the_vehicles_motion_between_the_images_counts(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle(sync_slop=0.06)
    pose = odometry(scene, 0, 3)
    offsets = {"front": 0, "left": PERIOD_NS, "right": 25 * MS}
    scene.show(images, 1, offsets)
    assert ros.until(lambda: scene.features)
    reference = stamp_to_ns(scene.features[0].header.stamp)
    assert reference == START_NS + 2 * PERIOD_NS
    still = seen_by(rig, *rig.names)
    now = pose(2 * PERIOD_NS)
    moved = still.moved(
        {
            name: inverse(now) @ pose(PERIOD_NS + offset) @ still.camera(name).sensor_to_ego
            for name, offset in offsets.items()
        }
    )
    expected = pipeline.process(images, moved).features
    np.testing.assert_allclose(scene.map(), expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(scene.map() - pipeline.process(images, still).features).max() > 1e-2 * np.abs(expected).max()
    assert scene.node.health.report().values["fixed frame"] == "odom"


def test_without_a_fixed_frame_the_vehicle_stands_still(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], pipeline: Any
) -> None:
    scene = vehicle(sync_slop=0.06, fixed_frame="")
    odometry(scene, 0, 3)
    scene.show(images, 1, {"left": 20 * MS})
    assert ros.until(lambda: scene.features)
    assert scene.map().tobytes() == pipeline.process(images, seen_by(rig, *rig.names)).features.tobytes()


def test_a_static_rig_is_looked_up_once(
    ros: Any, vehicle: Callable[..., Any], rig: Rig, images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joints that do not move, published on /tf, only up to the first image."""
    scene = vehicle(tf=False, static_rig=True, tf_timeout=0.0)
    for camera in rig:
        scene.cameras.transform("base_link", f"{camera.name}_optical", camera.sensor_to_ego, 0)
    asked: list[str] = []
    lookup = scene.node._buffer.lookup
    monkeypatch.setattr(
        scene.node._buffer, "lookup", lambda target, source, *a: (asked.append(source), lookup(target, source, *a))[1]
    )
    for index in range(3):
        scene.show(images, index)
    assert ros.until(lambda: len(scene.features) == 3)
    assert [frame for frame in asked if frame.endswith("_optical")] == [f"{name}_optical" for name in rig.names]
    assert scene.features[2].data == scene.features[0].data
    values = scene.node.health.report().values
    assert values["tables built"] == "1"
    assert values["calibration"] == seen_by(rig, *rig.names).hash


def test_the_grid_is_told_by_parameters_nobody_can_change(ros: Any, make: Callable[..., Any], pipeline: Any) -> None:
    from ros_session import parameters

    node = make()
    told = {
        "grid.x": [-10.0, 10.0, 1.0],
        "grid.y": [-10.0, 10.0, 1.0],
        "grid.z": [-10.0, 10.0, 20.0],
        "grid.rule": "floor",
        "grid.axis_order": "C,Y,X",
        "grid.channels": 8,
        "grid.frame": "base_link",
        "encoder_identity": pipeline.identity,
    }
    for name, value in told.items():
        found = node.get_parameter(name).value
        assert (list(found) if isinstance(value, list) else found) == value
        assert node.describe_parameter(name).description
    (result,) = node.set_parameters(parameters(**{"grid.rule": "trunc"}))
    assert not result.successful
    assert "read only" in result.reason
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert not node.has_parameter("grid.x")
    node.trigger_configure()
    assert list(node.get_parameter("grid.x").value) == told["grid.x"]


def test_a_camera_of_camera_info_has_its_intrinsics() -> None:
    """What the tests above compare with: the rig's matrices are those that the node makes of its messages."""
    camera = tiny_rig().cameras[0]
    matrix = camera.matrix
    same = Camera.pinhole(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
    np.testing.assert_array_equal(same.intrinsics, matrix)
