# SPDX-License-Identifier: Apache-2.0
"""f3_node with heads as a node: what runs when, heads that do not fit, diagnostics, transitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from f3_heads import CHANNELS, RAW, play
from node_checks import check_unusable, values_of
from sensor_msgs.msg import Image

Head = Callable[..., Path]


def count_runs(node: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ran: list[str] = []
    for name, model in node._pipeline.models.items():
        run = model.run
        monkeypatch.setattr(model, "run", lambda name=name, run=run, **inputs: (ran.append(name), run(**inputs))[1])
    return ran


@pytest.mark.parametrize(
    ("topics", "values", "runs", "published"),
    [
        ((), {}, set(), set()),
        (("features",), {}, {"f3"}, {"features"}),
        (("flow",), {}, {"f3", "flow"}, {"flow"}),
        (("depth_image",), {}, {"f3", "depth"}, set()),
        ((), {"publish_features": "always"}, {"f3"}, {"features"}),
        ((), {"heads_always": True}, {"f3", "depth", "flow"}, {"relative_depth", "flow"}),
    ],
    ids=["nobody", "features", "flow", "depth_image", "features_always", "heads_always"],
)
def test_only_what_somebody_subscribes_to_is_computed(
    topics: tuple[str, ...],
    values: dict[str, Any],
    runs: set[str],
    published: set[str],
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    heads: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = f3(**heads, **values)
    ran = count_runs(node, monkeypatch)
    sent: list[str] = []
    for name, publisher in node.outputs.items():
        send = publisher.publish
        monkeypatch.setattr(publisher, "publish", lambda msg, name=name, send=send: (sent.append(name), send(msg)))
    for topic in topics:
        ros.listen(Image, f"/f3/{topic}")
    assert ros.until(lambda: all(node.wanted(topic) for topic in topics))
    player = replay(shared / "data" / "events" / RAW)
    assert ros.until(lambda: player.exit_code is not None)
    assert player.exit_code == 0
    assert node.health.count("publish") == node.health.count("infer") > 0, "a window that nobody wants is no failure"
    assert set(ran) == runs
    assert set(sent) - {"processed_seq"} == published | (set(topics) - {"features", "flow"})


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("family", "expected an artifact of the family depth, found flow"),
        ("f3_as_depth", "expected an artifact of the family depth, found f3"),
        ("channels", "expected a flow head for the 8 channels of"),
        ("rgb", "expected a depth head that runs on F3 features, found input 'rgb_image'"),
        ("missing", "none.pt2"),
        ("allow_list", "allow"),
        ("calibration", "expected a camera calibration in ROS's YAML form"),
        ("resolution", "expected output_resolution to be grid or sensor, found 'full'"),
        ("mask", "expected flow_mask to be events or dense, found 'some'"),
    ],
)
def test_heads_that_do_not_fit_leave_the_node_alive_with_a_reason(
    case: str,
    reason: str,
    ros: Any,
    f3: Callable[..., Any],
    micro_f3: Path,
    heads: dict[str, str],
    stand_in_head: Head,
    tmp_path: Path,
) -> None:
    from aot_runtime.files import sha256_file

    (tmp_path / "allowed").write_text(f"{sha256_file(micro_f3)}  {micro_f3.name}\n")
    (tmp_path / "camera.yaml").write_text("image_width: 3\n")
    wrong = {
        "family": {"depth_artifact": heads["flow_artifact"]},
        "f3_as_depth": {"depth_artifact": str(micro_f3)},
        "channels": {"flow_artifact": str(stand_in_head("flow", 16, 20, 30))},
        "rgb": {"depth_artifact": str(stand_in_head("depth", CHANNELS, 28, 42, input="rgb_image"))},
        "missing": {"flow_artifact": str(tmp_path / "none.pt2")},
        "allow_list": {"depth_artifact": heads["depth_artifact"], "allow_list": str(tmp_path / "allowed")},
        "calibration": {"camera_info_url": str(tmp_path / "camera.yaml")},
        "resolution": {"output_resolution": "full"},
        "mask": {"flow_mask": "some"},
    }[case]
    good = {**heads, "allow_list": "", "camera_info_url": "", "output_resolution": "grid", "flow_mask": "events"}
    check_unusable(ros, f3, wrong, reason, good)


def test_a_head_that_computes_something_else_is_refused_on_activation(
    ros: Any, f3: Callable[..., Any], heads: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = f3(autostart=False, active=False, **heads)
    node.trigger_configure()
    model = node._pipeline.flow.model
    run = model.run
    monkeypatch.setattr(model, "run", lambda **inputs: {"flow": run(**inputs)["flow"] + 1.0})
    node.trigger_activate()
    assert node.health.state == "inactive"
    assert "cannot activate" in node.health.warnings["lifecycle"]
    assert "flow" in node.health.warnings["lifecycle"]
    monkeypatch.undo()
    node.trigger_activate()
    assert node.health.state == "active"


def test_diagnostics_tell_of_every_artifact(
    shared: Path,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
    heads: dict[str, str],
    stand_in_head: Head,
) -> None:
    strange = stand_in_head("depth", CHANNELS, 28, 42, backbone_digest="ab" * 32)
    node = f3(depth_artifact=str(strange), flow_artifact=heads["flow_artifact"], diagnostics_period=0.2)
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    depths, flows = ros.listen(Image, "/f3/relative_depth"), ros.listen(Image, "/f3/flow")
    assert ros.until(lambda: node.wanted("relative_depth") and node.wanted("flow") and node.wanted("window_info"))
    play(ros, replay, shared / "data" / "events" / RAW, depths, flows, infos, count=1)
    ros.spin(0.3)
    status = reports[-1].status[0]
    told = values_of(status)
    assert told["depth artifact"] == strange.name
    assert told["flow artifact"] == Path(heads["flow_artifact"]).name
    assert told["flow weights"] == "stand_in.pth (000000000000)"
    assert told["finite depth [%]"] == told["finite flow [%]"] == "100"
    assert "finite features [%]" not in told
    assert told["depth_meaning"] == "relative, larger is nearer"
    assert told["flow_interval_us"] == "100000"
    assert "trained on other F3 weights (abababababab)" in status.message
    window = values_of(infos[0])
    assert window["flow_interval_us"] == "100000"
    assert window["flow_unit"] == "pixels of the published image over flow_interval_us"
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert "backbone" not in node.health.warnings
    assert node.health.identity == {}


def test_every_transition_twice_with_heads(
    shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any], heads: dict[str, str]
) -> None:
    node = f3(autostart=False, active=False, **heads)
    flows = ros.listen(Image, "/f3/flow")
    for _ in range(2):
        node.trigger_configure()
        node.trigger_activate()
        assert node.health.state == "active"
        assert ros.until(lambda: node.wanted("flow"))
        before = len(flows)
        play(ros, replay, shared / "data" / "events" / RAW, flows, count=before + 1)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.outputs == {}
