# SPDX-License-Identifier: Apache-2.0
"""f3_node as a node: diagnostics, lifecycle, which artifacts it refuses."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from event_driver import Driver, packet
from node_checks import check_allow_list, check_unusable, values_of
from sensor_msgs.msg import Image


def test_diagnostics_tell_identity_rates_and_random_weights(ros: Any, f3: Callable[..., Any], micro_f3: Path) -> None:
    f3(diagnostics_period=0.2)
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    driver = Driver(ros)
    for k in range(12):
        driver.send(packet(k, 4000 * k))
    ros.spin(0.3)
    status = reports[-1].status[0]
    told = values_of(status)
    assert status.name == "f3"
    assert status.level == DiagnosticStatus.WARN
    assert "random weights" in status.message
    assert told["artifact"] == micro_f3.name
    assert told["weights"] == "random"
    assert told["precision"] == "fp32"
    assert told["count receive"] == "12"
    assert told["count publish"] == "2"
    assert told["finite outputs [%]"] == "100"
    assert float(told["latency from receive p99 [ms]"]) > 0
    assert math.isfinite(float(told["sensor clock offset [s]"]))


@pytest.mark.parametrize(
    "case", ["none", "missing", "not_an_artifact", "truncated", "bad_mode", "no_mask", "bad_device"]
)
def test_unusable_configuration_leaves_the_node_alive_with_a_reason(
    case: str, ros: Any, f3: Callable[..., Any], micro_f3: Path, tmp_path: Path
) -> None:
    wrong, reason = {
        "none": ({"artifact": ""}, "the parameter 'artifact' empty"),
        "missing": ({"artifact": str(tmp_path / "none.pt2")}, "none.pt2"),
        "not_an_artifact": ({"artifact": str(tmp_path / "text.pt2")}, "text.pt2"),
        "truncated": ({"artifact": str(tmp_path / "half.pt2")}, "half.pt2"),
        "bad_mode": ({"window_mode": "often"}, "expected window_mode to be time or count or hybrid, found 'often'"),
        "no_mask": ({"hot_pixel_mask": str(tmp_path / "mask.png")}, "mask.png"),
        "bad_device": ({"device": "abacus"}, "abacus"),
    }[case]
    (tmp_path / "text.pt2").write_text("no model")
    (tmp_path / "half.pt2").write_bytes(micro_f3.read_bytes()[: micro_f3.stat().st_size // 2])
    good = {"artifact": micro_f3, "window_mode": "time", "hot_pixel_mask": "", "device": "cpu"}
    check_unusable(ros, f3, wrong, reason, good)


def test_artifact_of_another_family_is_refused(
    ros: Any, f3: Callable[..., Any], micro_f3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    import f3_ros.pipeline

    class Impostor:
        """A loaded model whose manifest says that it is something else."""

        def __init__(self, path: Path) -> None:
            from aot_runtime.verdict import read_manifest

            self.path = path
            self.manifest = dataclasses.replace(read_manifest(path), family="depth")

    monkeypatch.setattr("aot_runtime.compiled_model.load_model", lambda path, *_, **__: Impostor(Path(path)))
    assert f3_ros.pipeline
    node = f3(active=False)
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert "expected an artifact of the family f3, found depth" in node.health.warnings["lifecycle"]


def test_every_transition_twice_with_data_in_between(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3(autostart=False, active=False)
    features = ros.listen(Image, "/f3/features")
    driver: Driver | None = None
    for round_ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        driver = driver or Driver(ros)
        assert ros.until(lambda: node.count_subscribers("/f3/features") > 0)
        ros.spin(0.3)
        for k in range(6):
            driver.send(packet(k, 4000 * k))
        assert ros.until(lambda n=round_ + 1: len(features) >= n)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.health.state == "unconfigured"
    assert not any(thread.name in ("infer", "decode") for thread in threading.enumerate())
    node.trigger_configure()
    node.trigger_shutdown()
    assert node.health.state == "finalized"


def test_allow_list_admits_and_refuses(ros: Any, f3: Callable[..., Any], micro_f3: Path, tmp_path: Path) -> None:
    check_allow_list(ros, f3, micro_f3, tmp_path)


def test_a_copy_that_anybody_may_write_is_refused(
    ros: Any, f3: Callable[..., Any], micro_f3: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "open.pt2"
    shutil.copy(micro_f3, copy)
    copy.chmod(0o666)
    node = f3(active=False, artifact=str(copy))
    assert ros.until(lambda: "lifecycle" in node.health.warnings)
    assert "open.pt2" in node.health.warnings["lifecycle"]
