# SPDX-License-Identifier: Apache-2.0
"""Engines: real builds by TensorRT-RTX on this CPU."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from picture_engine import PICTURE, RTX, Picture, build, host, needs_tensorrt_rtx, samples

from aot_runtime.backends import engine_file
from aot_runtime.backends.onnx import OnnxOptions
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.environment import module_version
from aot_runtime.errors import ExportError, InputError
from aot_runtime.export import export_model
from aot_runtime.files import sha256_file
from aot_runtime.manifest import DynamicDim, Manifest
from aot_runtime.parity import Tolerance
from aot_runtime.verdict import judge, read_manifest

pytestmark = needs_tensorrt_rtx


def test_the_manifest_of_an_engine(engine: tuple[Path, Manifest], picture_onnx: Path) -> None:
    path, manifest = engine
    source = read_manifest(picture_onnx)
    assert read_manifest(path) == manifest
    assert json.loads(engine_file.manifest_path(path).read_text())["file_sha256"] == sha256_file(path)
    assert manifest.file_sha256 == sha256_file(path)
    assert manifest.source_sha256 == sha256_file(picture_onnx)
    assert manifest.parity_of == "onnx"
    assert manifest.parity == source.parity
    target = manifest.target
    assert (target.device, target.compute_capability, target.device_name) == ("cuda", "8.9", "sm_89")
    assert (target.runtime, target.runtime_version) == ("tensorrt_rtx", RTX)
    for field in ("inputs", "outputs", "preprocessing", "checkpoint", "precision", "family", "variant", "task"):
        assert getattr(manifest, field) == getattr(source, field)
    assert [item.values for item in manifest.golden.outputs] == [item.values for item in source.golden.outputs]
    assert manifest.outputs[1].dtype == "int64"
    assert not path.stat().st_mode & 0o002


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_every_precision_builds_for_every_gpu(picture_onnx: Path, tmp_path: Path, precision: str, target: str) -> None:
    if precision == "fp8" and target in ("sm_80", "sm_86"):
        with pytest.raises(ExportError, match=f"to build .* for {target}, found: .*(fp8|FP8|Fp8)"):
            build(picture_onnx, tmp_path / "p.engine", precision, target)
        assert [entry.name for entry in tmp_path.iterdir()] == [".p.engine.lock"]
        return
    manifest = build(picture_onnx, tmp_path / "p.engine", precision, target)
    assert manifest.precision == precision
    capability = target.removeprefix("sm_")
    verdict = judge(
        tmp_path / "p.engine", "cuda", host=host(compute_capabilities=(f"{capability[:-1]}.{capability[-1]}",))
    )
    assert (verdict.kind, verdict.code) == ("OK", "OK")
    assert all(item.max_abs <= item.tolerance for item in manifest.parity)
    if precision != "fp32":
        assert manifest.parity[0].max_abs > 0
        assert manifest.parity[0].cosine is not None
        assert manifest.golden.outputs[0].tolerance >= manifest.parity[0].tolerance


def test_dynamic_sizes_become_a_profile(tmp_path: Path, tiny_network: Any, export_arguments: dict[str, Any]) -> None:
    path = tmp_path / "tiny.engine"
    options = EngineOptions(target="sm_120", keep_onnx=str(tmp_path / "kept.onnx"))
    manifest = export_model(copy.deepcopy(tiny_network), path=path, engine_options=options, **export_arguments)
    assert manifest.dims == (DynamicDim("n", 0, 100),)
    assert manifest.inputs[0].shape == ("n", 4)
    assert manifest.target.compute_capability == "12.0"
    assert manifest.source_sha256 == sha256_file(tmp_path / "kept.onnx")
    assert judge(tmp_path / "kept.onnx", "cpu").ok
    narrow = EngineOptions(target="sm_89", sizes={"n": (1, 20, 50)})
    assert build_engine(tmp_path / "kept.onnx", path, options=narrow, progress=False).dims == (DynamicDim("n", 1, 50),)
    for sizes, words in (
        ({"m": (1, 2, 3)}, r"dynamic dims \['n'\], found m"),
        ({"n": (1, 20, 101)}, "of n within 0 .. 100, found 1, 20, 101"),
        ({"n": (20, 10, 50)}, "found 20, 10, 50"),
        ({"n": (1, 2, 3)}, "around 16, at which the self-test runs, found 1 .. 3"),
    ):
        with pytest.raises(ExportError, match=words):
            build_engine(
                tmp_path / "kept.onnx", path, options=EngineOptions(target="sm_89", sizes=sizes), progress=False
            )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_weights_beside_the_onnx_file(tmp_path: Path, precision: str) -> None:
    """As for networks above protobuf's 2 GB."""
    source = tmp_path / "p.onnx"
    export_model(Picture(), path=source, **PICTURE, onnx_options=OnnxOptions(max_inline_bytes=100))
    manifest = build(source, tmp_path / "p.engine", precision)
    assert manifest.precision == precision
    next(tmp_path.glob("p.onnx.*.data")).unlink()
    assert judge(tmp_path / "p.engine", "cuda", host=host()).ok


class Points(torch.nn.Module):
    """The strongest places of a filtered image, in the order of scores that are nearly equal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.filter = torch.nn.Conv2d(1, 9, 3, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.filter(image)
        scores, index = (0.5 + 1e-3 * features[:, 0]).flatten(1).topk(60)
        points = torch.stack([index % 32, index // 32], -1).float() * 8
        descriptors = torch.gather(features[:, 1:].flatten(2), 2, index[:, None].expand(-1, 8, -1)).transpose(1, 2)
        return {"keypoints": points, "scores": scores, "descriptors": descriptors}


def test_keypoints_are_matched_before_they_are_compared(tmp_path: Path) -> None:
    """bf16 sorts nearly equal scores otherwise; by rows the keypoints would be hundreds of pixels apart."""
    arguments = {**PICTURE, "example_inputs": {"image": torch.zeros(1, 1, 24, 32)}}
    arguments["outputs"] = [("keypoints", "", "px"), ("scores", "", ""), ("descriptors", "", "")]
    source = tmp_path / "k.onnx"
    export_model(Points(), path=source, **arguments)
    options = EngineOptions(target="sm_89")
    manifest = build_engine(source, tmp_path / "k.engine", "bf16", options, progress=False)
    assert manifest.parity[0].max_abs == 0
    assert 0 < manifest.parity[2].max_abs < 0.05

    def as_it_is(reference: Any, found: Any) -> Any:
        return found

    with pytest.raises(ExportError, match=r"output keypoints of bf16 within 1e-06 of eager, found max abs error \d\d"):
        build_engine(
            source,
            tmp_path / "l.engine",
            "bf16",
            options,
            tolerances={"keypoints": Tolerance(1e-6, 0.0)},
            align=as_it_is,
            progress=False,
        )


def test_an_fp16_network_keeps_its_islands(tmp_path: Path) -> None:
    """export_model casts the network itself; the engine takes its types from the graph."""

    class Island(Picture):
        def cast_precision(self, dtype: torch.dtype) -> None:
            self.first.to(dtype)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = torch.relu(self.first(image.to(self.first.weight.dtype))).float()
            features = self.last(torch.relu(self.second(hidden)).permute(0, 2, 3, 1))
            return {"features": features, "best": features.sum(3).flatten(1).argmax(1)}

    kept = tmp_path / "p.onnx"
    options = EngineOptions(target="sm_89", keep_onnx=str(kept))
    arguments = {**PICTURE, "precision": "fp16", "tolerances": {"best": Tolerance(1e9, 0.0)}}
    manifest = export_model(Island(), path=tmp_path / "p.engine", engine_options=options, **arguments)
    assert manifest.precision == "fp16"
    assert manifest.parity_of == "onnx"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".p.engine.lock",
        "p.engine",
        "p.engine.json",
        "p.onnx",
    ]
    types = {tensor.data_type for tensor in onnx.load(kept).graph.initializer}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} <= types


def test_too_coarse_a_graph_is_not_built(picture_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.engine"
    path.write_bytes(b"the previous engine")
    with pytest.raises(ExportError, match=r"compiled output features of int8 within 1e-06 of eager, found max abs"):
        build_engine(
            picture_onnx,
            path,
            "int8",
            EngineOptions(target="sm_89", samples=samples(), quantiser="onnxruntime"),
            tolerances=Tolerance(1e-6, 0.0),
            progress=False,
        )
    assert path.read_bytes() == b"the previous engine"
    assert not engine_file.manifest_path(path).exists()


@pytest.mark.parametrize(
    ("precision", "options", "words"),
    [
        ("int8", {}, "expected calibration data for int8, found none; give --calib-data"),
        ("fp4", {}, "expected precision fp32, fp16, bf16, int8, fp8, found 'fp4'"),
        ("fp32", {"target": "ampere"}, "expected a target such as sm_89, found 'ampere'"),
        ("fp32", {"target": "sm_87"}, r"that tensorrt_rtx .* builds for \(sm_75, sm_80, .*\), found sm_87"),
        ("fp32", {"runtime": "tensorrt"}, "expected the Python package tensorrt, found"),
        ("int8", {"samples": samples(), "quantiser": "modelopt"}, "expected modelopt to quantise .* ModuleNotFound"),
    ],
)
def test_wrong_options_are_named(
    picture_onnx: Path, tmp_path: Path, precision: str, options: dict[str, Any], words: str
) -> None:
    if options.get("runtime") == "tensorrt" and module_version("tensorrt"):
        pytest.skip("tensorrt is installed here")
    if options.get("quantiser") == "modelopt" and module_version("modelopt"):
        pytest.skip("modelopt is installed here")
    with pytest.raises(ExportError, match=words):
        build_engine(
            picture_onnx,
            tmp_path / "p.engine",
            precision,
            EngineOptions(**{"target": "sm_89", **options}),
            progress=False,
        )
    assert not (tmp_path / "p.engine").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_gpu_or_target(picture_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a GPU to build an engine for, found none here; say which"):
        build_engine(picture_onnx, tmp_path / "p.engine", progress=False)


def test_sources_that_are_no_artifact(picture_onnx: Path, tmp_path: Path) -> None:
    options = EngineOptions(target="sm_89")

    def message(source: Path) -> str:
        with pytest.raises(ExportError) as caught:
            build_engine(source, tmp_path / "p.engine", options=options, progress=False)
        return str(caught.value)

    assert "MISSING_FILE" in message(tmp_path / "none.onnx")
    assert "expected a .onnx artifact, found" in message(picture_onnx.with_suffix(".pt2"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(picture_onnx.read_bytes()[:-3])
    assert "NOT_A_PACKAGE" in message(broken)
    content = bytearray(picture_onnx.read_bytes())
    content[len(content) // 3] ^= 4
    broken.write_bytes(content)
    assert "DAMAGED" in message(broken)
    model = onnx.load(picture_onnx)
    del model.metadata_props[:]
    onnx.save(model, broken)
    assert "NO_MANIFEST" in message(broken)
    with pytest.raises(ExportError, match=r"ends in \.engine, found .*p\.plan"):
        build_engine(picture_onnx, tmp_path / "p.plan", options=options, progress=False)


def test_an_operator_that_tensorrt_lacks_is_named(tmp_path: Path) -> None:
    class Determinant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.det(x)

    arguments = {**PICTURE, "example_inputs": {"x": torch.zeros(2, 3, 3)}, "outputs": [("y", "", "")]}
    with pytest.raises(ExportError, match=r"that tensorrt_rtx .* parses, found .*Det") as caught:
        export_model(
            Determinant(), path=tmp_path / "d.engine", engine_options=EngineOptions(target="sm_89"), **arguments
        )
    assert "operators" in caught.value.remedy


def test_progress_is_shown_and_ctrl_c_stops(
    picture_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aot_runtime.progress import Steps

    told: list[str] = []
    monkeypatch.setattr(Steps, "detail", lambda self, text: told.append(text))
    build(picture_onnx, tmp_path / "p.engine", "fp32")
    assert any(text.startswith("Building engine") for text in told)

    def interrupt(self: Steps, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "detail", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(picture_onnx, tmp_path / "q.engine", "fp32")
    assert not (tmp_path / "q.engine").exists()


def test_calibration_data_of_another_shape(picture_onnx: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((4, 3, 24, 31), np.float32))
    options = EngineOptions(target="sm_89", calib_data=str(tmp_path / "c.npy"))
    with pytest.raises(InputError, match="samples of shape 1x3x24x32 for input image, found 4x3x24x31 in"):
        build_engine(picture_onnx, tmp_path / "p.engine", "int8", options, progress=False)
