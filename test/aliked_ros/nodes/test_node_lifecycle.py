# SPDX-License-Identifier: Apache-2.0
"""aliked_node as a node: diagnostics, lifecycle, allow-list, parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_checks import check_allow_list, check_out_of_range, check_unusable, check_yaml, values_of
from ros_images import Camera, check_transitions, rgb_message
from sensor_msgs.msg import PointCloud2

Maker = Callable[..., Any]


def test_diagnostics_name_the_artifact_and_count(
    ros: Any, aliked: Maker, network: Maker, altered: Maker, crops: list[np.ndarray]
) -> None:
    node = aliked(diagnostics_period=0.2)
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    clouds = ros.listen(PointCloud2, "/aliked/keypoints")
    camera = Camera(ros, node)
    for index in range(3):
        camera.send(rgb_message(crops[index], index))
    assert ros.until(lambda: len(clouds) == 3)
    reports.clear()
    assert ros.until(lambda: reports)
    status = reports[-1].status[0]
    told = values_of(status)
    assert (status.name, status.level, status.hardware_id) == ("aliked", DiagnosticStatus.OK, "cpu")
    assert told["artifact"] == network().name
    assert told["model"] == "aliked aliked-t16"
    assert told["weights"].startswith("aliked-t16.pth (")
    assert (told["count receive"], told["count infer"], told["count publish"]) == ("3", "3", "3")
    assert told["finite outputs [%]"] == "100"
    assert told["image -> network [px]"] == "160x120 -> 160x120"
    assert told["keypoints"] == str(clouds[-1].width)
    assert "tracks" not in told
    assert float(told["latency from receive p99 [ms]"]) > 0
    ros.remove(node)
    node = aliked(artifact=altered(random=True))
    assert "random weights" in node.health.warnings["weights"]


@pytest.mark.parametrize(
    "case",
    [
        "none",
        "missing",
        "not_an_artifact",
        "family",
        "no_top_k",
        "too_many",
        "bad_transport",
        "bad_resize",
        "bad_device",
    ],
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    case: str, ros: Any, aliked: Maker, network: Maker, altered: Maker, tmp_path: Path
) -> None:
    make: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
        "none": lambda: ({"artifact": ""}, "the parameter 'artifact' empty"),
        "missing": lambda: ({"artifact": str(tmp_path / "none.onnx")}, "none.onnx"),
        "not_an_artifact": lambda: ({"artifact": str(tmp_path / "text.pt2")}, "text.pt2"),
        "family": lambda: (
            {"artifact": str(altered(family="depth"))},
            "expected an artifact of the family aliked, found depth",
        ),
        "no_top_k": lambda: (
            {"artifact": str(altered(top_k=None))},
            "expected width, height, top_k and descriptor_dim",
        ),
        "too_many": lambda: (
            {"max_keypoints": 301},
            "expected max_keypoints from 0 to 300, the artifact's top_k, found 301",
        ),
        "bad_transport": lambda: (
            {"image_transport": "theora"},
            "expected image_transport to be raw or compressed, found 'theora'",
        ),
        "bad_resize": lambda: ({"resize": "crop"}, "expected resize to be fit or never, found 'crop'"),
        "bad_device": lambda: ({"device": "abacus"}, "abacus"),
    }
    (tmp_path / "text.pt2").write_text("no model")
    wrong, reason = make[case]()
    good = {
        "artifact": network(),
        "image_transport": "raw",
        "resize": "fit",
        "device": "cpu",
        "max_keypoints": 0,
    }
    check_unusable(ros, aliked, wrong, reason, good)


def test_every_transition_twice_with_data_in_between(ros: Any, aliked: Maker, crops: list[np.ndarray]) -> None:
    node = aliked(autostart=False, active=False, track=True)
    outputs = {name: ros.listen(PointCloud2, f"/aliked/{name}") for name in ("keypoints", "tracks")}
    check_transitions(ros, node, crops[0], outputs)
    assert [cloud.width for cloud in outputs["tracks"]] == [0, 0], "activation starts tracks anew"


def test_allow_list_admits_and_refuses(ros: Any, aliked: Maker, network: Maker, tmp_path: Path) -> None:
    check_allow_list(ros, aliked, network(), tmp_path)


def test_aliked_yaml_holds_every_parameter_with_its_default(aliked: Maker) -> None:
    check_yaml(aliked(active=False, artifact=""), "aliked.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_threads", 257), ("threshold", 1.0), ("max_keypoints", -1), ("ratio", 0.0), ("min_similarity", 2.0)],
)
def test_values_out_of_range_are_refused(name: str, value: float, aliked: Maker) -> None:
    check_out_of_range(aliked, name, value)
