# SPDX-License-Identifier: Apache-2.0
"""Compiled artifacts against the official outputs, and the pipeline around them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from event_windows import random_window as window

from aot_runtime.compiled_model import CompiledModel, load_model
from aot_runtime.errors import ArtifactError, InputError
from f3_ros.pipeline import F3Pipeline

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}  # of golden/f3/README.md
VARIABLE = {"variable": True, "n_events": 1500, "max_events": 4000}
DOWN = {"n_events": 1600, "hashed": True, "downsample": (21, 17)}
CASES = [
    ("f3_small_direct", VARIABLE, {case: f"feat_{case}" for case in ("grid", "dup", "border", "offgrid", "one")}),
    ("f3_small_direct", DOWN, {"grid": "feat_hashed_down_grid"}),
    ("f3_small_hashed", VARIABLE, {case: f"feat_{case}" for case in ("grid", "dup", "border", "offgrid", "one")}),
    (
        "f3_small_hashed",
        {**VARIABLE, "hashed": True},
        {"grid": "feat_grid", "border": "feat_hashed_border", "offgrid": "feat_hashed_offgrid", "dup": "feat_dup"},
    ),
    ("f3_v1_upsampling", {**VARIABLE, "logits": True}, {"grid": "feat_grid"}),
    ("f3_v1_upsampling", {**VARIABLE, "hashed": True, "downsample": (48, 32)}, {"grid": "feat_hashed_down_grid"}),
    ("f3_ds8_decoder", {**VARIABLE, "logits": True}, {"grid": "feat_grid"}),
    ("f3_dilated_k5", {**VARIABLE, "logits": True}, {"grid": "feat_grid"}),
    ("f3_polarity_tables", {**VARIABLE, "depthwise": "taps"}, {"": "feat"}),
]


@pytest.fixture(scope="module")
def loaded(f3_artifact: Any) -> Any:
    """Loader of golden artifacts, one per configuration for the whole module."""
    models: dict[str, CompiledModel] = {}

    def get(name: str, **options: Any) -> CompiledModel:
        path = f3_artifact(name, **options)
        if str(path) not in models:
            models[str(path)] = load_model(path)
        return models[str(path)]

    yield get
    for model in models.values():
        model.close()


@pytest.mark.parametrize(("name", "options", "cases"), CASES)
def test_compiled_features_are_official(
    name: str, options: dict[str, Any], cases: dict[str, str], f3_golden: Any, loaded: Any
) -> None:
    golden = f3_golden(name)
    pipeline = F3Pipeline(loaded(name, **options))
    for case, key in cases.items():
        found = pipeline.features_tensor(golden.events(case))
        torch.testing.assert_close(
            found, golden.outputs[key], **TOLERANCE, msg=lambda text, case=case: f"{case}: {text}"
        )
    width, height, channels = golden.outputs[key].shape[1:]
    assert pipeline.feature_shape == (channels, height, width)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options, _ in CASES if options.get("logits")])
def test_compiled_logits_are_official(name: str, options: dict[str, Any], f3_golden: Any, loaded: Any) -> None:
    golden = f3_golden(name)
    model = loaded(name, **options)
    parts = golden.events("grid").split(golden.inputs["counts_variable_b2"].tolist())
    for sample, part in enumerate(parts):
        found = model.run(events=part.contiguous())
        torch.testing.assert_close(found["features"][0], golden.outputs["feat_variable_b2"][sample], **TOLERANCE)
        logits = found["logits"][0, ::4, ::4]
        torch.testing.assert_close(logits, golden.outputs["logits_variable_b2"][sample], **TOLERANCE)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options, _ in CASES[:4]])
def test_no_events_and_padding_compiled(name: str, options: dict[str, Any], f3_golden: Any, loaded: Any) -> None:
    golden = f3_golden(name)
    pipeline = F3Pipeline(loaded(name, **options))
    model = golden.model()
    width, height, _ = model.config.frame
    field = torch.zeros(1, *(options.get("downsample") or (width, height)), model.config.encoder.channels)
    with torch.no_grad():
        expected = model.features(field)
    torch.testing.assert_close(pipeline.features_tensor(torch.zeros(0, 4)), expected, **TOLERANCE)
    torch.testing.assert_close(pipeline.features_tensor(torch.full((3, 4), -1.0)), expected, **TOLERANCE)


def test_compiled_half_precision(f3_golden: Any, loaded: Any) -> None:
    golden = f3_golden("f3_small_direct")
    pipeline = F3Pipeline(loaded("f3_small_direct", **DOWN, precision="fp16"))
    found = pipeline.features_tensor(golden.events("grid"))
    assert found.dtype == torch.float16
    expected = golden.outputs["feat_hashed_down_grid"]
    assert float(torch.cosine_similarity(found.float(), expected, dim=-1).min()) > 0.999
    assert float((found.float() - expected).abs().max() / expected.abs().max()) < 2e-2
    assert pipeline.features(golden.events("grid")).dtype == np.float32


def test_process_is_binning_then_the_network(f3_golden: Any, loaded: Any) -> None:
    pipeline = F3Pipeline(loaded("f3_small_direct", **VARIABLE))
    some = window()
    rows = pipeline.tensor(some)
    bins = (999_999 - some.events.t) // 1000
    expected = np.stack([some.events.x / 64, some.events.y / 48, bins / 20, some.events.p], 1).astype(np.float32)
    assert np.array_equal(rows, expected)
    result = pipeline.process(some)
    assert (result.n_received, result.n_events_used, result.warnings) == (300, 300, ())
    assert result.features.shape == (16, 48, 64)
    assert result.features.dtype == np.float32
    with torch.no_grad():
        eager = f3_golden("f3_small_direct").model()(torch.from_numpy(expected))
    np.testing.assert_allclose(result.features, eager[0].permute(2, 1, 0).numpy(), atol=2e-4, rtol=1e-4)


def test_a_fixed_number_of_events_is_padded_to_the_same_result(f3_golden: Any, loaded: Any) -> None:
    fixed = F3Pipeline(loaded("f3_small_direct", **DOWN))
    assert not fixed.variable_events
    assert fixed.max_events == 1600
    few = window(100)
    golden = f3_golden("f3_small_direct").model()
    with torch.no_grad():
        rows = torch.from_numpy(fixed.tensor(few))
        eager = golden.features(golden.resize(golden.field(rows), (21, 17)))
    np.testing.assert_allclose(fixed.process(few).features, eager[0].permute(2, 1, 0).numpy(), atol=2e-4, rtol=1e-4)
    empty = fixed.process(window(0))
    assert empty.n_events_used == 0
    assert np.isfinite(empty.features).all()


def test_too_many_events_are_thinned_without_favour(loaded: Any) -> None:
    pipeline = F3Pipeline(loaded("f3_small_direct", **DOWN))
    many = window(8000)
    result = pipeline.process(many)
    assert (result.n_received, result.n_events_used) == (8000, 1600)
    assert "thinned 8000 events" in result.warnings[0]
    again = pipeline.process(many)
    assert np.array_equal(result.features, again.features)
    kept = pipeline.thin(np.arange(8000, dtype=np.float32)[:, None])[:, 0]
    assert (np.diff(kept) > 0).all()
    # Each quarter of the window keeps its share: 400 +- 5 standard deviations of the hypergeometric law.
    quarters = np.histogram(kept, 4, (0, 8000))[0]
    assert np.abs(quarters - 400).max() < 5 * (1600 * 0.25 * 0.75 * 0.8) ** 0.5
    with pytest.raises(InputError, match="at most 1600"):
        pipeline.features_tensor(pipeline.tensor(many))


def test_other_sensors_are_centred_and_cut(loaded: Any) -> None:
    pipeline = F3Pipeline(loaded("f3_small_direct", **VARIABLE))
    small = window(50, width=32, height=24)
    rows = pipeline.tensor(small, 32, 24)
    assert np.array_equal(np.rint(rows[:, 0] * 64), small.events.x + 16.0)
    assert np.array_equal(np.rint(rows[:, 1] * 48), small.events.y + 12.0)
    large = pipeline.process(window(500, width=128, height=48), 128, 48)
    assert 0 < large.n_events_used < 500
    assert "left out" in large.warnings[0]


def test_misuse_is_named(loaded: Any) -> None:
    pipeline = F3Pipeline(loaded("f3_small_direct", **VARIABLE))
    for wrong in (np.zeros((5, 3), np.float32), np.zeros((5, 4), np.float64), np.zeros(4, np.float32)):
        with pytest.raises(InputError, match=r"\(N, 4\) float32"):
            pipeline.features(wrong)
    manifest = pipeline.model.manifest
    for family, told, message in (("depth", manifest.preprocessing, "family f3"), ("f3", {"width": 3}, "window_us")):
        fake = SimpleNamespace(family=family, preprocessing=told, inputs=manifest.inputs, outputs=manifest.outputs)
        with pytest.raises(ArtifactError, match=message):
            F3Pipeline(SimpleNamespace(manifest=fake, path=Path("other.pt2")))  # type: ignore[arg-type]


def test_a_path_is_loaded_and_closed(f3_artifact: Any) -> None:
    pipeline = F3Pipeline(f3_artifact("f3_small_direct", **VARIABLE), self_test=False)
    assert pipeline.window_us == 20_000
    pipeline.close()
    with pytest.raises(ArtifactError, match="closed"):
        pipeline.features(np.zeros((1, 4), np.float32))


def test_compiled_unet_is_official(f3_golden: Any, loaded: Any) -> None:
    golden = f3_golden("f3_unetff")
    model = loaded("f3_unetff", variable=True, n_events=150, max_events=400, logits=True)
    parts = golden.events("").split(golden.inputs["counts"].tolist())
    for sample, part in enumerate(parts):
        found = model.run(events=torch.cat([part, torch.zeros(len(part), 1)], 1))
        torch.testing.assert_close(found["features"][0], golden.outputs["feat_BWHC"][sample], **TOLERANCE)
        torch.testing.assert_close(found["logits"][0], golden.outputs["logits_BWHT"][sample], **TOLERANCE)
