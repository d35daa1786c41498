# SPDX-License-Identifier: Apache-2.0
"""vggt_node with compiled networks of random weights: what they give comes out, unscaled; licences are obeyed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

from geometry_msgs.msg import PoseArray
from ros_cameras import CameraRig
from ros_images import PERIOD_NS, START_NS
from sensor_msgs.msg import CameraInfo, Image
from synthetic_room import Room

from aot_runtime.ros.messages import image_view, stamp_to_ns
from aot_runtime.ros.tf import TOPIC, message_type, transform_entries
from aot_runtime.transforms import to_matrix

NAMES = ("left", "right")
SMALL = {"height": 28, "width": 42}
NO_FREEZING = {"freezing": False}


@pytest.fixture
def network(ros: Any, vggt_artifact: Callable[..., Path]) -> Callable[..., Any]:
    """network(suffix, cams, **parameters): a node with a small VGGT, and no depth network."""
    from vggt_ros.node import VggtNode

    def make(suffix: str = ".pt2", cams: Any = 2, active: bool = True, **values: Any) -> Any:
        defaults = {
            # Without freezing only to share the file with other tests: compiling takes long.
            "vggt_model": vggt_artifact(
                suffix,
                small=True,
                cams=cams,
                **SMALL,
                **({"inductor_configs": NO_FREEZING} if suffix == ".pt2" else {}),
            ),
            "cameras": list(NAMES),
            "accept_noncommercial_weights": True,
            "pose_source": "network",
            "start_patience": 0.0,
            "num_threads": 1,
        }
        return ros.start(VggtNode, active, **{**defaults, **values})

    return make


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_what_the_network_says_comes_out_unscaled(
    suffix: str, ros: Any, network: Callable[..., Any], room: Room
) -> None:
    node = network(suffix, require_camera_info=False, publish_tf=True, rebootstrap=False, diagnostics_period=0.0)
    depths = {name: ros.listen(Image, f"/vggt/unscaled_depth/{name}") for name in NAMES}
    infos = ros.listen(CameraInfo, "/vggt/unscaled_depth/left/camera_info")
    metric = ros.listen(Image, "/vggt/depth/left")
    poses, transforms = ros.listen(PoseArray, "/vggt/poses"), ros.listen(message_type(), TOPIC)
    assert ros.until(lambda: node.wanted("unscaled_depth/right") and node.count_subscribers(TOPIC) >= 2)
    images = {name: room.colour(room.index(name, 0)) for name in NAMES}
    rig = CameraRig(ros, node, NAMES)
    rig.send(images)
    assert ros.until(lambda: poses and transforms)
    ros.spin(0.2)
    expected = node._sources.bootstrap.bootstrap(images)
    assert poses[0].header.frame_id == "vggt"
    for index, found in enumerate(poses[0].poses):
        place, turn = found.position, found.orientation
        pose = to_matrix((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
        assert pose == pytest.approx(expected.poses[index], abs=1e-5)
    sent = {child: (parent, matrix, stamp) for parent, child, matrix, stamp in transform_entries(transforms[0])}
    assert set(sent) == {"left_optical", "right_optical"}
    for index, name in enumerate(NAMES):
        parent, matrix, stamp_ns = sent[f"{name}_optical"]
        assert (parent, stamp_ns) == ("vggt", START_NS)
        assert matrix == pytest.approx(expected.poses[index], abs=1e-5)
    assert not metric
    (depth,) = depths["left"]
    assert (depth.width, depth.height, depth.header.frame_id) == (160, 120, "left_optical")
    wanted = expected.image_camera(0, 160, 120).matrix
    assert infos[0].k.reshape(3, 3)[0, 0] == pytest.approx(wanted[0, 0])
    # The map as the camera sees it is what the network said, where it has a surface.
    shown = image_view(depth)
    assert np.isfinite(shown).any()
    low, high = np.nanquantile(expected.depth, [0, 1])
    assert low * 0.8 <= np.nanmin(shown) <= np.nanmax(shown) <= high * 1.2
    values = node.health.report().values
    assert values["model"].startswith("vggt ")
    assert values["scale"] == "arbitrary units by arbitrary"
    # There is no depth network, so later images only wait for a bootstrap, which is no error.
    rig.send(images, 1)
    rig.done()
    node.health.stall_s = 0.0
    assert "stuck" not in node.health.report().message
    response = _call(ros, "bootstrap")
    assert response.success
    rig.send(images, 2)
    assert ros.until(lambda: len(poses) == 2)
    assert stamp_to_ns(poses[1].header.stamp) == START_NS + 2 * PERIOD_NS


def _call(ros: Any, service: str) -> Any:
    from std_srvs.srv import Trigger

    client = ros.listener.create_client(Trigger, f"/vggt/{service}")
    assert ros.until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert ros.until(future.done)
    return future.result()


def test_weights_for_noncommercial_use_must_be_accepted(ros: Any, network: Callable[..., Any]) -> None:
    node = network(active=False, accept_noncommercial_weights=False)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert node.health.state == "unconfigured"
    reason = node.health.warnings["lifecycle"]
    assert "expected weights that may be used for everything, found 'VGGT License (non-commercial)' in " in reason
    assert "set accept_noncommercial_weights:=true" in reason
    from ros_session import parameters

    node.set_parameters(parameters(accept_noncommercial_weights=True))
    node.trigger_configure()
    node.trigger_activate()
    assert node.health.state == "active"


def test_the_number_of_cameras_must_fit(ros: Any, network: Callable[..., Any]) -> None:
    node = network(active=False, cameras=["left", "front", "right"])
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert "expected a network for 3 cameras, found one for 2 in " in node.health.warnings["lifecycle"]
    assert "--dynamic-cams 1..3" in node.health.warnings["lifecycle"]


def test_another_family_is_refused(ros: Any, network: Callable[..., Any], vggt_artifact: Callable[..., Path]) -> None:
    node = network(active=False, depth_model=vggt_artifact(".onnx", small=True, cams=2, **SMALL))
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert "expected an artifact of the family depth, found vggt" in node.health.warnings["lifecycle"]
    assert not node._sources


def test_an_artifact_for_any_number_does_with_fewer(ros: Any, network: Callable[..., Any], room: Room) -> None:
    node = network(".onnx", cams=(1, 3), cameras=["left", "front", "right"], require_camera_info=False)
    poses = ros.listen(PoseArray, "/vggt/poses")
    assert ros.until(lambda: node.wanted("poses"))
    rig = CameraRig(ros, node, ("left", "front", "right"))
    rig.send({name: room.colour(room.index(name, 0)) for name in NAMES})
    assert ros.until(lambda: poses)
    assert len(poses[0].poses) == 2
    assert "of left, right: " in node.health.report().values["last bootstrap"]
    assert "missing cameras: front" in node.health.warnings["cameras"]


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("VGGT License (non-commercial)", True),
        ("VGGT License (commercial checkpoint, with its acceptable-use policy)", False),
        ("CC-BY-NC-4.0", True),
        ("cc by-nc 4.0", True),
        ("noncommercial", True),
        ("Apache-2.0", False),
        ("NCSA", False),
        ("", False),
    ],
)
def test_licences(licence: str, restricted: bool) -> None:
    from aot_runtime.licences import is_noncommercial

    assert is_noncommercial(licence) == restricted


@pytest.fixture(scope="session")
def brightness(artifact_cache: Path) -> Path:
    """A depth network for 160x120 whose relative depth is the brightness of the image."""
    from depth_artifacts import export_brightness
    from small_artifacts import cached

    sources = ("aot_runtime/export.py", "aot_runtime/backends", "aot_runtime/manifest.py", "test/support")
    return cached(artifact_cache, "brightness", ".onnx", sources, lambda path: export_brightness(path, 120, 160))


def test_a_depth_artifact_streams_what_the_pipeline_without_ros_gives(
    ros: Any, vggt: Callable[..., Any], room: Room, brightness: Path
) -> None:
    """Images as bright as their disparity; the node's depth is the pipeline's to the last bit, and within the bound."""
    from depth_ros.pipeline import ImageDepthPipeline
    from vggt_ros.depth_sources import ArtifactDisparity
    from vggt_ros.fusion.bootstrap import NpzSource
    from vggt_ros.pipeline import PipelineConfig, ReconstructionPipeline
    from vggt_ros.steps import View

    scene = vggt(depth_folder=None, depth_model=brightness, pose_source="tf")
    depths = {name: ros.listen(Image, f"/vggt/depth/{name}") for name in scene.cameras}
    assert ros.until(lambda: all(scene.node.wanted(f"depth/{name}") for name in scene.cameras))
    alone = ReconstructionPipeline(
        NpzSource(room.folder / "vggt_like.npz", scene.cameras),
        ArtifactDisparity(ImageDepthPipeline(brightness)),
        PipelineConfig(),
    )
    relative = room.relative["rel_disparity"].astype(np.float32)
    top = float(np.quantile(relative, 0.999))
    errors = []
    for step in range(4):
        scene.poses(step)
        images, views = {}, []
        for name in scene.cameras:
            frame = room.index(name, step)
            grey = np.clip(relative[frame] / top * 255, 0, 255).round().astype(np.uint8)
            images[name] = np.repeat(grey[:, :, None], 3, axis=2)
            matrix, pose = (room.frames[key][frame].astype(np.float64) for key in ("K", "T_wc"))
            views.append(View(name, images[name], matrix, pose))
        scene.rig.send(images, step)
        result = alone.step(views, START_NS * 1e-9 + step * PERIOD_NS * 1e-9)
        assert ros.until(lambda n=step + 1: all(len(got) == n for got in depths.values()))
        for one in result.frames:
            shown = image_view(depths[one.name][-1])
            # tf's quaternions are the poses to about 1e-16, so all but the last bits are the same.
            np.testing.assert_allclose(shown, one.depth, rtol=1e-5)
            frame = room.index(one.name, step)
            errors.append(np.nanmedian(np.abs(shown - room.static_depth[frame])[room.still(frame)]))
    assert len(errors) == 9
    assert np.mean(errors) <= 0.03
    values = scene.node.health.report().values
    assert values["depth artifact"] == brightness.name
    assert values["depth model"] == "depth brightness"


@pytest.mark.parametrize("posed", [(), ("front",)])
def test_a_metric_depth_network_gives_metres(
    posed: tuple[str, ...], ros: Any, vggt: Callable[..., Any], room: Room, metric_brightness: Callable[..., Path]
) -> None:
    """Without tf the map is metric in a frame of its own; with tf of one camera it lies in the world."""
    artifact = metric_brightness()
    scene = vggt(depth_folder=None, depth_model=artifact, start_patience=0.0, rebootstrap=False)
    depths = {name: ros.listen(Image, f"/vggt/depth/{name}") for name in scene.cameras}
    poses = ros.listen(PoseArray, "/vggt/poses")
    assert ros.until(lambda: scene.node.wanted("poses") and all(scene.node.wanted(f"depth/{n}") for n in depths))
    for index in range(2):
        for name in posed:
            scene.rig.transform("map", f"{name}_optical", room.frames["T_wc"][room.index(name, 0)], index)
        images = {}
        for name in scene.cameras:
            grey = np.clip(room.frames["depth"][room.index(name, 0)] * 25.5, 1, 255).round().astype(np.uint8)
            images[name] = np.repeat(grey[:, :, None], 3, axis=2)
        scene.rig.send(images, index)
        assert ros.until(lambda n=index + 1: len(poses) == n)
    values = scene.node.health.report().values
    assert values["scale"] == f"m by metric depth network {artifact.name}"
    assert 1 / float(values["scale factor"].split()[0]) == pytest.approx(0.37, rel=0.01)
    assert "scale" not in scene.node.health.warnings
    assert poses[0].header.frame_id == values["frame"] == ("map" if posed else "vggt")
    # In the world of tf a camera without it might be anywhere by now; without tf they stand still.
    streamed = posed or scene.cameras
    for name in scene.cameras:
        assert ros.until(lambda name=name: len(depths[name]) == (2 if name in streamed else 1))
        frame = room.index(name, 0)
        error = np.abs(image_view(depths[name][-1]) - room.frames["depth"][frame])
        assert np.nanmedian(error[room.still(frame)]) <= 0.03
    if posed:
        place, given = poses[0].poses[1].position, room.frames["T_wc"][room.index("front", 0)][:3, 3]
        assert (place.x, place.y, place.z) == pytest.approx(given, abs=1e-6)
