# SPDX-License-Identifier: Apache-2.0
"""Engines: real builds by TensorRT-RTX on this CPU, and the runner against a stand-in for TensorRT's runtime."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from aot_runtime.backends import engine_file, mixed_precision, tensorrt
from aot_runtime.backends.onnx import OnnxOptions, OnnxRunner
from aot_runtime.backends.tensorrt_run import EngineRejected, TensorRtRunner
from aot_runtime.compiled_model import load_model
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.environment import Host, module_version
from aot_runtime.errors import ArtifactError, ExportError, InputError
from aot_runtime.export import export_model
from aot_runtime.files import AllowList, sha256_file
from aot_runtime.manifest import CheckpointInfo, DynamicDim, Manifest
from aot_runtime.parity import Tolerance
from aot_runtime.verdict import VerdictError, judge, read_manifest, rejected_verdict

RTX = module_version("tensorrt_rtx")
if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")


def host(**changes: Any) -> Host:
    base = Host("linux", "x86_64", frozenset(), "", compute_capabilities=("8.9",), tensorrt_rtx=RTX)
    return dataclasses.replace(base, **changes)


class Picture(torch.nn.Module):
    """Convolutions, a resize, a product and a second output; 1 x 3 x h x w."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1, stride=2)
        self.last = torch.nn.Linear(16, 8)
        self.up = torch.nn.ConvTranspose2d(16, 16, 2, stride=2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.first(image.to(self.first.weight.dtype)))
        hidden = torch.relu(self.second(hidden))
        wide = torch.nn.functional.interpolate(hidden.float(), scale_factor=2, mode="bilinear", align_corners=True)
        wide = wide + self.up(hidden).float()
        features = self.last(wide.permute(0, 2, 3, 1).to(self.last.weight.dtype)).float()
        return {"features": features, "best": features.sum(3).flatten(1).argmax(1)}


PICTURE: dict[str, Any] = {
    "example_inputs": {"image": torch.zeros(1, 3, 24, 32)},
    "family": "picture",
    "variant": "v1",
    "task": "test",
    "outputs": [("features", "per pixel", "1"), ("best", "index of the strongest pixel", "")],
    "checkpoint": CheckpointInfo("p.pth", "cd" * 32, "MIT"),
    "preprocessing": {"mean": [0.5, 0.5, 0.5]},
    "rebuild_command": ["export_picture", "--format", "engine"],
    "progress": False,
}


def samples(count: int = 6) -> list[dict[str, np.ndarray[Any, Any]]]:
    generator = np.random.default_rng(1)
    return [{"image": generator.random((1, 3, 24, 32), dtype=np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def picture_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture network as an fp32 ONNX artifact; read-only."""
    path = tmp_path_factory.mktemp("engine") / "picture.onnx"
    export_model(Picture(), path=path, **PICTURE)
    return path


@pytest.fixture(scope="module")
def engine(picture_onnx: Path) -> tuple[Path, Manifest]:
    """An fp32 engine for sm_89 from it; read-only."""
    path = picture_onnx.with_suffix(".engine")
    command = ["build_engine", "picture.onnx", "--target", "sm_89"]
    options = EngineOptions(target="sm_89")
    return path, build_engine(picture_onnx, path, options=options, rebuild_command=command, progress=False)


@pytest.fixture
def own_engine(engine: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy of the engine, to be spoiled."""
    path = tmp_path / "p.engine"
    shutil.copy(engine[0], path)
    shutil.copy(engine_file.manifest_path(engine[0]), engine_file.manifest_path(path))
    return path


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


def build(source: Path, path: Path, precision: str, target: str = "sm_89", **arguments: Any) -> Manifest:
    # The index of the strongest pixel moves with the rounding.
    tolerances = {"best": Tolerance(1e9, 0.0)}
    options = EngineOptions(target=target, samples=samples(), quantiser="onnxruntime", **arguments)
    return build_engine(source, path, precision, options, tolerances=tolerances, progress=False)


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


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_beside_the_onnx_file(tmp_path: Path, precision: str) -> None:
    """As for networks above protobuf's 2 GB."""
    source = tmp_path / "p.onnx"
    export_model(Picture(), path=source, **PICTURE, onnx_options=OnnxOptions(max_inline_bytes=100))
    if precision == "fp16":
        with pytest.raises(
            ExportError, match=r"weights inside to cast to fp16, found weights beside .*p\.onnx"
        ) as caught:
            build(source, tmp_path / "p.engine", precision)
        assert "export the network itself with --precision fp16" in caught.value.remedy
        return
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


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_are_rounded_and_nothing_else(picture_onnx: Path, tmp_path: Path, precision: str) -> None:
    """The simulated graph computes in ONNX Runtime what the cast one does in TensorRT; torch's autocast judges both."""
    model = onnx.load(picture_onnx)
    assert mixed_precision.cast_products(model, precision) == {"fp16": 4, "bf16": 3}[precision]
    if precision == "fp16":
        # bf16 convolutions are in ONNX from opset 22 on; TensorRT takes them at any.
        onnx.checker.check_model(model, full_check=True)
    small = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    by_kind = {node.op_type: node for node in model.graph.node}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert all(types[node.input[1]] == small for node in model.graph.node if node.op_type in ("Conv", "MatMul"))
    # TensorRT-RTX has no bf16 deconvolution.
    deconvolution = types[by_kind["ConvTranspose"].input[1]]
    assert deconvolution == (small if precision == "fp16" else onnx.TensorProto.FLOAT)
    assert "Resize" in by_kind
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.FLOAT}
    simulated = onnx.load(picture_onnx)
    mixed_precision.cast_products(simulated, precision, simulate=True)
    onnx.save(simulated, tmp_path / "s.onnx")
    image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(4))
    got = OnnxRunner(tmp_path / "s.onnx").run([image])[0]
    network = Picture().eval()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.no_grad():
        exact = network(image)["features"]
        with torch.autocast("cpu", dtype):
            rounded = network(image)["features"].float()
    error, reference = float((got - exact).abs().max()), float((rounded - exact).abs().max())
    assert 0 < error < 3 * reference
    if precision == "fp16":
        onnx.save(model, tmp_path / "c.onnx")
        assert torch.allclose(OnnxRunner(tmp_path / "c.onnx").run([image])[0], got, atol=2 * error)


def test_a_weight_that_overflows_fp16(picture_onnx: Path, tmp_path: Path) -> None:
    from onnx import numpy_helper

    model = onnx.load(picture_onnx)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [16, 3, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(np.full((16, 3, 3, 3), 1e5, np.float32), weight.name))
    with pytest.raises(ExportError, match=r"weights that fit into fp16, found .* with 1e\+05") as caught:
        mixed_precision.cast_products(model, "fp16")
    assert "bf16" in caught.value.remedy


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


def expect(path: Path, kind: str, code: str, *words: str, **changes: Any) -> None:
    verdict = judge(path, "cuda", host=host(**changes))
    assert (verdict.kind, verdict.code) == (kind, code), verdict
    for word in words:
        assert word in f"{verdict.reason}; {verdict.remedy}", verdict


REBUILD = "rebuild it on this machine: build_engine picture.onnx --target sm_89"


def test_one_changed_byte(own_engine: Path) -> None:
    content = bytearray(own_engine.read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        own_engine.write_bytes(changed)
        expect(own_engine, "REBUILD", "DAMAGED", f"in {own_engine}", REBUILD)
    # Known to the allow-list, but not what the manifest is about.
    verdict = judge(own_engine, "cuda", AllowList(frozenset({sha256_file(own_engine)})), host=host())
    assert (verdict.kind, verdict.code) == ("REBUILD", "DAMAGED")
    with pytest.raises(VerdictError, match="REBUILD DAMAGED"):
        load_model(own_engine, "cuda")


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_truncated(own_engine: Path, keep: int) -> None:
    own_engine.write_bytes(own_engine.read_bytes()[:keep])
    expect(own_engine, "REBUILD", "DAMAGED", f"({own_engine.stat().st_size} bytes)", REBUILD)


def test_the_manifest_beside(own_engine: Path, engine: tuple[Path, Manifest]) -> None:
    beside = engine_file.manifest_path(own_engine)
    text = beside.read_text()
    expect(own_engine, "OK", "OK")
    beside.unlink()
    expect(own_engine, "REFUSE", "NO_MANIFEST", f"expected the manifest {beside}, found no such file", "build_engine")
    beside.write_bytes(b"\xff\xfe")
    expect(own_engine, "REFUSE", "NO_MANIFEST", "in UTF-8")
    beside.write_text("{")
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "expected JSON")
    beside.write_text(text.replace('"family"', '"familie"'))
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "familie")
    document = json.loads(text)
    del document["file_sha256"]
    beside.write_text(json.dumps(document))
    expect(own_engine, "REFUSE", "NO_MANIFEST", "file_sha256")
    beside.write_text(json.dumps({**json.loads(text), "schema_version": 2}))
    expect(own_engine, "REBUILD", "SCHEMA_VERSION")
    # The manifest of another engine.
    beside.write_text(json.dumps({**json.loads(text), "file_sha256": "ab" * 32}))
    expect(own_engine, "REBUILD", "DAMAGED", "expected the engine of SHA-256 abababababab", REBUILD)
    changed = dataclasses.replace(
        engine[1], target=dataclasses.replace(engine[1].target, runtime="", runtime_version="")
    )
    beside.write_text(changed.to_json())
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "found one for runtime AOTInductor")
    beside.write_text(text)
    beside.chmod(0o666)
    expect(own_engine, "REFUSE", "WORLD_WRITABLE", f"{beside} writable")


def test_another_version_or_gpu(own_engine: Path) -> None:
    expect(own_engine, "REBUILD", "RUNTIME_VERSION", "tensorrt_rtx 1.2.0.54", REBUILD, tensorrt_rtx="1.2.0.54")
    expect(own_engine, "REBUILD", "RUNTIME_MISSING", "found no TensorRT installed", tensorrt_rtx="")
    expect(own_engine, "REBUILD", "COMPUTE_CAPABILITY", "compute capability 12.0", compute_capabilities=("12.0",))
    expect(own_engine, "REFUSE", "NO_DEVICE", compute_capabilities=())
    beside = engine_file.manifest_path(own_engine)
    beside.write_text(beside.read_text().replace('"8.9"', '"8.6"'))
    expect(own_engine, "REBUILD", "COMPUTE_CAPABILITY", "an artifact for compute capability 8.6", REBUILD)


def hold(path: str, seconds: float, ready: Any) -> None:
    with engine_file.build_lock(path):
        ready.set()
        time.sleep(seconds)


def hold_and_build(path: str, source: str, ready: Any) -> None:
    """Stands for a slow build: takes the lock, says so, waits, leaves the engine of a copy."""
    with engine_file.build_lock(path):
        ready.set()
        time.sleep(1.0)
        shutil.copy(f"{source}.json", f"{path}.json")
        shutil.copy(source, path)


@pytest.fixture
def other_process() -> Callable[..., Any]:
    """Starts a function in another process and waits until it is ready."""
    context = multiprocessing.get_context("fork")

    def start(function: Callable[..., None], *arguments: Any) -> Any:
        ready = context.Event()
        process = context.Process(target=function, args=(*arguments, ready))
        process.start()
        assert ready.wait(30)
        return process

    return start


def test_the_lock_is_held(picture_onnx: Path, tmp_path: Path, other_process: Callable[..., Any]) -> None:
    path = tmp_path / "p.engine"
    process = other_process(hold, str(path), 60.0)
    try:
        options = EngineOptions(target="sm_89", wait=False)
        with pytest.raises(ExportError, match=rf"to build .* alone, found process {process.pid} building it"):
            build_engine(picture_onnx, path, options=options, progress=False)
    finally:
        process.kill()
        process.join()
    # The kernel freed the lock of the dead.
    build_engine(picture_onnx, path, options=options, progress=False)


def test_the_engine_of_the_process_before_is_taken(
    engine: tuple[Path, Manifest], picture_onnx: Path, tmp_path: Path, other_process: Callable[..., Any]
) -> None:
    path = tmp_path / "p.engine"
    process = other_process(hold_and_build, str(path), str(engine[0]))
    manifest = build_engine(picture_onnx, path, options=EngineOptions(target="sm_89"), progress=False)
    process.join()
    assert manifest == engine[1]
    # Another GPU is asked for: what the other process left does not serve.
    process = other_process(hold_and_build, str(path), str(engine[0]))
    manifest = build_engine(picture_onnx, path, options=EngineOptions(target="sm_120"), progress=False)
    process.join()
    assert manifest.target.compute_capability == "12.0"


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


# The runner, with a stand-in for TensorRT's runtime that reads and writes the addresses it is given.


class FakeContext:
    """Computes y = 2 x + 1 (any shape) and total = sum(x), by addresses."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= 100

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.engine.data_dependent:
            return (-1,)
        return self.shapes["x"] if name == "y" else (1,)

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.fails:
            self.engine.log.messages.append("Cuda Runtime (an illegal memory access was encountered)")
            return False
        count = int(np.prod(self.shapes["x"]))

        def view(name: str, size: int) -> Any:
            return np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name]))

        if count:
            view("y", count)[:] = 2 * view("x", count) + 1
        view("total", 1)[:] = view("x", count).sum() if count else 0.0
        return True


class FakeEngine:
    data_dependent = False
    fails = False
    # TensorRT lists tensors in an order of its own.
    tensors = (("total", "OUT", "FLOAT"), ("x", "IN", "FLOAT"), ("y", "OUT", "FLOAT"))

    def __init__(self, log: Any) -> None:
        self.log = log
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index][0]

    def get_tensor_mode(self, name: str) -> str:
        return next(tensor[1] for tensor in self.tensors if tensor[0] == name)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=next(tensor[2] for tensor in self.tensors if tensor[0] == name))

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


def fake_library(kind: type[FakeEngine] = FakeEngine) -> tensorrt.TensorRt:
    log = SimpleNamespace(messages=[])

    class Runtime:
        def __init__(self, given: Any) -> None:
            assert given is log

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            if data != b"good":
                log.messages.append("Serialization assertion magicTagRead == kMAGIC_TAG failed")
                return None
            return kind(log)

    module = SimpleNamespace(Runtime=Runtime, TensorIOMode=SimpleNamespace(INPUT="IN", OUTPUT="OUT"))
    return tensorrt.TensorRt("tensorrt_rtx", module, RTX, log)


@pytest.fixture
def fake_manifest(plain_manifest: dict[str, Any]) -> Manifest:
    """x (n, 4) -> y (n, 4), total (1)."""
    plain_manifest["outputs"] = [
        {"name": "y", "dtype": "float32", "shape": ["n", 4]},
        {"name": "total", "dtype": "float32", "shape": [1]},
    ]
    record = plain_manifest["golden"]["outputs"][0]
    plain_manifest["golden"]["outputs"] = [
        {**record, "shape": [3, 4]},
        {**record, "name": "total", "shape": [1]},
    ]
    return Manifest.from_json(json.dumps(plain_manifest))


def runner(
    manifest: Manifest, folder: Path, kind: type[FakeEngine] = FakeEngine, data: bytes = b"good"
) -> TensorRtRunner:
    path = folder / "f.engine"
    path.write_bytes(data)
    return TensorRtRunner(path, manifest, library=fake_library(kind), device="cpu", num_runners=2)


def test_tensors_are_bound_by_name_and_in_place(fake_manifest: Manifest, tmp_path: Path) -> None:
    loaded = runner(fake_manifest, tmp_path)
    for rows in (3, 1, 100, 0):
        x = torch.rand(rows, 4)
        y, total = loaded.run([x])
        assert torch.equal(y, 2 * x + 1)
        assert total.item() == pytest.approx(float(x.sum()), rel=1e-5)
    kept = y = loaded.run([torch.ones(2, 4)])[0]
    loaded.run([torch.zeros(2, 4)])
    assert torch.equal(kept, torch.full((2, 4), 3.0))


def test_what_tensorrt_refuses_is_told(fake_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EngineRejected, match=r"the engine rejected: Serialization .* in .*f\.engine") as caught:
        runner(fake_manifest, tmp_path, data=b"bad")
    verdict = rejected_verdict(fake_manifest, caught.value.reason)
    assert (verdict.kind, verdict.code) == ("REBUILD", "ENGINE_REJECTED")
    assert "export_tiny" in verdict.remedy

    class Other(FakeEngine):
        tensors = (("x", "IN", "HALF"), ("y", "OUT", "FLOAT"), ("total", "OUT", "FLOAT"))

    with pytest.raises(EngineRejected, match=r"found tensors input x float16, .* the manifest has input x float32"):
        runner(fake_manifest, tmp_path, Other)
    with pytest.raises(ArtifactError, match=r"found shape \(101, 4\) of input x refused"):
        runner(fake_manifest, tmp_path).run([torch.zeros(101, 4)])

    class Failing(FakeEngine):
        fails = True

    with pytest.raises(ArtifactError, match=r"that it did not start: Cuda Runtime .an illegal memory access"):
        runner(fake_manifest, tmp_path, Failing).run([torch.zeros(1, 4)])

    class Dependent(FakeEngine):
        data_dependent = True

    with pytest.raises(ArtifactError, match=r"output y of shape .-1,., whose size only its values tell"):
        runner(fake_manifest, tmp_path, Dependent).run([torch.zeros(1, 4)])


def test_load_model_runs_an_engine_and_tells_a_rejected_one(
    fake_manifest: Manifest, own_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the verdict to the runner, as on a machine that has the GPU; this one has none to load on."""
    from aot_runtime import compiled_model
    from aot_runtime.verdict import Verdict

    monkeypatch.setattr(compiled_model, "judge", lambda *_: Verdict("OK", "OK", "fine"))
    opened: list[tuple[Any, ...]] = []

    def refuse(*arguments: Any) -> None:
        opened.append(arguments)
        raise EngineRejected("expected an engine that tensorrt can load, found the engine rejected: magic", "")

    monkeypatch.setattr(compiled_model, "open_runner", refuse)
    with pytest.raises(VerdictError, match=r"REBUILD ENGINE_REJECTED: .*magic; rebuild it on this machine: "):
        load_model(own_engine, "cuda", num_runners=2)
    assert opened[0][2:5] == ("cuda", 0, 2)


def test_versions_and_targets() -> None:
    assert tensorrt.parse_target("sm_89") == "8.9"
    assert tensorrt.parse_target("sm120") == "12.0"
    assert tensorrt.target_name("12.0") == "sm_120"
    for wrong in ("89", "sm_", "sm_8", "sm_1200", "sm_89 "):
        with pytest.raises(ExportError, match="expected a target such as sm_89"):
            tensorrt.parse_target(wrong)
    with pytest.raises(ArtifactError, match="expected tensorrt or tensorrt_rtx, found 'tvm'"):
        tensorrt.load("tvm")
    library = tensorrt.load("tensorrt_rtx")
    assert library is tensorrt.load("tensorrt_rtx")
    assert library.version == RTX


def test_one_api_over_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10.3 has the flag, plugins and no foreign targets; 11 has typed networks only."""
    called: list[str] = []
    flags = SimpleNamespace(STRONGLY_TYPED=1, EXPLICIT_BATCH=0)
    ten = SimpleNamespace(
        NetworkDefinitionCreationFlag=flags, init_libnvinfer_plugins=lambda log, space: called.append(space)
    )
    library = tensorrt.TensorRt("tensorrt", ten, "10.3.0", SimpleNamespace(messages=[]))
    assert library.network_flags() == 2
    library.init_plugins()
    assert called == [""]
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: (("Orin", "8.7"),))
    library.set_target(None, "8.7")
    with pytest.raises(ExportError, match=r"expected a GPU sm_89 to build for with TensorRT 10\.3\.0, found sm_87"):
        library.set_target(None, "8.9")
    assert tensorrt.own_target() == "8.7"
    eleven = tensorrt.TensorRt("tensorrt", SimpleNamespace(NetworkDefinitionCreationFlag=object()), "11.4.0", None)
    assert eleven.network_flags() == 0
    eleven.init_plugins()


def test_tensorrt_is_chosen_where_its_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        return name

    monkeypatch.setattr(tensorrt, "load", load)
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: (("Orin", "8.7"),))
    assert tensorrt.choose("8.7") == "tensorrt"
    assert tensorrt.choose("8.9") == "tensorrt_rtx"
    assert tensorrt.choose("8.7", "tensorrt_rtx") == "tensorrt_rtx"

    def absent(name: str) -> Any:
        raise ArtifactError(f"expected the Python package {name}")

    monkeypatch.setattr(tensorrt, "load", absent)
    with pytest.raises(ArtifactError, match="expected TensorRT with a GPU sm_87 here, or tensorrt_rtx, found neither"):
        tensorrt.choose("8.7")


def test_calibration_data_of_another_shape(picture_onnx: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((4, 3, 24, 31), np.float32))
    options = EngineOptions(target="sm_89", calib_data=str(tmp_path / "c.npy"))
    with pytest.raises(InputError, match="samples of shape 1x3x24x32 for input image, found 4x3x24x31 in"):
        build_engine(picture_onnx, tmp_path / "p.engine", "int8", options, progress=False)
