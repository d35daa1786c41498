# SPDX-License-Identifier: Apache-2.0
"""What a first bootstrap waits for, and which poses count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vggt_ros.depth_sources import MetricClaim
from vggt_ros.pose_policy import PosePolicy
from vggt_ros.steps import View
from vggt_ros.views import PosedViews

IMAGE = np.zeros((2, 2, 3), np.uint8)


def placed(posed: tuple[str, ...], unposed: tuple[str, ...] = ()) -> PosedViews:
    views = [View(name, IMAGE, None, np.eye(4) if name in posed else None) for name in (*posed, *unposed)]
    return PosedViews(views, {}, {}, dict.fromkeys(unposed, "no pose: none"))


def world(size: int = 0, anchored: bool = False, network: MetricClaim | None = None) -> Any:
    return SimpleNamespace(
        map=SimpleNamespace(size=size), scale=SimpleNamespace(anchored=anchored), metric_network=network
    )


def names(views: PosedViews) -> dict[str, bool]:
    return {view.name: view.pose is not None for view in views.views}


@pytest.mark.parametrize("source", ["auto", "tf", "network"])
def test_a_first_bootstrap_waits_for_missing_cameras_but_not_for_ever(source: str) -> None:
    now = [100.0]
    policy = PosePolicy(source, 5.0, lambda: now[0])
    views = placed(("a", "b")) if source != "network" else placed((), ())
    told = policy.decide(world(), views, {"c": "no image"}, hurry=False)
    assert told.wait == "the first bootstrap waits for c: no image"
    now[0] += 4.9
    assert policy.decide(world(), views, {"c": "no image"}, hurry=False).wait
    assert not policy.decide(world(), views, {"c": "no image"}, hurry=True).wait
    now[0] += 0.2
    assert not policy.decide(world(), views, {"c": "no image"}, hurry=False).wait


def test_auto_takes_two_poses_or_none() -> None:
    policy = PosePolicy("auto", 0.0)
    told = policy.decide(world(), placed(("a", "b"), ("c",)), {}, hurry=False)
    assert (names(told.views), told.arbitrary) == ({"a": True, "b": True}, "")
    assert told.views.problems == {"c": "no pose: none"}
    told = policy.decide(world(), placed(("a",), ("b",)), {}, hurry=False)
    assert names(told.views) == {"a": False, "b": False}
    assert told.arbitrary == "b: no pose: none"
    assert policy.decide(world(), placed(("a",)), {}, hurry=False).arbitrary == "one camera alone tells no scale"


def test_tf_needs_two_poses() -> None:
    policy = PosePolicy("tf", 0.0)
    told = policy.decide(world(), placed(("a",), ("b",)), {}, hurry=False)
    assert told.wait == "expected tf of at least 2 cameras for the scale, found 1 (b: no pose: none)"
    assert not policy.decide(world(), placed(("a", "b")), {}, hurry=False).wait


def test_a_metric_network_needs_one_pose_for_the_world_or_none() -> None:
    begun = world(network=MetricClaim("depth.pt2"))
    for source in ("auto", "tf"):
        told = PosePolicy(source, 0.0).decide(begun, placed(("a",), ("b",)), {}, hurry=False)
        assert (names(told.views), told.wait, told.arbitrary) == ({"a": True, "b": False}, "", "")
    told = PosePolicy("auto", 0.0).decide(begun, placed((), ("a", "b")), {}, hurry=False)
    assert (names(told.views), told.wait, told.arbitrary) == ({"a": False, "b": False}, "", "")
    told = PosePolicy("tf", 0.0).decide(begun, placed((), ("a",)), {}, hurry=False)
    assert told.wait == "expected tf of 1 camera for the world, found 0 (a: no pose: none)"
    random = world(network=MetricClaim("depth.pt2", "its weights are random"))
    told = PosePolicy("auto", 0.0).decide(random, placed(("a",), ("b",)), {}, hurry=False)
    assert told.arbitrary == "b: no pose: none; its weights are random"
    assert PosePolicy("tf", 0.0).decide(random, placed(("a",)), {}, hurry=False).wait.startswith("expected tf of at le")


@pytest.mark.parametrize("source", ["auto", "tf"])
def test_a_map_keeps_its_unit(source: str) -> None:
    policy = PosePolicy(source, 5.0)
    mixed = placed(("a",), ("b",))
    told = policy.decide(world(10, True), mixed, {"c": "no image"}, hurry=False)
    assert (names(told.views), told.wait, told.views.problems) == ({"a": True}, "", {"b": "no pose: none"})
    told = policy.decide(world(10, False), mixed, {}, hurry=False)
    assert names(told.views) == {"a": False, "b": False}


def test_the_patience_begins_anew_with_a_new_map() -> None:
    now = [0.0]
    policy = PosePolicy("auto", 5.0, lambda: now[0])
    policy.decide(world(), placed(("a", "b")), {"c": "-"}, hurry=False)
    now[0] = 10
    assert not policy.decide(world(), placed(("a", "b")), {"c": "-"}, hurry=False).wait
    policy.decide(world(10, True), placed(("a", "b")), {}, hurry=False)
    assert policy.decide(world(), placed(("a", "b")), {"c": "-"}, hurry=False).wait
