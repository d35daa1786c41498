# SPDX-License-Identifier: Apache-2.0
"""What vitmatte_node bears: malformed input, overload, late images, time that goes back, parameters, its life cycle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from node_checks import check_allow_list, check_out_of_range, check_unusable, check_yaml
from ros_images import (
    START_NS,
    Camera,
    check_late_images,
    check_malformed_images,
    check_overload,
    png_message,
    rgb_message,
)
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from aot_runtime.ros.messages import ns_to_stamp, to_image
from aot_runtime.ros.qos import image_input_qos

Maker = Callable[..., Any]
LATEST = {"guidance": "mask", "sync": "latest", "max_guidance_age": 1000.0, "age_widening": 0.0}


def give_mask(ros: Any, node: Any, mask: np.ndarray, stamp_ns: int = START_NS) -> None:
    publisher = ros.publisher(Image, "/vitmatte/mask", image_input_qos(10))
    publisher.publish(to_image(mask, "mono8", Header(stamp=ns_to_stamp(stamp_ns))))
    assert ros.until(lambda: node._latest is not None and node._latest[0] == stamp_ns)


def test_malformed_images(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(**LATEST)
    give_mask(ros, node, scenes[0].mask)
    check_malformed_images(ros, node, ros.listen(Image, "/vitmatte/alpha"), scenes[0].image)


def test_malformed_guidance(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte()
    alphas = ros.listen(Image, "/vitmatte/alpha")
    camera, publisher = Camera(ros, node), ros.publisher(Image, "/vitmatte/trimap", image_input_qos(10))
    trimap = scenes[0].trimap
    bad = [
        to_image(trimap[:100], "mono8"),
        to_image(trimap // 128, "mono8"),
        to_image(np.repeat(trimap[:, :, None], 3, axis=2), "bgr8"),
        to_image(trimap.astype(np.float32), "32FC1"),
        Image(encoding="mono8", width=160, height=120, step=160),
        Image(encoding="nonsense", width=160, height=120),
    ]
    for index, msg in enumerate([*bad, to_image(trimap, "mono8")]):
        msg.header = rgb_message(scenes[0].image, index).header
        before = node._guided
        publisher.publish(msg)
        assert ros.until(lambda then=before: node._guided > then)
        camera.send(rgb_message(scenes[0].image, index))
    assert ros.until(lambda: alphas)
    assert node.health.drops() == {"bad_guidance": len(bad)}
    assert node.health.count("publish") == 1
    stamp = to_image(trimap, "mono8")
    stamp.header.stamp.nanosec = 2 * 10**9
    publisher.publish(stamp)
    assert ros.until(lambda: node.health.drops().get("bad_stamp") == 1)


def test_the_reason_names_what_is_wrong_with_a_trimap(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte()
    camera, publisher = Camera(ros, node), ros.publisher(Image, "/vitmatte/trimap", image_input_qos(10))
    small = to_image(scenes[0].trimap[:100], "mono8", rgb_message(scenes[0].image).header)
    publisher.publish(small)
    camera.send(rgb_message(scenes[0].image))
    assert ros.until(lambda: node.health.drops().get("bad_guidance") == 1)
    values = node.health.report().values
    assert "expected a trimap of the image's 160x120 pixels, found 160x100" in values["last error receive"]


def test_compressed_images(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(image_transport="compressed", **LATEST)
    give_mask(ros, node, scenes[0].mask)
    alphas = ros.listen(Image, "/vitmatte/alpha")
    Camera(ros, node, CompressedImage).send(png_message(scenes[0].image))
    assert ros.until(lambda: alphas)


def test_overload_keeps_the_latest_image(
    ros: Any, matte: Maker, scenes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = matte(**LATEST)
    give_mask(ros, node, scenes[0].mask)
    check_overload(ros, node, ros.listen(Image, "/vitmatte/alpha"), scenes[0].image, monkeypatch)


def test_late_images(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(max_input_age=5.0, **{**LATEST, "max_guidance_age": 3600.0})
    give_mask(ros, node, scenes[0].mask, node.now_ns())
    check_late_images(ros, node, ros.listen(Image, "/vitmatte/alpha"), scenes[0].image)


def test_a_bag_that_loops(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte()
    alphas = ros.listen(Image, "/vitmatte/alpha")
    camera, publisher = Camera(ros, node), ros.publisher(Image, "/vitmatte/trimap", image_input_qos(10))
    for index in (100, 101, 0, 1):
        camera.send(rgb_message(scenes[0].image, index))
        msg = to_image(scenes[0].trimap, "mono8", rgb_message(scenes[0].image, index).header)
        before = node._guided
        publisher.publish(msg)
        assert ros.until(lambda then=before: node._guided > then)
    assert ros.until(lambda: len(alphas) == 4)
    assert node.health.drops() == {"time_jump_back": 1}


def test_what_it_cannot_be_configured_with(ros: Any, matte: Maker, network: Path, tmp_path: Path) -> None:
    check_unusable(ros, matte, {"artifact": tmp_path / "no.pt2"}, "no.pt2", {"artifact": network})


@pytest.mark.parametrize(
    ("wrong", "reason", "good"),
    [
        ({"trimap_coding": "0,1"}, "expected a trimap coding", {"trimap_coding": "0,1,2"}),
        ({"class_ids": "dog"}, "expected class ids as integers", {"class_ids": "3"}),
        ({"near": 3.0}, "expected 0 < near <= far", {"near": 1.0}),
        ({"guidance": "chroma"}, "expected guidance to be trimap or mask", {"guidance": "mask"}),
        ({"artifact": ""}, "made by export_vitmatte", {}),
    ],
)
def test_parameters_that_make_no_sense(
    ros: Any, matte: Maker, network: Path, wrong: dict[str, Any], reason: str, good: dict[str, Any]
) -> None:
    check_unusable(ros, matte, wrong, reason, {"artifact": network, **good})


def test_allow_list(ros: Any, matte: Maker, network: Path, tmp_path: Path) -> None:
    check_allow_list(ros, matte, network, tmp_path)


def test_yaml_and_ranges(matte: Maker, network: Path) -> None:
    check_yaml(matte(), "vitmatte.yaml", artifact=str(network))
    check_out_of_range(matte, "low", 1.5)


def test_deactivated_it_is_silent_and_then_goes_on(ros: Any, matte: Maker, scenes: list[Any]) -> None:
    node = matte(**LATEST)
    alphas = ros.listen(Image, "/vitmatte/alpha")
    for turn in range(2):
        give_mask(ros, node, scenes[0].mask)
        Camera(ros, node).send(rgb_message(scenes[0].image))
        assert ros.until(lambda n=turn + 1: len(alphas) == n)
        node.trigger_deactivate()
        assert node.health.state == "inactive"
        node.trigger_cleanup()
        assert node._pipeline is None
        node.trigger_configure()
        node.trigger_activate()
