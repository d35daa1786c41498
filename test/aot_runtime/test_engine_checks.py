# SPDX-License-Identifier: Apache-2.0
"""What an engine is compared with before it is written: on a GPU that a stand-in plays, and for .pt2 and .onnx too."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_engine import PICTURE as PICTURE_ARGUMENTS
from picture_engine import Picture, build, needs_tensorrt_rtx

from aot_runtime import engine
from aot_runtime.backends import engine_file
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.compiled_model import load_model
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.engine_checks import EngineChecks, exporters_bounds
from aot_runtime.errors import ExportError
from aot_runtime.export import export_model
from aot_runtime.golden import compare, tensor_sha256
from aot_runtime.inspect import print_report
from aot_runtime.keypoints import align_keypoints
from aot_runtime.manifest import CheckpointInfo, Manifest
from aot_runtime.parity import Tolerance
from aot_runtime.verdict import Verdict, VerdictError, read_manifest

SM_89 = EngineOptions(target="sm_89")
ROWS = 60


class Points(torch.nn.Module):
    """The strongest places of a filtered image with their features; 1 x 1 x 24 x 32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.filter = torch.nn.Conv2d(1, 9, 3, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.filter(image)
        scores, index = (0.5 + 1e-3 * features[:, 0]).flatten(1).topk(ROWS)
        points = torch.stack([index % 32, index // 32], -1).float() * 8
        descriptors = torch.gather(features[:, 1:].flatten(2), 2, index[:, None].expand(-1, 8, -1)).transpose(1, 2)
        return {"keypoints": points, "scores": scores, "descriptors": descriptors, "sum": descriptors.sum(1)}


class ShuffledPoints(Points):
    """The same points in another order each time that Python runs it; a graph keeps the order it was traced with."""

    calls = 0

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = super().forward(image)
        self.calls += 1
        return {name: value if name == "sum" else value.roll(self.calls, 1) for name, value in outputs.items()}


POINTS: dict[str, Any] = {
    "example_inputs": {"image": torch.zeros(1, 1, 24, 32)},
    "family": "points",
    "variant": "v1",
    "task": "keypoints",
    "outputs": [("keypoints", "", "px"), ("scores", "", ""), ("descriptors", "", ""), ("sum", "", "")],
    "checkpoint": CheckpointInfo("p.pth", "cd" * 32, "MIT"),
    "progress": False,
}
IN_RANGE = {"keypoints": 248.0, "scores": 1.0, "descriptors": 4.0}


class Engine:
    """Stands for an engine on a GPU: the ONNX file's outputs, changed as TensorRT's kernels might change them."""

    capturable = True

    def __init__(self, source: Path, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> None:
        self._runner = OnnxRunner(source)
        self._change = change

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return self._change(self._runner.run(inputs))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """on_a_gpu(source, change): as if the engine's GPU were here, and ran it as `Engine` does."""

    def install(source: Path, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> None:
        monkeypatch.setattr(engine, "_open_here", lambda data, scratch, manifest: (Engine(source, change), "cpu"))

    return install


def swapped(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Neighbours in the order of scores change places; the sum is in no order."""
    order = torch.arange(ROWS).view(-1, 2).flip(1).flatten()
    return [value[:, order] if value.dim() > 1 and value.shape[1] == ROWS else value for value in outputs]


@pytest.fixture(scope="module")
def points_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The points as an fp32 ONNX artifact, tested row by row when it is loaded; read-only."""
    path = tmp_path_factory.mktemp("points") / "points.onnx"
    export_model(Points(), path=path, **POINTS)
    return path


@pytest.fixture(scope="module")
def picture_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.onnx"
    export_model(Picture(), path=path, **PICTURE_ARGUMENTS)
    return path


def tolerances(manifest: Manifest) -> dict[str, float]:
    return {item.name: item.tolerance for item in manifest.golden.outputs}


@needs_tensorrt_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_an_engine_that_sorts_otherwise_is_right(
    points_onnx: Path, tmp_path: Path, on_a_gpu: Callable[..., None], precision: str
) -> None:
    on_a_gpu(points_onnx, swapped)
    calibration = [
        {"image": torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(i)).numpy()} for i in (1, 2)
    ]
    options = EngineOptions(target="sm_89", samples=calibration, quantiser="onnxruntime")
    path = tmp_path / "p.engine"
    manifest = build_engine(points_onnx, path, precision, options, progress=False)
    assert read_manifest(path) == manifest
    # Measured on the engine: the stand-in's rows are the ONNX file's, so that nothing but the order differs.
    assert manifest.parity_of == ""
    assert [item.max_abs for item in manifest.parity] == [0.0] * 4
    plain = OnnxRunner(points_onnx).run(_golden_inputs(manifest))
    outputs = dict(zip(("keypoints", "scores", "descriptors", "sum"), swapped(plain)))
    assert [item.sha256 for item in manifest.golden.outputs] == [tensor_sha256(value) for value in outputs.values()]
    # What a node will see when it starts.
    assert compare(manifest.golden, outputs) is None
    bounds, source = tolerances(manifest), read_manifest(points_onnx)
    allowed = {item.name: item.tolerance + own.max_abs for item, own in zip(manifest.parity, source.parity)}
    for expected in source.golden.outputs[:3]:
        assert bounds[expected.name] == max(expected.max - expected.min, allowed[expected.name])
    assert bounds["sum"] == allowed["sum"]
    # The check behind the rows: what the order cannot excuse.
    outputs["sum"] = outputs["sum"] + 1.1 * bounds["sum"]
    mismatch = compare(manifest.golden, outputs)
    assert mismatch is not None
    assert mismatch.output == "sum"


def _golden_inputs(manifest: Manifest) -> list[torch.Tensor]:
    from aot_runtime import golden

    dtypes = {spec.name: spec.dtype for spec in manifest.inputs}
    return list(golden.make_inputs(manifest.golden.inputs, dtypes, manifest.golden.seed, "cpu").values())


def lost(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """A tenth of the keypoints elsewhere."""
    points = outputs[0].clone()
    points[:, :6] += 1000.0
    return [points, *outputs[1:]]


def moved(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [*swapped(outputs)[:2], 1.01 * swapped(outputs)[2], outputs[3]]


def not_finite(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [*outputs[:3], outputs[3] * float("nan")]


def too_few(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return outputs[:3]


@needs_tensorrt_rtx
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lost, r"expected all but 1 % of 60 keypoints within 1 px of the reference's, found 6 without"),
        (moved, r"output descriptors of the engine within .* found max abs error 0\.0"),
        (not_finite, r"finite numbers in compiled of the engine output sum, found 8 of 8 elements NaN"),
        (too_few, r"expected 4 outputs from the compiled network, found 3"),
    ],
)
def test_a_wrong_engine_is_not_written(
    points_onnx: Path, tmp_path: Path, on_a_gpu: Callable[..., None], change: Any, words: str
) -> None:
    on_a_gpu(points_onnx, change)
    path = tmp_path / "p.engine"
    path.write_bytes(b"the previous engine")
    with pytest.raises(ExportError, match=words):
        build_engine(points_onnx, path, options=SM_89, progress=False)
    assert path.read_bytes() == b"the previous engine"
    assert not engine_file.manifest_path(path).exists()


@needs_tensorrt_rtx
def test_rows_of_other_outputs_are_not_matched(
    picture_onnx: Path, tmp_path: Path, on_a_gpu: Callable[..., None]
) -> None:
    on_a_gpu(picture_onnx, lambda outputs: [outputs[0].flip(2), outputs[1]])
    with pytest.raises(ExportError, match=r"output features of the engine within .* found max abs error"):
        build_engine(picture_onnx, tmp_path / "p.engine", options=SM_89, progress=False)
    on_a_gpu(picture_onnx, lambda outputs: [outputs[0] + 1e-6, outputs[1]])
    manifest = build_engine(picture_onnx, tmp_path / "p.engine", options=SM_89, progress=False)
    assert manifest.parity_of == ""
    assert 5e-7 < manifest.parity[0].max_abs < 2e-6


@needs_tensorrt_rtx
def test_the_family_aligns_and_says_what_the_self_test_may(tmp_path: Path, on_a_gpu: Callable[..., None]) -> None:
    """As ALIKED does: `export_model` hands `align` on, and the ONNX file hands on the self-test's tolerances."""
    called: list[tuple[str, ...]] = []

    def align(eager: Mapping[str, torch.Tensor], compiled: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        called.append((*eager, *compiled))
        return align_keypoints(eager, compiled, missing=0.0)

    kept = tmp_path / "k.onnx"
    arguments = {**POINTS, "align": align, "self_test_tolerances": IN_RANGE, "path": tmp_path / "p.engine"}
    options = EngineOptions(target="sm_89", keep_onnx=str(kept))
    export_model(Points(), engine_options=options, **arguments)
    on_a_gpu(kept, swapped)
    called.clear()
    names = ("keypoints", "scores", "descriptors", "sum")
    manifest = export_model(Points(), engine_options=options, **arguments)
    assert called
    assert set(called) == {(*names, *names)}
    assert (manifest.parity_of, manifest.parity[0].max_abs) == ("", 0.0)
    assert {name: value for name, value in tolerances(manifest).items() if name != "sum"} == IN_RANGE
    # Without them the node would refuse what the builder took; the builder refuses it, and says what is missing.
    del arguments["self_test_tolerances"]
    with pytest.raises(
        ExportError, match=r"output keypoints of the engine to pass its self-test with .* found"
    ) as caught:
        export_model(Points(), engine_options=options, **arguments)
    assert "self_test_tolerances" in caught.value.remedy


@needs_tensorrt_rtx
def test_an_engine_may_be_as_far_off_as_its_exporter_allowed(tmp_path: Path, on_a_gpu: Callable[..., None]) -> None:
    """`build_engine` does not know the family; what the family allowed is in the ONNX file."""
    source = tmp_path / "p.onnx"
    wide = {"descriptors": Tolerance(0.05, 0.0), "sum": Tolerance(1e-4, 0.0)}
    manifest = export_model(Points(), path=source, tolerances=wide, **POINTS)
    assert exporters_bounds(manifest, "fp32") == {"descriptors": Tolerance(0.05, 0.0)}
    assert exporters_bounds(manifest, "fp16") == {}
    on_a_gpu(source, lambda outputs: [*outputs[:2], outputs[2] + 0.04, outputs[3]])
    made = build_engine(source, tmp_path / "p.engine", options=SM_89, progress=False)
    assert made.parity[2].max_abs == pytest.approx(0.04, rel=1e-3)
    on_a_gpu(source, lambda outputs: [*outputs[:2], outputs[2] + 0.06, outputs[3]])
    with pytest.raises(ExportError, match=r"output descriptors of the engine within 0\.05 of eager, found .* 0\.06"):
        build_engine(source, tmp_path / "p.engine", options=SM_89, progress=False)
    # What the caller says counts more.
    for given in ({"descriptors": Tolerance(0.01, 0.0)}, Tolerance(0.01, 0.0)):
        on_a_gpu(source, lambda outputs: [*outputs[:2], outputs[2] + 0.02, outputs[3]])
        with pytest.raises(ExportError, match=r"output descriptors of the engine within 0\.01"):
            build_engine(source, tmp_path / "p.engine", options=SM_89, tolerances=given, progress=False)


def test_a_source_that_computes_something_else(points_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxRunner.run
    monkeypatch.setattr(OnnxRunner, "run", lambda self, inputs: [value + 0.1 for value in run(self, inputs)])
    with pytest.raises(ExportError, match=r"expected output keypoints of .*points\.onnx to be .*; export the ONNX"):
        EngineChecks(points_onnx, read_manifest(points_onnx), "fp32")


@needs_tensorrt_rtx
def test_what_the_numbers_are_of(
    points_onnx: Path, picture_onnx: Path, tmp_path: Path, on_a_gpu: Callable[..., None], capsys: Any
) -> None:
    def printed(manifest: Manifest) -> str:
        print_report("p.engine", Verdict("OK", "OK", "fine"), manifest)
        return " ".join(capsys.readouterr().out.split())

    same = build_engine(picture_onnx, tmp_path / "p.engine", options=SM_89, progress=False)
    other = build(picture_onnx, tmp_path / "q.engine", "fp16")
    on_a_gpu(points_onnx, swapped)
    here = build_engine(points_onnx, tmp_path / "r.engine", options=SM_89, progress=False)
    assert [item.parity_of for item in (same, other, here)] == ["onnx", "graph", ""]
    text = printed(same)
    assert "the ONNX file against eager at export; the engine is not measured" in text
    assert "not checked on device" in text
    text = printed(other)
    assert "the graph at this precision against the ONNX file, in ONNX Runtime; the engine is not measured" in text
    assert "not checked on device" in text
    text = printed(here)
    assert "the engine on its GPU against the ONNX file, when it was built" in text
    assert "not checked on device" not in text


# `align` and `self_test_tolerances` of the other two kinds of artifact.


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_export_matches_rows_where_it_is_told_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    # Eager runs before the graph is traced, with another order of rows.
    with pytest.raises(ExportError, match=r"expected compiled output keypoints within .* found max abs error [12]"):
        export_model(ShuffledPoints(), path=path, **POINTS)
    assert list(tmp_path.iterdir()) == []
    align = functools.partial(align_keypoints, missing=0.0)
    manifest = export_model(ShuffledPoints(), path=path, align=align, self_test_tolerances=IN_RANGE, **POINTS)
    assert [item.max_abs for item in manifest.parity[:1]] == [0.0]
    assert max(item.max_abs for item in manifest.parity) < 1e-5
    assert {name: value for name, value in tolerances(manifest).items() if name != "sum"} == IN_RANGE
    assert tolerances(manifest)["sum"] == manifest.parity[3].tolerance
    image = torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(9))
    with load_model(path) as model, torch.no_grad():
        found, wanted = model.run(image=image), Points()(image)
    aligned = align_keypoints(wanted, found, missing=0.0)
    for name, value in wanted.items():
        torch.testing.assert_close(aligned[name], value, atol=1e-5, rtol=0)


def test_rows_that_have_no_counterpart_fail_the_export(tmp_path: Path) -> None:
    def none(eager: Mapping[str, torch.Tensor], compiled: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return align_keypoints(eager, {**compiled, "keypoints": compiled["keypoints"] + 3}, missing=0.5)

    with pytest.raises(ExportError, match=r"all but 50 % of 60 keypoints .* found 60 without"):
        export_model(Points(), path=tmp_path / "p.onnx", align=none, **POINTS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match=r"tolerances of the self-test for outputs .*'sum'\], found \['points'\]"):
        export_model(Points(), path=tmp_path / "p.onnx", self_test_tolerances={"points": 1.0}, **POINTS)


def test_the_self_test_without_its_tolerances_refuses_another_order(tmp_path: Path) -> None:
    """Why `self_test_tolerances` is there: without it the artifact is refused when it is loaded."""
    path = tmp_path / "p.onnx"
    align = functools.partial(align_keypoints, missing=0.0)
    export_model(copy.deepcopy(ShuffledPoints()), path=path, align=align, **POINTS)
    with pytest.raises(VerdictError, match="SELF_TEST_WRONG"):
        load_model(path)
