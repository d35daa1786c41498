# SPDX-License-Identifier: Apache-2.0
"""F3 and its heads in C++ and in Python on the same windows: the same numbers, the same refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpp_programs import find_program, run_json
from event_windows import random_window

from aot_runtime.errors import ArtifactError
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.readers import open_events
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow, EventWindower, WindowConfig
from f3_ros.perception import PerceptionPipeline, PerceptionResult

VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}
FIXED = {"n_events": 1600, "hashed": True, "downsample": (21, 17)}
CHANNELS = 16
ALL = ("features", "depth", "flow")
TOLERANCE = 1e-5


@dataclass
class Given:
    """A window of a sensor, and what is wanted of it."""

    window: EventWindow
    sensor: tuple[int, int] = (64, 48)
    want: Collection[str] = ALL


@pytest.fixture
def run_cpp_f3(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the C++ pipeline; returns what it says, with arrays in place of shapes."""
    program = find_program("test/pipelines/run_f3")

    def run(f3: Path, given: Sequence[Given] = (), **request: Any) -> dict[str, Any]:
        windows = []
        for index, one in enumerate(given):
            e = one.window.events
            file = tmp_path / f"{index}.events"
            file.write_bytes(e.x.tobytes() + e.y.tobytes() + e.t.tobytes() + e.p.tobytes())
            windows.append({
                "file": str(file), "n": len(e), "start_us": one.window.start_us, "end_us": one.window.end_us,
                "n_received": one.window.n_received, "width": one.sensor[0], "height": one.sensor[1],
                "want": list(one.want),
            })  # fmt: skip
        paths = {name: str(value) if isinstance(value, Path) else value for name, value in request.items()}
        told = run_json(program, request={"f3": str(f3), "folder": str(tmp_path), "windows": windows, **paths})
        for index, result in enumerate(told["results"]):
            for name, shape in (result.pop("shapes", None) or {}).items():
                data = (tmp_path / f"{index}_{name}.bin").read_bytes()
                result[name] = np.frombuffer(data, np.float32).reshape(shape)
        return told

    return run


def assert_same(found: dict[str, Any], expected: PerceptionResult, relative: float = 0.0) -> None:
    assert (found["n_received"], found["n_used"]) == (expected.n_received, expected.n_events_used)
    assert tuple(found["warnings"]) == expected.warnings
    features = None if expected.features is None else expected.features.transpose(1, 2, 0)
    for name, array in (("features", features), ("depth", expected.depth), ("flow", expected.flow)):
        assert (name in found) == (array is not None)
        if array is not None:
            assert found[name].shape == array.shape
            limit = max(TOLERANCE, relative * float(np.abs(array).max()))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=limit, err_msg=name)
            assert np.abs(array).max() > 0


@pytest.mark.parametrize("kind", ["variable", "fixed"])
def test_windows_give_the_same(kind, f3_artifact, stand_in_head, run_cpp_f3):
    f3 = f3_artifact("f3_small_direct", **(VARIABLE if kind == "variable" else FIXED))
    depth, flow = stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 20, 30)
    given = [
        Given(random_window(300)),
        Given(random_window(1)),
        Given(random_window(1600, 1)),
        Given(random_window(300, 2, 40, 30), sensor=(40, 30)),
        Given(random_window(300, 3, 90, 60), sensor=(90, 60)),
        Given(random_window(6000, 4)),  # more than either artifact takes
        *(Given(random_window(200, 5), want=want) for want in [(), ("features",), ("depth",), ("flow", "features")]),
    ]
    told = run_cpp_f3(f3, given, depth=depth, flow=flow, repeat_self_test=True)
    assert not told["error"]
    pipeline = PerceptionPipeline.load(f3, depth=depth, flow=flow)
    try:
        assert told["warnings"] == list(pipeline.warnings)
        for name, info in pipeline.head_infos.items():
            about = told[name]
            assert (tuple(about["size"]), about["channels"], about["kind"]) == (info.size, info.channels, info.kind)
            assert (about["is_metric"], about["focal_baseline"], about["interval_us"]) == (
                info.is_metric, info.focal_baseline, info.interval_us,
            )  # fmt: skip
        assert len(told["results"]) == len(given)
        for one, found in zip(given, told["results"]):
            assert_same(found, pipeline.process(one.window, *one.sensor, want=one.want))
    finally:
        pipeline.close()
    assert any("thinned 6000 events" in text for text in told["results"][5]["warnings"])
    assert any("left out" in text for text in told["results"][4]["warnings"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kind", ["variable", "fixed"])
def test_windows_give_the_same_on_a_gpu(kind, graph, f3_artifact, stand_in_head, run_cpp_f3):
    f3 = f3_artifact("f3_small_direct", device="cuda", **(VARIABLE if kind == "variable" else FIXED))
    depth, flow = (stand_in_head(family, CHANNELS, 28, 42, device="cuda") for family in ("depth", "flow"))
    given = [Given(random_window(count, seed)) for seed, count in enumerate((300, 1600, 1, 900))]
    wanted = {"device": "cuda", "cuda_graph": graph, "repeat_self_test": True}
    told = run_cpp_f3(f3, given, depth=depth, flow=flow, **wanted)
    assert not told["error"]
    pipeline = PerceptionPipeline.load(f3, "cuda", depth=depth, flow=flow, cuda_graph=False)
    try:
        for one, found in zip(given, told["results"], strict=True):
            # Sums of features over events run in any order on a GPU.
            assert_same(found, pipeline.process(one.window, *one.sensor), relative=1e-4)
    finally:
        pipeline.close()


def test_no_events_give_the_same(f3_artifact, stand_in_head, run_cpp_f3):
    f3 = f3_artifact("f3_small_direct", **VARIABLE)
    flow = stand_in_head("flow", CHANNELS, 48, 64)
    told = run_cpp_f3(f3, [Given(random_window(0))], flow=flow)
    pipeline = PerceptionPipeline.load(f3, flow=flow)
    expected = pipeline.process(random_window(0))
    pipeline.close()
    found = told["results"][0]
    assert expected.features is not None
    np.testing.assert_allclose(found["features"], expected.features.transpose(1, 2, 0), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found["flow"], expected.flow, rtol=0, atol=TOLERANCE)
    assert "depth" not in found


def test_a_real_recording_gives_the_same(f3_artifact, stand_in_head, shared, run_cpp_f3):
    """Windows of a camera, whose equality in both languages is test_events' matter, through the networks."""
    f3 = f3_artifact("f3_small_direct", **VARIABLE)
    decoder, windower = PacketDecoder(), EventWindower(WindowConfig())
    windows: list[EventWindow] = []
    with open_events(shared / "data" / "events" / "bag_evt3_gen31_sqlite3") as reader:
        for packet in reader.packets():
            decoded = decoder.decode(packet)
            windows += windower.push(decoded.events, decoded.time_us, decoded.gap)
    for window in windows:  # onto the frame of the tiny network
        e = window.events
        window.events = Events(e.x // 10, e.y // 10, e.t, e.p)
    given = [Given(window) for window in windows[:8]]
    depth, flow = stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 28, 42)
    told = run_cpp_f3(f3, given, depth=depth, flow=flow)
    assert not told["error"]
    pipeline = PerceptionPipeline.load(f3, depth=depth, flow=flow)
    for one, found in zip(given, told["results"]):
        assert_same(found, pipeline.process(one.window, *one.sensor))
    pipeline.close()
    assert sum(found["n_used"] for found in told["results"]) > 5000


@pytest.mark.parametrize(
    "case", ["f3 is a head", "depth is a flow", "another number of channels", "another backbone", "bad baseline"]
)
def test_models_that_do_not_fit_are_refused_in_the_same_words(case, f3_artifact, stand_in_head, run_cpp_f3):
    f3 = f3_artifact("f3_small_direct", **VARIABLE)
    heads: dict[str, Path] = {}
    if case == "f3 is a head":
        f3 = stand_in_head("depth", CHANNELS, 28, 42)
    elif case == "depth is a flow":
        heads["depth"] = stand_in_head("flow", CHANNELS, 20, 30)
    elif case == "another number of channels":
        heads["flow"] = stand_in_head("flow", 5, 20, 30)
    elif case == "another backbone":
        heads["flow"] = stand_in_head("flow", CHANNELS, 20, 30, backbone_digest="0123456789abcdef")
    else:
        heads["depth"] = stand_in_head("depth", CHANNELS, 28, 42, kind="disparity", focal_baseline=-1.0)
    told = run_cpp_f3(f3, **heads)
    if case == "another backbone":
        pipeline = PerceptionPipeline.load(f3, **heads)
        pipeline.close()
        assert not told["error"]
        assert told["warnings"] == list(pipeline.warnings)
        assert len(pipeline.warnings) == 1
    else:
        with pytest.raises(ArtifactError) as refused:
            PerceptionPipeline.load(f3, **heads)
        assert told["error"] == str(refused.value)


def test_a_file_that_is_no_artifact_is_named(tmp_path, run_cpp_f3):
    (tmp_path / "no.pt2").write_bytes(b"nothing")
    told = run_cpp_f3(tmp_path / "no.pt2")
    assert "no.pt2" in told["error"]
    assert json.dumps(told)
