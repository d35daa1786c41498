# SPDX-License-Identifier: Apache-2.0
"""depth_node as a node: lifecycle, allow-list, parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from node_checks import check_allow_list, check_out_of_range, check_unusable, check_yaml
from ros_images import check_transitions
from sensor_msgs.msg import Image
from small_artifacts import with_manifest


@pytest.mark.parametrize(
    "case", ["none", "missing", "not_an_artifact", "family", "features", "bad_transport", "bad_points", "bad_device"]
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    case: str, ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path], tmp_path: Path
) -> None:
    wrong, reason = {
        "none": ({"artifact": ""}, "the parameter 'artifact' empty"),
        "missing": ({"artifact": str(tmp_path / "none.pt2")}, "none.pt2"),
        "not_an_artifact": ({"artifact": str(tmp_path / "text.pt2")}, "text.pt2"),
        "family": ({"artifact": str(stand_in(family="flow"))}, "expected an artifact of the family depth, found flow"),
        "features": ({"artifact": str(stand_in(input="f3_features"))}, "found one for f3_features"),
        "bad_transport": (
            {"image_transport": "theora"},
            "expected image_transport to be raw or compressed, found 'theora'",
        ),
        "bad_points": ({"points": "yes"}, "expected points to be off or xyz or xyzrgb, found 'yes'"),
        "bad_device": ({"device": "abacus"}, "abacus"),
    }[case]
    (tmp_path / "text.pt2").write_text("no model")
    good = {"artifact": stand_in(), "image_transport": "raw", "points": "off", "device": "cpu"}
    check_unusable(ros, depth, wrong, reason, good)


def test_every_transition_twice_with_data_in_between(ros: Any, depth: Callable[..., Any]) -> None:
    node = depth(autostart=False, active=False)
    outputs = {"relative_depth": ros.listen(Image, "/depth/relative_depth")}
    check_transitions(ros, node, np.zeros((30, 40, 3), np.uint8), outputs)


def test_allow_list_admits_and_refuses(
    ros: Any, depth: Callable[..., Any], stand_in: Callable[..., Path], tmp_path: Path
) -> None:
    check_allow_list(ros, depth, stand_in(), tmp_path)


def test_depth_yaml_holds_every_parameter_with_its_default(depth: Callable[..., Any]) -> None:
    check_yaml(depth(active=False, artifact=""), "depth.yaml")


@pytest.mark.parametrize(
    ("name", "value"), [("num_threads", 257), ("max_range", -1.0), ("focal_baseline", -1.0), ("max_input_age", 4000.0)]
)
def test_values_out_of_range_are_refused(name: str, value: float, depth: Callable[..., Any]) -> None:
    check_out_of_range(depth, name, value)


def test_weights_for_noncommercial_use_are_loaded_and_this_is_said(
    depth: Callable[..., Any], stand_in: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def restrict(manifest: dict[str, Any]) -> None:
        manifest["checkpoint"]["licence"] = "CC-BY-NC-4.0"

    node = depth(artifact=str(with_manifest(stand_in(), tmp_path / "large.pt2", restrict)))
    assert node.health.state == "active"
    assert "the weights are for non-commercial use only (CC-BY-NC-4.0)" in capfd.readouterr().err
