# SPDX-License-Identifier: Apache-2.0
"""F3 and its heads in one pipeline: exact values, what runs and what does not, and models that do not fit together."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_windows import random_window as window

from aot_runtime.compiled_model import load_model
from aot_runtime.errors import ArtifactError, InputError
from f3_ros.perception import PerceptionPipeline, resize_features
from f3_ros.pipeline import F3Pipeline
from f3_ros.predictions import ModelPredictor

VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}
FIXED = {"n_events": 1600, "hashed": True, "downsample": (21, 17)}
CHANNELS = 16
Head = Callable[..., Path]


@pytest.fixture(scope="module", params=["variable", "fixed"])
def f3(request: pytest.FixtureRequest, f3_artifact: Any) -> Iterator[F3Pipeline]:
    pipeline = F3Pipeline(f3_artifact("f3_small_direct", **(VARIABLE if request.param == "variable" else FIXED)))
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def variable_f3(f3_artifact: Any) -> Iterator[F3Pipeline]:
    pipeline = F3Pipeline(f3_artifact("f3_small_direct", **VARIABLE))
    yield pipeline
    pipeline.close()


def by_hand(features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with align_corners=True of (C, H', W') in float64, pixel by pixel."""
    _, height, width = features.shape
    v = np.arange(size[0]) * (height - 1) / (size[0] - 1)
    u = np.arange(size[1]) * (width - 1) / (size[1] - 1)
    top, left = np.minimum(v.astype(int), height - 2), np.minimum(u.astype(int), width - 2)
    fv, fu = (v - top)[:, None], (u - left)[None, :]
    field = features.astype(np.float64)

    def corner(down: int, right: int) -> np.ndarray:
        return field[:, (top + down)[:, None], (left + right)[None, :]]

    upper = corner(0, 0) * (1 - fu) + corner(0, 1) * fu
    lower = corner(1, 0) * (1 - fu) + corner(1, 1) * fu
    return upper * (1 - fv) + lower * fv


@pytest.mark.parametrize("count", [0, 1, 300])
def test_heads_run_on_resized_features(count: int, f3: F3Pipeline, stand_in_head: Head) -> None:
    """Other sizes for depth and flow; the features are F3's own."""
    pipeline = PerceptionPipeline(f3, stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 20, 30))
    some = window(count)
    result = pipeline.process(some)
    assert result.features is not None
    assert result.depth is not None
    assert result.flow is not None
    np.testing.assert_array_equal(result.features, f3.process(some).features)
    assert (result.depth.shape, result.flow.shape) == ((28, 42), (2, 20, 30))
    np.testing.assert_allclose(result.depth, np.abs(by_hand(result.features, (28, 42))).mean(0), atol=1e-5)
    np.testing.assert_allclose(result.flow, by_hand(result.features, (20, 30))[:2], atol=1e-5)
    assert {array.dtype for array in (result.features, result.depth, result.flow)} == {np.dtype(np.float32)}
    assert (result.n_received, result.n_events_used, result.warnings) == (count, count, ())


def test_features_are_resized_once_for_heads_of_one_size(
    variable_f3: F3Pipeline, stand_in_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    import f3_ros.perception

    sizes: list[tuple[int, int]] = []

    def counting(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        sizes.append(size)
        return resize_features(features, size)

    monkeypatch.setattr(f3_ros.perception, "resize_features", counting)
    depth, flow = stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 28, 42)
    PerceptionPipeline(variable_f3, depth, flow).process(window())
    assert sizes == [(28, 42)]
    PerceptionPipeline(variable_f3, depth, stand_in_head("flow", CHANNELS, 20, 30)).process(window())
    assert sizes[1:] == [(28, 42), (20, 30)]


def test_features_of_the_heads_size_are_taken_as_they_are(variable_f3: F3Pipeline, stand_in_head: Head) -> None:
    pipeline = PerceptionPipeline(variable_f3, flow=stand_in_head("flow", CHANNELS, 48, 64))
    result = pipeline.process(window())
    assert result.features is not None
    assert result.flow is not None
    np.testing.assert_array_equal(result.flow, result.features[:2])
    field = torch.rand(1, 7, 5, 3)
    image = field.permute(0, 3, 2, 1)
    same = torch.nn.functional.interpolate(image, size=(5, 7), mode="bilinear", align_corners=True)
    assert torch.equal(resize_features(field, (5, 7)), same)


@pytest.mark.parametrize("want", [(), ("features",), ("depth",), ("flow",), ("features", "flow")])
def test_only_what_is_wanted_runs(
    want: tuple[str, ...], variable_f3: F3Pipeline, stand_in_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = PerceptionPipeline(
        variable_f3, stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 28, 42)
    )
    everything = pipeline.process(window())
    ran: list[str] = []
    for name, model in pipeline.models.items():
        run = model.run
        monkeypatch.setattr(model, "run", lambda name=name, run=run, **inputs: (ran.append(name), run(**inputs))[1])
    result = pipeline.process(window(), want=want)
    assert ran == ([] if not want else ["f3", *(name for name in ("depth", "flow") if name in want)])
    for name in ("features", "depth", "flow"):
        found, full = getattr(result, name), getattr(everything, name)
        if name in want:
            assert found.tobytes() == full.tobytes()
        else:
            assert found is None
    assert result.n_events_used == 300


def test_results_stay_as_they_are_when_the_next_window_runs(variable_f3: F3Pipeline, stand_in_head: Head) -> None:
    pipeline = PerceptionPipeline(
        variable_f3, stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 28, 42)
    )
    first = pipeline.process(window(seed=1))
    arrays = [array for array in (first.features, first.depth, first.flow) if array is not None]
    copies = [array.copy() for array in arrays]
    pipeline.process(window(seed=2))
    assert len(arrays) == 3
    for array, copy in zip(arrays, copies):
        np.testing.assert_array_equal(array, copy)
    again = pipeline.process(window(seed=1))
    assert again.depth is not None
    assert again.depth.tobytes() == copies[1].tobytes()


def test_tensors_have_the_contracts_shapes(f3: F3Pipeline, stand_in_head: Head) -> None:
    pipeline = PerceptionPipeline(f3, stand_in_head("depth", CHANNELS, 28, 42), stand_in_head("flow", CHANNELS, 28, 42))
    rows = f3.tensor(window())
    found = pipeline.tensors(rows)
    channels, height, width = f3.feature_shape
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "features": (1, width, height, channels),
        "depth": (1, 28, 42),
        "flow": (1, 2, 28, 42),
    }
    assert set(pipeline.tensors(rows, ("depth",))) == {"features", "depth"}
    with pytest.raises(InputError, match=r"expected events \(N, 4\) float32"):
        pipeline.tensors(np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="expected at most"):
        pipeline.tensors(np.zeros((4001, 4), np.float32))
    with pytest.raises(InputError, match="expected outputs out of features, depth, flow, found 'pose'"):
        pipeline.process(window(), want=("pose",))


def test_without_heads_there_are_features(f3: F3Pipeline) -> None:
    result = PerceptionPipeline(f3).process(window())
    assert result.features is not None
    assert (result.depth, result.flow) == (None, None)


def test_too_many_events_are_thinned_and_said(f3_artifact: Any, stand_in_head: Head) -> None:
    f3 = F3Pipeline(f3_artifact("f3_small_direct", **FIXED))
    result = PerceptionPipeline(f3, flow=stand_in_head("flow", CHANNELS, 28, 42)).process(window(8000))
    assert (result.n_received, result.n_events_used) == (8000, 1600)
    assert result.warnings == ("thinned 8000 events to the artifact's 1600",)


# -- models that do not belong together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "channels", "told", "reason"),
    [
        ("flow", 16, {}, "expected an artifact of the family depth, found flow"),
        ("depth", 8, {}, "for the 16 channels of f3_small_direct_.*, found one for 8 channels in"),
        (
            "depth",
            16,
            {"input": "rgb_image"},
            "expected a depth head that runs on F3 features, found input 'rgb_image'",
        ),
        ("depth", 16, {"size": [28]}, "expected size, input_channels and kind in the manifest's preprocessing"),
        ("depth", 16, {"size": [42, 28]}, r"expected features \(1, 16, 42, 28\) float32 in"),
        ("depth", 16, {"kind": "nice"}, "expected a depth relative or metric or disparity, found 'nice'"),
        ("depth", 16, {"kind": "disparity", "focal_baseline": -1.0}, "expected focal_baseline above 0 .*, found -1.0"),
        ("depth", 16, {"align_corners": False}, "expected features resized by"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    family: str, channels: int, told: dict[str, Any], reason: str, variable_f3: F3Pipeline, stand_in_head: Head
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        PerceptionPipeline(variable_f3, depth=stand_in_head(family, channels, 28, 42, **told))


def test_a_disparity_without_a_baseline_is_no_metric_depth(variable_f3: F3Pipeline, stand_in_head: Head) -> None:
    """What `export_dav2_to_pt2 --disparity` writes without --focal-baseline runs here as it does in depth_node."""
    pipeline = PerceptionPipeline(variable_f3, stand_in_head("depth", CHANNELS, 28, 42, kind="disparity"))
    assert pipeline.depth is not None
    assert (pipeline.depth.info.kind, pipeline.depth.info.is_metric) == ("disparity", False)
    prediction = ModelPredictor(pipeline).predict(1_000_000, window(), 64, 48)
    assert prediction.depth is not None
    assert prediction.depth_kind == "relative", "it is aligned before it is compared with metres"


def test_a_flow_head_as_onnx_gives_the_flow_of_the_package(variable_f3: F3Pipeline, tmp_path: Path) -> None:
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.export_flowhead import export_flowhead
    from f3_ros.flow_head import FlowHead

    model = FlowHead(CHANNELS, (9, 3), (2, 2), (1, 1)).randomise(4)
    flows = []
    for suffix in (".pt2", ".onnx"):
        path = tmp_path / f"flow{suffix}"
        export_flowhead(model, path, height=28, width=42, checkpoint=CheckpointInfo.random(4), progress=False)
        pipeline = PerceptionPipeline(variable_f3, flow=path)
        flows.append(pipeline.process(window()).flow)
    assert flows[0] is not None
    assert float(np.abs(flows[0]).max()) > 0.1
    np.testing.assert_allclose(flows[1], flows[0], rtol=0, atol=1e-4 * float(np.abs(flows[0]).max()))


def test_the_depth_is_closed_if_the_flow_does_not_fit(
    variable_f3: F3Pipeline, stand_in_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aot_runtime.compiled_model import CompiledModel

    closed: list[str] = []
    monkeypatch.setattr(CompiledModel, "close", lambda self: closed.append(self.manifest.family))
    depth = stand_in_head("depth", CHANNELS, 28, 42)
    with pytest.raises(ArtifactError, match="family flow, found depth"):
        PerceptionPipeline(variable_f3, depth, depth)
    assert closed == ["depth", "depth"]
    loaded = load_model(depth)
    with pytest.raises(ArtifactError, match="family flow, found depth"):
        PerceptionPipeline(variable_f3, loaded, loaded)
    assert closed == ["depth", "depth"], "who loaded a model closes it"


def test_a_head_of_another_backbone_is_a_warning(variable_f3: F3Pipeline, stand_in_head: Head) -> None:
    used = variable_f3.model.manifest.preprocessing["weights_digest"]
    assert len(used) == 64
    other = "ab" * 32
    strange = stand_in_head("depth", CHANNELS, 28, 42, backbone_digest=other)
    (warning,) = PerceptionPipeline(variable_f3, depth=strange).warnings
    assert f"trained on other F3 weights ({other[:12]})" in warning
    assert used[:12] in warning
    fitting = stand_in_head("depth", CHANNELS, 28, 42, backbone_digest=used)
    assert PerceptionPipeline(variable_f3, depth=fitting).warnings == ()
    assert PerceptionPipeline(variable_f3, depth=stand_in_head("depth", CHANNELS, 28, 42)).warnings == ()
    # An F3 exported before digests were recorded.
    model = variable_f3.model
    manifest = model.manifest
    told = {name: value for name, value in manifest.preprocessing.items() if name != "weights_digest"}
    try:
        model.manifest = dataclasses.replace(manifest, preprocessing=told)
        assert PerceptionPipeline(variable_f3, depth=strange).warnings == ()
    finally:
        model.manifest = manifest


def test_the_self_test_covers_every_artifact(
    variable_f3: F3Pipeline, stand_in_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aot_runtime.compiled_model import CompiledModel

    tested: list[str] = []
    monkeypatch.setattr(CompiledModel, "self_test", lambda self: tested.append(self.manifest.family))
    pipeline = PerceptionPipeline(
        variable_f3,
        stand_in_head("depth", CHANNELS, 28, 42),
        stand_in_head("flow", CHANNELS, 28, 42),
        self_test=False,
    )
    assert tested == []
    pipeline.self_test()
    assert tested == ["f3", "depth", "flow"]


def test_closing_closes_all(f3_artifact: Any, stand_in_head: Head) -> None:
    pipeline = PerceptionPipeline(
        F3Pipeline(f3_artifact("f3_small_direct", **VARIABLE)), flow=stand_in_head("flow", CHANNELS, 28, 42)
    )
    pipeline.close()
    for model in pipeline.models.values():
        with pytest.raises(ArtifactError, match="closed"):
            model.run(**model.golden_inputs())


def test_on_a_cpu_nothing_of_cuda_is_imported() -> None:
    code = "import sys, f3_ros.perception; print([m for m in sys.modules if 'device_stream' in m or m == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("count", "most", "rows"),
    [(0, 10**6, 8192), (8192, 10**6, 8192), (8193, 10**6, 16384), (200_000, 10**6, 262_144), (900_000, 10**6, 10**6)],
)
def test_graphs_take_padded_numbers_of_events(count: int, most: int, rows: int) -> None:
    from f3_ros.device_stream import padded_size

    assert padded_size(count, most) == rows
    assert padded_size(5, 100) == 100


def test_padding_is_spread_over_the_frame_and_contributes_nothing(variable_f3: F3Pipeline) -> None:
    from f3_ros.device_stream import padding_rows

    padding = padding_rows(3700, 64, 48)
    assert (padding[:, 2] < 0).all()
    pixels = np.rint(padding[:, :2] * (64, 48)).astype(int)
    assert set(map(tuple, pixels.tolist())) == {(x, y) for x in range(64) for y in range(48)}
    rows = variable_f3.tensor(window())
    padded = variable_f3.features(np.concatenate([rows, padding]))
    np.testing.assert_array_equal(padded, variable_f3.features(rows))
