# SPDX-License-Identifier: Apache-2.0
"""What vitmatte_node publishes, for every kind of guidance, in step and not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from node_checks import values_of
from ros_images import PERIOD_NS, START_NS, Camera, rgb_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from aot_runtime.ros.messages import image_to_array, ns_to_stamp, stamp_to_ns, to_image
from aot_runtime.ros.qos import image_input_qos
from vitmatte_ros.foreground import alpha_to_bytes, composite, cut_out, estimate_foreground
from vitmatte_ros.guidance import GuidanceOptions, Guide
from vitmatte_ros.node import GREEN
from vitmatte_ros.pipeline import MattePipeline
from vitmatte_ros.trimap import BACKGROUND, FOREGROUND, UNKNOWN, widen_unknown

Maker = Callable[..., Any]
MS = 1_000_000


class Guidance:
    """Publishes guidance on a topic of the node, and waits until the node has it."""

    def __init__(self, ros: Any, node: Any, kind: str = "trimap") -> None:
        self._ros, self._node = ros, node
        self._publisher = ros.publisher(Image, f"/vitmatte/{kind}", image_input_qos(10))

    def send(self, plane: np.ndarray, index: int = 0, shift_ns: int = 0, encoding: str = "mono8") -> None:
        stamp = ns_to_stamp(START_NS + index * PERIOD_NS + shift_ns)
        self.send_message(to_image(plane, encoding, Header(stamp=stamp, frame_id="mask_frame")))

    def send_message(self, msg: Image) -> None:
        before = self._node._guided
        self._publisher.publish(msg)
        assert self._ros.until(lambda: self._node._guided > before and self._node._worker.idle)
        self._ros.spin(0.05)


def expected_alpha(network: Path, image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    pipeline = MattePipeline(network)
    alpha = pipeline.process(image, trimap).alpha
    pipeline.close()
    return alpha


def test_an_image_and_its_trimap(ros: Any, matte: Maker, network: Path, scenes: list[Any]) -> None:
    node = matte()
    alphas = ros.listen(Image, "/vitmatte/alpha")
    camera, guidance = Camera(ros, node), Guidance(ros, node)
    for index, scene in enumerate(scenes):
        if index % 2:
            camera.send(rgb_message(scene.image, index))
            guidance.send(scene.trimap, index)
        else:
            guidance.send(scene.trimap, index)
            camera.send(rgb_message(scene.image, index))
    assert ros.until(lambda: len(alphas) == len(scenes))
    for index, (scene, msg) in enumerate(zip(scenes, alphas)):
        assert (msg.encoding, msg.width, msg.height, msg.header.frame_id) == ("mono8", 160, 120, "camera_optical")
        assert stamp_to_ns(msg.header.stamp) == START_NS + index * PERIOD_NS
        expected = alpha_to_bytes(expected_alpha(network, scene.image, scene.trimap))
        np.testing.assert_array_equal(image_to_array(msg), expected)
    assert node.health.drops() == {}


def test_alpha_in_floats_and_another_frame(ros: Any, matte: Maker, network: Path, scenes: list[Any]) -> None:
    node = matte(alpha_encoding="32FC1", clamp_known=False, frame_id="table")
    alphas = ros.listen(Image, "/vitmatte/alpha")
    Guidance(ros, node).send(scenes[0].trimap)
    Camera(ros, node).send(rgb_message(scenes[0].image))
    assert ros.until(lambda: alphas)
    assert (alphas[0].encoding, alphas[0].header.frame_id) == ("32FC1", "table")
    pipeline = MattePipeline(network, clamp_known=False)
    expected = pipeline.process(scenes[0].image, scenes[0].trimap).alpha
    np.testing.assert_array_equal(image_to_array(alphas[0]), expected)


@pytest.mark.parametrize("kind", ["mask", "probability", "depth"])
def test_other_guidance(ros: Any, matte: Maker, network: Path, scenes: list[Any], kind: str) -> None:
    scene = scenes[0]
    mask = scene.mask
    plane, encoding, values = {
        "mask": (mask, "mono8", {"inner_radius": 5, "outer_radius": 7}),
        "probability": (cv2.GaussianBlur(mask, (0, 0), 3), "mono8", {"low": 0.1, "high": 0.9}),
        "depth": (np.where(mask > 0, 800, 2500).astype(np.uint16), "16UC1", {"near": 1.2, "far": 2.0}),
    }[kind]
    node = matte(guidance=kind, **values)
    alphas, used = ros.listen(Image, "/vitmatte/alpha"), ros.listen(Image, "/vitmatte/used_trimap")
    assert ros.until(lambda: node.wanted("used_trimap"))
    Guidance(ros, node, kind).send(plane, encoding=encoding)
    Camera(ros, node).send(rgb_message(scene.image))
    assert ros.until(lambda: alphas and used)
    names = {"inner_radius": "inner", "outer_radius": "outer"}
    options = GuidanceOptions(kind, **{names.get(name, name): value for name, value in values.items()})
    trimap = Guide(options).trimap(plane, mask.shape)
    assert {BACKGROUND, UNKNOWN, FOREGROUND} == set(np.unique(trimap))
    np.testing.assert_array_equal(image_to_array(used[0]), trimap)
    expected = alpha_to_bytes(expected_alpha(network, scene.image, trimap))
    np.testing.assert_array_equal(image_to_array(alphas[0]), expected)


def test_depth_of_the_other_byte_order(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(guidance="depth", near=1.2, far=2.0)
    used = ros.listen(Image, "/vitmatte/used_trimap")
    depth = np.where(scenes[0].mask > 0, 800, 2500).astype(np.uint16)
    guidance, camera = Guidance(ros, node, "depth"), Camera(ros, node)
    guidance.send(depth, encoding="16UC1")
    camera.send(rgb_message(scenes[0].image))
    swapped = to_image(depth.byteswap(), "16UC1", Header(stamp=ns_to_stamp(START_NS + PERIOD_NS)))
    swapped.is_bigendian = 1
    guidance.send_message(swapped)
    camera.send(rgb_message(scenes[0].image, 1))
    assert ros.until(lambda: len(used) == 2)
    assert used[0].data == used[1].data


def test_cut_outs_and_composites_while_subscribed(ros: Any, matte: Maker, network: Path, scenes: list[Any]) -> None:
    node = matte()
    cuts, pictures = ros.listen(Image, "/vitmatte/foreground"), ros.listen(Image, "/vitmatte/composite")
    assert ros.until(lambda: node.wanted("foreground") and node.wanted("composite"))
    Guidance(ros, node).send(scenes[0].trimap)
    Camera(ros, node).send(rgb_message(scenes[0].image))
    assert ros.until(lambda: cuts and pictures)
    alpha = expected_alpha(network, scenes[0].image, scenes[0].trimap)
    colours = estimate_foreground(np.ascontiguousarray(scenes[0].image[:, :, ::-1]), alpha)
    assert cuts[0].encoding == "bgra8"
    np.testing.assert_array_equal(image_to_array(cuts[0]), cut_out(colours, alpha))
    np.testing.assert_array_equal(image_to_array(pictures[0]), composite(colours, alpha, GREEN))


def test_nothing_else_is_computed_while_nobody_listens(
    ros: Any, matte: Maker, scenes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vitmatte_ros.node

    monkeypatch.setattr(vitmatte_ros.node, "estimate_foreground", lambda *a: pytest.fail("computed for nobody"))
    node = matte()
    alphas = ros.listen(Image, "/vitmatte/alpha")
    Guidance(ros, node).send(scenes[0].trimap)
    Camera(ros, node).send(rgb_message(scenes[0].image))
    assert ros.until(lambda: alphas)
    assert node.health.drops() == {}


def test_stamps_within_the_slop_meet_and_others_are_counted(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(sync_slop=0.01)
    alphas = ros.listen(Image, "/vitmatte/alpha")
    camera, guidance = Camera(ros, node), Guidance(ros, node)
    for index, shift_ms in enumerate((0, 9, -9, 20, 10)):
        guidance.send(scenes[0].trimap, index, shift_ms * MS)
        camera.send(rgb_message(scenes[0].image, index))
    assert ros.until(lambda: len(alphas) == 4)
    assert [(stamp_to_ns(msg.header.stamp) - START_NS) // PERIOD_NS for msg in alphas] == [0, 1, 2, 4]
    assert node.health.drops() == {"sync_unmatched": 2}


def test_no_guidance_is_told(ros: Any, matte: Maker, scenes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import vitmatte_ros.node

    monkeypatch.setattr(vitmatte_ros.node, "GUIDANCE_PATIENCE_S", 0.2)
    node = matte(diagnostics_period=0.1, guidance="mask", sync_depth=2)
    node.health.stall_s = 0.4
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    camera = Camera(ros, node)

    def said() -> str:
        return reports[-1].status[0].message if reports else ""

    for index in range(200):
        camera.send(rgb_message(scenes[0].image, index))
        if "stuck" in said():
            break
    assert "input arrives but nothing is published: stuck at infer" in said()
    assert "images arrive, but no ~/mask: check its topic, and the parameter 'guidance'" in said()
    assert node.health.drops()["sync_overflow"] > 0
    Guidance(ros, node, "mask").send(scenes[0].mask, index + 1)
    camera.send(rgb_message(scenes[0].image, index + 1))
    assert ros.until(lambda: node.health.count("publish") == 1)
    assert "guidance" not in node.health.warnings


def test_the_latest_guidance_grows_less_certain_until_it_is_too_old(
    ros: Any, matte: Maker, network: Path, scenes: list[Any]
) -> None:
    node = matte(
        guidance="mask", sync="latest", max_guidance_age=0.12, age_widening=50.0, inner_radius=4, outer_radius=4
    )
    alphas, used = ros.listen(Image, "/vitmatte/alpha"), ros.listen(Image, "/vitmatte/used_trimap")
    assert ros.until(lambda: node.wanted("used_trimap"))
    camera, guidance = Camera(ros, node), Guidance(ros, node, "mask")
    camera.send(rgb_message(scenes[0].image))
    assert node.health.drops() == {"no_guidance": 1}
    guidance.send(scenes[0].mask)
    for index in range(4):  # 0, 50, 100, 150 ms after the mask
        camera.send(rgb_message(scenes[index].image, index))
    assert ros.until(lambda: len(alphas) == len(used) == 3)
    assert node.health.drops() == {"no_guidance": 1, "old_guidance": 1}
    guide = Guide(GuidanceOptions("mask", inner=4, outer=4))
    fresh = guide.trimap(scenes[0].mask, scenes[0].mask.shape)
    for index, width in enumerate((0, 2, 5)):
        trimap = widen_unknown(fresh, width, also_edges=True) if width else fresh
        np.testing.assert_array_equal(image_to_array(used[index]), trimap)
        expected = alpha_to_bytes(expected_alpha(network, scenes[index].image, trimap))
        np.testing.assert_array_equal(image_to_array(alphas[index]), expected)
    guidance.send(scenes[1].mask, index=-1)
    assert node.health.drops()["guidance_out_of_order"] == 1


@pytest.mark.parametrize(("code", "value"), [(FOREGROUND, 255), (BACKGROUND, 0)])
def test_trimaps_without_an_unknown_pixel(ros: Any, matte: Maker, scenes: list[Any], code: int, value: int) -> None:
    node = matte(diagnostics_period=0.1)
    alphas, reports = ros.listen(Image, "/vitmatte/alpha"), ros.listen(DiagnosticArray, "/diagnostics", 100)
    Guidance(ros, node).send(np.full((120, 160), code, np.uint8))
    Camera(ros, node).send(rgb_message(scenes[0].image))
    assert ros.until(lambda: alphas)
    assert (image_to_array(alphas[0]) == value).all()
    ros.until(lambda: reports and values_of(reports[-1].status[0]).get("images with nothing unknown") == "1")
    assert values_of(reports[-1].status[0])["images with nothing unknown"] == "1"


def test_a_trimap_that_is_all_unknown(ros: Any, matte: Maker, network: Path, scenes: list[Any]) -> None:
    node = matte()
    alphas = ros.listen(Image, "/vitmatte/alpha")
    trimap = np.full((120, 160), UNKNOWN, np.uint8)
    Guidance(ros, node).send(trimap)
    Camera(ros, node).send(rgb_message(scenes[0].image))
    assert ros.until(lambda: alphas)
    expected = alpha_to_bytes(expected_alpha(network, scenes[0].image, trimap))
    np.testing.assert_array_equal(image_to_array(alphas[0]), expected)


def test_the_demo_image_in_tiles_of_the_artifact(ros: Any, matte: Maker, network: Path, shared: Path) -> None:
    folder = shared / "data" / "matting"
    image = cv2.imread(str(folder / "bulb_rgb.jpg"))
    trimap = cv2.imread(str(folder / "bulb_trimap.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert trimap is not None
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    node = matte(overlap=32, margin=16)
    alphas = ros.listen(Image, "/vitmatte/alpha")
    Guidance(ros, node).send(trimap)
    Camera(ros, node).send(rgb_message(rgb))
    assert ros.until(lambda: alphas)
    pipeline = MattePipeline(network, overlap=32, margin=16)
    result = pipeline.process(rgb, trimap)
    assert len(result.windows) > 1
    np.testing.assert_array_equal(image_to_array(alphas[0]), alpha_to_bytes(result.alpha))
